"""The compiled part of the training loop: many updates in one call, each checked for NaN and infinity."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jaxtyping import Array, Bool, Int

from gleanings.core import keys
from gleanings.core._leaves import Leaves, is_key, split
from gleanings.core._members import freeze, spread
from gleanings.core.compiling import for_long_runs
from gleanings.core.errors import ConfigError


class Health(NamedTuple):
    """`bad` updates gave something non-finite, the first one being update `first` (-1: none).

    `finite` tells for each checked value whether it was finite there. `frozen`, if members are frozen: the step from
    which each one is, 0: it is not; what becomes of it afterwards counts no more.
    """

    bad: Int[Array, ""]
    first: Int[Array, ""]
    finite: Bool[Array, " L"]
    frozen: Int[Array, " M"] | None


class Advance(NamedTuple):
    """Compiled updates. `run(arrays, start, count, batch, frozen)` -> (arrays, metric values, Health).

    `arrays` are donated. `frozen` is that of the `Health` before, None unless members are frozen.
    `names` are those of the metrics, `checked` those of the values `Health.finite` tells about. `many` says
    whether `count` may exceed 1.
    """

    run: Callable[..., tuple[list[Array], list[Array], Health]]
    names: tuple[str, ...]
    checked: tuple[str, ...]
    many: bool


def copier(arrays: Sequence[Any]) -> Callable[[Sequence[Any]], list[Array]]:
    """A compiled copy of arrays placed like `arrays`, without weak types: copies survive donation."""

    def copy(values: Sequence[Any]) -> list[Array]:
        return [jnp.copy(x) if is_key(x) else lax.convert_element_type(jnp.copy(x), x.dtype) for x in values]

    return jax.jit(copy, out_shardings=placements(arrays))


def placements(arrays: Sequence[Any]) -> list[Any]:
    """Sharding of each committed array; None leaves the choice to the compiler."""
    return [x.sharding if isinstance(x, jax.Array) and x.committed else None for x in arrays]


def shared(arrays: Sequence[Any]) -> Any:
    """Where a small array that all `arrays` need is best kept; None leaves the choice to the compiler."""
    for placement in placements(arrays):
        if isinstance(placement, jax.sharding.NamedSharding):
            return jax.sharding.NamedSharding(placement.mesh, jax.sharding.PartitionSpec())
        if placement is not None and placement.is_fully_replicated:
            return placement
    return None


def compile_advance(
    update: Callable[..., Any],
    draw: Callable[..., Any] | None,
    leaves: Leaves,
    seed: int,
    batch: Any,
    skip: bool,
    members: Sequence[str] = (),
    freezes: bool = False,
) -> Advance:
    """Trace `update` (and `draw`) once, check what it returns, and compile it with the finite check.

    `batch` is an example, or None when `draw` or nothing supplies it; `skip` undoes non-finite updates, `freezes` those
    of the members that are not finite, from then on. Raises ConfigError when the new state is not shaped like the old
    one, or the metrics are not a flat dict of scalars and of values [M] of the `members`.
    """

    def one(arrays: list[Array], step: Array, seed: Array, batch: Any) -> Any:
        state = leaves.join(arrays)
        if draw is not None:
            batch = draw(state, keys.stream(seed, "draw", step))
        state, metrics = update(state, batch, keys.stream(seed, "update", step))
        numbers = _numbers(metrics, len(members))
        # To tell which member is lost, values of each are needed; else their means and names are part of the trace.
        return _same_form(split(state), leaves), numbers if freezes else spread(numbers, members)

    number = jnp.int32(0)
    traced, (_, metrics) = jax.make_jaxpr(one, return_shape=True)(leaves.arrays, number, number, batch)
    # On XLA:CPU a convolution runs many times slower inside a loop than outside.
    slow_loop = jax.default_backend() == "cpu" and "conv_general_dilated" in str(traced.jaxpr)
    many = batch is None and not slow_loop
    floats = [i for i, a in enumerate(traced.out_avals) if jnp.issubdtype(a.dtype, jnp.inexact)]
    names = (*leaves.names, *(f"metrics/{name}" for name in metrics))

    def reported(values: Sequence[Any], alive: Array | None) -> dict[str, Any]:
        found = dict(zip(metrics, values, strict=True))
        return spread(found, members, alive) if freezes else found

    shown = jax.eval_shape(reported, traced.out_avals[len(leaves.arrays) :], None)
    step = _checked(traced, floats, skip, reported)
    run = _repeated(step, list(shown.values()), len(floats), many)
    health = Health(None, None, None, shared(leaves.arrays) if freezes else None)  # pyright: ignore[reportArgumentType]
    placed = placements(leaves.arrays), None, health
    compiled = jax.jit(run, donate_argnums=1, out_shardings=placed, compiler_options=for_long_runs())

    def advance(arrays: list[Array], start: int, count: int, batch: Any, frozen: Any = None) -> Any:
        return compiled(traced.consts, arrays, start, count, seed, jax.tree.leaves(batch), frozen)

    return Advance(advance, tuple(shown), tuple(names[i] for i in floats), many)


def _checked(
    traced: core.ClosedJaxpr, floats: list[int], skip: bool, reported: Callable[..., dict[str, Array]]
) -> Callable[..., Any]:
    """One update from its trace, and for each output in `floats` whether it is finite."""
    forms = [(a.shape, a.dtype) for a in traced.in_avals]

    def step(constants: Any, arrays: list[Array], number: Array, seed: Array, batch: list[Array], frozen: Any) -> Any:
        inputs = [*arrays, number, seed, *batch]
        if (given := [(x.shape, x.dtype) for x in inputs]) != forms:
            changed = sorted({f"{d}{list(s)}" for s, d in given} - {f"{d}{list(s)}" for s, d in forms})
            raise ConfigError(f"data: a batch differs in form from the first one: {', '.join(changed)}")
        # Arrays that update and draw close over are arguments: as constants they would be compiled in.
        outputs = core.jaxpr_as_fun(core.ClosedJaxpr(traced.jaxpr, constants))(*inputs)
        new, values = outputs[: len(arrays)], outputs[len(arrays) :]
        if frozen is None:
            finite = jnp.stack([jnp.isfinite(outputs[i]).all() for i in floats] or [jnp.bool_(True)])
            kept = finite.all() if skip else None
        else:
            frozen, finite = freeze([outputs[i] for i in floats], frozen, number)
            kept = frozen == 0
        if kept is not None:
            new = [_select(kept, x, old) for x, old in zip(new, arrays, strict=True)]
        return new, list(reported(values, kept).values()), finite, frozen

    return step


def _repeated(step: Callable[..., Any], values: Sequence[Any], checked: int, many: bool) -> Callable[..., Any]:
    """`count` steps in one call. The count is not static: any grouping of steps runs the same code."""

    def run(constants: Any, arrays: list[Array], start: Any, count: Any, seed: Any, batch: Any, frozen: Any) -> Any:
        def body(carry: Any) -> Any:
            number, arrays, _, health = carry
            arrays, values, finite, frozen = step(constants, arrays, number, seed, batch, health.frozen)
            return number + 1, arrays, values, _note(health, finite, number)._replace(frozen=frozen)

        start, seed = jnp.asarray(start, jnp.int32), jnp.asarray(seed, jnp.int32)
        zeros = [jnp.zeros(a.shape, a.dtype) for a in values]
        well = Health(jnp.int32(0), jnp.int32(-1), jnp.ones(max(checked, 1), bool), frozen)
        carry = (start, arrays, zeros, well)
        carry = lax.while_loop(lambda c: c[0] < start + count, body, carry) if many else body(carry)
        return carry[1:]

    return run


def _select(use_new: Array, new: Array, old: Array) -> Array:
    """All of `new` or `old`, or each row of them."""
    if is_key(new):
        data = _select(use_new, jax.random.key_data(new), jax.random.key_data(old))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(new))
    if use_new.ndim:
        use_new = jnp.broadcast_to(use_new.reshape(-1, *(1,) * (new.ndim - 1)), new.shape)
    return lax.select(use_new, new, old)


def _note(health: Health, finite: Bool[Array, " L"], number: Int[Array, ""]) -> Health:
    bad = ~finite.all()
    first = bad & (health.first < 0)
    return health._replace(
        bad=health.bad + bad,
        first=jnp.where(first, number, health.first),
        finite=jnp.where(first, finite, health.finite),
    )


def _same_form(new: Leaves, old: Leaves) -> list[Array]:
    if new.structure != old.structure or new.names != old.names:
        changed = sorted(set(new.names) ^ set(old.names))
        raise ConfigError(f"update: the new state differs in structure from the old one: {changed[:5]}")
    arrays = [x if is_key(x) else jnp.asarray(x) for x in new.arrays]
    for name, x, before in zip(new.names, arrays, old.arrays, strict=True):
        if (x.shape, x.dtype) != (before.shape, before.dtype):
            forms = f"{before.dtype}{list(before.shape)} to {x.dtype}{list(x.shape)}"
            raise ConfigError(f"update: state leaf {name} turns from {forms}; it must keep its form")
    return [x if is_key(x) else lax.convert_element_type(x, x.dtype) for x in arrays]  # no weak types


def _numbers(metrics: Any, members: int) -> dict[str, Array]:
    """Scalars, and values [M] of the members if there are any."""
    if not isinstance(metrics, dict):
        raise ConfigError(f"update: metrics must be a dict of scalars, got {type(metrics).__name__}")
    for name, value in metrics.items():
        if isinstance(value, dict) or (jnp.ndim(value) != 0 and (not members or jnp.shape(value) != (members,))):
            each = f" or have {members} values, one a member" if members else ""
            raise ConfigError(f"update: metric {name!r} must be a scalar{each}; name groups as 'group/name'")
    return {name: lax.convert_element_type(value, jnp.result_type(value)) for name, value in metrics.items()}
