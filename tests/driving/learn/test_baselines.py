"""Controls in family scenes against what they must do, and the drive against a loop written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.driving.learn import drives as drives_module
from gleanings.driving.learn.baselines import BrakeToStop, controls
from gleanings.driving.learn.drives import drive

from ._drivers import CHUNK, COUNT, WORLD, driven, family_bank, outcomes


@pytest.fixture(autouse=True)
def _chunks(monkeypatch):
    """Several chunks of which the last is not full."""
    monkeypatch.setattr(drives_module, "_CPU_CHUNK", CHUNK)


def test_a_drive_is_a_loop_of_decisions():
    bank, found = family_bank(), driven("random")
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(5), row))(jnp.arange(COUNT))

    # One program: at the first step the state given is not used.
    @jax.jit
    def decide(state, u, step):
        begun, _ = jax.vmap(WORLD.begin)(bank, keys)
        state = jax.tree.map(lambda a, b: jax.lax.select(step == 0, a, b), begun, state)
        return state, *jax.vmap(WORLD.decide)(bank, state, u, keys)

    empty, _ = jax.eval_shape(jax.vmap(WORLD.begin), bank, keys)
    state = jax.tree.map(lambda leaf: jnp.empty(leaf.shape, leaf.dtype), empty)
    for step in range(12):
        with jax.debug_key_reuse(False):  # the simulator folds the step into one key an episode
            before, state, decision = decide(state, jnp.asarray(found.u[:, step]), step)
        assert found.pose.x[:, step] == pytest.approx(np.asarray(before.x)[:, 0], abs=1e-3)
        for name in ("reward", "clearance_m", "progress_m"):
            assert getattr(found, name)[:, step] == pytest.approx(np.asarray(getattr(decision, name)), abs=2e-3)
        for name in ("collision", "at_fault", "off_road"):
            assert (getattr(found, name)[:, step] == np.asarray(getattr(decision, name))).all()


def test_random_drivers_draw_by_scene_and_decision():
    u = driven("random").u
    assert u.shape == (COUNT, 40, 2)
    assert len(np.unique(u)) == u.size
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 4), 1 + 2 * 3), 1)
    assert u[4, 3] == pytest.approx(np.asarray(jax.random.uniform(key, (2,), jnp.float32, -1.0, 1.0)))


def test_expert_replay_stays_on_the_log():
    found = outcomes("expert replay")
    assert found.ade_m.max() < 0.1
    assert found.progress_ratio == pytest.approx(1.0, abs=0.01)
    assert not found.failed.any()


def test_brake_to_stop_is_worst_and_stands():
    worst = outcomes("brake to stop").failure_star()
    for name in ("expert replay", "IDM on route", "constant speed"):
        assert outcomes(name).failure_star().sum() < worst.sum()
    assert worst.mean() >= 0.9
    pose = driven("brake to stop").pose
    assert np.hypot(pose.vx, pose.vy)[:, -1] == pytest.approx(0.0, abs=1e-3)
    forward = np.diff(pose.x) * np.cos(pose.yaw[:, 1:]) + np.diff(pose.y) * np.sin(pose.yaw[:, 1:])
    assert forward.min() > -1e-3


def test_those_on_the_route_stay_there():
    for name in ("IDM on route", "constant speed", "brake to stop"):
        assert not outcomes(name).off_road.any(), name
    pose = driven("constant speed").pose
    speed = np.hypot(pose.vx, pose.vy)
    assert speed == pytest.approx(np.broadcast_to(speed[:, :1], speed.shape), rel=1e-3)


def test_idm_yields_where_constant_speed_does_not():
    assert outcomes("IDM on route").at_fault.sum() <= outcomes("constant speed").at_fault.sum()
    assert outcomes("IDM on route").failed.mean() <= 0.2


@pytest.mark.slow
def test_a_choice_is_the_driver_it_chooses():
    alone = drive(WORLD, family_bank(), BrakeToStop(), jax.random.key(5))
    assert alone.u == pytest.approx(driven("brake to stop").u, abs=1e-5)
    assert set(controls()) == {"expert replay", "IDM on route", "constant speed", "brake to stop", "random"}
