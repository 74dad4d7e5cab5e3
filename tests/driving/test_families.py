"""Generated scenes: what every family must hold, checked by code of its own on one scene a family, on more if slow."""

from functools import cache

import numpy as np
import pytest

from gleanings.core.errors import ConfigError
from gleanings.driving import compile as compiling
from gleanings.driving.families import FAMILIES, make_raw, make_scenes
from gleanings.driving.raw import RED, Kind, RawScene
from gleanings.driving.scene import Scene

EVERY = sorted(FAMILIES)
LIMITS = {Kind.VEHICLE: (-8.0, 4.0, 0.22), Kind.CYCLIST: (-6.0, 3.0, 0.6), Kind.PEDESTRIAN: (-4.0, 4.0, 3.0)}


@cache
def drawn(family: str, index: int = 0) -> RawScene:
    return make_raw(family, 3, index)


def edges(scene: RawScene) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of all edge segments, [E, 3] each."""
    lines = [np.concatenate([f.points, f.points[:1]]) if f.closed else f.points for f in of(scene, "road_edge")]
    return np.concatenate([line[:-1] for line in lines]), np.concatenate([line[1:] for line in lines])


def of(scene: RawScene, kind: str) -> list:
    return [f for f in scene.features if f.kind == kind]


def from_edge(scene: RawScene, points: np.ndarray) -> np.ndarray:
    """Signed distance to the nearest edge at the height of the points, over all segments; positive: off the road."""
    a, b = edges(scene)
    value = np.empty(len(points))
    for k, q in enumerate(points):
        near = np.abs((a[:, 2] + b[:, 2]) / 2 - q[2]) < 2.5
        start, end = a[near, :2], b[near, :2]
        d = end - start
        t = np.clip(((q[:2] - start) * d).sum(1) / (d**2).sum(1), 0, 1)[:, None]
        c = q[:2] - start - t * d
        distance = np.hypot(*c.T)
        tied = np.flatnonzero(distance < distance.min() + 1e-9)
        # At a corner the two segments may disagree; the one that sees the point less obliquely is right.
        normal = np.stack([-d[tied, 1], d[tied, 0]], 1) / np.hypot(*d[tied].T)[:, None]
        side = (normal * c[tied]).sum(1)
        value[k] = -distance.min() * np.sign(side[np.abs(side).argmax()])
    return value


def boxes(track, steps) -> np.ndarray:
    """Corners [K, 4, 2] at some steps, counter-clockwise."""
    corner = np.array([[1, -1], [1, 1], [-1, 1], [-1, -1]]) / 2 * track.size[0, :2]
    c, s = np.cos(track.yaw[steps]), np.sin(track.yaw[steps])
    turn = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
    return track.position[steps, None, :2] + np.einsum("kab,cb->kca", turn, corner)


def shared_area(a: np.ndarray, b: np.ndarray) -> float:
    """Area of the intersection of two convex polygons, by clipping a at every side of b (Sutherland, Hodgman 1974)."""
    for p, q in zip(b, np.roll(b, -1, axis=0), strict=True):
        if not len(a):
            return 0.0
        height = (q - p)[0] * (a - p)[:, 1] - (q - p)[1] * (a - p)[:, 0]
        kept = []
        for k in range(len(a)):
            m = (k + 1) % len(a)
            if height[k] >= 0:
                kept.append(a[k])
            if height[k] * height[m] < 0:
                kept.append(a[k] + (a[m] - a[k]) * height[k] / (height[k] - height[m]))
        a = np.array(kept)
    if not len(a):
        return 0.0
    return abs(float((a[:, 0] * np.roll(a[:, 1], -1) - a[:, 1] * np.roll(a[:, 0], -1)).sum())) / 2


def moving(scene: RawScene) -> list:
    return [t for t in scene.tracks if t.kind == Kind.VEHICLE and np.ptp(t.position[t.valid, :2], axis=0).max() > 2]


def no_contact(scene: RawScene, steps) -> None:
    for step in steps:
        there = [(boxes(t, [step])[0], t) for t in scene.tracks if t.valid[step]]
        for k, (one, t) in enumerate(there):
            for two, u in there[:k]:
                apart = t.position[step] - u.position[step]
                if np.hypot(*apart[:2]) < 13 and abs(apart[2]) < 3:
                    assert shared_area(one, two) < 1e-9, (t.name, u.name, step)


def lawful(scene: RawScene) -> None:
    """Accelerations and curvatures within the limits by kind; motion along yaw; speed = way / time."""
    for track in scene.tracks:
        low, high, bend = LIMITS[track.kind]
        position, yaw = track.position[track.valid, :2], np.unwrap(track.yaw[track.valid])
        speed = np.hypot(*track.velocity[track.valid].T)
        along = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
        np.testing.assert_allclose(track.velocity[track.valid], speed[:, None] * along, atol=1e-9)
        gained = np.diff(speed) / 0.1
        assert low - 1e-6 <= gained.min()
        assert gained.max() <= high + 1e-6
        step = np.diff(position, axis=0)
        way, mean = np.hypot(*step.T), (speed[1:] + speed[:-1]) / 2
        np.testing.assert_allclose(way, mean * 0.1, atol=0.02)
        middle = (yaw[1:] + yaw[:-1]) / 2
        slip = np.abs(step[:, 1] * np.cos(middle) - step[:, 0] * np.sin(middle)).max()
        assert slip < (0.05 if track.kind == Kind.PEDESTRIAN else 0.02)
        fast = way > 0.06
        most = np.minimum(bend, 10 / np.maximum(mean**2, 1)) if track.kind != Kind.PEDESTRIAN else bend
        assert (np.abs(np.diff(yaw))[fast] / way[fast] <= np.broadcast_to(most, len(way))[fast] + 1e-3).all()


def obeyed(scene: RawScene) -> int:
    """Fronts that pass a stop point while its light is red: none; gives the number that pass at all."""
    passed = 0
    lanes = {f.name: f for f in of(scene, "lane")}
    for light in scene.lights:
        d = lanes[light.lane].points[1] - lanes[light.lane].points[0]
        np.testing.assert_allclose(light.stop, lanes[light.lane].points[0])
        for track in moving(scene):
            front = boxes(track, slice(None))[:, :2].mean(axis=1) - light.stop[:2]
            for t in np.flatnonzero(track.valid[1:] & track.valid[:-1]):
                before, after = front[t] @ d[:2], front[t + 1] @ d[:2]
                side = abs(d[0] * front[t, 1] - d[1] * front[t, 0]) / np.hypot(*d[:2])
                if before <= 0 < after and side < 2 and np.cos(track.yaw[t] - np.arctan2(d[1], d[0])) > 0.5:
                    passed += 1
                    assert not {light.state[t], light.state[t + 1]} <= set(RED), (track.name, t)
    return passed


@pytest.mark.parametrize("family", EVERY)
def test_scene_is_complete(family):
    scene = drawn(family)
    ego = scene.tracks[scene.sdc]
    assert len(scene.times) == 91
    assert scene.start == 10
    np.testing.assert_allclose(np.diff(scene.times), 0.1)
    assert 8 <= len(scene.tracks) <= 64
    assert len({t.name for t in scene.tracks}) == len(scene.tracks)
    assert 2 <= len(scene.predict) <= 8
    assert scene.sdc not in scene.predict
    assert ego.kind == Kind.VEHICLE
    assert ego.valid.all()
    assert np.hypot(*np.diff(ego.position[:, :2], axis=0).T).sum() >= (8 if family == "jam" else 20)
    for track in scene.tracks:
        inside = np.flatnonzero(track.valid)
        assert track.valid[inside[0] : inside[-1] + 1].all()
        assert np.isfinite(np.column_stack([track.position, track.velocity, track.yaw, track.size])).all()


@pytest.mark.parametrize("family", EVERY)
def test_motion_is_that_of_a_car(family):
    lawful(drawn(family))


@pytest.mark.parametrize("family", EVERY)
def test_boxes_never_meet(family):
    no_contact(drawn(family), range(0, 91, 9))


@pytest.mark.parametrize("family", EVERY)
def test_lanes_lie_on_the_road_and_vehicles_stay_on_it(family):
    scene = drawn(family)
    lanes = np.concatenate([f.points[::7] for f in of(scene, "lane")])
    assert from_edge(scene, lanes).max() <= -2.05
    for track in moving(scene):
        steps = np.flatnonzero(track.valid)[::15]
        base = np.repeat(track.position[steps, 2] - track.size[steps, 2] / 2, 4)
        assert from_edge(scene, np.column_stack([boxes(track, steps).reshape(-1, 2), base])).max() < 0


@pytest.mark.parametrize("family", EVERY)
def test_lanes_join_and_reach_far_back(family):
    scene = drawn(family)
    lanes = {f.name: f for f in of(scene, "lane")}
    before: dict[str, list[str]] = {name: [] for name in lanes}
    for name, lane in lanes.items():
        assert lane.linked
        assert 5 < lane.speed_limit < 35
        for other in lane.neighbours:
            gap = np.hypot(*(lanes[other].points[:, None, :2] - lane.points[None, ::5, :2]).transpose(2, 0, 1)).min(0)
            np.testing.assert_allclose(gap, 3.5, atol=0.4) if not name.startswith("ramp.") else None
        for after in lane.successors:
            before[after].append(name)
            end, start = lane.points[-2:], lanes[after].points[:2]
            np.testing.assert_allclose(end[1], start[0], atol=0.01)
            turn = np.arctan2(*np.diff(end, axis=0)[0, 1::-1]) - np.arctan2(*np.diff(start, axis=0)[0, 1::-1])
            assert abs((turn + np.pi) % (2 * np.pi) - np.pi) < 0.1
    lengths = {name: np.hypot(*np.diff(lane.points[:, :2], axis=0).T).sum() for name, lane in lanes.items()}

    def back(name: str, arc: float) -> float:
        return arc if arc > 40 or not before[name] else max(back(b, arc + lengths[b]) for b in before[name])

    for track in moving(scene):
        first = track.position[np.flatnonzero(track.valid)[0]] - [0, 0, track.size[0, 2] / 2]
        heading = track.yaw[np.flatnonzero(track.valid)[0]]
        reach = []
        for name, lane in lanes.items():
            d = np.linalg.norm(lane.points - first, axis=1)
            k = int(np.clip(d.argmin(), 0, len(d) - 2))
            step = lane.points[k + 1] - lane.points[k]
            if d[k] < 2.5 and np.cos(np.arctan2(step[1], step[0]) - heading) > 0.7:
                reach.append(back(name, float(np.hypot(*np.diff(lane.points[: k + 1, :2], axis=0).T).sum())))
        assert max(reach) >= 40, track.name


def same(a: RawScene, b: RawScene) -> bool:
    def arrays(scene):
        tracks = [getattr(t, key) for t in scene.tracks for key in ("position", "yaw", "velocity", "size", "valid")]
        return tracks + [f.points for f in scene.features] + [light.state for light in scene.lights]

    one, two = arrays(a), arrays(b)
    return len(one) == len(two) and all(np.array_equal(x, y) for x, y in zip(one, two, strict=True))


@pytest.mark.parametrize("family", ["four_way_signal", "crossing"])
def test_equal_arguments_give_equal_scenes_and_others_give_others(family):
    first = drawn(family)
    make_raw("straight", 1, 4)
    assert same(first, make_raw(family, 3, 0))
    assert not same(first, drawn(family, 1))
    assert not same(first, make_raw(family, 4, 0))


def test_indices_vary_in_speed_number_and_shape():
    scenes = [drawn("curve", k) for k in range(4)]
    assert len({len(s.tracks) for s in scenes}) >= 3
    assert len({round(np.ptp(of(s, "lane")[0].points[:, 0])) for s in scenes}) == 4
    assert len({of(s, "lane")[0].speed_limit for s in scenes}) >= 2


def test_lights_are_obeyed_and_change():
    scenes = [drawn("four_way_signal", k) for k in range(2)]
    assert sum(obeyed(scene) for scene in scenes) > 3
    assert any(len(set(light.state.tolist())) > 1 for scene in scenes for light in scene.lights)


def test_things_that_make_a_family():
    assert max(of(drawn("overpass"), "lane"), key=lambda f: f.points[:, 2].max()).points[:, 2].max() == pytest.approx(6)
    bridge = [f.points for f in of(drawn("overpass"), "lane")]
    middle = [line[np.hypot(*line[:, :2].T).argmin(), 2] for line in bridge]
    np.testing.assert_allclose(sorted(middle), [0, 0, 6, 6], atol=1e-9)
    crossing = drawn("crossing")
    assert of(crossing, "crosswalk")
    assert sum(t.kind == Kind.PEDESTRIAN for t in crossing.tracks) >= 2
    assert len(of(drawn("four_way_stop"), "stop_sign")) == 4
    assert sum(t.name.startswith("parked") for t in drawn("narrow").tracks) >= 3
    assert all(f.closed for f in of(drawn("jam"), "road_edge"))
    slow = [np.hypot(*t.velocity.T) for t in drawn("jam").tracks]
    assert min(v.min() for v in slow) < 1.5
    assert max(np.ptp(v) for v in slow) > 1.5
    turned = [np.ptp(np.unwrap(t.yaw[t.valid])) for k in range(2) for t in drawn("u_turn", k).tracks]
    assert max(turned) > 2.5


def test_number_of_objects_can_be_set():
    for family, objects in (("straight", 1), ("crossing", 3), ("jam", 5)):
        assert 1 <= len(make_raw(family, objects=objects).tracks) <= objects
    assert 25 < len(make_raw("multi_lane", objects=60).tracks) <= 60


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match=r"did you mean 'roundabout'.*weave"):
        make_raw("roundabouts")
    with pytest.raises(ConfigError, match="0 or more"):
        make_raw("straight", -1)
    with pytest.raises(ConfigError, match="1 to 256"):
        make_raw("straight", objects=0)


def test_families_take_turns(monkeypatch):
    empty = Scene._make([0] * len(Scene._fields))
    monkeypatch.setattr(compiling, "compile_scene", lambda raw, config: empty._replace(scene_id=raw.name))
    names = [f"{family}-3-0" for family in list(FAMILIES)[:2]]
    assert [scene.scene_id for scene in make_scenes("all", seed=3, count=2)] == names
    assert [scene.scene_id for scene in make_scenes("jam", seed=3, count=2)] == ["jam-3-0", "jam-3-1"]


def test_a_compiled_scene_holds_the_log():
    scenes, raw = make_scenes("straight", seed=3), drawn("straight")
    assert scenes[0].objects.exists.sum() == len(raw.tracks)
    ego = raw.tracks[raw.sdc]
    slot = int(np.flatnonzero(scenes[0].objects.is_sdc)[0])
    np.testing.assert_allclose(scenes[0].log.x[:, slot] + scenes[0].origin[0], ego.position[:, 0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", EVERY)
def test_many_scenes(family):
    redrawn = 0
    for index in range(1, 13):
        scene = make_raw(family, 5, index)
        redrawn += scene.repairs.get("redrawn", 0)
        lawful(scene)
        no_contact(scene, range(0, 91, 15))
        obeyed(scene)
        assert from_edge(scene, np.concatenate([f.points[::15] for f in of(scene, "lane")])).max() <= -2.05
    assert redrawn / (12 + redrawn) < 0.3
