"""Drivers in the simulator's own rollouts."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gleanings.driving as gd
from gleanings.driving.learn.baselines import ExpertReplay
from gleanings.driving.learn.config import BCConfig, NetConfig, WorldConfig
from gleanings.driving.learn.contract import make_contract
from gleanings.driving.learn.heads import TanhGaussian
from gleanings.driving.learn.networks import Actor
from gleanings.driving.learn.policy import Policy
from gleanings.driving.learn.rollouts import SimulatorPolicy, simulator_policy
from gleanings.driving.learn.world import World

from ._drivers import family_scenes

NET = NetConfig(encoder="flat", trunk=(8,))


@pytest.fixture(scope="module")
def policy() -> SimulatorPolicy:
    contract = make_contract("bc", BCConfig(net=NET), WorldConfig(others="idm"))
    actor = jax.jit(lambda key: Actor(NET, TanhGaussian(), contract.world.observe, key))(jax.random.key(0))
    return simulator_policy(Policy(actor, contract))


def test_a_step_is_a_decision_of_one_step(policy):
    scene, key = family_scenes()[1], jax.random.key(0)
    world = World(WorldConfig(others="idm", every=1))

    @eqx.filter_jit
    def both(policy):
        state, obs = world.begin(scene, key)
        decided, _ = world.decide(scene, state, policy.driver(scene, state, obs, key), key)
        stepped, _ = policy.world.sim.step(scene, state, policy(scene, state, key), key)
        return decided.pose, stepped.pose

    for decided, stepped in zip(*both(policy), strict=True):
        np.testing.assert_allclose(stepped, decided, rtol=1e-6)


def test_it_drives_in_rollouts_evaluations_and_replays(policy, tmp_path):
    scene = family_scenes()[0]
    rollout = policy.world.sim.rollout(scene, policy, jax.random.key(0))
    slot = int(np.argmax(scene.objects.is_sdc))
    assert np.isfinite(rollout.trajectory.x[:, slot]).all()
    assert gd.save_replay(scene, rollout, tmp_path / "replay.html").stat().st_size > 10_000
    found = gd.evaluate(policy.world.sim, family_scenes()[:2], policy, jax.random.key(0), who="sdc")
    assert len(found.rows) == 2


def test_it_brakes_to_a_stand_and_not_backwards():
    class Brake(ExpertReplay):
        def __call__(self, scene, state, obs, key):
            return jnp.asarray([-1.0, 0.0])

    scene, policy = family_scenes()[0], simulator_policy(Brake())
    rollout = policy.world.sim.rollout(scene, policy, jax.random.key(0))
    slot = int(np.argmax(scene.objects.is_sdc))
    speed = np.hypot(rollout.trajectory.vx[:, slot], rollout.trajectory.vy[:, slot])
    assert speed[-1] == pytest.approx(0.0, abs=1e-4)
    assert (np.diff(speed) <= 1e-4).all()
