"""Demonstrations: what they show, where their labels lead, what is dropped, and who may be in which split."""

from collections import Counter
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving._random_scenes import REAL, family_scene, real_scene
from tests.driving.learn._windows import family_windows

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.config import DemoConfig, WorldConfig
from gleanings.driving.learn.cutting import travellers, windows
from gleanings.driving.learn.demos import Audit, Played, _check_reward, make_demonstrations, play_all, propose_edge
from gleanings.driving.learn.labels import towards
from gleanings.driving.learn.mirror import mirror_scene
from gleanings.driving.learn.split import log_id, split_scenes
from gleanings.driving.learn.world import World
from gleanings.driving.observation import unflatten
from gleanings.driving.road import signed_distance
from gleanings.driving.scene import Pose, Scene, name_of
from gleanings.driving.stack import LAYOUT, arrays_of, check_scene, text_array

KEY, WORLD = jax.random.key(0), World()
FAMILIES = ("straight", "curve", "cut_in")


def scenes() -> list[Scene]:
    return family_windows(*FAMILIES)


@pytest.fixture(scope="module")
def made():
    return make_demonstrations(scenes(), WORLD)


@eqx.filter_jit
def replay(bank: Scene, labels: jax.Array):
    """Distance from the log, failure and observation after each decision, driven by the given labels if they are
    finite, else by labels towards the log from wherever the ego is: [C, H]."""

    def of_scene(scene, labels):
        def body(state, now):
            d, given = now
            row = scene.start + WORLD.config.every * (d + 1)
            goal, there = Pose(*(field[row, 0] for field in scene.log[:6])), scene.log.valid[row, 0]
            size = scene.objects.length[0], scene.objects.width[0]
            found = towards(Pose(*(field[0] for field in state.pose)), goal, size, scene.dt, WORLD.config.every)[0]
            u = jnp.where(jnp.isnan(given), jnp.where(there, found, 0), given)
            state, out = WORLD.decide(scene, state, u, KEY)
            off = jnp.where(there, jnp.hypot(state.x[0] - goal.x, state.y[0] - goal.y), jnp.nan)
            return state, (off, WORLD.failed(out), out.observation)

        state, first = WORLD.begin(scene, KEY)
        return first, jax.lax.scan(body, state, (jnp.arange(WORLD.config.horizon), labels))[1]

    return jax.vmap(of_scene)(bank, labels)


def test_labels_lead_along_generated_logs_and_show_what_the_world_shows(made):
    demos, audit = made
    count, horizon = len(scenes()), WORLD.config.horizon
    assert (audit.scenes, audit.kept, audit.decisions) == (count, count * horizon, count * horizon)
    assert audit.residual_m[-1] < 0.01
    assert audit.empty == ()
    labels = demos.action.reshape(count, horizon, 2)
    bank = jax.device_put(make_bank(scenes()))
    (_, (open_off, _, _)), (first, (off, failed, seen)) = (
        jax.device_get(replay(bank, jax.device_put(u))) for u in (labels, np.full_like(labels, np.nan))
    )
    assert open_off.mean() <= 0.1
    assert off.mean() <= 0.1
    assert not failed.any()
    shown = demos.obs.reshape(count, horizon, -1)
    np.testing.assert_array_equal(shown[:, 0], first)
    # Speeds differ where logged ones do not match the way made; sets where two are equally near.
    ours, theirs = (unflatten(part, WORLD.config.observe) for part in (shown[:, 1:], seen[:, :-1]))
    for name in ("ego", "path", "others_mask", "path_mask"):
        same = np.isclose(getattr(ours, name), getattr(theirs, name), atol=0.1 if name == "ego" else 0.02)
        assert same.mean() > 0.999, name


def test_mirror_images_mirror_what_is_seen_and_done(made):
    demos, audit = made
    horizon = WORLD.config.horizon
    action = demos.action.reshape(-1, 2, horizon, 2)
    seen = unflatten(demos.obs.reshape(-1, 2, horizon, demos.obs.shape[1]), WORLD.config.observe)
    np.testing.assert_allclose(action[:, 1], action[:, 0] * [1, -1], atol=2e-3)
    np.testing.assert_allclose(seen.ego[:, 1], seen.ego[:, 0] * [1, 1, 1, 1, -1, -1, 1, 1], atol=1e-3)
    np.testing.assert_allclose(seen.path[:, 1], seen.path[:, 0] * [1, -1, 1], atol=1e-3)
    assert audit.negative <= DemoConfig().max_audit


