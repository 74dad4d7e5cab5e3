"""Linear layers and layer normalisation on rows, and their random start from one draw. Source: ours."""

import functools
import math
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Key

T = TypeVar("T")
_NARROW, _ALIASED = 8, 128  # numbers


class Dense(eqx.Module):
    """x weight + bias on the last axis, one matrix product however many rows. All zeros until `initialised`.

    Rows of several axes become those of one, or the gradient of the weight would copy them first.
    """

    weight: Float32[Array, "D F"]
    bias: Float32[Array, " F"] | None
    gain: float = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, *, gain: float = 1.0, bias: bool = True) -> None:
        self.weight, self.gain = _filled(0, inputs, outputs), gain
        self.bias = _filled(0, outputs) if bias else None

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows F"]:
        """Rows of outputs."""
        rows = x if x.ndim < 3 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        y = product(rows, self.weight) if rows.ndim == 2 else rows @ self.weight
        y = y.reshape(*x.shape[:-1], self.weight.shape[-1])
        return y if self.bias is None else y + self.bias


@jax.custom_vjp
def product(rows: Float[Array, "B D"], weight: Float[Array, "D F"]) -> Float[Array, "B F"]:
    """rows weight; the gradient of the weight is taken in the form that XLA's CPU code is fastest at."""
    return rows @ weight


def _product(rows: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return rows @ weight, (rows, weight)


def _slopes(known: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    rows, weight = known
    inputs, outputs = weight.shape
    if jax.default_backend() != "cpu":
        of_weight = rows.T @ slope
    elif outputs <= _NARROW:  # XLA would turn the product round again
        of_weight = lax.optimization_barrier(slope.T @ rows).T
    elif inputs % _ALIASED == 0:  # rows so far apart share places in the cache
        of_weight = (jnp.pad(rows, ((0, 0), (0, 1))).T @ slope)[:-1]
    else:
        of_weight = rows.T @ slope
    return slope @ weight.T, of_weight


product.defvjp(_product, _slopes)


class Norm(eqx.Module):
    """Layer normalisation of the last axis, with a scale and a shift."""

    scale: Float32[Array, " D"]
    shift: Float32[Array, " D"]

    def __init__(self, size: int) -> None:
        self.scale, self.shift = _filled(1, size), _filled(0, size)

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Rows of mean 0 and variance 1, then scaled and shifted."""
        centred = x - x.mean(-1, keepdims=True)
        spread = jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)
        return centred * spread * self.scale + self.shift


def initialised(net: T, key: Key[Array, ""]) -> T:
    """`net` with He-normal weights, times the gain, in each `Dense`: variance 2 gain^2 / inputs; biases stay 0.

    All come from one draw, which compiles many times faster than a draw for each layer.
    """
    nodes, structure = jax.tree.flatten(net, is_leaf=lambda node: isinstance(node, Dense))
    at = [i for i, node in enumerate(nodes) if isinstance(node, Dense)]
    for i, weight in zip(at, _weights(key, tuple((*nodes[i].weight.shape, nodes[i].gain) for i in at)), strict=True):
        nodes[i] = eqx.tree_at(lambda layer: layer.weight, nodes[i], weight)
    return jax.tree.unflatten(structure, nodes)


@functools.partial(jax.jit, static_argnames="shapes")
def _weights(key: Key[Array, ""], shapes: tuple[tuple[int, int, float], ...]) -> list[Array]:
    """A matrix for each (inputs, outputs, gain)."""
    normal, at, weights = (
        jax.random.normal(key, (sum(rows * columns for rows, columns, _ in shapes),), np.float32),
        0,
        [],
    )
    for rows, columns, gain in shapes:
        cut = normal[at : at + rows * columns].reshape(rows, columns)
        weights.append(gain * math.sqrt(2 / max(rows, 1)) * cut)
        at += rows * columns
    return weights


def _filled(value: int, *shape: int) -> Array:
    return jax.device_put(np.full(shape, value, np.float32))  # which compiles nothing
