"""The ring against a list of episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.replay import Episodes, draw, make_replay, write

P, H, D, E = 6, 4, 3, 2


def episodes(first):
    """Episode k sees 16 k + t at decision t, acts (k, t) and is paid -t."""
    k, t = np.meshgrid(first + np.arange(E), np.arange(H + 1), indexing="ij")
    seen = np.repeat((16.0 * k + t)[..., None], D, -1).astype(np.float32)
    action = np.stack([k, t], -1)[:, :H].astype(np.float32)
    return Episodes(*map(jax.device_put, (seen, action, -t[:, :H].astype(np.float32))))


@pytest.fixture(scope="module")
def steps():
    return jax.jit(write), jax.jit(lambda replay, key: draw(replay, jax.random.bits(key, (600,), np.uint32)))


@pytest.mark.parametrize("writes", [1, 2, 3, 4, 7])
def test_draws_come_from_the_newest_episodes_and_never_cross_a_reset(steps, writes):
    write_it, draw_it = steps
    replay = make_replay(P, H, D, E)
    for i in range(writes):
        replay = write_it(replay, episodes(E * i))
    rows = jax.tree.map(np.asarray, draw_it(replay, jax.random.key(writes)))
    k, t = rows.action.T
    np.testing.assert_array_equal(rows.obs, np.repeat((16 * k + t)[:, None], D, 1))
    np.testing.assert_array_equal(rows.next_obs, rows.obs + 1)
    np.testing.assert_array_equal(rows.reward, -t)
    kept = range(max(E * writes - P, 0), E * writes)
    assert set(k) == set(kept)
    assert int(replay.count) == len(kept)
    assert int(replay.index) == E * writes % P
    counts = [np.sum((k == i) & (t == j)) for i in kept for j in range(H)]
    assert chisquare(counts).pvalue > 1e-3


def test_seeds_write_without_a_scatter_what_each_would_write_alone(steps):
    write_it, _ = steps
    alone = [make_replay(P, H, D, E) for _ in range(3)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    seeds = jax.jit(jax.vmap(write))
    for i in range(5):
        each = [episodes(100 * s + E * i) for s in range(3)]
        alone = [write_it(replay, one) for replay, one in zip(alone, each, strict=True)]
        together = seeds(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))
    for one, all_of_them in zip(jax.tree.leaves(alone[1]), jax.tree.leaves(together), strict=True):
        np.testing.assert_array_equal(one, all_of_them[1])
    assert "scatter" not in seeds.lower(together, jax.tree.map(lambda *x: jnp.stack(x), *each)).as_text()


@pytest.mark.parametrize(("capacity", "environments"), [(6, 4), (2, 4), (4, 0)])
def test_a_capacity_that_writes_do_not_fill_evenly_is_refused(capacity, environments):
    with pytest.raises(ConfigError, match="multiple"):
        make_replay(capacity, H, D, environments)