def test_the_mirror_twice_is_the_scene():
    for scene in scenes()[::4]:
        image = mirror_scene(scene)
        check_scene(image)
        back = arrays_of(mirror_scene(image))
        for name, array in arrays_of(scene).items():
            np.testing.assert_allclose(back[name], array, atol=1e-4, err_msg=name)
            assert back[name].dtype == LAYOUT[name].dtype, name
            if LAYOUT[name].dtype.kind != "f":
                np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_the_road_edge_is_where_it_was():
    scene, rng = scenes()[2 * 2], np.random.default_rng(0)
    log = scene.log.valid[:, 0]
    x, y = (rng.choice(field[log, 0], 400) + rng.normal(0, 8, 400) for field in (scene.log.x, scene.log.y))
    x, y, z = (np.float32(value) for value in (x, y, np.full(400, scene.log.z[0, 0] - scene.objects.height[0] / 2)))
    distance = jax.jit(lambda scene, *point: signed_distance(scene, *point)[0])
    ours, images = (np.asarray(distance(one, x, side, z)) for one, side in ((scene, y), (mirror_scene(scene), -y)))
    assert (ours > 0).any()
    assert (ours < 0).any()
    np.testing.assert_allclose(images, ours, atol=2e-3)


def with_log(scene: Scene, **fields: np.ndarray) -> Scene:
    return scene._replace(log=scene.log._replace(**fields))


