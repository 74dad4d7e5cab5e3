"""The decision process on cropped scenes: actions, events, bounds, and that nothing ends an episode."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.core.errors import ConfigError
from gleanings.driving.crop import crop_scene
from gleanings.driving.families import make_scenes
from gleanings.driving.learn.actions import normalised, physical
from gleanings.driving.learn.bank import make_bank, without_lanes
from gleanings.driving.learn.config import WorldConfig
from gleanings.driving.learn.world import Decision, World
from gleanings.driving.observation import unflatten
from gleanings.driving.routes import with_lane_route
from gleanings.driving.scene import Scene

HORIZON = 12
FAMILIES = ("straight", "four_way_signal", "roundabout", "jam")


@cache
def bank() -> Scene:
    return jax.device_put(make_bank([crop_scene(with_lane_route(make_scenes(f, 2)[0])) for f in FAMILIES]))


@cache
def driver(world: World):
    """Compiled: scenes [C], actions [H, 2], key -> first observation [C, D], decisions [C, H], poses [C, H + 1, 3]."""

    @jax.jit
    def run(scenes, actions, key):
        def one(scene):
            state, first = world.begin(scene, key)

            def step(state, u):
                after, decision = world.decide(scene, state, u, key)
                return after, (decision, jnp.stack([after.x[0], after.y[0], after.t.astype(jnp.float32)]))

            _, (found, poses) = jax.lax.scan(step, state, actions)
            return first, found, jnp.vstack([jnp.stack([state.x[0], state.y[0], 1.0])[None], poses])

        return jax.vmap(one)(scenes)

    return run


WORLD = World()


def drive(u: tuple[float, float], world: World = WORLD) -> tuple[np.ndarray, Decision, np.ndarray]:
    actions = jnp.broadcast_to(jnp.asarray(u, jnp.float32), (HORIZON, 2))
    return jax.tree.map(np.asarray, driver(world)(bank(), actions, jax.random.key(0)))


@pytest.mark.parametrize("u", [(1.0, 0.0), (0.5, 0.2), (-1.0, 0.0)])
def test_the_judge_finds_the_failures_of_decisions_without_lanes(u: tuple[float, float]) -> None:
    _, found, poses = drive(u)
    key = jax.random.key(0)

    @jax.jit
    def judged(scenes: Scene):
        def one(scene: Scene):
            def step(state, u):
                after, failed = WORLD.fails(scene, state, u, key)
                return after, (failed, after.x[0])

            return jax.lax.scan(step, WORLD.judge.reset(scene, key), jnp.broadcast_to(jnp.asarray(u), (HORIZON, 2)))[1]

        return jax.vmap(one)(scenes)

    failed, x = judged(without_lanes(bank()))
    assert np.array_equal(failed, WORLD.failed(found))
    np.testing.assert_allclose(x, poses[:, 1:, 0], atol=1e-3)
    assert np.asarray(failed).any() == (u != (-1.0, 0.0))


def test_decisions_have_the_shapes_of_the_contract() -> None:
    first, found, poses = drive((0.0, 0.0))
    assert first.shape == (4, WORLD.observation_size) == (4, 306)
    assert first.dtype == found.observation.dtype == found.reward.dtype == np.float32
    assert found.observation.shape == (4, HORIZON, 306)
    assert np.isfinite(found.observation).all()
    seen = unflatten(first, WORLD.config.observe)
    assert seen.alive.all()
    assert seen.path_mask.all()
    assert seen.others_mask[:, 0].all()  # both frames
    np.testing.assert_array_equal(poses[0, :, 2], 1 + 2 * np.arange(HORIZON + 1))


@pytest.mark.parametrize("u", [(1.0, 0.6), (-1.0, 0.0), (0.3, -1.0)])
def test_rewards_are_bounded_events_recorded_and_nothing_ends(u: tuple[float, float]) -> None:
    _, found, poses = drive(u)
    assert ((found.reward <= 0) & (found.reward >= -3)).all()
    failed = np.asarray(WORLD.failed(found))
    np.testing.assert_array_equal(failed, found.collision | found.off_road)
    assert (found.clearance_m[found.collision] == 0).all()
    assert (found.reward[found.off_road] < 0).all()
    if u[1]:
        assert failed.any(1).all()
        moved = np.hypot(*np.diff(poses[..., :2], axis=1).transpose(2, 0, 1))
        speed = u[0] * 4 * 0.2 * np.arange(1, HORIZON)
        assert (moved[:, 1:] > 0.1 * speed * (u[0] > 0)).all()  # a crash stops nobody
    else:
        assert (np.diff(found.progress_m, axis=1) > -0.02).all()  # nobody reverses
        np.testing.assert_allclose(poses[:, -1], poses[:, -2] + [0, 0, 2], atol=1e-5)


def test_the_route_is_left_at_four_metres_from_the_middle_of_its_lanes() -> None:
    assert not drive((0.0, 0.0))[1].off_route[0].any()
    _, found, poses = drive((0.3, -1.0))
    paths = bank().paths
    middle = np.stack([np.asarray(field)[:, 0] for field in (paths.x, paths.y)], -1)
    inside = np.arange(middle.shape[1]) < np.asarray(paths.length)[:, :1]
    away = np.hypot(*np.moveaxis(poses[:, 1:, None, :2] - middle[:, None], -1, 0))
    away = np.where(inside[:, None], away, np.inf).min(-1)
    assert found.off_route.any()
    assert found.off_route[away > 4.5].mean() > 0.9  # not where the arc is at a cut of the route
    assert not found.off_route[:, :2][away[:, :2] < 3.0].any()


def test_the_action_is_what_moves_the_ego() -> None:
    _, _, poses = drive((0.5, 0.0))
    way = np.hypot(*np.diff(poses[..., :2], axis=1).transpose(2, 0, 1))
    np.testing.assert_allclose(np.diff(way, axis=1), 2.0 * 0.2**2, atol=2e-3)  # 2 m/s^2
    np.testing.assert_array_equal(drive((5.0, 0.0))[2], drive((1.0, 0.0))[2])


def test_an_event_in_any_step_counts_the_reward_is_their_mean_and_progress_can_be_paid() -> None:
    """Decisions of two steps are pairs of decisions of one: for straight braking, as curvature depends on the speed."""
    single = World(dataclasses.replace(WORLD.config, every=1, progress_weight=0.5))
    actions = jnp.broadcast_to(jnp.asarray([-0.3, 0.0], jnp.float32), (2 * HORIZON, 2))
    one = jax.tree.map(np.asarray, driver(single)(bank(), actions, jax.random.key(0)))[1]
    _, two, _ = drive((-0.3, 0.0))
    unpaid = one.reward - 0.5 * np.diff(one.progress_m, axis=1, prepend=0) / 10
    assert (one.reward > 0).any()
    np.testing.assert_allclose(two.reward, unpaid.reshape(4, HORIZON, 2).mean(2), atol=2e-4)
    np.testing.assert_allclose(two.clearance_m, one.clearance_m.reshape(4, HORIZON, 2).min(2), atol=1e-3)
    for name in ("collision", "at_fault", "off_road", "off_route"):
        np.testing.assert_array_equal(getattr(two, name), getattr(one, name).reshape(4, HORIZON, 2).any(2))
    np.testing.assert_allclose(two.progress_m, one.progress_m[:, 1::2], atol=1e-3)


def test_a_binary_reward_counts_decisions_with_an_event_and_ends_nothing() -> None:
    world = World(WorldConfig(reward="binary"))
    _, found, poses = drive((0.3, -1.0), world)
    failed = np.asarray(world.failed(found))
    np.testing.assert_array_equal(found.reward, -failed.astype(np.float32))
    assert failed.any(1).all()
    assert not failed.all(1).any()
    np.testing.assert_array_equal(poses, drive((0.3, -1.0))[2])
    with pytest.raises(ConfigError, match=r"reward='binary' takes no edge_m: leave out"):
        WorldConfig(reward="binary", edge_m=1.0)


@pytest.mark.slow
def test_others_react_or_replay() -> None:
    """Standing, the ego is driven into by replayed cars behind it, not by reacting ones."""
    idm = World(WorldConfig(others="idm"))
    assert [type(world.sim.agents).__name__ for world in (WORLD, idm)] == ["LogPlayback", "IDM"]
    for world in (WORLD, idm):
        _, found, _ = drive((0.0, 0.0), world)
        assert np.isfinite(found.observation).all()
        assert ((found.reward <= 0) & (found.reward >= -3)).all()


def test_actions_and_their_limits() -> None:
    rng = np.random.default_rng(0)
    u, speed = jnp.asarray(rng.uniform(-1, 1, (500, 2)), jnp.float32), jnp.asarray(rng.uniform(0, 30, 500), jnp.float32)
    action = np.asarray(physical(u, speed))
    v, (a, k) = np.asarray(speed), np.asarray(u).T
    np.testing.assert_allclose(action[:, 0], 4 * np.maximum(a, 0) + 8 * np.minimum(a, 0), rtol=1e-6)
    np.testing.assert_allclose(action[:, 1], k * np.minimum(0.22, 10 / np.maximum(v, 1) ** 2), rtol=1e-5)
    np.testing.assert_allclose(normalised(jnp.asarray(action), speed), u, atol=1e-6)
    assert not np.asarray(physical(jnp.zeros(2), jnp.float32(7))).any()
    beyond = normalised(jnp.asarray([[9.0, 1.0], [-20.0, -1.0]], jnp.float32), jnp.ones(2))
    np.testing.assert_array_equal(beyond, [[1, 1], [-1, -1]])
