"""Generated roads leave room for learning: map behind the start, and beside the lanes."""

import numpy as np
import pytest

from gleanings.driving.families import FAMILIES, make_scenes
from gleanings.driving.grid import nearest_value
from gleanings.driving.lanes import graph_of, sample_lanes
from gleanings.driving.match import LaneIndex
from gleanings.driving.scene import Scene

HALF_CAR, BESIDE, BEHIND = 0.95, 1.1, 40.0  # m


def behind(scene: Scene) -> float:
    """Metres of lanes that lead to the ego's start, at most 40."""
    ego, t = int(np.flatnonzero(scene.objects.is_sdc)[0]), int(scene.start)
    index = LaneIndex(graph_of(scene.lanes))
    foot = scene.log.z[t, ego] - scene.objects.height[ego] / 2
    place = np.array([[scene.log.x[t, ego], scene.log.y[t, ego], foot]], float)
    found = index.near(place, scene.log.yaw[t, ego : ego + 1].astype(float))
    reached, links = {int(found.row[0, 0]): float(found.arc[0, 0])}, index.graph.links.tolist()
    for _ in range(20):  # a longest way of 20 lanes; a loop comes round to itself
        for i, j in links:
            if j in reached and reached[j] < BEHIND:
                reached[i] = max(reached.get(i, 0.0), reached[j] + float(index.graph.arc[index.graph.last[i]]))
    return max(reached.values())


def beside(scene: Scene) -> float:
    """Least distance of the middles of lanes to the road edge, m."""
    points, grid = sample_lanes(graph_of(scene.lanes), 2.0).points, scene.grid
    u, v = np.floor((points[:, 0] - grid.x0) / 2), np.floor((points[:, 1] - grid.y0) / 2)
    inside = (u >= 0) & (v >= 0) & (u < grid.nx) & (v < grid.ny)
    cell = (v * grid.nx + u)[inside].astype(np.int64)
    return float(-nearest_value(scene.edges, grid, cell, *points[inside].T).max())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seeds", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_there_is_map_behind_the_start_and_room_beside_the_lanes(family: str, seeds: int) -> None:
    for scene in make_scenes(family, seeds, seeds):
        assert behind(scene) >= BEHIND
        assert beside(scene) >= BESIDE + HALF_CAR
