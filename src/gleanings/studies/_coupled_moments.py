"""Mean and variance of gradient estimates, compiled once for each estimator, and how programs are compiled here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_PLAIN = "jax_disable_most_optimizations"
# Floats of one-hot draws computed together: on a CPU what fits the caches.
_AT_ONCE = {"cpu": 500_000}
_AT_ONCE_ELSEWHERE = 2**26


class Moments(NamedTuple):
    """Of gradient estimates, for each of I examples: mean, total variance, and the standard error of the latter."""

    mean: Float[Array, "I P"]
    variance: Float[Array, " I"]
    standard_error: Float[Array, " I"]


def moments(estimator: Any, problem: Callable[..., tuple[Any, Array]], draws: int) -> Any:
    """A compiled `(key, *arguments) -> Moments` of `draws` estimates, for `problem(*arguments) -> (f, logits)`."""

    def run(key: Array, *arguments: Any) -> Moments:
        f, logits = problem(*arguments)
        size = estimator.evaluations(logits) * logits.size
        limit = _AT_ONCE.get(jax.default_backend(), _AT_ONCE_ELSEWHERE)
        rows = max(r for r in range(1, draws + 1) if draws % r == 0 and (r == 1 or r * size <= limit))
        repeated = jnp.broadcast_to(logits, (rows, *logits.shape))
        estimates = jax.lax.map(lambda key: estimator(f, repeated, key)[1], jax.random.split(key, draws // rows))
        estimates = estimates.reshape(draws, len(logits), -1)
        mean = estimates.mean(0)
        squares = ((estimates - mean) ** 2).sum(-1)
        return Moments(mean, squares.sum(0) / (draws - 1), squares.std(0) / draws**0.5)

    return jit(run)


def jit(function: Callable[..., Any]) -> Any:
    """`jax.jit` for large programs that run briefly: XLA for CPU takes half the time, and they run as fast."""
    plain = jax.config.read(_PLAIN) or jax.default_backend() != "cpu"
    return jax.jit(function, compiler_options=None if plain else {"xla_backend_optimization_level": 1})


@contextmanager
def plain_compilation() -> Iterator[None]:
    """Compile quickly rather than well: for programs that run for less time than they compile."""
    before = jax.config.read(_PLAIN)
    jax.config.update(_PLAIN, True)
    try:
        yield
    finally:
        jax.config.update(_PLAIN, before)


def rounded(values: Any, digits: int = 5) -> Any:
    """Nested lists of `values` with that many significant digits, to keep the evidence small."""
    array = np.asarray(values, np.float64)
    return np.vectorize(lambda x: float(f"{x:.{digits}g}"), otypes=[float])(array).tolist()
