"""Candidate lists of the grids, and the ground, against brute force over all segments."""

import time

import numpy as np
import pytest
from tests.driving import _roads

from gleanings.core.errors import DataError
from gleanings.driving.edges import compile_edges
from gleanings.driving.grid import Frame, _distinct, edge_grid, lane_grid, make_frame, nearest_value
from gleanings.driving.ground import compile_ground
from gleanings.driving.scene import Edges, Grid


def listed(grid: Grid, cell: int) -> np.ndarray:
    """The window of a cell: its list and whatever stands behind."""
    return grid.items[grid.start[cell] : grid.start[cell] + len(grid.slots)].astype(int)


def cells_of(frame: Frame, points: np.ndarray) -> np.ndarray:
    ix, iy = np.floor((points[:, :2] - [frame.x0, frame.y0]) / 2).astype(int).T
    return iy * frame.nx + ix


@pytest.fixture(scope="module", params=[0, 1])
def winding(request: pytest.FixtureRequest) -> tuple[list[_roads.Polyline], Edges, Frame, Grid]:
    lines = _roads.wild(request.param)
    edges = compile_edges(lines, simplify_m=0.0)
    heights = np.concatenate([line for line, _ in lines])
    frame = make_frame(heights[:, :2])
    return lines, edges, frame, edge_grid(edges, frame, heights)


def test_lists_hold_the_nearest_at_every_height_and_rise(winding):
    lines, edges, frame, grid = winding
    points = _roads.queries(lines, 3000).astype(np.float64)
    a, along = np.stack([edges.ax, edges.ay], 1), np.stack([edges.dx, edges.dy], 1)
    every = np.array([_roads.to_segment(points[:, :2], p, p + d) for p, d in zip(a, along, strict=True)])
    every[np.abs(edges.z[:, None] - points[:, 2]) > 2.5] = np.inf
    nearest = every.min(0)
    assert (nearest <= 30).sum() > 1000
    for k, cell in enumerate(cells_of(frame, points)):
        if nearest[k] <= 30:
            window = listed(grid, cell)
            assert len(window) == len(grid.slots)  # not cut off by the end of the memory
            assert every[window, k].min() == nearest[k]


def test_lists_are_short_and_equal_ones_stored_once(winding):
    _, edges, frame, grid = winding
    assert grid.items.dtype == np.uint16
    assert grid.items.max() < len(edges.ax)
    lengths = np.diff(np.append(np.unique(grid.start), len(grid.items) - len(grid.slots)))
    assert lengths.max() == len(grid.slots)
    own = dict(zip(np.unique(grid.start).tolist(), lengths.tolist(), strict=True))
    lists = {tuple(grid.items[start : start + count]) for start, count in own.items() if count}
    assert len(lists) == sum(count > 0 for count in own.values())
    assert all(list(one) == sorted(set(one)) for one in lists)
    count = np.array([own[start] for start in grid.start.tolist()])
    np.testing.assert_array_equal(grid.far == 0, count > Grid.SHORT)
    assert len(grid.far) == frame.nx * frame.ny


@pytest.mark.parametrize("size", [1, 7, 500])
def test_distinct_pairs_are_those_of_unique_rows(size: int):
    rng = np.random.default_rng(size)
    mark, count = rng.choice(rng.integers(0, 1 << 63, 9, np.uint64), size), rng.integers(0, 3, size)
    rows = np.stack([mark, count.astype(np.uint64)], 1)
    _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    for found, wanted in zip(_distinct(mark, count), (first, which), strict=True):
        assert np.array_equal(found, wanted)


def test_cells_beyond_reach_keep_the_sign_at_their_centre():
    road = np.array([[-200.0, -200, 0], [200, -200, 0], [200, 200, 0], [-200, 200, 0]])
    hole = _roads.ring(80, 200)[::-1]
    edges = compile_edges([(road, True), (hole, True)], simplify_m=0.0)
    frame = make_frame(road[:, :2])
    for heights in (
        road,
        np.concatenate([road, [[0.0, 0, 0], [150, 150, 0]]]),
    ):  # something near the centre, or nothing
        grid = edge_grid(edges, frame, heights)
        cells = cells_of(frame, np.array([[0.0, 0], [140, 140], [-140, -150], [229, 229], [79, 0]]))
        np.testing.assert_array_equal(grid.far[cells] % 2 * grid.far[cells], [1, -1, -1, 1, 0])
    points = np.random.default_rng(0).uniform(-225, 225, (500, 3)) * [1, 1, 0]
    value = nearest_value(edges, grid, cells_of(frame, points), points[:, 0], points[:, 1], points[:, 2])
    exact = np.minimum(_roads.distance([(road, True), (hole, True)], points), 30)
    on_road = _roads.in_polygon(road, points) & ~_roads.in_polygon(hole, points)
    np.testing.assert_allclose(value.clip(-30, 30), np.where(on_road, -exact, exact), atol=1e-3)


