"""The lane graph: links and neighbours by file and by geometry, merged segments, matching by Viterbi, routes."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.driving._raw import junction, line, ring_road, straight_road

from gleanings.core.errors import DataError
from gleanings.driving._polylines import resample, simplify
from gleanings.driving.lanes import LaneGraph, build_graph, lane_segments, near_links
from gleanings.driving.match import LaneIndex, match_lanes, route
from gleanings.driving.raw import MapFeature
from gleanings.driving.readers.detect import iter_raw


def graph_of(features: list[MapFeature]) -> LaneGraph:
    return build_graph(features, [feature.points for feature in features])


def pairs(rows: np.ndarray) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in rows}


@pytest.mark.parametrize("linked", [True, False], ids=["given", "guessed"])
def test_a_straight_road_has_the_same_graph_given_and_guessed(linked: bool) -> None:
    graph = graph_of(straight_road(linked))
    assert pairs(graph.links) == {(0, 1), (2, 3), (4, 5)}
    assert pairs(graph.beside) == {(0, 2), (2, 0), (2, 4), (4, 2), (1, 3), (3, 1), (3, 5), (5, 3)}
    assert graph.limit.tolist() == [15, 15, 16, 16, 17, 17]
    np.testing.assert_allclose(graph.arc[graph.last], [150, 100] * 3)


def test_a_ring_follows_itself_and_a_junction_forks() -> None:
    assert pairs(graph_of(ring_road(30.0)).links) == {(0, 0)}
    graph = graph_of(junction())
    assert pairs(graph.links) == {(0, 1), (0, 2), (1, 3)}
    table = lane_segments(graph).successors
    assert table.tolist() == [[2, 1, -1, -1], [3, -1, -1, -1], [-1] * 4, [-1] * 4]


@pytest.mark.parametrize(
    ("gap", "angle", "joined"), [(0.5, 0.0, True), (0.7, 0.0, False), (0.1, 0.7, True), (0.1, 0.9, False)]
)
def test_links_need_sixty_centimetres_and_forty_five_degrees(gap: float, angle: float, joined: bool) -> None:
    s = np.arange(20.0)
    ahead = MapFeature("lane", line(gap + s * np.cos(angle), s * np.sin(angle)), "b")
    graph = graph_of([MapFeature("lane", line(s - 19, 0), "a"), ahead])
    assert pairs(graph.links) == ({(0, 1)} if joined else set())


def test_lanes_above_each_other_are_not_linked() -> None:
    s = np.arange(20.0)
    graph = graph_of([MapFeature("lane", line(s - 19, 0), "a"), MapFeature("lane", line(s, 0, 6.0), "b")])
    assert not len(graph.links)


def test_guessed_links_are_those_of_real_files(shared_data: Path) -> None:
    folder = shared_data / "driving" / "waymo-open-dataset"
    for name in ("motion_data_one_scenario.tfrecord", "womd_scenario_input.tfrecord"):
        (raw,) = iter_raw(folder / name)
        lines = [np.nan_to_num(feature.points) for feature in raw.features]
        graph = build_graph(raw.features, lines)
        given, guessed = pairs(graph.links), pairs(near_links(graph, np.ones(graph.count, bool)))
        assert len(given & guessed) == len(guessed)
        assert len(given & guessed) >= 0.995 * len(given)


def test_simplified_lines_stay_within_the_tolerance_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    lines = [np.cumsum(rng.normal(1, 0.4, (size, 3)) * [1, 0.3, 0.02], axis=0) for size in (2, 3, 60, 200)]
    offsets = np.cumsum([0, *map(len, lines)])
    keep = simplify(np.concatenate(lines), offsets, 0.3)
    assert 8 < keep.sum() < len(keep)
    for begin, points in zip(offsets, lines, strict=False):
        kept = np.flatnonzero(keep[begin : begin + len(points)])
        assert kept[0] == 0
        assert kept[-1] == len(points) - 1
        for a, b in itertools.pairwise(kept):
            d = points[b] - points[a]
            for q in points[a : b + 1]:
                share = np.clip((q - points[a]) @ d / (d @ d), 0, 1)
                assert np.linalg.norm(q - points[a] - share * d) <= 0.3 + 1e-9


def test_resampled_lines_are_even_and_keep_their_ends() -> None:
    points = np.array([[0.0, 0, 0], [3, 0, 0], [3, 4, 1], [9, 9, 9], [5, 5, 5], [5, 5.5, 5]])
    lines = resample(points, np.array([0, 3, 4, 6]), 2.0)
    expected = [[0, 0, 0], [1.75, 0, 0], [3, 0.5, 0.125], [3, 2.25, 0.5625], [3, 4, 1], [5, 5, 5], [5, 5.5, 5]]
    np.testing.assert_allclose(lines.points, expected)


def test_segments_cover_their_lane_and_are_cut_where_they_rise() -> None:
    s = np.arange(0.0, 101)
    ramp = MapFeature("lane", line(s, 0, 0.05 * s), "ramp")
    lanes = lane_segments(graph_of([MapFeature("lane", line(s, 10), "flat"), ramp]))
    assert lanes.lane.tolist() == [0] + [1] * 10 + [-1]
    assert np.isinf(lanes.z[-1])
    np.testing.assert_allclose(lanes.dx[1:11], 10.0)
    np.testing.assert_allclose(lanes.z[1:11], 0.25 + 0.5 * np.arange(10), rtol=1e-6)


def test_matching_finds_the_cheapest_sequence_by_enumeration() -> None:
    index = LaneIndex(graph_of(junction()))
    rng = np.random.default_rng(1)
    for end in ([0.0, 10.0, 20.0], [3.0, 9.0, 16.0]):
        x, y = np.array([-4.0, -1.0, *end[:1]]), np.array([0.0, 0.0, 1.0 * (end[0] == 3)])
        points = line(x, y) + rng.normal(0, 0.5, (3, 1)) * [0, 1, 0]
        yaw = np.array([0.0, 0.1, 0.4])
        found = index.near(points, yaw)
        poses = zip(found.row.tolist(), found.cost.tolist(), strict=True)
        states = [[*zip(rows, costs, strict=True), (-1, 16.0)] for rows, costs in poses]

        def price(chain: tuple[tuple[int, float], ...]) -> float:
            changes = itertools.pairwise(row for row, _ in chain)
            links = {(0, 1), (0, 2), (1, 3)}
            free = sum(0.0 if a == b or (a, b) in links else 3.0 if -1 in (a, b) else 1e6 for a, b in changes)
            return free + sum(cost for _, cost in chain)

        best = min(itertools.product(*states), key=price)
        rows = match_lanes(index, points[None], yaw[None], np.ones((1, 3), bool))
        assert rows[0].tolist() == [row for row, _ in best]


def test_matching_follows_a_turn_and_skips_what_is_missing() -> None:
    features = junction()
    index = LaneIndex(graph_of(features))
    points = np.concatenate([features[0].points[::4], features[1].points[2::4], features[3].points[2::4]])
    step = np.gradient(points, axis=0)
    yaw = np.arctan2(step[:, 1], step[:, 0])
    there = np.ones((2, len(points)), bool)
    there[1, 5:9] = False
    rows = match_lanes(index, np.stack([points, points]), np.stack([yaw, yaw]), there)
    assert route(index, rows[0]) == [0, 1, 3]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert route(index, rows[0][:5]) == [0, 2]
    assert route(index, np.full(3, -1)) == []


def test_far_from_any_lane_there_is_no_match() -> None:
    index = LaneIndex(graph_of(junction()))
    rows = match_lanes(index, line([30.0, 31], 30)[None], np.zeros((1, 2)), np.ones((1, 2), bool))
    assert rows.tolist() == [[-1, -1]]


def test_without_lanes_everything_is_empty() -> None:
    graph = graph_of([replace(one, points=one.points[:1]) for one in junction()])
    lanes = lane_segments(graph)
    assert (graph.count, len(lanes.ax), len(lanes.id)) == (0, 1, 0)
    rows = match_lanes(LaneIndex(graph), np.zeros((1, 2, 3)), np.zeros((1, 2)), np.ones((1, 2), bool))
    assert rows.tolist() == [[-1, -1]]


def test_a_lane_that_rises_for_ever_is_refused() -> None:
    graph = graph_of([MapFeature("lane", np.array([[0.0, 0, 0], [10, 0, 1e8]]), "tower")])
    with pytest.raises(DataError, match="200,000,000 segments"):
        lane_segments(graph)


def test_links_of_made_up_scenes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gleanings.driving.raw_check.MAX_LINKS", 1)
    with pytest.raises(DataError, match="more than 1 links"):
        graph_of(straight_road(True))
