"""ModBE: the first of nested classes whose fit no larger class improves on, judged on the small class's own targets.

Deviations from arXiv 2211.02016, of which only the abstract could be read: the structure is as recalled, every
tolerance and the guard against blind tests are ours.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gleanings.core.errors import ConfigError
from gleanings.selection.prefix import Comparisons

Tolerance = Literal["practical", "paired_t", "none"]


@dataclass(frozen=True)
class ModBEConfig:
    """How ModBE tests a class.

    tolerance: `practical` is alpha s^2 (p + 2 log(20 M H)) / n, p the parameters of the small class a stage, s^2 the
    squared error of the large class and n the validation rows; `paired_t` is z standard errors of the paired
    difference; `none` is zero. alpha, z: their factors. min_effective_rows: an accepted class, but for the largest,
    whose error is carried by fewer rows was not tested. on_blind: what is chosen then. Source: ours.
    """

    tolerance: Tolerance = "practical"
    alpha: float = 1.0
    z: float = 2.5
    min_effective_rows: float = 10.0
    on_blind: Literal["keep", "largest", "hold_out"] = "keep"

    def __post_init__(self) -> None:
        if min(self.alpha, self.z, self.min_effective_rows) < 0:
            raise ConfigError(f"{self}: alpha, z and min_effective_rows must not be negative")


DEFAULT = ModBEConfig()


class Choice(NamedTuple):
    """The class chosen; which were rejected; whether the first one accepted could have failed; its test's excesses.

    tolerance and excess [H, M, M]: zeta, and difference minus zeta, for small class, large class; 0 where the second
    is not larger.
    """

    chosen: Int[Array, ""]
    rejected: Bool[Array, " M"]
    blind: Bool[Array, ""]
    tolerance: Float[Array, "H M M"]
    excess: Float[Array, "H M M"]


def choose_by_modbe(found: Comparisons, n_params: Float[Array, " M"], config: ModBEConfig) -> Choice:
    """The first class that no larger one rejects at any stage. Source: arXiv 2211.02016 as recalled; zeta ours."""
    zeta = jnp.triu(_tolerance(found, n_params, config), 1)
    excess = jnp.triu(found.small[..., None] - found.large - zeta, 1)
    rejected = (excess > 0).any((0, 2))
    accepted = jnp.argmin(rejected)
    last = found.small.shape[1] - 1
    blind = (accepted < last) & (found.effective_rows[:, accepted].min() < config.min_effective_rows)
    instead = {"keep": accepted, "largest": last, "hold_out": choose_by_hold_out(found)}[config.on_blind]
    return Choice(jnp.where(blind, instead, accepted), rejected, blind, zeta, excess)


def choose_by_hold_out(found: Comparisons) -> Int[Array, ""]:
    """The class with the smallest sum over stages of its squared error to its own target on validation rows."""
    return jnp.asarray(found.small).sum(0).argmin()


def choose_by_gap(found: Comparisons) -> Int[Array, ""]:
    """The class nearest to the largest class's fit of its target, summed over stages: a regressed Bellman error."""
    return jnp.asarray(found.gap).sum(0).argmin()


def _tolerance(found: Comparisons, n_params: Array, config: ModBEConfig) -> Array:
    stages, classes = found.small.shape
    if config.tolerance == "none":
        return jnp.zeros_like(jnp.asarray(found.large))
    if config.tolerance == "paired_t":
        return config.z * jnp.asarray(found.se)
    size = n_params + 2 * jnp.log(20 * classes * stages)
    return config.alpha * jnp.asarray(found.large) * size[:, None] / found.rows[:, None, None]