def test_lane_lists_hold_all_lanes_within_reach():
    lanes = [line for line, _ in _roads.wild(2)]
    table = _roads.lane_segments(lanes)
    frame = make_frame(np.concatenate(lanes)[:, :2])
    grid = lane_grid(table, frame)
    rng = np.random.default_rng(0)
    points = np.concatenate(lanes)[rng.integers(sum(map(len, lanes)), size=1000)] + rng.normal(0, 2, (1000, 3))
    last = len(table.ax) - 1
    a, along = np.stack([table.ax, table.ay], 1)[:last], np.stack([table.dx, table.dy], 1)[:last]
    near = np.array([_roads.to_segment(points[:, :2], p, p + d) for p, d in zip(a, along, strict=True)]) <= 2.5
    for k, cell in enumerate(cells_of(frame, points)):
        assert set(np.flatnonzero(near[:, k])) <= set(listed(grid, cell))
    assert not near.any(0).all()
    assert set(listed(grid, 0)) == {last}  # the corner is empty
    assert (grid.far % 2 == 0).all()


def test_nothing_and_too_much():
    frame = make_frame(np.zeros((0, 2)))
    assert (frame.nx, frame.ny) == (30, 30)
    none = compile_edges([], simplify_m=0.0)
    grid = edge_grid(none, frame, np.zeros((0, 3)))
    assert (grid.far == -1).all()
    for low in (0.0, np.nan, np.inf):
        with pytest.raises(DataError, match="span"):
            make_frame(np.array([[low, 0.0], [1e5, 1e5]]))
    many = Edges(*(np.zeros(70000, np.float32) for _ in Edges._fields))
    with pytest.raises(DataError, match="70000"):
        edge_grid(many, frame, np.zeros((0, 3)))


@pytest.mark.slow
def test_a_large_town_compiles_in_about_a_second():
    """64 rings of 314 points, none of which can be dropped."""
    lines = [(_roads.ring(25, 314, (80.0 * i, 80.0 * j), 0.1 * i), True) for i in range(8) for j in range(8)]
    heights = np.concatenate([line for line, _ in lines])
    begin = time.process_time()
    edges = compile_edges(lines, simplify_m=0.001)
    edge_grid(edges, make_frame(heights[:, :2]), heights)
    assert time.process_time() - begin < 4
    assert len(edges.ax) == 64 * 314


def test_ground_has_up_to_two_levels_and_fills_small_gaps():
    frame = Frame(0.0, 0.0, 20, 10)
    points = np.array([[1.0, 1, 0.0], [1.5, 1, 0.4], [1.2, 1.8, 6.0], [1.2, 1.9, 6.2], [25, 5, 3], [99, 99, 9]])
    points = np.concatenate([points, [[1.0, 1, np.nan], [25.5, 5, 12.0], [25.5, 5, 8.0]]])
    ground = compile_ground(points, frame)
    low, high = ground.low.reshape(10, 20), ground.high.reshape(10, 20)
    np.testing.assert_allclose([low[0, 0], high[0, 0]], [0.2, 6.1], atol=1e-6)
    np.testing.assert_allclose([low[2, 12], high[2, 12]], [3, 12])  # the lowest and the highest of three
    np.testing.assert_allclose([low[1, 2], high[1, 2]], [0.2, 6.1], atol=1e-6)  # 4.5 m from the first
    assert np.isnan(low[9, 0])
    assert np.isnan(compile_ground(np.zeros((0, 3)), frame).low).all()
    single = compile_ground(points[:2], frame)
    assert not np.isnan(single.low[0])
    assert np.isnan(single.high).all()


@pytest.mark.parametrize("far", [0.5, 7.0], ids=["touching", "apart"])
def test_edges_at_many_heights_are_refused_before_memory_is_taken(monkeypatch: pytest.MonkeyPatch, far: float):
    monkeypatch.setattr("gleanings.driving._blocks._MAX_PAIRS", 20_000)
    lines = [(np.array([[0.0, k, far * k], [200, k, far * k]]), False) for k in range(200)]
    edges = compile_edges(lines, simplify_m=0.001)
    heights = np.concatenate([line for line, _ in lines])
    with pytest.raises(DataError, match="too many heights"):
        edge_grid(edges, make_frame(heights[:, :2]), heights)
    single, poses = compile_edges(lines[:1], simplify_m=0.001), np.zeros((9999, 3))
    poses[:, 2] = 7.0 * np.arange(9999)
    with pytest.raises(DataError, match="too many heights"):
        edge_grid(single, make_frame(heights[:, :2]), poses)


def test_edges_of_thousands_of_kilometres_are_refused():
    edges = compile_edges([(np.array([[0.0, 0, 0], [1e8, 0, 0]]), False)], simplify_m=0.001)
    with pytest.raises(DataError, match="100,000 km; cut the scene"):
        edge_grid(edges, make_frame(np.zeros((1, 2))), np.zeros((1, 3)))
