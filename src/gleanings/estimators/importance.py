"""DisARM-IW: antithetic stick-breaking corrected by an importance weight."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gleanings.estimators._base import AbstractLeafwiseEstimator, Residual, Variable, check_choice
from gleanings.estimators._coupling import masses, split_masses, uniform
from gleanings.estimators._sampling import arrange, ascending_ranks, first_above, one_hot_at, pick, random_words
from gleanings.estimators._stick import later_masses


class DisARMIW(AbstractLeafwiseEstimator):
    """1/2 (f - f~) w 1[z != z~] (o - o~), with w the ratio of the independent to the antithetic pair's probability.

    The categories are always sorted ascending: only then does the antithetic pair reach every off-diagonal value.
    Source: arXiv 2106.08056, section 3.1 (DisARM-IW).
    """

    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)
    num_evaluations: ClassVar[int] = 2
    is_unbiased: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_choice("variable", self.variable, ("categorical", "binary"))

    def _draw_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        rank = ascending_ranks(logits)
        position, weight = draw_pair(arrange(masses(logits), rank), key)
        samples = one_hot_at(position, rank, logits.shape[-1], logits.dtype)
        return samples, (samples, weight)

    def _cotangent_leaf(self, logits: Array, residual: Residual, f_values: Array) -> Array:
        samples, weight = residual
        half_difference = (f_values[0] - f_values[1])[..., None] / 2
        return (half_difference * weight)[..., None] * (samples[0] - samples[1])


def draw_pair(mass: Float[Array, "K *shape"], key: Array) -> tuple[Int[Array, "2 *shape"], Float[Array, " *shape"]]:
    """Positions of a pair that is antithetic at each stick of the ascending masses, and its importance weight.

    The first of the two takes stick m, where prod_{k<=m} max(1 - 2 p_k, 0) falls below a uniform; its partner takes
    it too where p_m > 1/2 demands it, or else a later one. The weight is that of arXiv 2106.08056, section 3.1,
    prod_{k<m} (1 - p_k)^2 / (1 - 2 p_k) * max(p_m, 1 - p_m); it is not used for two equal positions.
    """
    later = later_masses(mass)
    split = split_masses(mass, later)
    passed = jnp.maximum(split.zero - split.one, 0)
    _, passing = jax.lax.scan(lambda before, own: (before * own, before * own), 1 + 0 * mass[0], passed)
    words = random_words(key, (2,), mass.shape[1:])
    u, v = 2.0**-24 + uniform(words, mass.dtype)  # in (0, 1]
    m = first_above(-passing, -u[None])
    before = jnp.where(m > 0, pick(passing, jnp.maximum(m - 1, 0)), 1)[0]
    own, rest = pick(mass, m)[0], pick(later, m)[0]
    one, zero = split_masses(own, rest)
    partner = jnp.where(u <= (one - zero) * before, m, first_above(-later, -(v * rest)[None]))
    weight = ((own + rest) / mass.sum(0)) ** 2 / before * jnp.maximum(one, zero)
    pair = jnp.concatenate([m, partner])
    return jnp.where(words[0] % 2 == 0, pair, pair[::-1]), weight
