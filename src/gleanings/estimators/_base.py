"""The interface that all estimators share, and the part of the work that is the same for each of them.

An estimator turns logits into n joint draws, has f evaluated once on all of them, and returns the mean of f with an
estimate of its gradient. Members differ in how the draws are coupled and how the values of f are combined; checking
the input, excluded categories, non-finite values, binary variables and pytrees are handled here.
"""

import abc
from collections.abc import Callable
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gleanings.core.errors import ConfigError
from gleanings.estimators._logits import Logits

Function = Callable[[PyTree], Array]
Variable = Literal["categorical", "binary"]
Residual = PyTree


class Draw(eqx.Module):
    """n joint draws of all variables, with what the cotangent needs to know about them.

    `samples` has the structure of the logits, one-hot `[n, *batch, D, K]` (binary: 0/1 `[n, *batch, D]`); `weights`
    are those of the value, `[n, *batch]`, summing to 1 over n; `residual` belongs to the member; `logits` are the
    cleaned ones.
    """

    samples: PyTree[Float[Array, "..."]]
    weights: Float[Array, "n *batch"]
    residual: Residual
    logits: Logits


class AbstractEstimator(eqx.Module):
    """An estimator of d E[f(z)] / d logits, called as `(f, logits, key) -> (value, cotangent)`.

    `num_evaluations` is n, or None where it depends on the shape of the logits (see `evaluations`).
    """

    num_evaluations: eqx.AbstractVar[int | None]
    variable: eqx.AbstractVar[Variable]
    is_unbiased: eqx.AbstractClassVar[bool]
    needs_gradient_of_f: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def evaluations(self, logits: PyTree) -> int:
        """Number n of evaluations of f that one gradient costs for `logits` `[*batch, D, K]`."""

    @abc.abstractmethod
    def __call__(
        self, f: Function, logits: PyTree, key: Array
    ) -> tuple[Float[Array, "*batch"], PyTree[Float[Array, "..."]]]:
        """Estimate E[f] and its gradient in the logits.

        f is called once on one-hot `[n, *batch, D, K]` and returns `[n, *batch]`. `logits` are float `[*batch, D, K]`
        (binary: `[*batch, D]`), or a pytree of such with a common batch. Returns the value `[*batch]` and the
        cotangent, with the structure, shapes and dtypes of `logits`, not averaged over the batch. Raises
        ConfigError for a wrong rank, dtype or key and for an f that does not return one value per example.
        """


class AbstractLinearEstimator(AbstractEstimator):
    """An estimator linear in the values of f: cotangent = sum_i A_i f_i with A_i a function of the draws only."""

    needs_gradient_of_f: ClassVar[bool] = False

    @abc.abstractmethod
    def _draw(self, logits: Logits, key: Array) -> tuple[list[Array], Array | None, Residual]:
        """Categorical samples `[n, *batch, D, K]` per leaf, value weights (None: 1/n), residual."""

    @abc.abstractmethod
    def _cotangent(self, logits: Logits, residual: Residual, f_values: Array) -> list[Array]:
        """Cotangents `[*batch, D, K]` per leaf."""

    def draw(self, logits: PyTree, key: Array) -> Draw:
        """Draw all n evaluations of `logits` `[*batch, D, K]`; shapes and errors as for a call of the estimator."""
        clean = Logits.of(logits, self.variable)
        samples, weights, residual = self._draw(clean, checked_key(key))
        n = samples[0].shape[0]
        shape = (n, *clean.batch)
        weights = jnp.full(shape, 1 / n, clean.dtype) if weights is None else jnp.broadcast_to(weights, shape)
        return Draw(clean.samples(samples), weights, residual, clean)

    def cotangent(self, draw: Draw, f_values: Float[Array, "n *batch"]) -> PyTree[Float[Array, "..."]]:
        """Gradient estimate, like the logits, from the values `[n, *batch]` of f at `draw.samples`."""
        usable = jnp.isfinite(f_values).all(0)
        leaves = self._cotangent(draw.logits, draw.residual, f_values)
        return draw.logits.cotangent(leaves, usable)

    def coefficients(self, draw: Draw) -> PyTree[Float[Array, "..."]]:
        """The A_i `[n, *batch, D, K]` of the linear form, for which cotangent = sum_i A_i f_i."""
        n = draw.weights.shape[0]
        unit = jnp.eye(n, dtype=draw.weights.dtype).reshape(n, n, *[1] * (draw.weights.ndim - 1))
        rows = jnp.broadcast_to(unit, (n, *draw.weights.shape))
        return jax.vmap(lambda row: self.cotangent(draw, row))(rows)

    def __call__(
        self, f: Function, logits: PyTree, key: Array
    ) -> tuple[Float[Array, "*batch"], PyTree[Float[Array, "..."]]]:
        draw = self.draw(logits, key)
        f_values = evaluate(f, draw.samples, draw.weights.shape)
        value = draw.logits.value(f_values, draw.weights)
        return value, self.cotangent(draw, f_values)


