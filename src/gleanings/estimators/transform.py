"""`expect`: the expectation of a function of discrete variables as something jax.grad understands."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gleanings.core.errors import GleaningsError
from gleanings.estimators._base import AbstractEstimator

ParametricFunction = Callable[[PyTree, PyTree], Array]
Objective = Callable[[PyTree, PyTree, Array], Float[Array, "*batch"]]


def expect(estimator: AbstractEstimator) -> Callable[[ParametricFunction], Objective]:
    """Turn f(params, z) into E[f(params, z)], z drawn from logits, differentiable once in the logits.

    `expect(estimator)(f)(params, logits, key)` returns the value `[*batch]`. Its derivative in the logits is the
    estimator's cotangent, that in `params` the pathwise gradient over the same draws; `params` may be differentiated
    again, the logits not (GleaningsError). f takes one-hot `[n, *batch, D, K]`, is called once, and returns
    `[n, *batch]`. If f depends on the logits too (an ELBO's -log q), pass them inside `params`. Works under jit, vmap,
    scan, checkpoint and shard_map. Raises ConfigError as the estimator does. Source: ours.
    """

    def decorate(f: ParametricFunction) -> Objective:
        def objective(params: PyTree, logits: PyTree, key: Array) -> Float[Array, "*batch"]:
            value, cotangent = estimator(lambda z: f(params, z), jax.lax.stop_gradient(logits), key)
            return link(value, cotangent, logits)

        return objective

    return decorate


@jax.custom_jvp
def link(
    value: Float[Array, "*batch"], cotangent: PyTree[Float[Array, "..."]], logits: PyTree
) -> Float[Array, "*batch"]:
    """`value`, given the derivative `cotangent` in `logits`; both have the batch of `value` leading. Source: ours."""
    del cotangent, logits
    return value


@link.defjvp
def _link_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    value, cotangent, logits = primals
    value_dot, _, logits_dot = tangents
    for leaves in zip(*map(jax.tree.leaves, (cotangent, logits, logits_dot)), strict=True):
        g, at, dot = leaves
        axes = tuple(range(value.ndim, g.ndim))
        value_dot = value_dot + (first_order(g, at) * dot).sum(axes).astype(value.dtype)
    return value, value_dot


def first_order(derivative: Float[Array, "..."], logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """`derivative`, marked as one in `logits` that must not be differentiated in them again. Source: ours."""
    return jnp.where(jnp.isnan(_differentiable_never(logits)), jnp.nan, derivative)


@jax.custom_jvp
def _differentiable_never(logits: Array) -> Array:
    return logits


@_differentiable_never.defjvp
def _differentiable_never_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    raise GleaningsError(
        "estimator gradients are first order: the second derivative of an expectation in its logits is not available"
    )
