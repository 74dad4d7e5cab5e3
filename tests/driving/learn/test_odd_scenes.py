"""Scenes that lack something: an ego alone, no lanes, no road edge, a log of a moment; and egos that cannot decide."""

import dataclasses
from collections import Counter
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.core.errors import ConfigError, DataError, NumericsError
from gleanings.driving.compile import compile_scene
from gleanings.driving.config import ObserveConfig
from gleanings.driving.crop import crop_scene
from gleanings.driving.families import make_raw
from gleanings.driving.learn import cutting
from gleanings.driving.learn import drives as drives_module
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.baselines import Choice, Random
from gleanings.driving.learn.collect import collect
from gleanings.driving.learn.config import DemoConfig, WorldConfig
from gleanings.driving.learn.cutting import entire, learning_scenes, left_out, windows
from gleanings.driving.learn.demos import make_demonstrations
from gleanings.driving.learn.drives import Driver, Drives, drive
from gleanings.driving.learn.evaluate import PolicyEvaluation
from gleanings.driving.learn.outcomes import Outcomes, outcomes_of
from gleanings.driving.learn.world import World
from gleanings.driving.raw import RawScene, RawTrack, empty_track
from gleanings.driving.routes import with_lane_route
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.sim import on_device

WORLD = World(WorldConfig(observe=ObserveConfig(objects=1, frames=1, road=2, lights=0, route=2), horizon=6))
ODD = ("whole", "alone", "no lanes", "no edges", "no map", "short", "start only")


@cache
def odd(name: str) -> Scene:
    """A compiled scene that lacks what its name says."""
    raw = make_raw("straight")
    if name == "short":
        return compile_scene(dataclasses.replace(raw, times=raw.times[:16], tracks=tuple(map(_cut, raw.tracks))))
    lacking = {"no lanes": ("lane",), "no edges": ("road_edge",), "no map": ("lane", "road_edge")}.get(name, ())
    ego, steps = raw.tracks[raw.sdc], len(raw.times)
    others = tuple(one for one in raw.tracks if one is not ego)
    if name == "start only":
        ego = dataclasses.replace(ego, valid=np.arange(steps) == raw.start)
    if name == "never":
        ego = dataclasses.replace(ego, **empty_track(steps))
    tracks = (ego,) if name in ("alone", "start only") else (ego, *others)
    features = tuple(one for one in raw.features if one.kind not in lacking)
    return compile_scene(RawScene(name, raw.times, raw.start, tracks, features, sdc=0, source=raw.source))


def _cut(track: RawTrack) -> RawTrack:
    fields = ("position", "yaw", "velocity", "size", "valid")
    return dataclasses.replace(track, **{field: getattr(track, field)[:16] for field in fields})


@cache
def cuts() -> list[Scene]:
    return [entire(odd(name)) for name in ODD]


class Steady(Driver):
    """One action for all."""

    u: jax.Array

    def __call__(self, scene, state, obs, key):
        return self.u


def chosen(index: int, u: tuple[float, float] = (0.0, 0.0)) -> Driver:
    """Draws, or one action: by one program."""
    return Choice((Random(), Steady(jnp.asarray(u, jnp.float32))), jax.device_put(np.int32(index)))


def driven(driver: Driver) -> tuple[Drives, Outcomes]:
    bank = make_bank(cuts())
    drives = drive(WORLD, bank, driver, jax.random.key(0))
    return drives, outcomes_of(WORLD, bank, drives)


def test_the_motion_that_comfort_is_measured_on_stops_and_does_not_reverse():
    drives, _ = driven(chosen(1, (-0.9, 0.0)))
    for k, cut in enumerate(cuts()):
        pose, scene = jax.tree.map(jnp.asarray, (jax.tree.map(lambda field, k=k: field[k], drives.pose), cut))
        kind = jnp.asarray(scene.objects.kind)[np.argmax(scene.objects.is_sdc)]
        motion = drives_module._motion(WORLD, scene, kind, pose, jnp.asarray(drives.u[k]))
        np.testing.assert_allclose(motion.x[:: WORLD.config.every, 0], pose.x, atol=1e-4)
        along = motion.vx[:, 0] * np.cos(pose.yaw[0]) + motion.vy[:, 0] * np.sin(pose.yaw[0])
        assert float(along.min()) > -1e-4


