"""Collection in a toy world whose steps are written out here."""

import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from gleanings.driving.learn.collect import collect

from ._toys import OFFSET, SPEED, Toy, toy_bank

E = 70  # more than step together on a CPU


def policy(obs, key):
    return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0).at[1].add(0.3).clip(-1, 1)


@pytest.fixture(scope="module")
def both():
    """Episodes and averages; in the second world failures absorb, and all scenes step together."""
    results = {}
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("go-on", "absorb"):
            world = Toy(after_failure=kind)
            run = jax.jit(lambda bank, key, world=world: collect(world, bank, policy, key, E))
            results[kind] = jax.tree.map(np.asarray, run(toy_bank(), jax.random.key(0)))
            patch.setattr("gleanings.driving.learn.collect._CPU_BATCH", E)
    return results


@pytest.fixture(params=["go-on", "absorb"])
def collected(both, request):
    return request.param, *both[request.param]


def test_rows_follow_the_world(collected):
    kind, episodes, stats = collected
    offset = episodes.obs[..., OFFSET]
    np.testing.assert_allclose(offset[:, 1:], np.clip(offset[:, :-1] + episodes.action[..., 1], -3, 3), atol=1e-6)
    off = np.abs(offset[:, 1:]) > 2.5
    failed = off.cumsum(1) > 0
    expected = np.where(failed & (kind == "absorb"), -3.0, -np.abs(offset[:, 1:]))
    np.testing.assert_allclose(episodes.reward, expected, atol=1e-6)
    assert 0.1 < failed.any(1).mean() < 0.9
    np.testing.assert_allclose(stats["collect/failure"], failed.any(1).mean(), rtol=1e-6)
    np.testing.assert_allclose(stats["collect/reward"], expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(stats["collect/progress"], episodes.action[:, -1, 0].mean(), rtol=1e-5)
    saturated = (np.abs(episodes.action) > 0.95).any(-1).mean()
    np.testing.assert_allclose(stats["collect/saturated"], saturated, rtol=1e-5)


def test_scenes_stay_and_are_drawn_evenly(collected):
    _, episodes, _ = collected
    scene = episodes.obs[..., SPEED]
    assert (scene == scene[:, :1]).all()
    assert chisquare(np.bincount(scene[:, 0].astype(int), minlength=4)).pvalue > 1e-3
    starts = episodes.obs[:, 0, OFFSET]
    assert len(np.unique(starts)) == E
    assert len(np.unique(episodes.action)) > E


def test_batches_of_a_core_change_nothing(both):
    (one, _), (other, _) = both.values()
    np.testing.assert_allclose(one.obs, other.obs, atol=1e-6)
    np.testing.assert_allclose(one.action, other.action, atol=1e-6)
