"""Behaviour cloning: learns, compiles once, vmaps over seeds, resumes."""

from dataclasses import replace
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
import pytest
from tests.driving.learn._observations import SMALL, flat, observation

from gleanings.core.keys import stream
from gleanings.core.loop import fit
from gleanings.core.rundir import RunDirectory
from gleanings.driving.learn import bc
from gleanings.driving.learn.config import BCConfig, NetConfig

SMALL_NET = NetConfig(width=8, trunk=(16,), heads=2, latents=3, blocks=1)
TINY = BCConfig(net=SMALL_NET, components=3, batch=16, gradient_steps=3)


class Labels(NamedTuple):
    """As `demos.Demonstrations`, which has more fields."""

    obs: np.ndarray
    action: np.ndarray
    mask: np.ndarray


def labels(count=64, seed=0):
    """Actions that are a linear map of what the ego sees of itself."""
    obs = np.stack([flat(observation(seed + i)) for i in range(count)])
    action = np.stack([0.04 * obs[:, 0] - 0.1 * obs[:, 6] / 10, -0.3 * obs[:, 4] - 0.5 * obs[:, 5]], -1)
    mask = np.random.default_rng(seed).random((count, 2)) < 0.9
    return Labels(obs, np.clip(action, -1, 1).astype(np.float32), mask)


@pytest.mark.parametrize("encoder", ["deep-set", "attention"])
@pytest.mark.parametrize("head", ["gaussian", "mixture", "categorical"])
def test_every_head_and_encoder_descends(head, encoder):
    config = replace(TINY, head=head, net=replace(TINY.net, encoder=encoder), learning_rate=1e-2)
    demos, traces = labels(), []

    @jax.jit
    def run(state, key):
        traces.append(0)
        return bc.update(config, state, demos, key)

    state = bc.init(config, SMALL, jax.random.key(0))
    first = None
    for step in range(5):
        state, metrics = run(state, stream(0, "update", step))
        first = metrics if first is None else first
    assert traces == [0]
    assert state.step == 5 * config.gradient_steps
    assert set(metrics) == {"actor/bc_nll", "actor/error", "actor/clipped"}
    assert metrics["actor/bc_nll"] < first["actor/bc_nll"] - 0.1


def test_a_linear_map_is_learnt():
    config = replace(TINY, net=replace(TINY.net, width=32, trunk=(64, 64)), batch=256, gradient_steps=400)
    config = replace(config, learning_rate=2e-3)
    train, held_out = labels(2048), labels(256, seed=5000)
    state = jax.jit(lambda key: bc.init(config, SMALL, key))(jax.random.key(0))
    state, metrics = jax.jit(lambda state, key: bc.update(config, state, train, key))(state, jax.random.key(1))
    modes = jax.jit(jax.vmap(lambda obs: bc.act(config, state, obs)))(held_out.obs)
    error = np.abs(modes - held_out.action).mean()
    assert error < 0.05 < 0.5 * np.abs(held_out.action).mean(), (error, metrics)
    sample = jax.jit(lambda obs, key: bc.act(config, state, obs, key))(held_out.obs[0], jax.random.key(2))
    assert sample.shape == (2,)
    assert 0 < np.abs(sample - modes[0]).max() < 0.5


def test_a_seed_under_vmap_is_a_run_of_its_own():
    demos = labels()
    seeds = np.arange(3)
    init = jax.jit(jax.vmap(lambda seed: bc.init(TINY, SMALL, stream(seed, "init"))))

    def update(state, seed):
        return bc.update(TINY, state, demos, stream(seed, "update"))

    many, metrics = jax.jit(jax.vmap(update))(init(seeds), seeds)
    one, own = jax.jit(update)(bc.init(TINY, SMALL, stream(2, "init")), np.int64(2))
    for left, right in zip(jax.tree.leaves((many, metrics)), jax.tree.leaves((one, own)), strict=True):
        np.testing.assert_allclose(left[2], right, atol=1e-4)


def test_masked_steering_has_no_gradient():
    """Labels of a standing car: what they say of steering does not count."""
    demos, config = labels(), TINY
    state = bc.init(config, SMALL, jax.random.key(0))
    mask = np.array([True, False]) & np.ones((64, 2), bool)
    slope = jax.jit(lambda action: eqx.filter_grad(bc.bc_loss, has_aux=True)(state.actor, demos.obs, action, mask)[0])
    found = slope(demos.action)
    other = slope(np.where(mask, demos.action, 1 - demos.action))
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(left, right)
    last = np.asarray(found.trunk.out.weight)
    assert (last[:, [1, 3]] == 0).all()
    assert np.abs(last[:, [0, 2]]).min() > 0


def test_metrics_are_over_labels_that_count():
    config, demos = TINY, labels(4)
    actor = bc.init(config, SMALL, jax.random.key(0)).actor
    action = np.array([[1, 0], [0, -1], [0.5, 0.5], [0.2, 1]], np.float32)
    mask = np.array([[1, 0], [1, 1], [1, 1], [0, 0]], bool)

    @jax.jit
    def run(obs, action, mask):
        loss, params = bc.bc_loss(actor, obs, action, mask)
        return loss, jax.vmap(actor.head.mode)(params), bc.label_metrics(actor, params, action, mask)

    loss, mode, found = run(demos.obs, action, mask)
    np.testing.assert_allclose(found["actor/error"], np.abs(mode - action)[mask].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["actor/clipped"], 2 / 5, rtol=1e-6)
    assert np.isfinite(loss)


def test_a_resumed_run_is_the_same(tmp_path):
    demos = labels()

    def run(name, steps, resume=False):
        with RunDirectory.create(tmp_path / name, {}, resume=resume) as directory:
            events = fit(
                lambda state, batch, key: bc.update(TINY, state, demos, key),
                bc.init(TINY, SMALL, jax.random.key(0)),
                steps=steps,
                seed=0,
                run=directory,
                save_every=2,
                progress=False,
            )
            return list(events)[-1].state

    whole = run("whole", 4)
    run("parts", 2)
    resumed = run("parts", 4, resume=True)
    for left, right in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(left, right)