def test_they_are_driven():
    drives, found = driven(chosen(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(drives._replace(comfort=0.0)))
    assert found.clearance_m[[1, 6]].tolist() == [100.0, 100.0]
    assert not found.off_road[[3, 4]].any()
    assert np.isfinite(found.progress_ratio).tolist() == [True] * 5 + [False] * 2  # 5 m of log are needed
    assert np.isnan(found.ade_m[6])
    assert not drives.reward[5, 3:].any()


def test_actions_beyond_the_range_are_clipped_and_what_is_no_number_coasts_and_is_an_error():
    inside, beyond = (driven(chosen(1, u))[0] for u in ((1.0, -1.0), (1e9, -3.0)))
    np.testing.assert_array_equal(beyond.pose.x, inside.pose.x)
    np.testing.assert_array_equal(beyond.pose.yaw, inside.pose.yaw)
    words = r"NaN or infinity in 7 scenes \(whole/0-10, alone/0-10, no lanes/0-10, no edges/0-10, \.\.\.\), first"
    for u in ((np.nan, 0.0), (0.0, np.inf)):
        with pytest.raises(NumericsError, match=words + " at decision 0"):
            driven(chosen(1, u))
    bank, lost = on_device(make_bank(cuts())), chosen(1, (np.nan, np.nan))
    found = drives_module._drive(WORLD, bank, lost, jax.random.key(0), len(ODD))
    assert all(np.isfinite(field).all() for field in (*found.pose, found.reward))
    with pytest.raises(ConfigError, match=r"actions of shape \(3,\); expected \(2,\)"):
        drive(WORLD, bank, lambda *seen: jnp.zeros(3), jax.random.key(0))


def test_they_are_demonstrations_where_their_log_lasts():
    good, short, moment = cuts()[:5], cuts()[5], cuts()[6]
    demos, audit = make_demonstrations([*good, good[1], short], WORLD)
    assert (audit.kept, audit.dropped_gap, audit.empty) == (36 + 2, 4, ())
    assert np.isfinite(demos.obs).all()
    _, audit = make_demonstrations([*good, good[1], moment], WORLD)
    assert (audit.kept, audit.dropped_gap, audit.empty) == (36, 6, ("start only/0-10",))
    with pytest.raises(ConfigError, match=r"10 of 42 .* \(10 by gaps of the log, .* Likely cause: logs with gaps"):
        make_demonstrations(cuts(), WORLD)


def test_what_cannot_be_driven_is_named():
    never = odd("never")
    cut = entire(never)  # another vehicle, that is there
    assert cut.log.valid[1, 0]
    assert name_of(cut) != "never/0-10"
    nobody = never._replace(log=never.log._replace(valid=np.zeros_like(never.log.valid)))
    with pytest.raises(DataError, match="'never' has no ego and no vehicle that is ever there: leave it out"):
        entire(nobody)
    with pytest.raises(DataError, match="slot 0 of scene 'never' is never there: choose another"):
        entire(nobody, slot=0)
    with pytest.raises(DataError, match="slot 0 of scene 'never' is not there at step 10"):
        crop_scene(nobody, slot=0)
    with pytest.raises(ConfigError, match=r"'alone' has steps of 0\.5 s; windows need 0\.1 s"):
        entire(odd("alone")._replace(dt=np.float32(0.5)))
    valid = cut.log.valid.copy()
    valid[1, 0] = False
    gone = cut._replace(log=cut.log._replace(valid=valid))
    with pytest.raises(DataError, match=r"no ego at the start of 1 scenes \(never/\d+-\d+\): leave"):
        drive(WORLD, make_bank([cuts()[0], gone]), Random(), jax.random.key(0))
    with pytest.raises(DataError, match="no lane route: it is on no lane"):
        with_lane_route(odd("no lanes"))
    skipped = Counter[str]()
    assert windows(odd("no lanes"), DemoConfig(), skipped) == []
    assert skipped["no lane"] > 0


def test_episodes_longer_than_the_log_are_refused_before_they_are_compiled():
    world, bank = World(WorldConfig(horizon=41)), make_bank(cuts()[:2])
    words = "horizon=41 decisions of 2 steps need 82 steps after the start, scenes have at most 81: horizon 1 to 40"
    with pytest.raises(ConfigError, match=words):
        drive(world, bank, Random(), jax.random.key(0))
    with pytest.raises(ConfigError, match=words):
        jax.eval_shape(lambda: collect(world, bank, lambda obs, key: jnp.zeros(2), jax.random.key(0), 2))
    with pytest.raises(ConfigError, match="expected one scene"):
        WORLD.begin(bank, jax.random.key(0))


def test_where_there_are_no_edges_or_no_route_leaving_them_is_not_known():
    _, found = driven(chosen(0))
    bare = [name in ("no edges", "no map") for name in ODD]
    assert (~found.edges).tolist() == bare
    assert np.isnan(found.values("off_road")).tolist() == bare
    assert np.isnan(found.values("off_route")).tolist() == (~found.route).tolist()
    evaluation = PolicyEvaluation("odd", tuple(ODD), {"log": found}, {"all": np.ones(len(ODD), bool)})
    assert f"{sum(bare)} of {len(ODD)} scenes have no road edges: leaving the road is not known" in evaluation.table()


def test_a_log_in_which_nothing_drives_is_left_out_of_an_evaluation(monkeypatch):
    never = odd("never")
    nobody = never._replace(log=never.log._replace(valid=np.zeros_like(never.log.valid)))
    monkeypatch.setattr(cutting, "load_scenes", lambda source, limit: iter([nobody, odd("whole")]))
    skipped = Counter()
    assert len(learning_scenes("any", evaluation=True, skipped=skipped)) >= 1
    assert left_out(skipped) == f"Windows left out: {', '.join(f'{n} {name}' for name, n in skipped.most_common())}."
    assert skipped["nothing that drives"] == 1
    monkeypatch.setattr(cutting, "load_scenes", lambda source, limit: iter([nobody]))
    with pytest.raises(ConfigError, match=r"any holds no scene to learn from .*1 nothing that drives"):
        learning_scenes("any", evaluation=True)