class AbstractLeafwiseEstimator(AbstractLinearEstimator):
    """A linear estimator that treats each leaf of the logits alone; the leaves share only the values of f."""

    @abc.abstractmethod
    def _draw_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        """Samples `[n, *batch, D, K]` of `logits` `[*batch, D, K]`, and the residual."""

    @abc.abstractmethod
    def _cotangent_leaf(self, logits: Array, residual: Residual, f_values: Array) -> Array:
        """Cotangent `[*batch, D, K]`."""

    def _draw(self, logits: Logits, key: Array) -> tuple[list[Array], Array | None, Residual]:
        keys = jax.random.split(key, len(logits.leaves))
        pairs = [self._draw_leaf(leaf, key) for leaf, key in zip(logits.leaves, keys, strict=True)]
        return [samples for samples, _ in pairs], None, [residual for _, residual in pairs]

    def _cotangent(self, logits: Logits, residual: Residual, f_values: Array) -> list[Array]:
        pairs = zip(logits.leaves, residual, strict=True)
        return [self._cotangent_leaf(leaf, part, f_values) for leaf, part in pairs]

    def evaluations(self, logits: PyTree) -> int:
        """Number n of evaluations of f that one gradient costs."""
        assert self.num_evaluations is not None
        return self.num_evaluations


def evaluate(f: Function, samples: PyTree, shape: tuple[int, ...]) -> Float[Array, "n *batch"]:
    """Values of f at `samples`, required to have `shape` = `[n, *batch]`; integers and booleans become float32."""
    return checked_values(f(samples), shape)


def checked_values(f_values: Array, shape: tuple[int, ...]) -> Float[Array, "n *batch"]:
    """`f_values` as floats; ConfigError unless they have `shape` = `[n, *batch]`."""
    if jnp.shape(f_values) != tuple(shape):
        raise ConfigError(
            f"f returned shape {list(jnp.shape(f_values))} where {list(shape)} = [n, *batch] is needed: "
            "return one value per example, not averaged over the batch or the evaluations"
        )
    f_values = jnp.asarray(f_values)
    return f_values if jnp.issubdtype(f_values.dtype, jnp.floating) else f_values.astype(jnp.float32)


def checked_key(key: Array) -> Array:
    """`key`; ConfigError unless it is one typed key."""
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ConfigError(
            f"key has dtype {getattr(key, 'dtype', type(key).__name__)}: pass a typed key, jax.random.key(seed)"
        )
    if key.shape != ():
        raise ConfigError(f"key has shape {list(key.shape)}: pass one key (vmap over an array of keys)")
    return key


def check_num_evaluations(num_evaluations: int, minimum: int) -> None:
    """ConfigError unless `num_evaluations` is an integer of at least `minimum`."""
    if not isinstance(num_evaluations, int) or num_evaluations < minimum:
        raise ConfigError(f"num_evaluations = {num_evaluations!r}: an integer of at least {minimum} is needed")


def check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """ConfigError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{name} = {value!r}: allowed values are {', '.join(map(repr, allowed))}")
