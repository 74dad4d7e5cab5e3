"""Compiling raw scenes: local frame, kept tracks, sizes, heights, lights, goals, and what padding must not change."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.driving._raw import START, STEPS, driving, light, line, moved, scene, straight_road, track

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving.compile import compile_scene
from gleanings.driving.config import CompileConfig
from gleanings.driving.raw import DEFAULT_SIZE, Kind, MapFeature, RawGoal, RawScene
from gleanings.driving.readers.detect import iter_raw
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.stack import arrays_of, check_scene, sizes_of


def busy(**other: object) -> RawScene:
    cars = [driving(3.0 + k, x=12.0 * (k // 3), y=3.5 * (k % 3), name=str(k)) for k in range(12)]
    return scene(cars, straight_road(), lights=(light(),), predict=(3,), interest=(4,), **other)


def same(one: Scene, two: Scene, within: float = 0.0) -> None:
    for name, array in arrays_of(one).items():
        np.testing.assert_allclose(array, arrays_of(two)[name], rtol=0, atol=within, err_msg=name)


def test_local_poses_equal_float64_far_from_the_origin() -> None:
    raw = moved(busy(), (9006.37, -8123.91, 412.5))
    compiled = compile_scene(raw)
    assert compiled.origin.tolist() == np.rint(raw.tracks[0].position[START]).tolist()
    for k, one in enumerate(raw.tracks):
        local = np.stack([compiled.log.x[:, k], compiled.log.y[:, k], compiled.log.z[:, k]], axis=1)
        np.testing.assert_allclose(local, one.position - compiled.origin, atol=1e-4)
    check_scene(compiled)


def test_moving_a_scene_by_kilometres_changes_nothing_local() -> None:
    one, two = compile_scene(busy()), compile_scene(moved(busy(), (7000.0, -3000.0, 100.0)))
    same(one._replace(origin=two.origin), two, within=1e-3)


def test_permuted_tracks_permute_results() -> None:
    raw = busy()
    order = np.random.default_rng(0).permutation(len(raw.tracks))
    place = np.argsort(order)
    shuffled = replace(
        raw,
        tracks=tuple(raw.tracks[k] for k in order),
        sdc=int(place[0]),
        predict=(int(place[3]),),
        interest=(int(place[4]),),
    )
    one, two = compile_scene(raw), compile_scene(shuffled)
    np.testing.assert_array_equal(two.log.x[:, place], one.log.x[:, : len(order)])
    for part in ("paths", "objects", "goals"):
        for name, array in getattr(one, part)._asdict().items():
            if name != "id":
                other = getattr(getattr(two, part), name)
                np.testing.assert_array_equal(other[place], array[: len(order)], err_msg=name)


def test_a_larger_bucket_changes_nothing() -> None:
    small, large = compile_scene(busy()), compile_scene(busy(), CompileConfig(objects=128, segments=4096))
    old, new = sizes_of(small), sizes_of(large)
    assert (old["N"], new["N"], old["E"], new["E"]) == (32, 128, 1024, 4096)
    for name, array in arrays_of(small).items():
        grown = arrays_of(large)[name]
        np.testing.assert_array_equal(grown[tuple(slice(0, size) for size in array.shape)], array, err_msg=name)
    assert not large.log.valid[:, 32:].any()
    assert np.isinf(large.edges.z[1024:]).all()
    assert (large.objects.first[32:] == -1).all()


def test_scenes_of_one_kind_share_their_shapes() -> None:
    other = scene([driving(9.0), driving(4.0, y=3.5)], straight_road())
    assert sizes_of(compile_scene(busy())) == sizes_of(compile_scene(other))


def test_the_ego_the_marked_and_the_nearest_are_kept() -> None:
    cars = [driving(0.0, x=float(x)) for x in (50, 0, 3, 40, 2, 90, 1)]
    never = driving(0.0)
    never.valid[:] = False
    raw = scene([*cars, never], sdc=0, predict=(5,))
    assert compile_scene(raw).objects.id[:8].tolist() == [0, 1, 2, 3, 4, 5, 6, -1]
    kept = compile_scene(raw, CompileConfig(max_objects=4)).objects
    assert kept.id[:5].tolist() == [0, 2, 3, 5, -1]
    assert kept.is_sdc[:4].tolist() == [True, False, False, False]
    assert kept.to_predict[:4].tolist() == [False, False, False, True]


def test_sizes_come_from_the_start_then_from_later_steps_then_from_the_kind() -> None:
    cars = [driving(1.0) for _ in range(3)] + [driving(1.0, kind=Kind.PEDESTRIAN)]
    for k, car in enumerate(cars):
        car.size[:, 0] = 5 + 0.01 * np.arange(STEPS)
        car.valid[: 20 * (k == 1)] = False
    cars[2].valid[START:] = False
    cars[3].size[:] = np.nan
    objects = compile_scene(scene(cars)).objects
    np.testing.assert_allclose(objects.length[:4], [5.10, 5.20, 5.00, DEFAULT_SIZE[Kind.PEDESTRIAN][0]], atol=1e-6)
    assert objects.first[:4].tolist() == [0, 20, 0, 0]
    assert objects.last[:4].tolist() == [90, 90, 9, 90]


def test_invalid_steps_hold_zero_and_extent_and_speed_are_of_valid_ones() -> None:
    car = driving(10.0)
    car.valid[30:40] = False
    car.position[30:40], car.velocity[30:40], car.yaw[30:40] = -10000.0, np.nan, np.nan
    compiled = compile_scene(scene([car]))
    assert not compiled.log.x[30:40].any()
    assert not compiled.log.yaw[30:40].any()
    assert compiled.objects.extent[0] == pytest.approx(90.0)
    assert compiled.objects.top_speed[0] == pytest.approx(10.0)


def test_missing_velocities_are_differences() -> None:
    car = driving(7.0)
    car.velocity[:] = np.nan
    np.testing.assert_allclose(compile_scene(scene([car])).log.vx[:, 0], 7.0, atol=1e-4)


def test_flat_scenes_stand_on_zero_and_missing_heights_come_from_the_map() -> None:
    raw = moved(busy(), (0.0, 0.0, 30.0))
    flat = compile_scene(replace(raw, flat=True))
    assert flat.origin[2] == 0
    np.testing.assert_allclose(flat.log.z[:, :12], 0.8, atol=1e-6)
    assert not flat.edges.z[np.isfinite(flat.edges.z)].any()
    for one in raw.tracks:
        one.position[:, 2] = np.nan
    guessed = compile_scene(raw)
    np.testing.assert_allclose(guessed.log.z[:, :12] + guessed.origin[2], 30.8, atol=1e-5)


def test_heights_missing_in_the_map_are_those_beside() -> None:
    features = straight_road()
    features[0].points[40:60, 2] = np.nan
    features[-2].points[:, 2] = np.nan
    compiled = compile_scene(scene([driving(5.0)], features))
    used = compiled.road.kind > 0
    assert np.isfinite(compiled.road.z).all()
    np.testing.assert_allclose(compiled.road.z[used] + compiled.origin[2], 0.0, atol=1e-6)


def test_lights_know_their_lane_direction_and_place_on_paths() -> None:
    compiled = compile_scene(
        scene([driving(5.0), driving(5.0, y=3.5)], straight_road(), lights=(light(), light("?", 60, 30)))
    )
    lights = compiled.lights
    assert lights.exists[:2].tolist() == [True, False], "without a lane near it a light has no direction"
    assert compiled.lanes.id[lights.lane[0]] == 0
    assert lights.lane[1] == -1
    assert lights.state[[39, 40], 0].tolist() == [4, 6]
    assert lights.yaw[0] == pytest.approx(0.0)
    np.testing.assert_allclose(lights.arc[:2, 0], [80.0, np.inf], atol=1e-3)
    assert np.isinf(lights.arc[:, 1:]).all()


def test_goals_are_given_or_the_end_of_the_log() -> None:
    compiled = compile_scene(scene([driving(5.0), driving(2.0)], goals=(RawGoal(1, (30.0, 4.0), 3.0),)))
    goals = compiled.goals
    np.testing.assert_allclose(goals.x[:2] + compiled.origin[0], [45.0, 30.0], atol=1e-5)
    np.testing.assert_allclose([*goals.y[:2], *goals.radius[:2]], [0, 4, 2, 3], atol=1e-5)
    assert goals.exists.sum() == 2


def test_a_log_of_one_pose_has_no_goal_but_the_given() -> None:
    once = driving(5.0)
    once.valid[:], once.valid[START] = False, True
    assert compile_scene(scene([once, driving(2.0)])).goals.exists[:2].tolist() == [False, True]
    given = compile_scene(scene([once], goals=(RawGoal(0, (30.0, 4.0), 3.0),))).goals
    assert given.exists[:1].tolist() == [True]


def test_road_points_are_two_metres_apart_with_kind_and_direction() -> None:
    compiled = compile_scene(scene([driving(5.0)], straight_road()))
    road = compiled.road
    assert np.bincount(road.kind)[1:].tolist() == [3 * (76 + 51), 2 * 126, 126, 0, 0, 1]
    edge = np.flatnonzero(road.kind == 2)[126:]
    np.testing.assert_allclose(np.diff(road.x[edge]), -2.0, atol=1e-4)
    np.testing.assert_allclose(road.dx[edge], -1.0, atol=1e-6)
    assert (road.dx[road.kind == 6], road.dy[road.kind == 6]) == (0.0, 0.0)


def test_a_scene_may_have_no_map_at_all() -> None:
    compiled = compile_scene(scene([driving(5.0)]))
    check_scene(compiled)
    assert not compiled.lights.exists.any()
    assert (compiled.lanes.id == -1).all()
    assert compiled.paths.length[0] == 256
    assert name_of(compiled) == "by hand"


def test_scenes_and_sizes_that_cannot_be_compiled_are_refused() -> None:
    absent = driving(5.0)
    absent.valid[START] = False
    with pytest.raises(DataError, match="no object is valid at the start"):
        compile_scene(scene([absent]))
    with pytest.raises(ConfigError, match="multiple of 32"):
        compile_scene(busy(), CompileConfig(objects=33))
    zigzag = MapFeature("road_edge", line(np.arange(3000.0) / 20, np.arange(3000) % 2))
    with pytest.raises(ConfigError, match="segments = 1024, but the scene has 2999"):
        compile_scene(scene([driving(5.0)], [zigzag]), CompileConfig(segments=1024))
    lost = driving(5.0)
    lost.position[START] = 1e12
    with pytest.raises(DataError, match="stands at"):
        compile_scene(scene([lost]))


def test_a_tall_and_a_turned_car_keep_their_centre_and_yaw() -> None:
    car = track(0.0, 0.0, yaw=3 * np.pi)
    compiled = compile_scene(scene([car]))
    assert compiled.log.yaw[0, 0] == pytest.approx(np.pi)
    assert compiled.log.z[0, 0] + compiled.origin[2] == pytest.approx(0.8)


def test_real_scenes_keep_their_poses_and_fit_their_arrays(shared_data: Path) -> None:
    for file in sorted((shared_data / "driving" / "waymo-open-dataset").glob("motion*.tfrecord")):
        (raw,) = iter_raw(file)
        compiled = compile_scene(raw)
        check_scene(compiled)
        assert sum(array.nbytes for array in arrays_of(compiled).values()) < 4e6
        for slot, index in enumerate(compiled.objects.id[compiled.objects.exists]):
            one, log = raw.tracks[index], compiled.log
            np.testing.assert_array_equal(log.valid[:, slot], one.valid)
            away = (one.position - compiled.origin)[one.valid]
            np.testing.assert_allclose(log.x[one.valid, slot], away[:, 0], atol=1e-4)
            np.testing.assert_allclose(log.y[one.valid, slot], away[:, 1], atol=1e-4)


def test_turning_a_scene_turns_its_paths() -> None:
    raw, angle = busy(), 0.8
    turned = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    other = replace(
        raw,
        tracks=tuple(replace(one, position=one.position @ turned, yaw=one.yaw + angle) for one in raw.tracks),
        features=tuple(replace(one, points=one.points @ turned) for one in raw.features),
        lights=tuple(replace(one, stop=one.stop @ turned) for one in raw.lights),
    )
    one, two = compile_scene(raw), compile_scene(other)
    np.testing.assert_allclose(two.paths.length, one.paths.length, atol=2e-3)
    np.testing.assert_array_equal(two.paths.limit[:, :150], one.paths.limit[:, :150])
    np.testing.assert_allclose(two.lights.arc, one.lights.arc, atol=2e-3)
    before = np.stack([one.paths.x, one.paths.y], axis=-1)[:12] + one.origin[:2]
    after = np.stack([two.paths.x, two.paths.y], axis=-1)[:12] + two.origin[:2]
    np.testing.assert_allclose(after, before @ turned[:2, :2], atol=2e-3)


def test_maps_that_would_fill_the_memory_are_refused() -> None:
    cars = [driving(5.0)]
    far = MapFeature("road_line", line([0.0, 9e7], 0))
    with pytest.raises(DataError, match="lines of 90,000 km"):
        compile_scene(scene(cars, [far]))
    with pytest.raises(DataError, match="2,049 lights"):
        compile_scene(scene(cars, lights=(light(),) * 2049))
    heap = [MapFeature("lane", line([0.0, 0.3], 0), str(k)) for k in range(2500)]
    with pytest.raises(DataError, match="on top of each other"):
        compile_scene(scene(cars, heap))
