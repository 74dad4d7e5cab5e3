"""Parts of the generated scenes against closed forms: curves, road edges, zones of conflict, the driver's rules."""

import numpy as np
import pytest

from gleanings.driving.families._check import contacts, edge_distance, red_runs
from gleanings.driving.families._conflicts import CROSS, NONE, SAME, VIRTUAL, tables
from gleanings.driving.families._outline import Strip, outline
from gleanings.driving.families.base import Route
from gleanings.driving.families.layout import arc_of, bend, change, connect, heading_of, offset, trace
from gleanings.driving.families.traffic import _calm
from gleanings.driving.raw import MapFeature


def line(*points) -> np.ndarray:
    """Straight pieces through x, y points, a point every half metre."""
    parts = [np.linspace(p, q, round(2 * np.hypot(*np.subtract(q, p))) + 1) for p, q in zip(points, points[1:])]  # noqa: B905, RUF007
    plane = np.concatenate([parts[0], *(part[1:] for part in parts[1:])])
    return np.column_stack([plane, np.zeros(len(plane))])


def test_trace_follows_an_arc():
    arc = trace((3.0, -2.0, 0.5), [(20.0, 0.1, 0.1)], 0.5)
    centre = np.array([3.0 - 10 * np.sin(0.5), -2.0 + 10 * np.cos(0.5)])
    np.testing.assert_allclose(np.hypot(*(arc[:, :2] - centre).T), 10.0, atol=1e-3)
    assert arc_of(arc)[-1] == pytest.approx(20.0, abs=0.01)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((0.0, 0.0, 0.0), (12.0, 14.0, np.pi / 2)),
        ((0.0, 0.0, 0.3), (10.0, -9.0, -np.pi / 2)),
        ((5.0, 1.0, 3.0), (5.5, -13.0, 3.0 + np.pi)),
        ((0.0, 0.0, 0.0), (30.0, 1.5, 0.1)),
    ],
)
def test_connect_meets_both_poses_without_a_sharp_bend(a, b):
    curve = connect(a, b)
    yaw = heading_of(curve)
    np.testing.assert_allclose(curve[[0, -1], :2], [a[:2], b[:2]], atol=1e-6)
    assert np.cos(yaw[[0, -1]] - [a[2], b[2]]).min() > 0.999
    assert np.abs(np.gradient(yaw, arc_of(curve))).max() < 0.22


def test_bend_turns_by_its_angle():
    assert heading_of(trace((0.0, 0.0, 0.0), bend(-1.2, 30.0)))[-1] == pytest.approx(-1.2, abs=0.02)


def test_change_starts_on_one_lane_and_ends_on_the_other():
    a = line((0, 0), (100, 0))
    moved = change(a, offset(a, 3.5), 20.0, 40.0)
    np.testing.assert_allclose(moved[moved[:, 0] <= 20, 1], 0.0, atol=1e-12)
    np.testing.assert_allclose(moved[moved[:, 0] >= 60, 1], 3.5, atol=1e-12)
    assert moved[80, 1] == pytest.approx(1.75)


def test_edges_of_a_strip_are_parallel_lines_with_the_road_on_their_left():
    found = outline([Strip(line((0, 0), (60, 0)), 2.5, True, True)], 1.0)
    assert sorted(round(float(edge[:, 1].mean()), 5) for edge, _ in found) == [-2.5, 2.5]
    for edge, closed in found:
        assert not closed
        assert np.abs(np.abs(edge[:, 1]) - 2.5).max() < 1e-9
        assert np.ptp(edge[:, 0]) > 57
        assert np.sign(edge[-1, 0] - edge[0, 0]) == -np.sign(edge[0, 1])


def test_edges_of_a_ring_are_two_closed_circles():
    ring = trace((20.0, 0.0, np.pi / 2), [(40 * np.pi, 0.05, 0.05)], 0.5)
    found = outline([Strip(ring, 3.0)], 10.0)
    areas = []
    for edge, closed in found:
        assert closed
        x, y = edge[:, 0], edge[:, 1]
        areas.append(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2))
        radius = np.hypot(x, y)
        assert np.ptp(radius) < 0.01
    assert sorted(areas) == pytest.approx([-np.pi * 17**2, np.pi * 23**2], rel=0.01)


def test_small_holes_are_paved():
    square = [line((0, 0), (12, 0)), line((12, 0), (12, 12)), line((12, 12), (0, 12)), line((0, 12), (0, 0))]
    assert len(outline([Strip(side, 3.0) for side in square], 10.0)) == 2
    assert len(outline([Strip(side, 3.0) for side in square], 50.0)) == 1


