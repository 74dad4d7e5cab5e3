"""Observations against loops in float64, hand-made cases, and what must not change them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving._random_scenes import common_size, family_scene
from tests.driving._scenes import straight, tiny_scene

from gleanings.core.errors import ConfigError
from gleanings.driving.agents import LogPlayback
from gleanings.driving.config import ObserveConfig, SimConfig
from gleanings.driving.dynamics import Bicycle
from gleanings.driving.observation import (
    Observation,
    flatten,
    observation_size,
    observe,
    observe_ego,
    observe_one,
    unflatten,
)
from gleanings.driving.policies import policy_from
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Lights, Road, Scene, Trajectory
from gleanings.driving.sim import Simulator
from gleanings.driving.state import SimState

KEY = jax.random.key(0)
ALL = ObserveConfig(objects=9, road=400, frames=3, radius_m=40.0, route=3)  # more than a crowd has
see = jax.jit(observe, static_argnames="config")
see_ego = jax.jit(observe_ego, static_argnames=("config", "ego"))
see_one = jax.jit(observe_one, static_argnames="config")


def put(row: list[float]) -> jax.Array:
    return jax.device_put(np.float32(row))


def started(scene: Scene) -> SimState:
    config = SimConfig(controlled="all", metrics=(), history=2)
    return Simulator(config, dynamics=Bicycle(), agents=LogPlayback()).reset(scene, KEY)


def crowd(seed: int = 0) -> Scene:
    """Six objects that come and go, 300 map points, three lights and winding paths, all at random places."""
    rng = np.random.default_rng(seed)
    tracks = [
        straight(*rng.uniform(-30, 30, 2), rng.uniform(0, 12), yaw=rng.uniform(-3, 3), valid=list(steps))
        for steps in (range(21), range(21), range(2, 21), range(3, 21), [0, 1, 3, 4], range(4, 21))
    ]
    scene = tiny_scene(tracks, start=3)
    x, y = rng.uniform(-70, 70, (2, 300)).astype(np.float32)
    z, way = rng.uniform(-12, 12, 300).astype(np.float32), rng.uniform(-3, 3, 300)
    cos, sin = np.cos(way).astype(np.float32), np.sin(way).astype(np.float32)
    road = Road(x, y, z, cos, sin, rng.integers(0, 8, 300).astype(np.int8))
    places = rng.uniform(-30, 30, (2, 3)).astype(np.float32)
    headings, heights = rng.uniform(-3, 3, 3).astype(np.float32), np.zeros(3, np.float32)
    states, lanes = rng.integers(0, 9, (21, 3)).astype(np.uint8), np.zeros(3, np.int16)
    lights = Lights(states, *places, heights, headings, lanes, np.array([1, 1, 0], bool), np.zeros((8, 3), np.float32))
    paths = scene.paths
    length = np.array([256, 30, 256, 40, 0, 256, 0, 0], np.float32)
    limit = rng.uniform(5, 20, paths.x.shape).astype(np.float32)
    limit[1] = np.nan
    return scene._replace(road=road, lights=lights, paths=paths._replace(length=length, limit=limit))


def oracle(scene: Scene, state: SimState, config: ObserveConfig, slot: int) -> dict[str, np.ndarray]:
    """The observation in float64, thing by thing."""
    now = {name: np.asarray(getattr(state, name), np.float64) for name in ("x", "y", "z", "yaw", "vx", "vy", "arc")}
    alive, objects, yaw = np.asarray(state.alive), scene.objects, now["yaw"][slot]
    turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    here, velocity = (np.array([now[a][slot], now[b][slot]]) for a, b in (("x", "y"), ("vx", "vy")))
    base = now["z"] - np.asarray(objects.height, np.float64) / 2

    def place(x: float, y: float) -> np.ndarray:
        return turn @ (np.array([x, y], np.float64) - here)

    def heading(angle: float) -> list[float]:
        return [np.cos(angle - yaw), np.sin(angle - yaw)]

    def nearest(points: list, count: int) -> list:
        """Rows (x, y, z, row): the nearest on this level."""
        found = []
        for x, y, z, row in points:
            far = np.hypot(*place(x, y))
            if far <= config.radius_m and abs(z - base[slot]) <= 2.5 + far / 10:
                found.append((far, row))
        return [row for _, row in sorted(found, key=lambda pair: pair[0])[:count]]

    others = []
    for j in range(len(alive)):
        if j == slot or not alive[j]:
            continue
        frames = []
        for back in range(config.frames):
            ring = state.ring
            x, y, way, vx, vy, seen = (
                (*(now[k][j] for k in ("x", "y", "yaw", "vx", "vy")), True)
                if back == 0
                else tuple(float(a[back - 1, j]) for a in (ring.x, ring.y, ring.yaw, ring.vx, ring.vy, ring.valid))
            )
            box = [objects.length[j], objects.width[j], objects.kind[j]]
            speed = turn @ (np.array([vx, vy]) - velocity)
            frames.append([*place(x, y), *heading(way), *speed, *box] if seen else [0.0] * 9)
        others.append((now["x"][j], now["y"][j], base[j], frames))
    road = [
        (x, y, z, [*place(x, y), *(turn @ [dx, dy]), z - base[slot], kind, kind == 2])
        for x, y, z, dx, dy, kind in zip(*scene.road, strict=True)
        if kind > 0
    ]
    stops = []
    for s in np.flatnonzero(scene.lights.exists):
        code = int(scene.lights.state[min(int(state.t), len(scene.lights.state) - 1), s])
        colour = 1 if code in (1, 4, 7) else 2 if code in (2, 5, 8) else 3 if code in (3, 6) else 0
        x, y = scene.lights.x[s], scene.lights.y[s]
        stops.append((x, y, scene.lights.z[s], [*place(x, y), *heading(scene.lights.yaw[s]), *np.eye(4)[colour]]))
    found = {"others": nearest(others, config.objects), "road": nearest(road, config.road)}
    return found | {"lights": nearest(stops, config.lights)}


def check(seen: Observation, expected: dict[str, list]) -> None:
    """Rows are those expected, but for the order of things equally far to 1 mm."""
    for name, rows in expected.items():
        value, mask = np.asarray(getattr(seen, name)), np.asarray(getattr(seen, f"{name}_mask"))
        there = mask[:, 0] if name == "others" else mask
        assert there.sum() == len(rows), name
        assert not value[~mask].any()
        if not rows:
            continue
        wanted = np.array(rows, np.float64)
        found = value[: len(rows)]
        far, expected_far = (
            np.hypot(a.reshape(len(rows), -1)[:, 0], a.reshape(len(rows), -1)[:, 1]) for a in (found, wanted)
        )
        np.testing.assert_allclose(far, expected_far, atol=1e-3)
        difference = np.abs(found[:, None] - wanted[None]).reshape(len(rows), len(rows), -1).max(-1)
        assert (difference.min(1) < 2e-3).all(), (name, difference.min(1).max())
        assert (difference.min(0) < 2e-3).all(), name


@pytest.mark.parametrize("index", [0, 1], ids=["four_way_signal", "overpass"])
def test_generated_scenes_agree_with_loops(index):
    scenes = common_size([family_scene(family, 1) for family in ("four_way_signal", "overpass")])
    scene, config = scenes[index], ObserveConfig(objects=6, road=30, frames=3)
    state = started(scene)
    seen = jax.device_get(see(scene, state, config))
    slots = np.flatnonzero(np.asarray(state.alive))[:6]
    assert len(slots) == 6
    for slot in slots:
        check(jax.tree.map(lambda leaf, slot=slot: leaf[slot], seen), oracle(scene, state, config, int(slot)))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_crowd_agrees_with_loops(seed):
    scene, config = crowd(seed), ALL
    state = started(scene)
    seen = jax.device_get(see(scene, state, config))
    for slot in np.flatnonzero(np.asarray(state.alive)):
        check(jax.tree.map(lambda leaf, slot=slot: leaf[slot], seen), oracle(scene, state, config, int(slot)))
    gone = ~np.asarray(state.alive)
    assert gone.sum() == 3  # one not yet there, two empty slots
    assert not any(np.asarray(leaf)[gone].any() for leaf in seen)


def test_the_frame_of_the_ego_by_hand():
    quarter = np.pi / 2
    ego, ahead = straight(10, 0, 5, yaw=quarter), straight(10, 20, 7, yaw=quarter)
    crossing = straight(20, 0, 3, yaw=np.pi, kind=Kind.CYCLIST)
    scene = tiny_scene([ego, ahead, crossing])
    one = np.ones(2, np.float32)
    scene = scene._replace(road=Road(8 * one, 4 * one, 0.5 * one, one, 0 * one, np.array([2, 0], np.int8)))
    rows = {"x": [9.5, 10, 20, 0, 0, 0, 0, 0], "arc": [1.25] * 8}
    state = dataclasses.replace(started(scene), **{name: put(row) for name, row in rows.items()})
    seen = see_ego(scene, state, ObserveConfig(objects=3, road=2, route=2))
    np.testing.assert_allclose(seen.ego, [5, 0, 4.6, 1.9, 0.5, 0, 15, 1], atol=1e-5)
    np.testing.assert_allclose(seen.others[0, 0], [0, -10.5, 0, 1, -5, 3, 1.8, 0.7, 3], atol=1e-5)
    np.testing.assert_allclose(seen.others[1, 0], [20, -0.5, 1, 0, 2, 0, 4.6, 1.9, 1], atol=1e-5)
    assert seen.others_mask.tolist() == [[True], [True], [False]]
    np.testing.assert_allclose(seen.road[0], [4, 1.5, 0, -1, 0.5, 2, 1], atol=1e-5)
    assert seen.road_mask.tolist() == [True, False]
    np.testing.assert_allclose(seen.path, [[3.25, -0.5, 15], [5.25, -0.5, 15]], atol=1e-5)


def test_the_path_ends_or_goes_round():
    config, scene = ObserveConfig(objects=0, road=0, lights=0, route=4), tiny_scene([straight(0, 0, 5)] * 3)
    angle = np.arange(scene.paths.x.shape[1]) / 16
    ring = 16 * np.array([np.sin(angle), 1 - np.cos(angle)], np.float32)
    x, y = scene.paths.x.copy(), scene.paths.y.copy()
    x[1], y[1] = ring
    length = np.array([5, 16 * 2 * np.pi, 0, 0, 0, 0, 0, 0], np.float32)
    limit = np.full_like(x, np.nan)
    scene = scene._replace(paths=scene.paths._replace(x=x, y=y, limit=limit, length=length, closed=np.arange(8) == 1))
    arc = put([0, 16 * 2 * np.pi - 3, 0, 0, 0, 0, 0, 0])
    seen = see(scene, dataclasses.replace(started(scene), arc=arc), config)
    assert seen.path_mask.tolist()[:3] == [[True, True, False, False], [True] * 4, [False] * 4]
    ahead = np.array([-1, 1, 3, 5]) / 16
    np.testing.assert_allclose(seen.path[1, :, :2], 16 * np.stack([np.sin(ahead), 1 - np.cos(ahead)], 1), atol=0.02)
    assert not np.asarray(seen.path[..., 2]).any()  # unknown limits
    assert not np.asarray(seen.ego)[2, 4:7].any()  # no path


def test_what_is_far_or_on_another_level_is_not_seen():
    scene = tiny_scene([straight(0, 0, 0), straight(20, 0, 0), straight(-50, 0, 0), straight(61, 0, 0)])
    z = scene.log.z + np.array([0, 6, 6, 0, 0, 0, 0, 0], np.float32)  # a bridge; a hill; too far
    scene = scene._replace(log=scene.log._replace(z=z))
    seen = see_ego(scene, started(scene), ObserveConfig(objects=3))
    assert seen.others_mask.tolist() == [[True], [False], [False]]
    assert float(seen.others[0, 0, 0]) == -50


def moved(scene: Scene, angle: float, dx: float, dy: float) -> Scene:
    """The scene after a rotation and a translation."""
    cos, sin = np.cos(angle), np.sin(angle)

    def turned(x, y, shift=True):
        return (
            (cos * x - sin * y + dx * shift).astype(np.float32),
            (sin * x + cos * y + dy * shift).astype(np.float32),
        )

    log, road, lights, paths = scene.log, scene.road, scene.lights, scene.paths
    (x, y), (vx, vy) = turned(log.x, log.y), turned(log.vx, log.vy, False)
    held = [np.where(log.valid, a, 0).astype(np.float32) for a in (x, y, log.z, log.yaw + angle, vx, vy)]
    px, py = turned(paths.x, paths.y)
    lx, ly = turned(lights.x, lights.y)
    return scene._replace(
        log=Trajectory(*held, log.valid),
        road=Road(*turned(road.x, road.y), road.z, *turned(road.dx, road.dy, False), road.kind),
        lights=lights._replace(x=lx, y=ly, yaw=(lights.yaw + angle).astype(np.float32)),
        paths=paths._replace(x=px, y=py),
    )


@pytest.mark.parametrize(("angle", "dx", "dy"), [(0.0, 900.0, -400.0), (2.5, 0.0, 0.0), (-1.0, 30.0, 200.0)])
def test_moving_the_whole_scene_changes_nothing(angle, dx, dy):
    scene, config = crowd(), ALL
    other = moved(scene, angle, dx, dy)
    before, after = (see(one, started(one), config) for one in (scene, other))
    for name, a, b in zip(before._fields, before, after, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3, err_msg=name)


def test_the_order_of_the_objects_changes_nothing():
    scene, config = crowd(), ALL
    order = np.random.default_rng(3).permutation(8)
    shuffled = scene._replace(
        log=jax.tree.map(lambda leaf: leaf[:, order], scene.log),
        objects=jax.tree.map(lambda leaf: leaf[order], scene.objects),
        paths=jax.tree.map(lambda leaf: leaf[order], scene.paths),
        lights=scene.lights._replace(arc=scene.lights.arc[order]),
    )
    before, after = (see(one, started(one), config) for one in (scene, shuffled))
    for name, a, b in zip(before._fields, before, after, strict=True):
        np.testing.assert_allclose(np.asarray(a)[order], b, atol=1e-5, err_msg=name)


def test_neither_actions_nor_the_future_nor_goals_show():
    scene, config = crowd(), ALL
    state = started(scene)
    far = put([9, 0, 0, 0, 0, 0, 0, 0])
    other = dataclasses.replace(
        state,
        accel=state.accel + 3,
        yaw_rate=state.yaw_rate + 1,
        ring=state.ring._replace(x=state.ring.x + far, vx=state.ring.vx + far),
    )
    log = jax.tree.map(lambda leaf: np.roll(leaf, 5, axis=0), scene.log)
    told = scene._replace(log=log, goals=scene.goals._replace(x=scene.goals.x + 7))
    for a, b in zip(see_ego(scene, state, config), see_ego(told, other, config), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_one_object_and_the_ego_are_rows_of_all():
    scene, config = crowd(), ALL
    state = started(scene)
    every = see(scene, state, config)
    for slot in (0, 2):
        for a, b in zip(every, see_one(scene, state, config, slot), strict=True):
            np.testing.assert_allclose(np.asarray(a)[slot], b, atol=1e-5)
    for a, b in zip(every, see_ego(scene, state, config, ego=(102,)), strict=True):
        np.testing.assert_allclose(np.asarray(a)[2], b, atol=1e-5)
    assert not any(np.asarray(leaf).any() for leaf in see_ego(scene, state, config, ego=(7,)))


@pytest.mark.parametrize(
    "config",
    [ALL, ObserveConfig(objects=0, road=0, lights=0, route=0)],
)
def test_rows_hold_everything(config):
    scene = crowd()
    seen = see(scene, started(scene), config)
    flat = flatten(seen)
    assert flat.shape == (8, observation_size(config))
    assert flat.dtype == np.float32
    for a, b in zip(seen, unflatten(flat, config), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ConfigError, match="rows of"):
        unflatten(flat[:, 1:], config)


def test_settings_that_cannot_be_met():
    scene = crowd()
    with pytest.raises(ConfigError, match=r"frames=4 needs SimConfig\(history=3\) or more; it is 2"):
        observe(scene, started(scene), ObserveConfig(frames=4))
    for wrong in (ObserveConfig(objects=-1), ObserveConfig(frames=0)):
        with pytest.raises(ConfigError, match="0 or more"):
            observe(scene, started(scene), wrong)


@pytest.mark.slow
def test_a_policy_of_observations_drives():
    """Steers back to the path from what it sees; started off it, it returns."""
    scene = tiny_scene([straight(0, 1.5, 10, steps=61)])
    scene = scene._replace(paths=scene.paths._replace(y=scene.paths.y - 1.5))

    def act(seen: Observation, key: jax.Array) -> jax.Array:
        bend = -0.02 * seen.ego[:, 4] - 0.2 * seen.ego[:, 5]
        return jnp.stack([jnp.zeros_like(bend), bend], -1)

    sim = Simulator(SimConfig(metrics=("off_route_m",)), dynamics=Bicycle(), agents=LogPlayback())
    roll = sim.rollout(scene, policy_from(act, ObserveConfig(objects=1, road=1, route=1)), KEY)
    away = np.asarray(roll.metrics["off_route_m"].value[:, 0])
    assert away[0] > 1.4
    assert away[-1] < 0.1
