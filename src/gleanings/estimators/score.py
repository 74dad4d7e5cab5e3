"""Score-function estimators over independent draws, and the exact expectation over one variable at a time."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from gleanings.estimators._base import (
    AbstractLeafwiseEstimator,
    AbstractLinearEstimator,
    Residual,
    Variable,
    check_choice,
    check_num_evaluations,
)
from gleanings.estimators._logits import Logits
from gleanings.estimators._sampling import sample_categorical

# Up to this many draws an unrolled sum is the fastest on CPU; it grows the program.
_UNROLL_LIMIT = 16


class Reinforce(AbstractLeafwiseEstimator):
    """mean_i f_i (o_i - q), over n independent draws.

    Source: Williams 1992, "Simple statistical gradient-following algorithms"; arXiv 2106.08056, section 2.
    """

    num_evaluations: int = eqx.field(static=True, default=1)
    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)
    is_unbiased: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_num_evaluations(self.num_evaluations, 1)
        check_choice("variable", self.variable, ("categorical", "binary"))

    def _draw_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        q = jax.nn.softmax(logits)
        samples = sample_categorical(q, key, self.num_evaluations)
        return samples, (samples, q)

    def _cotangent_leaf(self, logits: Array, residual: Residual, f_values: Array) -> Array:
        samples, q = residual
        return _score_sum(samples, q, f_values / self.num_evaluations)


class ReinforceLOO(AbstractLeafwiseEstimator):
    """1/(n-1) sum_i (f_i - mean f) (o_i - q): each draw's baseline is the mean of the others.

    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; arXiv 2106.08056, equation 3.
    """

    num_evaluations: int = eqx.field(static=True, default=2)
    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)
    is_unbiased: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_num_evaluations(self.num_evaluations, 2)
        check_choice("variable", self.variable, ("categorical", "binary"))

    def _draw_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        q = jax.nn.softmax(logits)
        samples = sample_categorical(q, key, self.num_evaluations)
        return samples, (samples, q)

    def _cotangent_leaf(self, logits: Array, residual: Residual, f_values: Array) -> Array:
        centred = f_values - f_values.mean(0)
        samples, q = residual
        return _score_sum(samples, q, centred / (self.num_evaluations - 1))


def _score_sum(samples: Array, q: Array, coefficients: Array) -> Array:
    """sum_i c_i (o_i - q), with c `[n, *batch]`."""
    if len(samples) > _UNROLL_LIMIT:
        return jnp.einsum("n...,n...dk->...dk", coefficients, samples - q)
    terms = zip(coefficients, samples, strict=True)
    return sum((c[..., None, None] * (sample - q) for c, sample in terms), start=jnp.zeros_like(q))


class LocalExpectation(AbstractLinearEstimator):
    """Exact expectation over each variable in turn, the others held at one joint draw: D (K - 1) + 1 evaluations.

    q_k (F_dk - sum_j q_j F_dj), with F_dk the value of f when z_d is set to k. The value weighs F_dk by q_dk / D.
    Source: Titsias and Lazaro-Gredilla 2015, "Local expectation gradients", arXiv 1503.01494.
    """

    num_evaluations: ClassVar[None] = None
    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)
    is_unbiased: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_choice("variable", self.variable, ("categorical", "binary"))

    def evaluations(self, logits: PyTree) -> int:
        """Number n of evaluations: 1 + sum over variables of (K - 1)."""
        return 1 + sum(_num_flips(leaf) for leaf in Logits.of(logits, self.variable).leaves)

    def _draw(self, logits: Logits, key: Array) -> tuple[list[Array], Array | None, Residual]:
        keys = jax.random.split(key, len(logits.leaves))
        qs = [jax.nn.softmax(leaf) for leaf in logits.leaves]
        base = [sample_categorical(q, key, 1) for q, key in zip(qs, keys, strict=True)]
        flips = [_flips(z) for z in base]
        counts = [_num_flips(leaf) for leaf in logits.leaves]
        samples = []
        for i, z in enumerate(base):
            before, after = sum(counts[:i]), sum(counts[i + 1 :])
            samples.append(jnp.concatenate([z, _repeat(z, before), flips[i], _repeat(z, after)]))
        num_variables = sum(leaf.shape[-2] for leaf in logits.leaves)
        return samples, self._weights(qs, base, num_variables), base

    def _weights(self, qs: list[Array], base: list[Array], num_variables: int) -> Array:
        if num_variables == 0:
            return jnp.ones((1, *qs[0].shape[:-2]), qs[0].dtype)
        own = sum((q * z[0]).sum((-2, -1)) for q, z in zip(qs, base, strict=True))
        others = [_flipped_probabilities(q, z[0]) for q, z in zip(qs, base, strict=True)]
        return jnp.concatenate([jnp.asarray(own)[None], *others]) / num_variables

    def _cotangent(self, logits: Logits, residual: Residual, f_values: Array) -> list[Array]:
        out, start = [], 1
        for leaf, base in zip(logits.leaves, residual, strict=True):
            count = _num_flips(leaf)
            local = _local_values(base[0], f_values[0], f_values[start : start + count])
            q = jax.nn.softmax(leaf)
            out.append(q * (local - (q * local).sum(-1, keepdims=True)))
            start += count
        return out


def _num_flips(logits: Array) -> int:
    return logits.shape[-2] * (logits.shape[-1] - 1)


def _repeat(z: Array, count: int) -> Array:
    return jnp.broadcast_to(z, (count, *z.shape[1:]))


def _flips(z: Array) -> Array:
    """All values that differ from z `[1, *batch, D, K]` in one variable, `[D * (K - 1), *batch, D, K]`."""
    d, k = z.shape[-2:]
    rolled = jnp.stack([jnp.roll(z[0], shift, -1) for shift in range(1, k)]) if k > 1 else z[:0]
    here = jnp.eye(d, dtype=bool).reshape(d, 1, *[1] * (z.ndim - 3), d, 1)
    return jnp.where(here, rolled[None], z[0]).reshape(d * (k - 1), *z.shape[1:])


def _by_shift(x: Array, z: Array) -> Array:
    """x `[*batch, D, K]` read at the category reached from z by each shift 0..K-1: `[*batch, D, K]`."""
    k = z.shape[-1]
    index = (jnp.argmax(z, -1)[..., None] + jnp.arange(k)) % k
    return jnp.take_along_axis(x, index, -1)


def _flipped_probabilities(q: Array, z: Array) -> Array:
    """Probability q_dk of each flip, in the order of `_flips`: `[D * (K - 1), *batch]`."""
    by_shift = jnp.moveaxis(_by_shift(q, z)[..., 1:], (-2, -1), (0, 1))
    return by_shift.reshape(_num_flips(q), *q.shape[:-2])


def _local_values(z: Array, own: Array, flipped: Array) -> Array:
    """F_dk `[*batch, D, K]` from the value at z and those at its flips."""
    d, k = z.shape[-2:]
    by_shift = jnp.moveaxis(flipped.reshape(d, k - 1, *own.shape), (0, 1), (-2, -1))
    by_shift = jnp.concatenate([jnp.broadcast_to(own[..., None, None], (*own.shape, d, 1)), by_shift], -1)
    index = (jnp.arange(k) - jnp.argmax(z, -1)[..., None]) % k
    return jnp.take_along_axis(by_shift, index, -1)
