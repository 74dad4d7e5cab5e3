"""Biased estimators from one evaluation and one backward pass through f.

Each member is a sample z with a surrogate Jacobian dz/dlogits: cotangent = Jacobian^T f'(z). In `expect_graph` that
Jacobian carries the gradient of everything that follows.
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gleanings.core.errors import ConfigError
from gleanings.estimators._base import (
    AbstractEstimator,
    Function,
    Residual,
    Variable,
    check_choice,
    checked_key,
    checked_values,
)
from gleanings.estimators._logits import Logits
from gleanings.estimators._sampling import one_hot, sample_categorical


class AbstractStraightEstimator(AbstractEstimator):
    """A biased estimator that differentiates f at one (possibly relaxed) sample."""

    num_evaluations: ClassVar[int] = 1
    is_unbiased: ClassVar[bool] = False
    needs_gradient_of_f: ClassVar[bool] = True

    @abc.abstractmethod
    def _sample_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        """z `[*batch, D, K]` and what the Jacobian needs."""

    @abc.abstractmethod
    def jacobian_product(self, residual: Residual, x: Float[Array, "*batch D K"]) -> Float[Array, "*batch D K"]:
        """The (symmetric) surrogate Jacobian dz/dlogits applied to `x`."""

    def evaluations(self, logits: PyTree) -> int:
        """One evaluation."""
        return 1

    def sample(self, logits: Logits, key: Array) -> tuple[list[Float[Array, "..."]], list[Residual]]:
        """Samples `[*batch, D, K]` per leaf and the residuals of their Jacobians."""
        keys = jax.random.split(checked_key(key), len(logits.leaves))
        pairs = [self._sample_leaf(leaf, key) for leaf, key in zip(logits.leaves, keys, strict=True)]
        return [z for z, _ in pairs], [residual for _, residual in pairs]

    def __call__(
        self, f: Function, logits: PyTree, key: Array
    ) -> tuple[Float[Array, "*batch"], PyTree[Float[Array, "..."]]]:
        clean = Logits.of(logits, self.variable)
        shape = (1, *clean.batch)
        samples, residuals = self.sample(clean, key)

        def stacked(z: list[Array]) -> Array:
            return f(clean.samples([leaf[None] for leaf in z]))

        f_values, gradients = _value_and_gradient(stacked, samples, shape)
        pairs = zip(residuals, gradients, strict=True)
        leaves = [self.jacobian_product(residual, slope) for residual, slope in pairs]
        value = clean.value(f_values, jnp.ones(shape, f_values.dtype))
        return value, clean.cotangent(leaves, jnp.isfinite(f_values).all(0))


def _value_and_gradient(
    f: Callable[[list[Array]], Array], samples: list[Array], shape: tuple[int, ...]
) -> tuple[Array, list[Array]]:
    message = (
        "f is not differentiable in z, which this estimator needs: use a member that needs no gradient of f "
        "(ReinforceLOO, CoupledLOO, DisARMTree, ...)"
    )
    try:
        f_values, pull = jax.vjp(f, samples)
    except Exception as error:
        jax.eval_shape(f, samples)  # an error of f itself passes through
        raise ConfigError(message) from error
    if not jnp.issubdtype(f_values.dtype, jnp.floating):
        raise ConfigError(message)
    f_values = checked_values(f_values, shape)
    (gradients,) = pull(jnp.ones_like(f_values))
    return f_values, gradients


def softmax_product(v: Float[Array, "*batch K"], x: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
    """J_v x = v * (x - sum(v x)), the Jacobian of softmax at probabilities v. Source: standard calculus."""
    return v * (x - (v * x).sum(-1, keepdims=True))


class StraightThrough(AbstractStraightEstimator):
    """J_q f'(o), as if the sample were its probabilities.

    Source: Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons".
    """

    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)

    def __check_init__(self) -> None:
        check_choice("variable", self.variable, ("categorical", "binary"))

    def _sample_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        q = jax.nn.softmax(logits)
        return sample_categorical(q, key, 1)[0], q

    def jacobian_product(self, residual: Residual, x: Float[Array, "*batch D K"]) -> Float[Array, "*batch D K"]:
        """J_q x. Source: as the class."""
        return softmax_product(residual, x)


class GumbelSoftmax(AbstractStraightEstimator):
    """J_y f' / tau with y = softmax((theta + Gumbel) / tau); f at y, or with `hard` at its argmax (straight-through).

    Without `hard` the value is biased too. Source: Jang et al. 2017, arXiv 1611.01144; Maddison et al. 2017.
    """

    temperature: float = eqx.field(static=True, default=1.0)
    hard: bool = eqx.field(static=True, default=False)
    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)

    def __check_init__(self) -> None:
        _check_temperature(self.temperature)
        check_choice("variable", self.variable, ("categorical", "binary"))

    def _sample_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        noisy = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
        y = jax.nn.softmax(noisy / self.temperature)
        z = one_hot(jnp.argmax(noisy, -1), logits.shape[-1], logits.dtype) if self.hard else y
        return z, y

    def jacobian_product(self, residual: Residual, x: Float[Array, "*batch D K"]) -> Float[Array, "*batch D K"]:
        """J_y x / tau. Source: as the class."""
        return softmax_product(residual, x) / self.temperature


class ReinMax(AbstractStraightEstimator):
    """2 J_{(q_tau + o)/2} f'(o) - 1/2 J_q f'(o); exact for separable quadratics at temperature 1.

    `temperature` enters only the q of the first term. Source: Liu et al. 2023, arXiv 2304.08612, algorithm 2.
    """

    temperature: float = eqx.field(static=True, default=1.0)
    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)

    def __check_init__(self) -> None:
        _check_temperature(self.temperature)
        check_choice("variable", self.variable, ("categorical", "binary"))

    def _sample_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        q = jax.nn.softmax(logits)
        z = sample_categorical(q, key, 1)[0]
        return z, ((jax.nn.softmax(logits / self.temperature) + z) / 2, q)

    def jacobian_product(self, residual: Residual, x: Float[Array, "*batch D K"]) -> Float[Array, "*batch D K"]:
        """2 J_{(q_tau + o)/2} x - 1/2 J_q x. Source: as the class."""
        middle, q = residual
        return 2 * softmax_product(middle, x) - softmax_product(q, x) / 2


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ConfigError(f"temperature = {temperature!r}: a number above 0 is needed")
