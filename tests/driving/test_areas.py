"""Road edges from rings and bounds, against areas and lengths that are known in closed form."""

import numpy as np
import pytest

from gleanings.core.errors import DataError
from gleanings.driving.readers._areas import edges_from_bounds, edges_from_rings, within


def box(x0: float, y0: float, x1: float, y1: float, z: float = np.nan) -> np.ndarray:
    return np.array([[x0, y0, z], [x1, y0, z], [x1, y1, z], [x0, y1, z]])


def length(edges: list[np.ndarray]) -> float:
    return float(sum(np.hypot(*np.diff(edge[:, :2], axis=0).T).sum() for edge in edges))


def swept(edges: list[np.ndarray]) -> float:
    """Area to the left of edges that together close (Green's theorem)."""
    return float(sum(np.sum(e[:-1, 0] * e[1:, 1] - e[1:, 0] * e[:-1, 1]) for e in edges) / 2)


@pytest.mark.parametrize("turn", [1, -1])
def test_an_outer_ring_runs_counter_clockwise_and_its_hole_clockwise(turn: int):
    edges = edges_from_rings([[box(0, 0, 20, 10)[::turn], box(5, 3, 9, 6)[::turn]]])
    assert [swept([edge]) for edge in edges] == [200.0, -12.0]
    assert all((edge[0] == edge[-1])[:2].all() for edge in edges)


def test_only_the_outline_of_overlapping_areas_is_left():
    cross = [[box(-20, -5, 20, 5)], [box(-5, -20, 5, 20)]]
    edges = edges_from_rings(cross)
    # Arms of 15 m stick out on four sides: 8 x 15 + 4 x 10 m.
    assert length(edges) == pytest.approx(160, abs=0.01)
    middles = np.concatenate([(edge[1:] + edge[:-1]) / 2 for edge in edges])
    step = np.concatenate([np.diff(edge, axis=0) for edge in edges])[:, :2]
    left = np.stack([-step[:, 1], step[:, 0]], -1) / np.hypot(*step.T)[:, None]
    for side, inside in ((1, True), (-1, False)):
        moved = middles.copy()
        moved[:, :2] += side * 0.5 * left
        assert (within(moved, cross) == inside).all()


def test_the_tip_between_two_roads_that_meet_is_closed():
    """A fork, and the side of the nearest edge (sum of normals where two are equally near) everywhere around it."""
    straight = np.array([[0.0, -4, 0], [100, -4, 0], [100, 0, 0], [0, 0, 0]])
    branch = straight @ np.array([[np.cos(0.1), np.sin(0.1), 0], [-np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
    edges = edges_from_rings([[straight], [branch]])
    assert any(np.array_equal(e[-1], f[0]) and 35 < e[-1, 0] < 45 for e in edges for f in edges if e is not f)
    points = np.c_[np.random.default_rng(1).uniform([0, -5], [100, 12], (4000, 2)), np.zeros(4000)]
    a, d = np.concatenate([e[:-1, :2] for e in edges]), np.concatenate([np.diff(e[:, :2], axis=0) for e in edges])
    share = np.clip(((points[:, None, :2] - a) * d).sum(-1) / (d**2).sum(-1), 0, 1)
    away = points[:, None, :2] - a - share[..., None] * d
    distance = np.hypot(away[..., 0], away[..., 1])
    left = (d[:, 0] * away[..., 1] - d[:, 1] * away[..., 0]) / np.hypot(*d.T)
    side = np.where(distance < distance.min(1, keepdims=True) + 1e-9, left, 0).sum(1)
    sure = distance.min(1) > 0.2
    assert ((side > 0) == within(points, [[straight], [branch]]))[sure].all()


def test_slivers_are_no_edges():
    road = [box(0, 0, 50, 4), box(0, 4.2, 50, 8), box(-1, 3, 20, 5), box(20.6, 3, 51, 5)]
    edges = edges_from_rings([[area] for area in road])
    assert not [edge for edge in edges if (np.abs(edge[:, 0] - 20.3) < 1).any() and (np.abs(edge[:, 1] - 4) < 1).any()]


def test_the_bound_that_two_areas_share_is_no_edge():
    edges = edges_from_rings([[box(0, 0, 10, 4)], [box(0, 4, 10, 8)]])
    assert length(edges) == pytest.approx(36, abs=1e-6)
    assert not any((edge[1:, 1] == 4)[edge[:-1, 1] == 4].any() for edge in edges)


@pytest.mark.parametrize(("height", "kept"), [(0.0, False), (6.0, True), (np.nan, False)])
def test_a_bridge_does_not_cut_the_edge_below_it(height: float, kept: bool):
    line = np.array([[-10.0, 0, 0], [10, 0, 0]])
    edges = edges_from_bounds([line], [[box(-2, -2, 2, 2, height)]])
    assert len(edges) == (1 if kept else 2)


def test_within_agrees_with_the_winding_angle():
    rng = np.random.default_rng(0)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 40))
    star = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1) * rng.uniform(3, 10, (40, 1))
    points = np.c_[rng.uniform(-10, 10, (2000, 2)), np.zeros(2000)]
    to = star[None, :, :2] - points[:, None, :2]
    bearing = np.arctan2(to[..., 1], to[..., 0])
    turns = (np.diff(np.c_[bearing, bearing[:, 0]]) + np.pi) % (2 * np.pi) - np.pi
    assert (within(points, [[star]]) == (np.abs(turns.sum(1)) > np.pi)).all()


def test_points_that_say_nothing_are_passed_over():
    line = np.array([[0.0, 0, 1], [0, 0, 1], [np.nan, 3, 1], [4, 0, 3]])
    (edge,) = edges_from_bounds([line, line[:1], np.zeros((0, 3))], [[np.zeros((0, 3))], [line]])
    assert edge.tolist() == [[0, 0, 1], [4, 0, 3]]
    assert edges_from_rings([[line], [], [line[:2]]]) == []


def test_bounds_without_end_are_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DataError, match="pieces of up to"):
        edges_from_bounds([np.array([[0.0, 0, 0], [9e7, 0, 0]])], [])
    monkeypatch.setattr("gleanings.driving.readers._areas._MAX_WORK", 10_000_000)
    many = [[np.tile(box(-100, -100, 100, 100), (2000, 1))]] * 5000
    with pytest.raises(DataError, match="one place"):
        edges_from_bounds([np.array([[-99.0, 0, 0], [99, 0, 0]])] * 100, many)
