"""CommonRoad: both versions by hand, the real files, and what the package commonroad-io reads in them."""

from pathlib import Path

import numpy as np
import pytest
from tests.driving._commonroad import goal, lanelet, obstacle, rectangle, state, write

from gleanings.core.errors import DataError
from gleanings.driving.raw import Kind, Light, RawScene
from gleanings.driving.readers._areas import within
from gleanings.driving.readers.commonroad import read

VERSIONS = ("2018b", "2020a")
BESIDE = '<adjacent{} ref="{}" drivingDir="{}"/>'
# Two lanes along +x over 0 <= x <= 50, 1 right of 2; and 3, which goes on from 1.
ROAD = (
    lanelet(1, [(0, 0), (50, 0)], [(0, -4), (50, -4)], BESIDE.format("Left", 2, "same") + '<successor ref="3"/>'),
    lanelet(2, [(0, 4), (50, 4)], [(0, 0), (50, 0)], BESIDE.format("Right", 1, "same")),
    lanelet(3, [(50, 0), (90, 0)], [(50, -4), (90, -4)]),
)
EGO = f'<planningProblem id="9">{state("initialState", 2, 10, -2, 0.1, 7)}{{}}</planningProblem>'


def one(path: Path) -> RawScene:
    (scene,) = read(path)
    return scene


def small(folder: Path, version: str, *more: str) -> RawScene:
    car = [state("initialState", 0, 20, -2), *(state("state", t, 20 + t / 2, -2, 0.0, 5.0) for t in range(1, 11))]
    walker = [state("initialState", 3, 5, 6, 1.5, 1), state("state", 4, 5, 6.1, 1.5, 1)]
    parts = (
        obstacle(version, 11, "dynamic", "car", rectangle(4.5, 2), car),
        obstacle(version, 12, "dynamic", "pedestrian", "<circle><radius>0.4</radius></circle>", walker),
        obstacle(version, 13, "static", "parkedVehicle", rectangle(4, 2), [state("initialState", 0, 40, 2, 0.5)]),
        EGO.format(goal(rectangle(6, 8, "<center><x>60</x><y>-2</y></center>"))),
    )
    return one(write(folder, version, *ROAD, *parts, *more))


@pytest.mark.parametrize("version", VERSIONS)
def test_tracks_end_apart_and_the_ego_is_a_problem_without_a_log(tmp_path: Path, version: str):
    scene = small(tmp_path, version)
    ego, car, walker, parked = scene.tracks
    assert (scene.sdc, scene.start, len(scene.times), scene.flat) == (0, 2, 41, True)
    assert [track.valid.sum() for track in scene.tracks] == [1, 11, 2, 41]
    assert ego.valid[2]
    np.testing.assert_allclose(ego.velocity[2], [7 * np.cos(0.1), 7 * np.sin(0.1)])
    assert (ego.size[2] == [4.6, 1.9, 1.6]).all()
    assert [track.kind for track in (car, walker, parked)] == [Kind.VEHICLE, Kind.PEDESTRIAN, Kind.VEHICLE]
    np.testing.assert_allclose(car.position[:11, 0], 20 + np.arange(11) / 2)
    np.testing.assert_allclose(walker.size[3, :2], [0.8, 0.8])
    assert parked.velocity[40].tolist() == [0, 0]
    (end,) = scene.goals
    assert (end.track, end.centre, end.radius) == (0, (60, -2), 5.0)


@pytest.mark.parametrize("version", VERSIONS)
def test_lanes_carry_their_links_and_edges_keep_the_road_on_their_left(tmp_path: Path, version: str):
    scene = small(tmp_path, version)
    lanes = {f.name: f for f in scene.features if f.kind == "lane"}
    assert lanes["1"].points[:, :2].tolist() == [[0, -2], [50, -2]]
    assert (lanes["1"].successors, lanes["1"].neighbours, lanes["2"].neighbours) == (("3",), ("2",), ("1",))
    edges = sorted((f.points[:, :2].tolist() for f in scene.features if f.kind == "road_edge"), key=str)
    # The left bound of 3 is free, though 1 to its west has a neighbour.
    assert edges == [[[0, -4], [50, -4]], [[50, -4], [90, -4]], [[50, 4], [0, 4]], [[90, 0], [50, 0]]]


