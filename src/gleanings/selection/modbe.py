"""ModBE: the first of nested classes whose fit no larger class improves on, judged on the small class's own targets.

Deviations from arXiv 2211.02016, of which only the abstract could be read: the structure is as recalled, every
tolerance and the guard against blind tests are ours.
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gleanings.core.errors import ConfigError
from gleanings.selection.prefix import Comparisons

Tolerance = Literal["auto", "practical", "paired_t", "theory", "none"]
OnBlind = Literal["keep", "largest", "holdout_td"]


@dataclass(frozen=True)
class ModBEConfig:
    """How ModBE tests a class.

    tolerance: `practical` is alpha s^2 (p + 2 log(20 M H)) / n, p the parameters of the small class a stage, s^2 the
    squared error of the large class and n the validation rows; `paired_t` is z standard errors of the paired
    difference; `theory` is 1.5 omega + 9 bound^2 log(2 M^2 H / delta) / n; `none` is zero; `auto` is practical where p
    is known and at most half of the training rows, else paired_t. alpha, z: their factors; z is 2.5, or 1.645 among
    networks, if None. omega: bound on each class's squared Bellman error, for outputs and targets in [0, bound].

    min_effective_rows: an accepted class, but for the largest, whose error is carried by fewer rows was not tested.
    on_blind: what is chosen then. full_table: compare all classes, also behind the first one accepted. refit: fit the
    choice once more on all rows. Source: ours.
    """

    tolerance: Tolerance = "auto"
    alpha: float = 1.0
    z: float | None = None
    omega: tuple[float, ...] = ()
    bound: float = 1.0
    delta: float = 0.1
    min_effective_rows: float = 10.0
    on_blind: OnBlind = "keep"
    full_table: bool = False
    refit: bool = False

    def __post_init__(self) -> None:
        if min(self.alpha, self.z or 0, self.min_effective_rows, self.bound) < 0:
            raise ConfigError(f"{self}: alpha, z, bound and min_effective_rows must not be negative")
        if self.tolerance not in get_args(Tolerance) or self.on_blind not in get_args(OnBlind):
            raise ConfigError(f"{self}: tolerance is one of {get_args(Tolerance)}, on_blind of {get_args(OnBlind)}")
        if not 0 < self.delta < 1:
            raise ConfigError(f"{self}: delta must lie between 0 and 1")


DEFAULT = ModBEConfig()
_Z = 2.5


class Choice(NamedTuple):
    """The class chosen; which were rejected; whether the first one accepted could not have failed.

    blind: too few rows carry its error. vacuous: a tolerance exceeds the whole error. certified: a larger class tested
    the choice and could have rejected it. tolerance and excess [H, M, M]: zeta, and difference minus zeta, for small
    class, large class; 0 where the second is not larger.
    """

    chosen: Int[Array, ""]
    rejected: Bool[Array, " M"]
    blind: Bool[Array, ""]
    vacuous: Bool[Array, ""]
    certified: Bool[Array, ""]
    tolerance: Float[Array, "H M M"]
    excess: Float[Array, "H M M"]


@functools.partial(jax.jit, static_argnames="config")
def choose_by_modbe(found: Comparisons, n_params: Float[Array, " M"], config: ModBEConfig) -> Choice:
    """The first class that no larger one rejects at any stage; n_params is NaN where paired_t shall judge.

    Source: arXiv 2211.02016 as recalled; zeta ours.
    """
    zeta = jnp.triu(_tolerance(found, n_params, config), 1)
    excess = jnp.triu(found.small[..., None] - found.large - zeta, 1)
    rejected = (excess > 0).any((0, 2))
    accepted = jnp.argmin(rejected)
    last = found.small.shape[1] - 1
    blind = (accepted < last) & (found.effective_rows[:, accepted].min() < config.min_effective_rows)
    vacuous = (zeta > jnp.triu(found.large, 1))[:, accepted].any()
    instead = {"keep": accepted, "largest": last, "holdout_td": choose_by_hold_out(found)}[config.on_blind]
    certified = (accepted < last) & ~blind & ~vacuous
    return Choice(jnp.where(blind, instead, accepted), rejected, blind, vacuous, certified, zeta, excess)


@jax.jit
def choose_by_hold_out(found: Comparisons) -> Int[Array, ""]:
    """The class with the smallest sum over stages of its squared error to its own target on validation rows."""
    return jnp.asarray(found.small).sum(0).argmin()


@jax.jit
def choose_by_gap(found: Comparisons) -> Int[Array, ""]:
    """The class nearest to the largest class's fit of its target, summed over stages: a regressed Bellman error."""
    return jnp.asarray(found.gap).sum(0).argmin()


def _tolerance(found: Comparisons, n_params: Array, config: ModBEConfig) -> Array:
    stages, classes = found.small.shape
    rows, paired = found.rows[:, None, None], (_Z if config.z is None else config.z) * jnp.asarray(found.se)
    practical = (
        config.alpha * jnp.asarray(found.large) * (n_params + 2 * jnp.log(20 * classes * stages))[:, None] / rows
    )
    if config.tolerance == "none":
        return jnp.zeros_like(practical)
    if config.tolerance == "paired_t":
        return paired
    if config.tolerance == "theory":
        if len(config.omega) != classes:
            raise ConfigError(f"tolerance 'theory' needs omega, a bound for each of {classes} classes")
        deviation = 9 * config.bound**2 * math.log(2 * classes**2 * stages / config.delta) / rows
        return jnp.broadcast_to(1.5 * jnp.asarray(config.omega)[:, None] + deviation, practical.shape)
    return practical if config.tolerance == "practical" else jnp.where(jnp.isnan(practical), paired, practical)
