"""DisARM-IW: antithetic stick-breaking corrected by an importance weight."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gleanings.estimators._base import AbstractLeafwiseEstimator, Residual, Variable, check_choice
from gleanings.estimators._coupling import Split
from gleanings.estimators._sampling import arrange, ascending_order, one_hot_at, uniform_midpoints
from gleanings.estimators._stick import stick_splits


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
        order = ascending_order(logits)
        sticks = stick_splits(arrange(logits, order))
        u = uniform_midpoints(key, sticks.one.shape, logits.dtype)
        position, weight = antithetic_sticks(sticks, u)
        samples = one_hot_at(position, order, logits.shape[-1], logits.dtype)
        return samples, (samples, weight)

    def _cotangent_leaf(self, logits: Array, residual: Residual, f_values: Array) -> Array:
        samples, weight = residual
        half_difference = (f_values[0] - f_values[1])[..., None] / 2
        return (half_difference * weight)[..., None] * (samples[0] - samples[1])


def antithetic_sticks(
    sticks: Split, u: Float[Array, "sticks *shape"]
) -> tuple[Int[Array, "2 *shape"], Float[Array, "*shape"]]:
    """Positions of the pair drawn with u and 1 - u along sticks with p_k = `sticks.one`, and the importance weight.

    w = prod_{k<m} (1 - p_k)^2 / (1 - 2 p_k) * max(p_m, 1 - p_m), m the smaller position; it needs p_k <= 1/2 for k < m.
    Source: arXiv 2106.08056, section 3.1.
    """

    def step(carry: tuple[Array, Array, Array], stick: tuple[Split, Array]) -> tuple[tuple[Array, Array, Array], None]:
        alive, position, weight = carry
        (p, rest), u = stick
        passed = alive & jnp.stack([u >= p, 1 - u >= p])
        both = passed.all(0)
        # Where p = 1/2 exactly one of the pair stops, so the factor of passing is never used; 1 keeps it finite.
        margin = jnp.where(rest > p, rest - p, 1)
        factor = jnp.where(both, rest**2 / margin, 1)
        parts = alive.all(0) & ~both
        factor = jnp.where(parts, jnp.maximum(p, rest), factor)
        return (passed, position + passed, weight * factor), None

    # Starts that are functions of the draws, so that under shard_map they vary as these do.
    alive = jnp.broadcast_to(u.sum(0) >= 0, (2, *u.shape[1:]))
    start = (alive, jnp.zeros_like(alive, jnp.int32), jnp.ones_like(alive[0], u.dtype))
    (_, position, weight), _ = jax.lax.scan(step, start, (sticks, u))
    return position, weight
