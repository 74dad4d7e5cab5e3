"""Members of one training, such as seeds: rows of its state, metrics of each, and freezing those that are lost."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def prefix(member: str) -> str:
    """What the names of a member's own metrics begin with, such as `seed-3/` for 'seed 3'."""
    return f"{member.replace(' ', '-')}/"


def spread(metrics: dict[str, Array], members: Sequence[str], alive: Bool[Array, " M"] | None = None) -> dict[str, Any]:
    """Scalars by name: of a metric that is [M] the mean over the members alive and, of several, the value of each."""
    found = {name: jnp.mean(value, where=alive) if value.ndim else value for name, value in metrics.items()}
    if len(members) > 1:
        each = {name: value for name, value in metrics.items() if value.ndim}
        found |= {f"{prefix(m)}{name}": value[k] for k, m in enumerate(members) for name, value in each.items()}
    return dict(sorted(found.items()))


def freeze(
    values: Sequence[Array], frozen: Int[Array, " M"], number: Array
) -> tuple[Int[Array, " M"], Bool[Array, " L"]]:
    """The step from which each member is frozen, 0: not, after update `number`; and whether each value is finite.

    values: of the update; [M, ...], or a scalar that belongs to all. What is frozen already does not count.
    """
    count = len(frozen)
    rows = [jnp.isfinite(x).reshape(count, -1).all(1) if x.ndim else jnp.isfinite(x).repeat(count) for x in values]
    finite = jnp.stack(rows or [jnp.ones(count, bool)]) | (frozen > 0)
    return jnp.where(finite.all(0), frozen, number + 1), finite.all(1)