def test_what_is_no_demonstration_is_dropped_and_counted():
    base = scenes()
    valid, x = base[0].log.valid.copy(), base[2].log.x.copy()
    valid[21:26, 0] = False  # decisions of rows 19-21 to 25-27
    x[41, 0] += 1.5
    changed = [with_log(base[0], valid=valid), base[1], with_log(base[2], x=x), *base[3:]]
    demos, audit = make_demonstrations(changed, WORLD)
    assert (audit.dropped_gap, audit.dropped_residual) == (4, 2)
    assert set(range(40)) - set(demos.step[demos.scene == 0].tolist()) == {9, 10, 11, 12}
    assert set(range(40)) - set(demos.step[demos.scene == 2].tolist()) == {19, 20}
    assert np.isfinite(demos.obs).all()
    valid[2:, 0] = False
    audit = make_demonstrations([with_log(base[0], valid=valid), *base[1:]], WORLD)[1]
    assert audit.empty == (name_of(base[0]),)
    noisy = [with_log(s, x=s.log.x + (np.arange(82) % 4 // 2)[:, None].astype(np.float32)) for s in base]
    with pytest.raises(ConfigError, match=r"are dropped .* largest: .*poses too noisy"):
        make_demonstrations(noisy, WORLD)


def test_rewards_that_punish_the_log_are_an_error():
    with pytest.raises(ConfigError, match=r"negative reward \(mean .* edge_m=0.50 leaves"):
        make_demonstrations(scenes(), WORLD, DemoConfig(max_audit=-1.0))
    binary, grid = World(WorldConfig(reward="binary")), np.ones((1, 1))
    audit = Audit(1, 1, 1, 0, 0, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0, 0.3, -0.3, ())
    with pytest.raises(ConfigError, match="30% of the demonstrated decisions are in contact or off the road"):
        _check_reward(audit, Played(*[grid] * 8), grid > 0, binary, DemoConfig())
    rng = np.random.default_rng(0)
    near, edge = rng.random(1000) < 0.03, rng.normal(-0.8, 0.4, 1000).astype(np.float32)
    margin, share = propose_edge(near, edge, 1.0)
    assert share == (near | (edge > -margin)).mean() <= 0.1 < (near | (edge > -margin - 0.05)).mean()
    assert propose_edge(np.ones(4, bool), edge[:4], 1.0) == (0.0, 1.0)


def test_scenes_that_cannot_be_demonstrations():
    base = scenes()[0]
    objects = base.objects._replace(is_sdc=np.zeros_like(base.objects.is_sdc))
    with pytest.raises(DataError, match="no ego with a log in straight-0-0"):
        make_demonstrations([base._replace(objects=objects)], WORLD)
    with pytest.raises(ConfigError, match="has 60 steps after its start"):
        make_demonstrations([base._replace(start=np.int32(21))], WORLD)
    with pytest.raises(ConfigError, match=r"steps of 0\.2 s"):
        windows(base._replace(dt=np.float32(0.2)))


def test_windows_are_the_vehicles_that_travel_and_are_counted():
    scene, skipped = family_scene("curve"), Counter[str]()
    cuts = windows(scene, DemoConfig(mirror=False), skipped)
    slots = travellers(scene, 30.0)
    starts = range(1, len(scene.log.x) - 80, 10)
    assert len(cuts) + skipped["gaps"] + skipped["no lane"] == len(slots) * len(starts)
    for cut in cuts:
        log, slot, start = name_of(cut).replace("/", "-").rsplit("-", 2)
        rows = slice(int(start) - 1, int(start) + 81)
        np.testing.assert_array_equal(cut.log.x[:, 0], scene.log.x[rows, int(slot)])
        assert log == name_of(scene) == log_id(name_of(cut))
        assert cut.objects.is_sdc.tolist() == [True] + [False] * 15
        logged = cut.paths.logged[:, 1]
        assert (logged <= cut.paths.length).all()
    short = with_log(scene, **{name: field[:80] for name, field in scene.log._asdict().items()})
    assert windows(short, skipped=skipped) == []
    assert skipped["short log"] == len(travellers(short, 30.0))


def test_the_route_tells_nothing_of_how_it_was_driven():
    scene = family_scene("straight")
    slot = int(travellers(scene, 30.0)[0])
    kind = np.where(np.arange(len(scene.objects.kind)) == slot, scene.objects.kind, 0).astype(np.int8)
    scene = scene._replace(objects=scene.objects._replace(kind=kind))
    swerve = 0.6 * np.sin(np.linspace(0, 6, len(scene.log.x))) * (np.arange(len(scene.log.x)) > 5)
    x, y = scene.log.x.copy(), scene.log.y.copy()
    x[:, slot] -= swerve * np.sin(scene.log.yaw[:, slot])
    y[:, slot] += swerve * np.cos(scene.log.yaw[:, slot])
    names = f"{name_of(scene)}/{slot}-1"
    ours, theirs = (
        next(cut for cut in windows(one, DemoConfig(mirror=False)) if name_of(cut) == names)
        for one in (scene, with_log(scene, x=x, y=y))
    )
    for name in ("x", "y", "z", "limit", "length"):
        np.testing.assert_array_equal(getattr(theirs.paths, name)[0], getattr(ours.paths, name)[0], name)


def named(scene: Scene, name: str) -> Scene:
    return scene._replace(scene_id=text_array(name, 32))


def test_what_comes_of_one_log_stays_together():
    base = scenes()[0]
    names = [f"{log}/{slot}-{start}{end}" for log in map(str, range(300)) for slot, start, end in
             ((0, 1, ""), (0, 1, "-mirror"), (12, 11, ""))]  # fmt: skip
    split = split_scenes([named(base, name) for name in names], seed=0)
    used = (split.train, split.validation, split.calibration, split.test)
    parts = [{log_id(name_of(scene)) for scene in part} for part in used]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 300
    np.testing.assert_allclose([len(part) for part in parts], [210, 30, 30, 30], atol=24)
    half = split_scenes([named(base, name) for name in names[:300]], seed=0)
    assert {name_of(s) for s in half.train} <= {name_of(s) for s in split.train}
    assert {name_of(s) for s in split_scenes([named(base, n) for n in names], seed=1).train} != {
        name_of(s) for s in split.train
    }
    assert log_id("a" * 40) == log_id(log_id("a" * 40) + "/255-9999-mirror") != log_id("a" * 41)
    with pytest.warns(UserWarning, match="1 logs to train on"):
        split_scenes([named(base, "0/0-1")], seed=0, fractions=(1.0, 0.0, 0.0, 0.0))
    with pytest.raises(ConfigError, match="whose sum is 1"):
        split_scenes([base], seed=0, fractions=(0.5, 0.1, 0.1, 0.1))


def log_fails(cuts: list[Scene]) -> np.ndarray:
    """Whether the log itself meets another object or leaves the road: [C]."""
    found = play_all(WORLD, cuts)
    return np.any((found.near <= 0) | (found.edge > 0), axis=1)


def assert_followed(cuts: list[Scene]) -> None:
    """Labels towards the log keep to it and fail nowhere where the log does not."""
    labels = np.full((len(cuts), WORLD.config.horizon, 2), np.nan, np.float32)
    _, (off, failed, _) = jax.device_get(replay(jax.device_put(make_bank(cuts)), jax.device_put(labels)))
    assert np.nanmean(off) <= 0.3
    assert not (failed.any(1) & ~log_fails(cuts)).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in REAL if name not in (REAL[2], REAL[8])])
def test_labels_lead_along_real_logs(shared_data: Path, name: str):
    assert_followed(windows(real_scene(shared_data, name), DemoConfig(mirror=False))[:64])
