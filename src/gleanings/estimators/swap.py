"""Estimators from Dirichlet swaps: ARS, ARS+, ARSM, ARSM+.

pi_d ~ Dirichlet(1_K), z_d = argmin_k (log pi_dk - theta_dk). The pseudo-action of a pair {m, j} is the z that results
when entries m and j of pi are swapped in every variable at once; all pseudo-actions have one law. The variants marked +
drop a variable's term where no swap changes its draw; ARS+ also replaces pi_dj by its mean given all pseudo-actions.
"""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from gleanings.core.errors import ConfigError
from gleanings.estimators._base import AbstractLeafwiseEstimator, Residual, Variable, check_choice
from gleanings.estimators._logits import Logits
from gleanings.estimators._sampling import one_hot

_LARGE = 64


class _AbstractSwap(AbstractLeafwiseEstimator):
    num_evaluations: ClassVar[None] = None
    is_unbiased: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_choice("variable", self.variable, ("categorical", "binary"))

    @staticmethod
    @abc.abstractmethod
    def _cost(num_categories: int) -> int:
        """Evaluations for K categories."""

    def evaluations(self, logits: PyTree) -> int:
        """Number n of evaluations, a function of K; ConfigError if the leaves differ in K."""
        return self._cost(_common_categories(Logits.of(logits, self.variable)))

    def _draw(self, logits: Logits, key: Array) -> tuple[list[Array], Array | None, Residual]:
        _common_categories(logits)
        return super()._draw(logits, key)


def _common_categories(logits: Logits) -> int:
    counts = {leaf.shape[-1] for leaf in logits.leaves}
    if len(counts) > 1:
        raise ConfigError(f"the leaves have {sorted(counts)} categories: swap estimators need one common K")
    return counts.pop()


class _AbstractReferenceSwap(_AbstractSwap):
    """K evaluations: the swaps of every m with one random reference j an example."""

    @staticmethod
    def _cost(num_categories: int) -> int:
        return num_categories

    def _cotangent_leaf(self, logits: Array, residual: Residual, f_values: Array) -> Array:
        centred = f_values - f_values.mean(0)
        return jnp.moveaxis(centred, 0, -1)[..., None, :] * residual


class ARS(_AbstractReferenceSwap):
    """(F_m - mean F) (1 - K pi_dj), F_m = f at the swap {m, j} with one random reference j an example: K evaluations.

    Source: Yin et al. 2019, "ARSM: augment-REINFORCE-swap-merge estimator", arXiv 1905.01413.
    """

    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)

    def _draw_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        swaps = _swaps_with_reference(logits, key)
        at_reference = jnp.take_along_axis(swaps.pi, swaps.reference, -1)
        return swaps.samples, 1 - logits.shape[-1] * at_reference


class ARSPlus(_AbstractReferenceSwap):
    """ARS with terms of unchanged variables dropped and pi_dj replaced by its mean given all pseudo-actions.

    Source: arXiv 2106.08056, appendix (ARS+); the conditional mean in closed form is ours.
    """

    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)

    def _draw_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        swaps = _swaps_with_reference(logits, key)
        weight = 1 - logits.shape[-1] * _conditional_mean(logits, swaps)
        changes = (swaps.samples != swaps.samples[0]).any((0, -1))[..., None]
        return swaps.samples, jnp.where(changes, weight, 0)


class _AbstractMerge(_AbstractSwap):
    """K (K - 1) / 2 + 1 evaluations: all swaps, every category in turn as the reference."""

    allow_large: eqx.AbstractVar[bool]
    _drop_unchanged: eqx.AbstractClassVar[bool]

    @staticmethod
    def _cost(num_categories: int) -> int:
        return num_categories * (num_categories - 1) // 2 + 1

    def _draw_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        k = logits.shape[-1]
        if k > _LARGE and not self.allow_large:
            raise ConfigError(f"K = {k} costs {self._cost(k):,} evaluations: pass allow_large=True if that is meant")
        pi = _dirichlet(logits, key)
        pairs = np.concatenate([[[0, 0]], np.argwhere(np.tri(k, k=-1))]).astype(np.int32)
        first, second = jnp.asarray(pairs.T).reshape(2, -1, *[1] * logits.ndim)
        samples = _pseudo_actions(pi, logits, first, second)
        weight = 1 / k - pi
        if self._drop_unchanged:
            action = jnp.argmax(samples, -1)[_pair_table(k)]
            weight = jnp.where(jnp.moveaxis((action != action[0]).any(0), 0, -1), weight, 0)
        return samples, weight

    def _cotangent_leaf(self, logits: Array, residual: Residual, f_values: Array) -> Array:
        by_pair = f_values[_pair_table(logits.shape[-1])]
        return jnp.einsum("mj...,...dj->...dm", by_pair - by_pair.mean(0), residual)


class ARSM(_AbstractMerge):
    """sum_j (F_mj - mean_m' F_m'j) (1/K - pi_dj) over all references j: K (K - 1) / 2 + 1 evaluations.

    More than 64 categories need `allow_large=True`. Source: Yin et al. 2019, arXiv 1905.01413.
    """

    allow_large: bool = eqx.field(static=True, default=False)
    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)
    _drop_unchanged: ClassVar[bool] = False


