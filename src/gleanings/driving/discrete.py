"""Dynamics with finitely many actions, for learners that choose one. Source: ours."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gleanings.core.errors import ConfigError
from gleanings.driving.dynamics import Bicycle, Dynamics, Limits, Scalar, StateTarget
from gleanings.driving.scene import Pose


class Discrete(Dynamics):
    """The actions of `inner` on a grid; the action is int32 [1], (i_0 m_1 + i_1) m_2 + ...

    bins: (m_0, m_1, ...), odd. Half of an axis is linear in [low, 0] of the inner bounds at the present pose, half in
    [0, high]; the middle is exactly 0. ConfigError: as many bins as `inner` has axes are needed, each odd and >= 3.
    """

    inner: Dynamics = Bicycle()
    bins: tuple[int, ...] = eqx.field(static=True, default=(13, 21))

    def __check_init__(self) -> None:
        if isinstance(self.inner, StateTarget | Discrete):
            raise ConfigError(f"Discrete of {type(self.inner).__name__}: use Bicycle, DeltaLocal or DeltaGlobal")
        if len(self.bins) != self.inner.size or min(self.bins) < 3 or not all(m % 2 for m in self.bins):
            raise ConfigError(f"Discrete bins {self.bins}: {self.inner.size} odd numbers from 3 on are needed")

    @property
    def size(self) -> int:
        """1."""
        return 1

    @property
    def integer(self) -> bool:
        """True."""
        return True

    def bounds(self, pose: Pose, dt: Scalar, limits: Limits) -> tuple[Int[Array, "1"], Int[Array, "1"]]:
        """0 and the number of bins less 1."""
        return jnp.zeros(1, jnp.int32), jnp.full(1, math.prod(self.bins) - 1, jnp.int32)

    def usable(self, action: Int[Array, "1"]) -> Bool[Array, ""]:
        """Whether it is not negative."""
        return jnp.all(action >= 0)

    def null(self, pose: Pose, dt: Scalar, limits: Limits) -> Int[Array, "1"]:
        """The bin nearest to the inner one's."""
        return self.encode(pose, self.inner.null(pose, dt, limits), dt, limits)

    def forward(self, pose: Pose, action: Int[Array, "1"], dt: Scalar, limits: Limits) -> Pose:
        """The inner one's, at the middle of the bin."""
        return self.inner.forward(pose, self.decode(pose, action, dt, limits), dt, limits)

    def inverse(self, pose: Pose, target: Pose, dt: Scalar, limits: Limits) -> Int[Array, "1"]:
        """The bin nearest to the inner one's."""
        return self.encode(pose, self.inner.inverse(pose, target, dt, limits), dt, limits)

    def decode(self, pose: Pose, action: Int[Array, "1"], dt: Scalar, limits: Limits) -> Float[Array, " A"]:
        """The inner action of a bin."""
        index = jnp.stack(jnp.unravel_index(self.clip(pose, action, dt, limits)[0], self.bins))
        half = jnp.asarray([m // 2 for m in self.bins], jnp.int32)
        low, high = self.inner.bounds(pose, dt, limits)
        return jnp.where(index < half, low, high) * (jnp.abs(index - half) / half).astype(low.dtype)

    def encode(self, pose: Pose, inner: Float[Array, " A"], dt: Scalar, limits: Limits) -> Int[Array, "1"]:
        """The bin nearest to an inner action."""
        half = jnp.asarray([m // 2 for m in self.bins], jnp.int32)
        low, high = self.inner.bounds(pose, dt, limits)
        share = jnp.clip(jnp.where(inner < 0, -inner / low, inner / high), -1.0, 1.0)
        index = half + jnp.round(share * half).astype(jnp.int32)
        return jnp.ravel_multi_index(tuple(index), self.bins, mode="clip").astype(jnp.int32)[None]
