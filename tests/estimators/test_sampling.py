"""The building blocks of coupled draws: ranks of categories, their arrangement, the naming of slots."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gleanings.estimators import CoupledLOO, DisARMIW, DisARMSB
from gleanings.estimators._coupling import name_slots, scatter_rows
from gleanings.estimators._sampling import arrange, ascending_ranks, random_words, restore

from ._oracle import softmax

SIZES = [1, 2, 5, 64, 65, 130]  # both sides of the limit between counting and sorting


def awkward_logits(K: int) -> np.ndarray:
    """Ties, near ties, a large common offset, excluded categories, a wide range: one case a row."""
    rng = np.random.default_rng(K)
    normal = rng.normal(size=K)
    excluded = np.where(np.arange(K) % 3 == 1, -1e30, normal)
    rows = [normal, np.zeros(K), 1e-7 * normal, 1e6 + np.round(normal, 1), excluded, 40 * normal, np.sort(-normal)]
    return np.stack(rows).astype(np.float32)


@pytest.mark.parametrize("K", SIZES)
def test_ranks_are_a_permutation_by_ascending_logit(K):
    logits = awkward_logits(K)
    rank = np.asarray(jax.jit(ascending_ranks)(logits))
    assert (np.sort(rank, -1) == np.arange(K)).all()
    in_order = np.take_along_axis(logits.astype(float), rank.argsort(-1), -1)
    below = in_order.max(-1, keepdims=True) - in_order
    assert (np.diff(in_order) >= -2e-5 * (1 + below[:, 1:])).all()


@pytest.mark.parametrize("K", SIZES)
def test_no_stick_before_the_last_but_one_is_more_likely_taken_than_passed(K):
    """What DisARM-IW needs, p_k <= 1/2, even where float32 ranks confuse near ties."""
    logits = awkward_logits(K)
    q = softmax(logits.astype(float))
    q = np.take_along_axis(q, np.asarray(ascending_ranks(jnp.asarray(logits))).argsort(-1), -1)
    tail = q[:, ::-1].cumsum(-1)[:, ::-1]
    assert (2 * q <= tail)[:, : max(K - 2, 0)].all()


@pytest.mark.parametrize("K", SIZES)
def test_restoring_undoes_arranging(K):
    logits = jnp.asarray(awkward_logits(K)).reshape(7, 1, K)
    for rank in (ascending_ranks(logits), None):
        arranged = arrange(logits, rank)
        assert arranged.shape == (K, 7, 1)
        assert (restore(arranged, rank) == logits).all()


def test_slots_are_named_by_a_uniform_permutation():
    n, columns = 3, 60_000
    position = jnp.broadcast_to(10 * jnp.arange(n, dtype=jnp.int32)[:, None], (n, columns))
    slot, named = jax.jit(name_slots)(random_words(jax.random.key(0), (n,), (columns,)), position)
    assert (named == 10 * slot).all()
    values = jax.random.normal(jax.random.key(1), (n, columns))
    assert (jnp.take_along_axis(scatter_rows(values, slot), slot, 0) == values).all()
    counts = [int((order == np.asarray(slot).T).all(-1).sum()) for order in itertools.permutations(range(n))]
    assert sum(counts) == columns
    assert stats.chisquare(counts).pvalue > 1e-4
    tied = name_slots(jnp.zeros((n, 4), jnp.uint32), position[:, :4])[0]
    assert (np.sort(tied, 0) == np.arange(n)[:, None]).all()


MANY = [CoupledLOO(4), CoupledLOO(3, structure="stick"), DisARMIW(), pytest.param(DisARMSB(), marks=pytest.mark.slow)]


@pytest.mark.parametrize("estimator", MANY)
def test_marginals_of_many_categories_are_those_of_the_logits(estimator):
    """K = 130 takes the sorting path and pads the tree to 256."""
    K, draws = 130, 20_000
    logits = np.random.default_rng(0).normal(size=K).astype(np.float32)
    z = jax.jit(estimator.draw)(jnp.broadcast_to(logits, (draws, 1, K)), jax.random.key(2)).samples
    z = np.asarray(z)
    assert (z.sum(-1) == 1).all()
    counts, expected = np.asarray(z.sum((1, 2))), draws * softmax(logits.astype(float))
    rare = expected < 10
    for own in counts:
        observed = np.append(own[~rare], own[rare].sum())
        assert stats.chisquare(observed, np.append(expected[~rare], expected[rare].sum())).pvalue > 1e-4