def test_edges_of_a_fork_part_road_from_land():
    x = np.linspace(0, 80, 1601)
    fork = [np.stack([x, y, 0 * x], axis=1) for y in (0 * x, x**2 / 400)]
    found = outline([Strip(way, 2.0, True, True) for way in fork], 10.0)
    features = tuple(MapFeature("road_edge", edge, "e", closed) for edge, closed in found)
    assert len(found) == 3
    points = np.random.default_rng(1).uniform([2, -6], [76, 20], (4000, 2))
    away = np.min(
        [np.hypot(*(points[:, None] - way[None, :, :2]).transpose(2, 0, 1)).min(axis=1) for way in fork], axis=0
    )
    value = edge_distance(points, np.zeros(4000), features)
    assert value[away < 1.9].max() < 0
    assert value[away > 3.1].min() > 0
    plain = (np.abs(away - 2.0) < 1.5) & ((points[:, 1] < 0) | (points[:, 0] > 60)) & (points[:, 0] < 72)
    np.testing.assert_allclose(value[plain], away[plain] - 2.0, atol=0.05)


def test_distance_to_a_square_has_the_sign_of_point_in_square():
    corner = np.array([[0, 0, 0], [20, 0, 0], [20, 20, 0], [0, 20, 0]], float)
    square = (MapFeature("road_edge", corner, "e", True),)
    points = np.random.default_rng(0).uniform(-8, 28, (500, 2))
    outside = np.maximum(np.abs(points - 10) - 10, 0)
    inside = np.minimum(10 - np.abs(points - 10).max(axis=1), 10)
    expected = np.where(np.hypot(*outside.T) > 0, np.hypot(*outside.T), -inside)
    np.testing.assert_allclose(edge_distance(points, np.zeros(500), square), expected, atol=1e-9)


def test_zone_of_two_crossing_roads():
    table = tables([Route(line((-50, 0), (50, 0)), 10.0), Route(line((0, -40), (0, 60)), 10.0)], 0.0, 15.0)
    wide = 1.3 + 1.3 + 0.3
    assert table.b_in[0, 0, 1] == pytest.approx(40 - wide, abs=1.0)
    assert table.b_out[0, 0, 1] == pytest.approx(40 + wide, abs=1.0)
    assert table.stop[0, 0] == pytest.approx(50 - wide - 2, abs=1.0)
    assert table.relation[0, 1, 40] == CROSS
    assert table.relation[0, 1, 20] == NONE


def test_lanes_that_join_share_arcs_behind_and_before_the_place():
    main = line((0, 0), (200, 0))
    joins = change(offset(main, -3.5), main, 80.0, 40.0)
    table = tables([Route(main, 20.0), Route(joins, 20.0)], 50.0, 15.0)
    assert table.relation[0, 1, 150] == SAME
    assert table.relation[0, 1, 80] == VIRTUAL
    assert table.relation[0, 1, 40] == NONE
    assert not np.isfinite(table.b_in).any()
    for k in (75, 90, 150):
        assert table.place[0, 1, k] == pytest.approx(joins[2 * k, 0], abs=1.0)


def test_speed_falls_in_time_for_a_bend():
    way = trace((0.0, 0.0, 0.0), [(100.0, 0.0, 0.0), *bend(1.5, 12.0), (50.0, 0.0, 0.0)], 0.5)
    top = tables([Route(way, 15.0)], 0.0, 15.0).top[0]
    assert top[0] == 15.0
    assert top.min() == pytest.approx(np.sqrt(1.9 * 12), rel=0.02)
    falls = np.diff(top[:110] ** 2) / 2
    assert falls.min() >= -1.2 - 0.05


def test_calm_speed_makes_idm_brake_at_its_bound():
    for gap, leader in ((30.0, 10.0), (12.0, 0.0), (60.0, 25.0)):
        v = _calm(gap, leader)
        wish = 2.0 + 1.5 * v + v * (v - leader) / (2 * np.sqrt(1.5 * 2.0))
        assert wish / gap == pytest.approx(np.sqrt(2.0))
    assert _calm(1.0, 5.0) == 0.0


def test_contact_needs_the_same_height_and_both_there():
    pose = np.zeros((2, 2, 4))
    pose[:, 1, :2] = [[4.1, 0.0], [0.0, 0.0]]
    size = np.tile([4.0, 2.0, 1.5], (2, 1))
    valid = np.ones((2, 2), bool)
    assert contacts(pose, size, valid) == [(1, 0, 1)]
    pose[:, 1, 2] = 6.0
    assert contacts(pose, size, valid) == []
    pose[:, 1, 2] = 0.0
    valid[1, 0] = False
    assert contacts(pose, size, valid) == []
    turned = np.array([[[0, 0, 0, 0], [2.5, 1.9, 0, np.pi / 4]]], float)
    assert contacts(turned, size, np.ones((1, 2), bool)) == [(0, 0, 1)]
    turned[0, 1, :2] = [3.6, 2.5]
    assert contacts(turned, size, np.ones((1, 2), bool)) == []


def test_a_red_light_run_is_found():
    from dataclasses import replace

    from gleanings.driving.families import make_raw

    scene = make_raw("four_way_signal", 3, 0)
    assert red_runs(scene) == []
    always = tuple(replace(light, state=np.full(91, 4, np.uint8)) for light in scene.lights)
    never = tuple(replace(light, state=np.full(91, 6, np.uint8)) for light in scene.lights)
    assert red_runs(replace(scene, lights=always))
    assert red_runs(replace(scene, lights=never)) == []