def test_the_parts_of_bounds_in_a_junction_are_no_edges(tmp_path: Path):
    across = lanelet(4, [(60, -30), (60, 30)], [(64, -30), (64, 30)])
    scene = small(tmp_path, "2020a", across)
    lengths: dict[float, float] = {}
    for feature in scene.features:
        if feature.kind == "road_edge":
            for (x0, y0), (x1, y1) in zip(feature.points[:-1, :2], feature.points[1:, :2], strict=True):
                at = round(float(y0 if abs(y0 - y1) < 0.01 else x0), 2)
                lengths[at] = lengths.get(at, 0) + abs(x1 - x0) + abs(y1 - y0)
    found = {at: round(length, 1) for at, length in lengths.items() if length > 0.01}
    assert found == {-4: 86, 0: 36, 4: 50, 60: 56, 64: 56}


SHAPES = {
    "rectangle": (rectangle(6, 2, "<orientation>1.5707963267948966</orientation>"), (0, 0), np.hypot(3, 1)),
    "circle": ("<circle><radius>3</radius><center><x>7</x><y>8</y></center></circle>", (7, 8), 3),
    "polygon": (
        f"<polygon>{''.join(f'<point><x>{x}</x><y>{y}</y></point>' for x, y in ((0, 0), (8, 0), (8, 6)))}</polygon>",
        (4, 3),
        5,
    ),
    "lanelet": ('<lanelet ref="3"/>', (70, -2), np.hypot(20, 2)),
    "two lanelets": ('<lanelet ref="3"/><lanelet ref="1"/><lanelet ref="77"/>', (45, -2), np.hypot(45, 2)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_goal_is_the_circle_around_its_region(tmp_path: Path, shape: str):
    text, centre, radius = SHAPES[shape]
    (found,) = one(write(tmp_path, "2020a", *ROAD, EGO.format(goal(text)))).goals
    np.testing.assert_allclose([*found.centre, found.radius], [*centre, radius], atol=1e-12)


def test_a_goal_that_is_no_place_is_none(tmp_path: Path):
    assert one(write(tmp_path, "2020a", *ROAD, EGO.format(goal('<lanelet ref="77"/>')))).goals == ()


@pytest.mark.parametrize("first", [0, 3])
def test_a_traffic_light_follows_its_cycle(tmp_path: Path, first: int):
    cycle = [("red", 3), ("redYellow", 1), ("green", 4), ("yellow", 2)]
    elements = "".join(f"<cycleElement><duration>{n}</duration><color>{c}</color></cycleElement>" for c, n in cycle)
    light = f'<trafficLight id="50"><cycle>{elements}<timeOffset>4</timeOffset></cycle></trafficLight>'
    line = "<stopLine><point><x>49</x><y>-4</y></point><point><x>49</x><y>0</y></point></stopLine>"
    lane = lanelet(1, [(0, 0), (50, 0)], [(0, -4), (50, -4)], f'{line}<trafficLightRef ref="50"/>')
    car = [state("initialState", first, 20, -2), *(state("state", t, 20, -2) for t in range(first + 1, 30))]
    (found,) = one(
        write(tmp_path, "2020a", lane, light, obstacle("2020a", 11, "dynamic", "car", rectangle(4, 2), car))
    ).lights
    colours = [c for c, n in cycle for _ in range(n)]
    code = {"red": Light.STOP, "redYellow": Light.STOP, "green": Light.GO, "yellow": Light.CAUTION}
    # The cycle begins at step 4.
    assert found.state.tolist() == [code[colours[(t - 4) % 10]] for t in range(first, 30)]
    assert (found.lane, found.stop[:2].tolist()) == ("1", [49, -2])


def test_speed_limits_stand_at_the_lane_or_on_a_sign(tmp_path: Path):
    element = "<trafficSignElement><trafficSignID>{}</trafficSignID>{}</trafficSignElement>"
    sign = f'<trafficSign id="70">{element}</trafficSign>'
    value = "<additionalValue>{}</additionalValue>"
    lanes = [
        lanelet(1, [(0, 0), (50, 0)], [(0, -4), (50, -4)], "<speedLimit>13.5</speedLimit>"),
        lanelet(2, [(0, 9), (50, 9)], [(0, 5), (50, 5)], '<trafficSignRef ref="70"/><trafficSignRef ref="71"/>'),
        lanelet(3, [(0, 19), (50, 19)], [(0, 15), (50, 15)], '<trafficSignRef ref="72"/>'),
    ]
    signs = [sign.format("R2-1", value.format(9)), sign.replace("70", "71").format("274", value.format(8))]
    scene = one(write(tmp_path, "2020a", *lanes, *signs, sign.replace("70", "72").format("206", ""), EGO.format("")))
    limits = [f.speed_limit for f in scene.features if f.kind == "lane"]
    np.testing.assert_array_equal(limits, [13.5, 8.0, np.nan])


@pytest.mark.parametrize("centre", [(0.0, 0.0), (1.0, 0.5)])
def test_a_shape_off_its_point_moves_the_box(tmp_path: Path, centre: tuple[float, float]):
    shape = rectangle(4, 2, f"<center><x>{centre[0]}</x><y>{centre[1]}</y></center>")
    states = [state("initialState", 0, 20, -2, np.pi / 2), state("state", 1, 20, -1, np.pi / 2)]
    scene = one(write(tmp_path, "2020a", *ROAD, obstacle("2020a", 11, "dynamic", "car", shape, states)))
    np.testing.assert_allclose(scene.tracks[0].position[0, :2], [20 - centre[1], -2 + centre[0]])
    np.testing.assert_allclose(scene.tracks[0].size[0, :2], [4, 2])
    assert scene.sdc == -1


def test_heights_and_paths_for_walkers(tmp_path: Path):
    high = lanelet(1, [(0, 0, 7), (50, 0, 8)], [(0, -4, 7), (50, -4, 8)])
    walk = lanelet(2, [(0, 4), (50, 4)], [(0, 0), (50, 0)], "<laneletType>sidewalk</laneletType>")
    cross = lanelet(3, [(9, -4), (9, 0)], [(12, -4), (12, 0)], "<laneletType>crosswalk</laneletType>")
    place = state("initialState", 0, 9, -2).replace("</y>", "</y><z>7.5</z>")
    ego = f'<planningProblem id="9">{place}{goal("")}</planningProblem>'
    scene = one(write(tmp_path, "2020a", high, ego))
    assert not scene.flat
    assert scene.tracks[0].position[0, 2] == 7.5
    scene = one(write(tmp_path, "2020a", high, walk, cross, ego))
    kinds = [f.kind for f in scene.features]
    assert (scene.flat, kinds.count("lane"), kinds.count("road_edge"), kinds.count("crosswalk")) == (True, 1, 2, 1)
    assert np.isnan(scene.tracks[0].position[:, 2]).all()


LAUGHS = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
WRONG = {
    "laughs": (f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><commonRoad>&l9;</commonRoad>', "DOCTYPE"),
    "an outer file": ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><commonRoad/>', "DOCTYPE"),
    "deep": ("<a>" * 100_000, "nested deeper"),
    "another root": ("<net/>", "expected 'commonRoad'"),
    "no numbers": ("<commonRoad timeStepSize='x'><planningProblem id='1'/></commonRoad>", "no initialState"),
    "time without end": (f"<commonRoad>{EGO.format('').replace('>2<', '>1e300<')}</commonRoad>", "time step"),
    "time that is none": (f"<commonRoad>{EGO.format('').replace('>2<', '>nan<')}</commonRoad>", "time step"),
    "a million steps": (f"<commonRoad>{EGO.format(goal('', 999_999))}</commonRoad>", "steps"),
    "no step size": (f"<commonRoad>{EGO.format('')}</commonRoad>", "timeStepSize"),
    "half a bound": (f"<commonRoad>{lanelet(1, [(0, 0)], [(0, 0), (1, 1)])}</commonRoad>", "fewer than two"),
    "a number": (f"<commonRoad>{ROAD[0].replace('50', 'fifty', 1)}</commonRoad>", "no number"),
    "a lane as long as the sky": (
        f"<commonRoad timeStepSize='1'>{ROAD[0].replace('50', '9e7')}{EGO.format('')}</commonRoad>",
        "pieces",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, case: str):
    text, message = WRONG[case]
    (path := tmp_path / "x.xml").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        list(read(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "1e999"])
def test_a_state_that_is_no_place_is_not_valid(tmp_path: Path, bad: str):
    for place in ((bad, 1, 0), (1, bad, 0), (1, 1, bad)):
        states = [state("initialState", 0, 20, -2), state("state", 1, *place), state("state", 2, 21, -2)]
        scene = one(write(tmp_path, "2018b", *ROAD, obstacle("2018b", 1, "dynamic", "car", rectangle(4, 2), states)))
        assert scene.tracks[0].valid.tolist() == [True, False, True]
        assert scene.repairs["invalid_pose"] == 1


REAL = {"USA_US101-4_1_T-1.xml": (22, 101, 12), "USA_Lanker-1_1_T-1.xml": (24, 41, 91)}


@pytest.mark.parametrize("name", REAL)
def test_a_real_scene_drives_on_its_road(shared_data: Path, name: str):
    scene = one(shared_data / "driving" / "commonroad" / name)
    others, steps, lanes = REAL[name]
    assert (len(scene.tracks), len(scene.times), scene.sdc, len(scene.goals)) == (others + 1, steps, 0, 1)
    assert sum(f.kind == "lane" for f in scene.features) == lanes
    assert scene.tracks[0].valid.sum() == 1
    assert len({int(track.valid.sum()) for track in scene.tracks}) > 2
    # The nearest edge has every car on its left.
    edges = [f.points[:, :2] for f in scene.features if f.kind == "road_edge"]
    a, d = np.concatenate([e[:-1] for e in edges]), np.concatenate([np.diff(e, axis=0) for e in edges])
    for track in scene.tracks:
        for q in track.position[track.valid, :2]:
            t = np.clip(((q - a) * d).sum(1) / (d**2).sum(1), 0, 1)
            c = q - a - t[:, None] * d
            distance = np.hypot(*c.T)
            left = (d[:, 0] * c[:, 1] - d[:, 1] * c[:, 0]) / np.hypot(*d.T)
            assert left[distance < distance.min() + 1e-9].sum() > 0


@pytest.mark.parametrize("name", REAL)
def test_commonroad_io_agrees(shared_data: Path, name: str):
    """Needs `pip install commonroad-io` in some environment; skipped elsewhere."""
    reader = pytest.importorskip("commonroad.common.file_reader")
    path = shared_data / "driving" / "commonroad" / name
    theirs, problems = reader.CommonRoadFileReader(str(path)).open()
    scene = one(path)
    lanes = {f.name: f for f in scene.features if f.kind == "lane"}
    assert len(lanes) == len(theirs.lanelet_network.lanelets)
    rings = []
    for lane in theirs.lanelet_network.lanelets:
        ours = lanes[str(lane.lanelet_id)]
        np.testing.assert_allclose(ours.points[:, :2], lane.center_vertices, atol=1e-9)
        assert set(ours.successors) == {str(s) for s in lane.successor}
        sides = (lane.adj_left, lane.adj_left_same_direction), (lane.adj_right, lane.adj_right_same_direction)
        assert set(ours.neighbours) == {str(other) for other, same in sides if other is not None and same}
        rings.append(np.column_stack([lane.polygon.vertices, np.zeros(len(lane.polygon.vertices))]))
    tracks = {track.name: track for track in scene.tracks}
    assert len(tracks) - 1 == len(theirs.obstacles)
    for obstacle_ in theirs.obstacles:
        track = tracks[str(obstacle_.obstacle_id)]
        assert (
            track.size[track.valid][0, :2] == [obstacle_.obstacle_shape.length, obstacle_.obstacle_shape.width]
        ).all()
        for step in range(len(scene.times)):
            state_ = obstacle_.state_at_time(step)
            assert track.valid[step] == (state_ is not None)
            if state_ is not None:
                want = [*state_.position, state_.orientation, state_.velocity]
                got = [*track.position[step, :2], track.yaw[step], np.hypot(*track.velocity[step])]
                np.testing.assert_allclose(got, want, atol=1e-9)
    (problem,) = problems.planning_problem_dict.values()
    np.testing.assert_allclose(tracks[str(problem.planning_problem_id)].position[0, :2], problem.initial_state.position)
    region = problem.goal.state_list[0].position
    corners = np.asarray(region.shapely_object.exterior.coords)[:-1]
    np.testing.assert_allclose(scene.goals[0].centre, corners.mean(0), atol=1e-9)
    # Their lanelets contain the points just inside our edges, and not those just outside.
    edges = np.concatenate([(f.points[1:] + f.points[:-1]) / 2 for f in scene.features if f.kind == "road_edge"])
    along = np.concatenate([np.diff(f.points, axis=0) for f in scene.features if f.kind == "road_edge"])[:, :2]
    side = np.stack([-along[:, 1], along[:, 0]], -1) / np.hypot(*along.T)[:, None]
    for offset, inside in ((0.15, True), (-0.15, False)):
        moved = np.column_stack([edges[:, :2] + offset * side, np.zeros(len(edges))])
        agrees = within(moved, [[ring] for ring in rings]) == inside
        assert np.average(agrees, weights=np.hypot(*along.T)) > 0.98
