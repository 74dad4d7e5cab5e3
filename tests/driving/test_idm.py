"""The intelligent driver model against closed forms, fine integration, and the geometry of its search for leaders."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving._scenes import Track, straight, tiny_scene

from gleanings.core.errors import ConfigError
from gleanings.driving.alone import alone, state_alone
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle
from gleanings.driving.idm import IDM, Leader, find_leader, point_at, red_line, travel
from gleanings.driving.raw import Kind, Light
from gleanings.driving.scene import Paths, Scene, Trajectory
from gleanings.driving.sim import Simulator

KEY = jax.random.key(0)
LENGTH = 4.6
ALL_BUT_NONE = SimConfig(controlled=(), metrics=())


STEPS = 120  # the same in every test, so that a program is compiled once


def road(tracks: list[Track]) -> Scene:
    return tiny_scene(tracks, slots=8)


def car(x: float, y: float = 0.0, speed: float = 10.0, **more: Any) -> Track:
    return straight(x, y, speed, steps=STEPS + 1, **more)


def simulator(agent: IDM | None = None) -> Simulator:
    return Simulator(ALL_BUT_NONE, dynamics=Bicycle(), agents=agent or IDM())


def drive(scene: Scene, agent: IDM | None = None) -> Trajectory:
    return jax.tree.map(np.asarray, simulator(agent).rollout(scene, None, KEY, steps=STEPS).trajectory)


def on_device(scene: Scene) -> Scene:
    return jax.tree.map(jnp.asarray, scene)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("desired", "lane", "'log' or 'limit'"),
        ("headway", -1.0, "headway=-1.0: 0 or more"),
        ("acceleration", 0.0, "more than 0"),
        ("hardest", float("nan"), "more than 0"),
    ],
)
def test_parameters_that_cannot_be_meant_are_refused(name: str, value: Any, words: str):
    agent = IDM()
    object.__setattr__(agent, name, value)  # the tests' type checks would refuse it first
    with pytest.raises(ConfigError, match=words):
        agent.__check_init__()
    with pytest.raises(ConfigError, match="headway=-2"):
        IDM(headway=-2.0)


@jax.jit
def _leader(scene: Scene, arc: jax.Array) -> Leader:
    state = simulator().reset(scene, KEY)
    state = replace(state, arc=jnp.where(jnp.isnan(arc), state.arc, arc))
    return find_leader(scene, state, point_at(scene, state.arc[:, None]))


def leader_of(scene: Scene, arc: float = np.nan) -> Leader:
    """The leaders at the start, or where all stand at `arc`."""
    return _leader(on_device(scene), jnp.full(8, arc))


RATE, TRAVEL, RED = jax.jit(IDM().rate), jax.jit(travel), jax.jit(red_line)
UNLIT = IDM(desired="limit", obey_lights=False)


def ring(cars: int, length: float, speed: float, steps: int = 21) -> Scene:
    """Cars at equal distances on a circle; each has the whole circle as its closed path, from where it stands on."""
    radius = length / (2 * np.pi)
    tracks = []
    for car in range(cars):
        angle = 2 * np.pi * car / cars + speed / radius * 0.1 * np.arange(steps)
        x, y, yaw = radius * np.cos(angle), radius * np.sin(angle), np.arctan2(np.cos(angle), -np.sin(angle))
        own = speed * (1 + 0.5 * np.sin(3.0 * car))  # not all alike, or nothing happens
        tracks.append(Track(x, y, yaw, own * np.cos(yaw), own * np.sin(yaw), np.ones(steps, bool)))
    scene = tiny_scene(tracks, slots=64)
    start = 2 * np.pi * np.arange(64)[:, None] / cars
    around = start + np.arange(513)[None] / radius
    x, y = (radius * f(around).astype(np.float32) for f in (np.cos, np.sin))
    there = np.arange(64) < cars
    zero = np.zeros_like(x, np.float32)
    full = np.where(there, length, 0).astype(np.float32)
    logged = (start * radius + 0 * scene.log.x.T).astype(np.float32)
    return scene._replace(paths=Paths(x.astype(np.float32), y.astype(np.float32), zero, zero + 15, full, there, logged))


def test_the_gap_of_equilibrium():
    idm, speed, free = IDM(), 8.0, 12.0
    gap = (idm.standstill + speed * idm.headway) / np.sqrt(1 - (speed / free) ** 4)
    v, limit = np.float32([speed]), np.float32([free])
    rate = [float(RATE(v, limit, Leader(np.float32([g]), v))[0]) for g in (gap - 0.01, gap + 0.01)]
    assert rate[0] < 0 < rate[1]
    assert max(map(abs, rate)) < 0.003


def test_followers_settle_at_that_gap():
    idm = UNLIT
    lead, follower = car(20.5, speed=8.0), car(0, speed=8.3)
    scene = road([follower, lead])
    limits = np.full_like(scene.paths.limit, 12.0)
    limits[1] = 8.0  # the leader, alone ahead, keeps it
    scene = scene._replace(paths=scene.paths._replace(limit=limits))
    way = drive(scene, idm)
    gap = float(way.x[-1, 1] - way.x[-1, 0]) - LENGTH
    speed = float(way.vx[-1, 0])
    wanted = (idm.standstill + speed * idm.headway) / np.sqrt(1 - (speed / 12.0) ** 4)
    assert speed == pytest.approx(8.0, abs=0.05)
    assert gap == pytest.approx(wanted, abs=0.15)


def test_a_free_run_is_that_of_fine_steps():
    idm, free, dt = IDM(), 15.0, 0.1

    def slope(v: float) -> float:
        return idm.acceleration * (1 - (v / free) ** 4)

    v, x, speed, way = 2.0, 0.0, np.full(1, 2.0, np.float32), 0.0
    limit, nobody = np.float32([free]), Leader(np.float32([1e6]), np.zeros(1, np.float32))
    for _ in range(200):
        for _ in range(100):
            h = dt / 100
            k1 = slope(v)
            k2 = slope(v + h / 2 * k1)
            k3 = slope(v + h / 2 * k2)
            k4 = slope(v + h * k3)
            x += v * h + h * h / 6 * (k1 + k2 + k3)
            v += h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        made, speed = TRAVEL(speed, RATE(speed, limit, nobody), np.float32(dt))
        way += float(made[0])
    assert float(speed[0]) == pytest.approx(v, abs=0.02)
    assert way == pytest.approx(x, abs=0.6)  # first order in dt


@pytest.mark.parametrize(("speed", "rate"), [(1.0, -8.0), (0.3, -8.0), (5.0, -2.0), (0.0, -1.0)])
def test_who_stops_within_a_step_stays(speed: float, rate: float):
    made, after = (float(v[0]) for v in TRAVEL(np.float32([speed]), np.float32([rate]), np.float32(0.1)))
    stop = speed / -rate
    exact = speed * 0.1 + rate * 0.005 if stop > 0.1 else speed**2 / (2 * -rate)
    assert (made, after) == pytest.approx((exact, max(speed + rate * 0.1, 0.0)), abs=1e-6)


@pytest.mark.parametrize("cars", [pytest.param(12, id="free"), pytest.param(50, id="dense")])
def test_a_ring_of_cars_never_touches(cars: int):
    scene = ring(cars, 425.0, 4.0)
    way = simulator(IDM(desired="limit")).rollout(scene, None, KEY, steps=1500).trajectory
    angle = np.unwrap(np.arctan2(np.asarray(way.y), np.asarray(way.x))[:, :cars], axis=0)
    assert np.all(np.diff(angle, axis=0) > -1e-5), "nobody reverses"
    apart = np.mod(np.roll(angle, -1, axis=1) - angle, 2 * np.pi) * 425.0 / (2 * np.pi)
    assert apart.min() > LENGTH + 0.5
    assert np.asarray(way.valid)[:, :cars].all(), "a closed path has no end"
    radius = np.hypot(way.x, way.y)[:, :cars]
    assert np.abs(radius - 425.0 / (2 * np.pi)).max() < 0.05


@pytest.mark.slow
def test_the_dense_ring_for_ten_minutes():
    scene = ring(50, 425.0, 4.0)
    sim = simulator(IDM(desired="limit"))
    state = sim.reset(scene, KEY)
    for _ in range(6):
        found = sim.rollout(scene, None, KEY, steps=1000, state=state)
        state = found.state
        angle = np.arctan2(np.asarray(found.trajectory.y), np.asarray(found.trajectory.x))[:, :50]
        apart = np.mod(np.roll(angle, -1, axis=1) - angle, 2 * np.pi) * 425.0 / (2 * np.pi)
        assert apart.min() > LENGTH


@pytest.mark.parametrize("ahead", [6.0, 13.37, 30.0, 61.9])
@pytest.mark.parametrize("lateral", [0.0, 1.5])
def test_the_gap_to_a_leader(ahead: float, lateral: float):
    found = leader_of(road([car(0, speed=10.0), car(ahead, lateral, speed=7.0)]))
    assert float(found.gap[0]) == pytest.approx(ahead - LENGTH, abs=0.02)
    assert float(found.speed[0]) == pytest.approx(7.0, abs=1e-4)
    assert float(found.gap[1]) > 1e5


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(car(20, 3.0), id="in the next lane"),
        pytest.param(car(90), id="beyond the view"),
        pytest.param(car(-20), id="behind"),
        pytest.param(car(20, valid=[5]), id="not there yet"),
        pytest.param(car(1.0), id="around the own centre"),
    ],
)
def test_who_is_no_leader(other: Track):
    assert float(leader_of(road([car(0), other])).gap[0]) > 1e5


def test_the_nearest_of_two_leads_and_a_crossing_one_has_no_speed():
    crossing = car(20, 0.0, 9.0, yaw=np.pi / 2)
    found = leader_of(road([car(0), car(40, speed=3.0), crossing]))
    assert float(found.gap[0]) == pytest.approx(20 - 0.95 - LENGTH / 2, abs=0.02)
    assert float(found.speed[0]) == pytest.approx(0.0, abs=1e-4)


def test_a_box_on_another_level_does_not_lead():
    scene = road([car(0), car(20, speed=5.0)])
    lifted = np.array(scene.log.z)
    lifted[:, 1] += 6.0
    assert float(leader_of(scene._replace(log=scene.log._replace(z=lifted))).gap[0]) > 1e5


def test_a_leader_up_a_ramp_is_seen():
    scene = road([car(0), car(40, speed=5.0)])
    height = np.array(scene.log.z)
    height[:, 1] += 4.0
    ramp = np.array(scene.paths.z)
    ramp[:] = 0.1 * np.arange(ramp.shape[1])
    scene = scene._replace(log=scene.log._replace(z=height), paths=scene.paths._replace(z=ramp))
    assert float(leader_of(scene).gap[0]) == pytest.approx(40 - LENGTH, abs=0.02)


def lit(shown: int, arc: float = 40.0, speed: float = 10.0) -> Scene:
    scene = road([car(0, speed=speed)])
    lights = scene.lights
    state, exists = np.full_like(lights.state, shown), np.ones(1, bool)
    return scene._replace(lights=lights._replace(state=state, exists=exists, arc=np.float32([[arc]] + [[np.inf]] * 7)))


@pytest.mark.parametrize("light", Light)
def test_red_stops_before_the_line_and_nothing_else_does(light: Light):
    way = drive(lit(int(light)))
    front = float(way.x[-1, 0]) + LENGTH / 2
    if light in (Light.STOP, Light.ARROW_STOP, Light.FLASHING_STOP):
        assert 35.0 < front < 39.5
        assert float(way.vx[-1, 0]) < 0.2
    else:
        assert front > 80


def test_a_line_too_near_to_stop_at_is_passed():
    scene = on_device(lit(Light.STOP, arc=10.0, speed=14.0))
    state = simulator().reset(scene, KEY)
    assert float(RED(scene, state, state.vx).gap[0]) > 1e5
    slow = replace(state, vx=state.vx * 0.2)
    assert float(RED(scene, slow, slow.vx).gap[0]) == pytest.approx(10 - LENGTH / 2 - 1.0, abs=1e-4)
    free = drive(lit(Light.STOP), UNLIT)
    assert float(free.x[-1, 0]) > 45


def test_who_waits_closer_to_a_red_line_than_its_leader_stays():
    way = drive(lit(Light.STOP, arc=2.8, speed=0.0))  # the front stands 0.5 m before the line
    assert float(way.x[-1, 0]) < 0.5


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize(("arc", "off"), [(100, 20), (199, 20), (235, 20), (199, -10), (235, -10)])
def test_the_view_ahead_is_right_near_the_last_of_257_samples(arc: int, off: int, closed: bool):
    # Closed: a circle of 240 m. Another car stands `off` metres further along.
    radius = 240 / (2 * np.pi)

    def at(s):
        angle = s / radius
        return (radius * np.sin(angle), radius - radius * np.cos(angle), angle) if closed else (s, 0 * s, 0 * s)

    scene = road([car(x, y, 0.0, yaw=yaw) for x, y, yaw in (at(float(s)) for s in (arc, arc + off))])
    x, y, _ = (np.tile(v, (8, 1)).astype(np.float32) for v in at(np.arange(257.0)))
    length = np.full(8, 240.0 if closed else 256.0, np.float32)
    paths = Paths(x, y, 0 * x, 0 * x + 15, length, np.full(8, closed), 0 * scene.log.x.T)
    gap = float(leader_of(scene._replace(paths=paths), arc).gap[0])
    assert gap == pytest.approx(off - LENGTH, abs=0.3) if off > 0 else gap > 1e5


def test_an_offset_from_the_path_decays_with_the_way_made():
    scene = road([car(0, speed=10.0)])
    aside = scene.paths._replace(y=scene.paths.y - 1.0)
    way = drive(scene._replace(paths=aside))
    offset, made = np.asarray(way.y[:, 0]) + 1.0, np.asarray(way.x[:, 0])
    assert offset == pytest.approx(np.exp(-made / 8.0), abs=0.02)


def test_pedestrians_replay_and_the_parked_stand_still():
    walker = car(10, 5.0, 1.5, kind=Kind.PEDESTRIAN)
    parked = car(30, -5.0, 0.0)
    parked.yaw[:] = np.linspace(0.3, 0.5, len(parked.x))
    parked.valid[3:9] = False
    scene = road([car(0), walker, parked])
    way = drive(scene)
    assert np.array_equal(way.x[:, 1], scene.log.x[:, 1])
    assert way.valid[:, 2].all()
    assert np.ptp(np.asarray(way.yaw[:, 2])) == 0.0


def test_the_end_of_an_open_path_ends_the_object():
    scene = road([car(0, speed=10.0)])
    short = scene._replace(
        paths=scene.paths._replace(length=np.where(scene.paths.length > 0, 30, 0).astype(np.float32))
    )
    way = drive(short)
    alive = np.asarray(way.valid[:, 0])
    assert alive[:25].all()
    assert not alive[40:].any()


def test_one_alone_moves_as_it_does_with_all():
    scene = on_device(road([car(0.0, speed=14.0), car(25.0, y=0.3, speed=6.0), car(60.0, speed=3.0)]))
    state = simulator().reset(scene, KEY)
    every = IDM().act(scene, state, (), KEY)[0]
    for slot in range(3):
        one = IDM().act(alone(scene, slot), state_alone(state, slot), (), KEY, (scene, state))[0]
        for field, own in zip(every, one, strict=True):
            np.testing.assert_allclose(own, field[slot : slot + 1], rtol=1e-6, atol=1e-6)
