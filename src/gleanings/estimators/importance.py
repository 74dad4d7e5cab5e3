"""DisARM-IW: antithetic stick-breaking corrected by an importance weight."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gleanings.estimators._base import AbstractLeafwiseEstimator, Residual, Variable, check_choice
from gleanings.estimators._coupling import Split, masses
from gleanings.estimators._sampling import arrange, ascending_ranks, one_hot_at, pick
from gleanings.estimators._stick import draw_sticks


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
        position, sticks = draw_sticks(arrange(masses(logits), rank), key, 2, "systematic")
        weight = pick(importance_weights(sticks.split), position.min(0, keepdims=True))[0]
        samples = one_hot_at(position, rank, logits.shape[-1], logits.dtype)
        return samples, (samples, weight)

    def _cotangent_leaf(self, logits: Array, residual: Residual, f_values: Array) -> Array:
        samples, weight = residual
        half_difference = (f_values[0] - f_values[1])[..., None] / 2
        return (half_difference * weight)[..., None] * (samples[0] - samples[1])


def importance_weights(sticks: Split) -> Float[Array, "K *shape"]:
    """w of a pair whose smaller position is m, for m = 0..K-1; the last, that of two equal positions, is not used.

    prod_{k<m} (1 - p_k)^2 / (1 - 2 p_k) * max(p_m, 1 - p_m); it needs p_k <= 1/2 for k < m.
    Source: arXiv 2106.08056, section 3.1.
    """

    def step(passing: Array, split: Split) -> tuple[Array, Array]:
        # Where p >= 1/2 no pair passes, so what follows is never used; 1 keeps it finite.
        margin = jnp.where(split.zero > split.one, split.zero - split.one, 1)
        return passing * split.zero**2 / margin, passing * jnp.maximum(split.one, split.zero)

    last, weights = jax.lax.scan(step, 1 + 0 * sticks.one.sum(0), sticks)
    return jnp.concatenate([weights, last[None]])
