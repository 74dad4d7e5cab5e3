"""Function classes to choose among: linear on the leading columns of one feature map, with weights for each action.

A class is anything with `name`, `n_params` (parameters a stage, None where unknown) and `regress`; those here are
nested by construction.
"""

import abc
import functools
import itertools
import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gleanings.core.errors import ConfigError
from gleanings.core.keys import stream

AnyArray = Array | np.ndarray
Q = Callable[[AnyArray], AnyArray]


class FeatureMap(eqx.Module):
    """Columns phi(x) of observations, the first one constant, so that a class of size 1 is a constant."""

    @abc.abstractmethod
    def __call__(self, observation: Float[AnyArray, "B D"]) -> Float[Array, "B F"]:
        """Features of each observation."""

    @abc.abstractmethod
    def size(self, columns: int) -> int:
        """Number of features F of observations with so many columns."""


class Identity(FeatureMap):
    """1 and the columns as they are, in their order."""

    def __call__(self, observation: Float[AnyArray, "B D"]) -> Float[Array, "B F"]:
        if isinstance(observation, np.ndarray):  # which compiles nothing
            return jnp.asarray(np.concatenate([np.ones_like(observation[:, :1]), observation], 1))
        return jnp.concatenate([jnp.ones_like(observation[:, :1]), observation], 1)

    def size(self, columns: int) -> int:
        """1 + columns."""
        return 1 + columns


class RandomFourier(FeatureMap):
    """1, the columns, then cos(omega x + phase) / sqrt(32) with omega ~ N(0, scale^2), `total` features in all.

    Source: Rahimi & Recht 2007; the raw columns in front are ours.
    """

    total: int = eqx.field(static=True)
    scale: float = eqx.field(static=True, default=1.0)
    seed: int = eqx.field(static=True, default=0)

    def __call__(self, observation: Float[AnyArray, "B D"]) -> Float[Array, "B F"]:
        columns = observation.shape[1]
        waves = max(self.total - 1 - columns, 0)
        key = stream(self.seed, "random-fourier")
        frequency_key, phase_key = jax.random.split(key)
        frequency = self.scale * jax.random.normal(frequency_key, (columns, waves))
        phase = jax.random.uniform(phase_key, (waves,), maxval=2 * math.pi)
        return _cosines(observation, frequency, phase)[:, : self.total]

    def size(self, columns: int) -> int:
        """`total`."""
        return self.total


class Pca(FeatureMap):
    """1 and the coordinates along the principal components of the observations it was made from."""

    mean: Float[Array, " D"]
    components: Float[Array, "D C"]

    def __call__(self, observation: Float[AnyArray, "B D"]) -> Float[Array, "B F"]:
        return _scores(observation, self.mean, self.components)

    def size(self, columns: int) -> int:
        """1 + number of components."""
        return 1 + self.components.shape[1]


def pca(observation: Float[np.ndarray, "N D"], components: int) -> Pca:
    """Principal components of centred observations. ConfigError: more components than rows or columns."""
    if components > min(observation.shape):
        raise ConfigError(f"{components} components of {observation.shape[0]} rows and {observation.shape[1]} columns")
    mean = observation.mean(0)
    _, _, right = np.linalg.svd(observation - mean, full_matrices=False)
    return Pca(jnp.asarray(mean), jnp.asarray(right[:components].T))


