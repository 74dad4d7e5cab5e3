"""Behaviour cloning: learns, compiles once, vmaps over seeds, resumes."""

import functools
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
import pytest
from tests.driving.learn._observations import SMALL, flat, observation

from gleanings.core.keys import stream
from gleanings.core.loop import fit
from gleanings.core.rundir import RunDirectory
from gleanings.driving.learn import bc
from gleanings.driving.learn.config import BCConfig, NetConfig

CONFIG = BCConfig(
    net=NetConfig(width=16, trunk=(32,), heads=2, latents=3, blocks=1),
    components=3,
    batch=128,
    gradient_steps=20,
    learning_rate=5e-3,
)
TRACES = []


@functools.partial(jax.jit, static_argnames="config")
def update(config, state, demos, key):
    TRACES.append(config)
    return bc.update(config, state, demos, key)


class Labels(NamedTuple):
    """As `demos.Demonstrations`, which has more fields."""

    obs: np.ndarray
    action: np.ndarray
    mask: np.ndarray


def labels(count=1024, seed=0):
    """Actions that are a linear map of what the ego sees of itself."""
    obs = np.stack([flat(observation(seed + i)) for i in range(count)])
    action = np.stack([0.04 * obs[:, 0] - 0.1 * obs[:, 6] / 10, -0.3 * obs[:, 4] - 0.5 * obs[:, 5]], -1)
    mask = np.random.default_rng(seed).random((count, 2)) < 0.9
    return Labels(obs, np.clip(action, -1, 1).astype(np.float32), mask)


TRAIN = labels()


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["deep-set", "attention"])
@pytest.mark.parametrize("head", ["gaussian", "mixture", "categorical"])
def test_every_head_and_encoder_descends(head, encoder):
    config = replace(CONFIG, head=head, net=replace(CONFIG.net, encoder=encoder))
    state, likelihood = bc.init(config, SMALL, jax.random.key(0)), []
    for step in range(3):
        state, metrics = update(config, state, TRAIN, stream(0, "update", step))
        likelihood.append(metrics["actor/bc_nll"])
    assert TRACES.count(config) == 1
    assert state.step == 3 * config.gradient_steps
    assert likelihood[2] < likelihood[0] - 0.1


def test_a_linear_map_is_learnt():
    state, held_out = bc.init(CONFIG, SMALL, jax.random.key(0)), labels(256, seed=5000)
    for step in range(15):
        state, metrics = update(CONFIG, state, TRAIN, stream(0, "update", step))
    assert TRACES.count(CONFIG) == 1
    assert set(metrics) == {"actor/bc_nll", "actor/error", "actor/clipped"}

    @jax.jit
    @jax.vmap
    def run(obs, key):
        return bc.act(CONFIG, state, obs), bc.act(CONFIG, state, obs, key)

    modes, samples = run(held_out.obs, jax.random.split(jax.random.key(2), 256))
    error = np.abs(modes - held_out.action).mean()
    assert error < 0.05 < 0.5 * np.abs(held_out.action).mean(), (error, metrics)
    assert 0.01 < np.abs(samples - modes).mean() < 0.2


def test_a_seed_under_vmap_is_a_run_of_its_own():
    seeds = [bc.init(CONFIG, SMALL, jax.random.key(seed)) for seed in range(2)]
    many = jax.tree.map(lambda *leaves: np.stack(leaves), *seeds)
    over_seeds = jax.jit(jax.vmap(lambda state, key: bc.update(CONFIG, state, TRAIN, key)))
    many = over_seeds(many, jax.vmap(jax.random.key)(np.arange(2)))
    one = update(CONFIG, seeds[1], TRAIN, jax.random.key(1))
    for left, right in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(left[1], right, atol=1e-4)


def test_masked_labels_count_neither_in_the_gradient_nor_in_the_metrics():
    """Such as what the label of a standing car says of steering."""
    actor = bc.init(CONFIG, SMALL, jax.random.key(0)).actor
    action = np.array([[1, 0], [0, 0.3], [0.5, 0.5], [0.2, -1]], np.float32)

    @jax.jit
    def run(obs, action, mask):
        (_, params), slope = jax.value_and_grad(bc.bc_loss, has_aux=True)(actor, obs, action, mask)
        return slope, jax.vmap(actor.head.mode)(params), bc.label_metrics(actor, params, action, mask)

    mask = np.array([[1, 0], [1, 0], [1, 0], [0, 0]], bool)
    slope, _, _ = run(TRAIN.obs[:4], action, mask)
    other, _, _ = run(TRAIN.obs[:4], np.where(mask, action, 1 - action), mask)
    for left, right in zip(jax.tree.leaves(slope), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(left, right)
    last = np.asarray(slope.trunk.out.bias)
    assert (last[[1, 3]] == 0).all()
    assert np.abs(last[[0, 2]]).min() > 0
    mask = np.array([[1, 0], [1, 1], [1, 1], [0, 0]], bool)
    _, mode, found = run(TRAIN.obs[:4], action, mask)
    np.testing.assert_allclose(found["actor/error"], np.abs(mode - action)[mask].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["actor/clipped"], 1 / 5, rtol=1e-6)


def test_a_resumed_run_is_the_same(tmp_path):
    def run(name, steps, resume=False):
        with RunDirectory.create(tmp_path / name, {}, resume=resume) as directory:
            events = fit(
                lambda state, batch, key: bc.update(CONFIG, state, TRAIN, key),
                bc.init(CONFIG, SMALL, jax.random.key(0)),
                steps=steps,
                seed=0,
                run=directory,
                save_every=1,
                progress=False,
            )
            return list(events)[-1].state

    whole = run("whole", 2)
    run("parts", 1)
    resumed = run("parts", 2, resume=True)
    for left, right in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(left, right)
