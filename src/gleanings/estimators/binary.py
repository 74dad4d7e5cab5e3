"""Estimators for binary variables z in {0, 1}, with logits `[*batch, D]`: DisARM, ARM, ARMS.

Inside, a binary logit a is the pair of categorical logits (0, a).
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gleanings.estimators._base import (
    AbstractLeafwiseEstimator,
    Residual,
    Variable,
    check_num_evaluations,
)
from gleanings.estimators._sampling import uniform_midpoints


class DisARM(AbstractLeafwiseEstimator):
    """1/2 (f - f~) (b - b~) sigmoid(|a|), with the antithetic pair b = 1[u < p], b~ = 1[1 - u < p].

    Source: Dong, Mnih, Tucker 2020, "DisARM: an antithetic gradient estimator for binary latent variables"; also
    found as U2G by Yin et al. 2020.
    """

    num_evaluations: ClassVar[int] = 2
    variable: ClassVar[Variable] = "binary"
    is_unbiased: ClassVar[bool] = True

    def _draw_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        a = _binary_logit(logits)
        bits, _ = antithetic_bits(a, uniform_midpoints(key, a.shape, a.dtype))
        return _categorical(bits, a.dtype), (a, bits)

    def _cotangent_leaf(self, logits: Array, residual: Residual, f_values: Array) -> Array:
        a, bits = residual
        half_difference = (f_values[0] - f_values[1])[..., None] / 2
        sign = bits[0].astype(a.dtype) - bits[1].astype(a.dtype)
        return _pair(half_difference * sign * jax.nn.sigmoid(jnp.abs(a)))


class ARM(AbstractLeafwiseEstimator):
    """(f~ - f) (u - 1/2), with the same pair as DisARM; DisARM is its mean given the two bits.

    Source: Yin and Zhou 2019, "ARM: augment-REINFORCE-merge gradient for stochastic binary networks".
    """

    num_evaluations: ClassVar[int] = 2
    variable: ClassVar[Variable] = "binary"
    is_unbiased: ClassVar[bool] = True

    def _draw_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        a = _binary_logit(logits)
        u = uniform_midpoints(key, a.shape, a.dtype)
        bits, u = antithetic_bits(a, u)
        return _categorical(bits, a.dtype), u

    def _cotangent_leaf(self, logits: Array, residual: Residual, f_values: Array) -> Array:
        return _pair((f_values[1] - f_values[0])[..., None] * (residual - 0.5))


class ARMS(AbstractLeafwiseEstimator):
    """Leave-one-out over n bits that a Dirichlet copula makes negatively dependent.

    1/(n-1) sum_i (f_i - mean f) (b_i - p) p (1 - p) / (p - J), J the probability that two bits are both 1.
    Source: Dimitriev and Zhou 2021, "ARMS: antithetic-REINFORCE-multi-sample gradient for binary variables".
    """

    num_evaluations: int = eqx.field(static=True, default=4)
    variable: ClassVar[Variable] = "binary"
    is_unbiased: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_num_evaluations(self.num_evaluations, 2)

    def _draw_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        a = _binary_logit(logits)
        n = self.num_evaluations
        e = jax.random.exponential(key, (n, *a.shape), a.dtype)
        v = (1 - e / e.sum(0)) ** (n - 1)
        # The copula is used for the rarer value, so both tails are computed without cancellation.
        bits = (v < jax.nn.sigmoid(-jnp.abs(a))) ^ (a >= 0)
        return _categorical(bits, a.dtype), (a, bits)

    def _cotangent_leaf(self, logits: Array, residual: Residual, f_values: Array) -> Array:
        a, bits = residual
        n = self.num_evaluations
        rarer = jax.nn.sigmoid(-jnp.abs(a))
        # J / p for p <= 1/2; p - J is the same for p and 1 - p.
        root = jnp.maximum(2 - rarer ** (-1 / (n - 1)), 0)
        weight = jax.nn.sigmoid(jnp.abs(a)) / (1 - root ** (n - 1))
        centred = (f_values - f_values.mean(0))[..., None]
        score = jnp.where(bits, jax.nn.sigmoid(-a), -jax.nn.sigmoid(a))
        return _pair((centred * score).sum(0) * weight / (n - 1))


def antithetic_bits(
    a: Float[Array, "*shape"], u: Float[Array, "*shape"]
) -> tuple[Bool[Array, "2 *shape"], Float[Array, "*shape"]]:
    """The bits 1[u < p], 1[1 - u < p] for p = sigmoid(a), and u. Source: arXiv 2106.08056, section 2.2."""
    p = jax.nn.sigmoid(a)
    return jnp.stack([u < p, 1 - u < p]), u


def _binary_logit(logits: Array) -> Array:
    return logits[..., 1] - logits[..., 0]


def _categorical(bits: Array, dtype: jnp.dtype) -> Array:
    return jnp.stack([~bits, bits], -1).astype(dtype)


def _pair(cotangent: Array) -> Array:
    return jnp.stack([-cotangent, cotangent], -1)