class ARSMPlus(_AbstractMerge):
    """ARSM with the (d, j) term dropped where all swaps with j leave variable d unchanged.

    Source: arXiv 2106.08056, appendix (ARSM+).
    """

    allow_large: bool = eqx.field(static=True, default=False)
    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)
    _drop_unchanged: ClassVar[bool] = True


class _Swaps(NamedTuple):
    samples: Array  # [n, *batch, D, K]
    pi: Array  # [*batch, D, K]
    reference: Array  # [*batch, 1, 1]


def _dirichlet(logits: Array, key: Array) -> Array:
    e = jax.random.exponential(key, logits.shape, logits.dtype)
    return e / e.sum(-1, keepdims=True)


def _swapped_source(shape: tuple[int, ...], first: Array, second: Array) -> Array:
    """Where each entry of pi `shape` comes from after swapping `first` and `second`: `[n, *batch, D, K]`."""
    index = jnp.arange(shape[-1])
    source = jnp.where(index == first, second, jnp.where(index == second, first, index))
    return jnp.broadcast_to(source, (source.shape[0], *shape))


def _race(pi: Array, logits: Array, source: Array) -> Array:
    """log pi - theta with the entries of pi taken from `source`."""
    swapped = jnp.take_along_axis(jnp.broadcast_to(pi, source.shape), source, -1)
    return jnp.log(swapped) - logits


def _pseudo_actions(pi: Array, logits: Array, first: Array, second: Array) -> Array:
    """Draws after swapping entries `first` and `second` (each `[n, *batch or 1s, 1, 1]`) of pi: `[n, *batch, D, K]`."""
    winner = jnp.argmin(_race(pi, logits, _swapped_source(logits.shape, first, second)), -1)
    return one_hot(winner, logits.shape[-1], logits.dtype)


def _swaps_with_reference(logits: Array, key: Array) -> _Swaps:
    key_pi, key_reference = jax.random.split(key)
    pi = _dirichlet(logits, key_pi)
    k = logits.shape[-1]
    reference = jax.random.randint(key_reference, (*logits.shape[:-2], 1, 1), 0, k)
    other = jnp.arange(k).reshape(k, *[1] * logits.ndim)
    return _Swaps(_pseudo_actions(pi, logits, other, reference[None]), pi, reference)


def _conditional_mean(logits: Array, swaps: _Swaps) -> Array:
    """E[pi_dj | all pseudo-actions of d, all other entries], `[*batch, D, 1]`.

    With l != j and S = pi_dj + pi_dl, pi_dj / S is uniform; each pseudo-action restricts it to an interval, so the
    mean is S times the midpoint of their intersection.
    """
    k = logits.shape[-1]
    if k == 1:
        return swaps.pi
    j = swaps.reference
    l = (j + 1) % k
    take = jnp.take_along_axis
    total = take(swaps.pi, j, -1) + take(swaps.pi, l, -1)
    m = jnp.arange(k)
    # After the swap {m, j}: position m holds S t, position `rest` holds S (1 - t), the others keep their entries,
    # and, unless m is j or l, the entry of m has moved to j.
    rest = jnp.where(m == j, l, jnp.where(m == l, j, l))
    theta_rest = take(logits, jnp.broadcast_to(rest, logits.shape), -1)
    log_bound = _log_smallest_other(logits, swaps, l) - jnp.log(total)
    up = jnp.exp(log_bound + logits)
    down = 1 - jnp.exp(log_bound + theta_rest)
    crossing = jax.nn.sigmoid(logits - theta_rest)
    action = jnp.moveaxis(jnp.argmax(swaps.samples, -1), 0, -1)
    low = jnp.where(action == m, 0.0, jnp.where(action == rest, jnp.maximum(crossing, down), up))
    high = jnp.where(action == m, jnp.minimum(crossing, up), jnp.where(action == rest, 1.0, down))
    low = jnp.clip(low.max(-1, keepdims=True), 0, 1)
    high = jnp.clip(high.min(-1, keepdims=True), 0, 1)
    return total * (low + high) / 2


def _log_smallest_other(logits: Array, swaps: _Swaps, l: Array) -> Array:
    """For each m, the least log pi_k - theta_k over the positions k that hold neither part of S after the swap."""
    k = logits.shape[-1]
    m = jnp.arange(k).reshape(k, *[1] * logits.ndim)
    j = swaps.reference[None]
    source = _swapped_source(logits.shape, m, j)
    holds_part = (source == j) | (source == l[None])
    others = jnp.where(holds_part, jnp.inf, _race(swaps.pi, logits, source))
    return jnp.moveaxis(others.min(-1), 0, -1)


def _pair_table(k: int) -> np.ndarray:
    """`[K, K]` index of the evaluation that holds the swap {m, j}; the diagonal is the unswapped draw."""
    table = np.zeros((k, k), np.int32)
    rows, columns = np.nonzero(np.tri(k, k=-1))
    table[rows, columns] = table[columns, rows] = np.arange(1, len(rows) + 1)
    return table
