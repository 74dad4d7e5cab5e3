"""Joining, thinning and normals of road edges against shapes known in closed form."""

import itertools
import time

import numpy as np
import pytest
from tests.driving import _roads

from gleanings.core.errors import DataError
from gleanings.driving.edges import compile_edges, join_polylines
from gleanings.driving.scene import Edges

SQUARE = np.array([[0.0, 0, 0], [10, 0, 0], [10, 10, 0], [0, 10, 0]])


def ends(edges: Edges) -> tuple[np.ndarray, np.ndarray]:
    a = np.stack([edges.ax, edges.ay], 1)
    return a, a + np.stack([edges.dx, edges.dy], 1)


def test_square_has_inward_normals_that_add_up():
    edges = compile_edges([(SQUARE, True)], simplify_m=0.001)
    a, b = ends(edges)
    np.testing.assert_array_equal(a, SQUARE[:, :2])
    np.testing.assert_array_equal(b, np.roll(SQUARE[:, :2], -1, 0))
    inward = np.array([[1.0, 1], [-1, 1], [-1, -1], [1, -1]])  # the road is inside: left of a counter-clockwise ring
    np.testing.assert_allclose(np.stack([edges.nax, edges.nay], 1), inward, atol=1e-6)
    np.testing.assert_allclose(np.stack([edges.nbx, edges.nby], 1), np.roll(inward, -1, 0), atol=1e-6)
    np.testing.assert_allclose(edges.inv_l2, 0.01)
    assert all(column.dtype == np.float32 for column in edges)


def test_open_ends_have_their_own_normal_and_walls_a_tip():
    edges = compile_edges([(SQUARE[:3], False)], simplify_m=0.0)
    np.testing.assert_allclose([edges.nax[0], edges.nay[0]], [0, 1], atol=1e-6)
    np.testing.assert_allclose([edges.nbx[1], edges.nby[1]], [-1, 0], atol=1e-6)
    np.testing.assert_allclose([edges.nbx[0], edges.nax[1], edges.nby[0], edges.nay[1]], [-1, -1, 1, 1], atol=1e-6)
    wall = compile_edges([(np.array([[0.0, 0, 0], [5, 0, 0], [0, 0, 0]]), False)], simplify_m=0.0)
    np.testing.assert_allclose([wall.nbx[0], wall.nby[0], wall.nax[1], wall.nay[1]], [1, 0, 1, 0], atol=1e-6)


@pytest.mark.parametrize(("shift", "chains"), [(0.0, 1), (0.004, 1), (0.02, 2)])
def test_ends_are_joined_within_a_centimetre(shift: float, chains: int):
    ring = _roads.ring(20, 60)
    whole = np.concatenate([ring, ring[:1]])
    parts = [(whole[a : b + 1] + np.array([shift * k, 0, 0]), False) for k, (a, b) in enumerate([(0, 20), (20, 45)])]
    parts.append((whole[45:], False))
    for order in itertools.permutations(parts):
        joined = join_polylines(list(order))
        assert len(joined) == chains
        assert sum(closed for _, closed in joined) == (chains == 1)
        if chains == 1:
            points = joined[0][0]
            np.testing.assert_array_equal(points[0], points[-1])
            assert len(points) == 61
            assert _roads.distance([(ring, True)], points).max() < 0.01


def test_two_parts_never_share_one_start():
    start = np.array([[10.0, 0, 0], [20, 0, 0]])
    parts = [np.array([[0.0, y, 0], [10, 0.002 * y, 0]]) for y in (1, 2)]
    joined = join_polylines([(part, False) for part in (*parts, start)])
    assert sorted(len(points) for points, _ in joined) == [2, 3]


def test_close_points_are_one():
    x = np.cumsum(np.random.default_rng(0).uniform(0, 0.002, 4000))
    line = np.stack([x, np.sin(x), 0 * x], 1)
    (points, _), *rest = join_polylines([(line, False), (line[:1], False), (np.repeat(line[:1], 9, 0), False)])
    assert not rest
    gaps = np.hypot(*np.diff(points[:, :2], axis=0).T)
    assert gaps.min() >= 1e-3
    assert gaps.max() < 5e-3
    assert _roads.distance([(points, False)], line[:-3]).max() < 1e-3


@pytest.mark.parametrize("tolerance", [0.001, 0.05, 1.0])
def test_thinned_edges_stay_within_the_tolerance(tolerance: float):
    for line, closed in _roads.wild(1):
        line[:, 2] = 0
        edges = compile_edges([(line, closed)], simplify_m=tolerance)
        near = np.min([_roads.to_segment(line[:, :2], a, b) for a, b in zip(*ends(edges), strict=True)], 0)
        assert len(edges.ax) <= len(line)
        assert near.max() <= tolerance + 2e-5


def test_thinning_minds_heights():
    x = np.arange(30.0)
    line = np.stack([x, 0 * x, np.where(x == 12, 0.01, 0)], 1)
    np.testing.assert_array_equal(compile_edges([(line, False)], simplify_m=0.001).ax, [0, 11, 12, 13])
    np.testing.assert_array_equal(compile_edges([(line, False)], simplify_m=0.02).ax, [0])


def test_collinear_runs_become_one_segment_and_hostile_ones_end_soon():
    x = np.arange(2000.0)
    assert len(compile_edges([(np.stack([x, 2 * x, 0 * x], 1), False)], simplify_m=0.001).ax) == 1
    bowl = np.stack([x, x**8 / 2000.0**7, 0 * x], 1)  # splits next to its end, again and again
    begin = time.process_time()
    assert len(compile_edges([(bowl, False)], simplify_m=1e-9).ax) > 100
    assert time.process_time() - begin < 2


def test_slopes_are_cut_at_every_half_metre():
    line = np.array([[0.0, 0, 0], [100, 0, 5], [200, 0, 5]])
    edges = compile_edges([(line, False)], simplify_m=0.001)
    np.testing.assert_allclose(edges.ax, [*range(0, 101, 10)])
    np.testing.assert_allclose(edges.z, [*np.arange(0.25, 5, 0.5), 5], atol=1e-6)
    np.testing.assert_allclose(edges.nay[1:], 2, atol=1e-6)
    wall = np.array([[0.0, 0, 0], [0.6, 0, 1e9]])
    assert len(compile_edges([(wall, False)], simplify_m=0.001).ax) == 1
    with pytest.raises(DataError, match="segments"):
        compile_edges([(wall * 1e9, False)], simplify_m=0.001)


def test_many_edges_that_rise_are_refused_together():
    slopes = [(np.array([[0.0, k, 0], [2e4, k, 2e4]]), False) for k in range(1000)]
    begin = time.process_time()
    with pytest.raises(DataError, match="more than 65,536 road edge segments"):
        compile_edges(slopes, simplify_m=0.001)
    assert time.process_time() - begin < 1


def test_nothing_gives_nothing():
    for lines in ([], [(np.zeros((0, 3)), True)], [(np.zeros((1, 3)), False)], [(np.zeros((5, 3)), True)]):
        assert [len(column) for column in compile_edges(lines, simplify_m=0.001)] == [0] * 10