class FunctionClass(eqx.Module):
    """A set of functions q(x) -> a value for each action, with least squares in it."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """A short name, unique among the candidates."""

    @abc.abstractmethod
    def n_params(self, num_actions: int) -> int | None:
        """Parameters of one stage; None for a network, whose count says little about its complexity."""

    @abc.abstractmethod
    def regress(
        self,
        observation: Float[AnyArray, "N D"],
        action: Int[AnyArray, " N"],
        target: Float[AnyArray, " N"],
        *,
        num_actions: int,
        key: Array,
    ) -> Q:
        """The q of this class that fits `target` at the logged actions."""


class LinearQ(eqx.Module):
    """q(x) = weights phi(x)[:d]."""

    features: FeatureMap
    weights: Float[Array, "A d"]

    def __call__(self, observation: Float[AnyArray, "B D"]) -> Float[Array, "B A"]:
        return _leading_product(self.features(observation), self.weights)


class PrefixLinear(FunctionClass):
    """Ridge regression on the first `dim` features; the penalty is ridge * N on every weight."""

    features: FeatureMap
    dim: int = eqx.field(static=True)
    ridge: float = eqx.field(static=True, default=1e-3)
    title: str = eqx.field(static=True, default="")

    @property
    def name(self) -> str:
        """`title`, or else `constant`, or the number of features beside the constant one, such as linear[5]."""
        return self.title or ("constant" if self.dim == 1 else f"linear[{self.dim - 1}]")

    def n_params(self, num_actions: int) -> int:
        """dim weights for each action."""
        return self.dim * num_actions

    def regress(
        self,
        observation: Float[AnyArray, "N D"],
        action: Int[AnyArray, " N"],
        target: Float[AnyArray, " N"],
        *,
        num_actions: int,
        key: Array,
    ) -> LinearQ:
        """Solves one ridge problem an action; `key` is not used."""
        phi = self.features(observation)
        return LinearQ(self.features, _ridge(phi, action, target, self.ridge, self.dim, num_actions))


def prefix_linear(features: FeatureMap, dims: Sequence[int], ridge: float = 1e-3) -> list[PrefixLinear]:
    """Nested linear classes of these sizes. ConfigError: sizes that do not increase, or are not positive."""
    dims = [int(d) for d in dims]
    if not dims or dims[0] < 1 or any(b <= a for a, b in itertools.pairwise(dims)):
        raise ConfigError(f"dims {tuple(dims)}: sizes of nested classes must increase, from at least 1")
    return [PrefixLinear(features, d, ridge) for d in dims]


def padded_length(rows: int) -> int:
    """Rows and at most a quarter more, or 64 of them, so that logs of about one length compile once."""
    step = max(1 << max(rows.bit_length() - 3, 0), 64)
    return -(-rows // step) * step


@jax.jit
def _scores(
    observation: Float[AnyArray, "B D"], mean: Float[Array, " D"], components: Float[Array, "D C"]
) -> Float[Array, "B F"]:
    scores = (observation - mean) @ components
    return jnp.concatenate([jnp.ones_like(scores[:, :1]), scores], 1)


@jax.jit
def _cosines(
    observation: Float[AnyArray, "B D"], frequency: Float[Array, "D W"], phase: Float[Array, " W"]
) -> Float[Array, "B F"]:
    cosine = jnp.cos(observation @ frequency + phase) / math.sqrt(32)
    return jnp.concatenate([jnp.ones_like(observation[:, :1]), observation, cosine], 1)


@jax.jit
def _leading_product(phi: Float[Array, "B F"], weights: Float[Array, "A d"]) -> Float[Array, "B A"]:
    return phi[:, : weights.shape[1]] @ weights.T


@functools.partial(jax.jit, static_argnames=("dim", "num_actions"))
def _ridge(
    phi: Float[Array, "N F"],
    action: Int[AnyArray, " N"],
    target: Float[AnyArray, " N"],
    ridge: float | Array,
    dim: int,
    num_actions: int,
) -> Float[Array, "A d"]:
    """Weights of each action on the first `dim` features."""
    phi = phi[:, :dim]
    chosen = jax.nn.one_hot(action, num_actions, dtype=phi.dtype)
    gram = jnp.einsum("na,ni,nj->aij", chosen, phi, phi, optimize="optimal")
    gram = gram + ridge * len(phi) * jnp.eye(dim, dtype=phi.dtype)
    right = jnp.einsum("na,ni->ai", chosen * jnp.asarray(target)[:, None], phi)
    return jnp.linalg.solve(gram, right[..., None])[..., 0]
