"""How one object moves under an action, and which action moves it to a target: the family of dynamics models.

All maps are on scalars (the simulator vmaps them), differentiable, and finite with their gradients at rest and on
straight lines. Angles in rad, wrapped to (-pi, pi]. Source: ours; textbook kinematics of an arc of constant curvature.
"""

import abc
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from gleanings.core.errors import ConfigError
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Pose

Scalar = float | Float[Array, ""]
_LATERAL = 10.0  # m/s^2, largest lateral acceleration
_DELTA = 60.0  # m/s, largest displacement along one axis over dt
_BY_KIND = {  # accelerations in m/s^2, curvature in 1/m
    Kind.OTHER: (-8.0, 4.0, 3.0),
    Kind.VEHICLE: (-8.0, 4.0, 0.22),
    Kind.PEDESTRIAN: (-4.0, 4.0, 3.0),
    Kind.CYCLIST: (-6.0, 3.0, 0.6),
}


class Limits(NamedTuple):
    """What one kind of object can do: least and largest acceleration (m/s^2), largest |curvature| (1/m)."""

    brake: Any
    accelerate: Any
    curvature: Any


def limits_of(kind: Int[Array, "*N"]) -> Limits:
    """Limits of objects by their `raw.Kind`, in arrays of the same shape; other kinds have the widest. Source: ours."""
    table = jnp.asarray([_BY_KIND[member] for member in Kind], jnp.float32)
    return Limits(*jnp.moveaxis(table[kind], -1, 0))


def largest_curvature(speed: float | Float[Array, "*N"], limits: Limits) -> Float[Array, "*N"]:
    """Largest |curvature| in 1/m at `speed` (m/s): min(limit of the kind, 10 m/s^2 / max(v^2, 1))."""
    return jnp.minimum(limits.curvature, _LATERAL / jnp.maximum(jnp.square(speed), 1.0))


def wrap(angle: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """The angle in (-pi, pi]."""
    return angle - 2 * math.pi * jnp.ceil((angle - math.pi) / (2 * math.pi))


def along(pose: Pose) -> Float[Array, "*N"]:
    """Speed along the heading in m/s; negative in reverse."""
    return pose.vx * jnp.cos(pose.yaw) + pose.vy * jnp.sin(pose.yaw)


def on_arc(pose: Pose, v: Float[Array, "*N"], a: Float[Array, "*N"], k: Float[Array, "*N"], dt: Scalar) -> Pose:
    """Pose after `dt` s from speed v along the heading, at a m/s^2 and k 1/m: `Bicycle.forward` without its bounds."""
    ds = v * dt + a * dt**2 / 2
    e = k * ds / 2
    chord, yaw, v1 = ds * _sinc(e), wrap(pose.yaw + 2 * e), v + a * dt
    x, y = pose.x + chord * jnp.cos(pose.yaw + e), pose.y + chord * jnp.sin(pose.yaw + e)
    return Pose(x, y, pose.z, yaw, v1 * jnp.cos(yaw), v1 * jnp.sin(yaw))


class Dynamics(eqx.Module):
    """A model of motion: static, hashable, without arrays.

    Pose: scalars x, y, z (m), yaw, vx, vy (m/s). dt in s. The action is an array [A] of floats, or of int32.
    """

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """A, entries of an action."""

    @property
    def integer(self) -> bool:
        """Whether actions are int32 instead of float32."""
        return False

    @abc.abstractmethod
    def bounds(self, pose: Pose, dt: Scalar, limits: Limits) -> tuple[Shaped[Array, " A"], Shaped[Array, " A"]]:
        """Least and largest action at this pose."""

    @abc.abstractmethod
    def null(self, pose: Pose, dt: Scalar, limits: Limits) -> Shaped[Array, " A"]:
        """The action that goes on with the present speed and heading."""

    @abc.abstractmethod
    def forward(self, pose: Pose, action: Shaped[Array, " A"], dt: Scalar, limits: Limits) -> Pose:
        """Pose after `dt` under `action`, which is clipped to `bounds`; z stays."""

    @abc.abstractmethod
    def inverse(self, pose: Pose, target: Pose, dt: Scalar, limits: Limits) -> Shaped[Array, " A"]:
        """The action within bounds that brings `pose` to `target`, or close to it; exact where one can."""

    def clip(self, pose: Pose, action: Shaped[Array, " A"], dt: Scalar, limits: Limits) -> Shaped[Array, " A"]:
        """The nearest action within `bounds`."""
        return jnp.clip(action, *self.bounds(pose, dt, limits))

    def usable(self, action: Shaped[Array, " A"]) -> Bool[Array, ""]:
        """Whether the action means anything: finite floats, integers from 0 on."""
        return jnp.all(jnp.isfinite(action))


class Bicycle(Dynamics):
    """Action (acceleration in m/s^2, curvature in 1/m): an exact arc of constant curvature, velocity along the heading.

    No wheelbase: the centre follows the arc. The inverse is the mean of the accelerations that reach the target's
    position and its speed: the one alone rings from step to step, the other alone drifts. Source: ours.
    """

    @property
    def size(self) -> int:
        """2."""
        return 2

    def bounds(self, pose: Pose, dt: Scalar, limits: Limits) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
        """By kind of object; the curvature also by speed."""
        k = largest_curvature(along(pose), limits)
        return jnp.stack([limits.brake, -k]), jnp.stack([limits.accelerate, k])

    def null(self, pose: Pose, dt: Scalar, limits: Limits) -> Float[Array, "2"]:
        """(0, 0)."""
        return jnp.zeros(2, jnp.result_type(pose.x))

    def forward(self, pose: Pose, action: Float[Array, "2"], dt: Scalar, limits: Limits) -> Pose:
        """x' = x + ds sinc(e) cos(yaw + e), yaw' = yaw + 2e, v' = v + a dt; ds = v dt + a dt^2/2, e = k ds/2."""
        v = along(pose)
        a, k = self.clip(pose, action, dt, limits)
        return on_arc(pose, v, a, k, dt)

    def inverse(self, pose: Pose, target: Pose, dt: Scalar, limits: Limits) -> Float[Array, "2"]:
        """Exact for targets that `forward` reaches with |k ds| < 2; near standstill the heading counts less."""
        lon, lat = _rotate(target.x - pose.x, target.y - pose.y, -pose.yaw)
        b, p = _arc(lon, lat)
        v, low_high = along(pose), self.bounds(pose, dt, limits)
        by_position, by_speed = 2 * (p - v * dt) / dt**2, (along(target) - v) / dt
        a = jnp.clip((by_position + by_speed) / 2, low_high[0][0], low_high[1][0])
        ds = v * dt + a * dt**2 / 2
        w = p**2 / (2 * (p**2 + 0.09))
        turn = 2 * w * b + (1 - w) * wrap(target.yaw - pose.yaw)
        still = jnp.abs(ds) < 1e-3
        k = jnp.where(still, 0.0, turn / jnp.where(still, 1.0, ds))
        return jnp.stack([a, jnp.clip(k, low_high[0][1], low_high[1][1])])


class DeltaLocal(Dynamics):
    """Action (dx, dy in m, dyaw in rad) in the object's frame; velocity = delta / dt.

    At most 60 m/s times dt (6 m in 0.1 s) along each axis, and pi, a step.
    """

    @property
    def size(self) -> int:
        """3."""
        return 3

    def bounds(self, pose: Pose, dt: Scalar, limits: Limits) -> tuple[Float[Array, "3"], Float[Array, "3"]]:
        """The same for all objects."""
        return _delta_bounds(pose, dt)

    def null(self, pose: Pose, dt: Scalar, limits: Limits) -> Float[Array, "3"]:
        """The present velocity times dt, no turn."""
        return jnp.stack([*_rotate(pose.vx * dt, pose.vy * dt, -pose.yaw), jnp.zeros_like(pose.x)])

    def forward(self, pose: Pose, action: Float[Array, "3"], dt: Scalar, limits: Limits) -> Pose:
        """The displacement, turned into the local frame of the scene, is added."""
        dx, dy, turn = self.clip(pose, action, dt, limits)
        return _displaced(pose, *_rotate(dx, dy, pose.yaw), turn, dt)

    def inverse(self, pose: Pose, target: Pose, dt: Scalar, limits: Limits) -> Float[Array, "3"]:
        """Exact in position and heading; the target's velocity does not count."""
        delta = _rotate(target.x - pose.x, target.y - pose.y, -pose.yaw)
        return self.clip(pose, jnp.stack([*delta, wrap(target.yaw - pose.yaw)]), dt, limits)


class DeltaGlobal(Dynamics):
    """Action (dx, dy in m, dyaw in rad) in the frame of the scene; velocity = delta / dt.

    At most 60 m/s times dt along each axis, and pi, a step.
    """

    @property
    def size(self) -> int:
        """3."""
        return 3

    def bounds(self, pose: Pose, dt: Scalar, limits: Limits) -> tuple[Float[Array, "3"], Float[Array, "3"]]:
        """The same for all objects."""
        return _delta_bounds(pose, dt)

    def null(self, pose: Pose, dt: Scalar, limits: Limits) -> Float[Array, "3"]:
        """The present velocity times dt, no turn."""
        return jnp.stack([pose.vx * dt, pose.vy * dt, jnp.zeros_like(pose.x)])

    def forward(self, pose: Pose, action: Float[Array, "3"], dt: Scalar, limits: Limits) -> Pose:
        """The displacement is added."""
        dx, dy, turn = self.clip(pose, action, dt, limits)
        return _displaced(pose, dx, dy, turn, dt)

    def inverse(self, pose: Pose, target: Pose, dt: Scalar, limits: Limits) -> Float[Array, "3"]:
        """Exact in position and heading; the target's velocity does not count."""
        delta = jnp.stack([target.x - pose.x, target.y - pose.y, wrap(target.yaw - pose.yaw)])
        return self.clip(pose, delta, dt, limits)


class StateTarget(Dynamics):
    """Action (x, y in m, yaw, vx, vy in m/s) in the frame of the scene: the object is put there.

    Bounds keep numbers finite and mean nothing else: 100 km, 200 m/s.
    """

    @property
    def size(self) -> int:
        """5."""
        return 5

    def bounds(self, pose: Pose, dt: Scalar, limits: Limits) -> tuple[Float[Array, "5"], Float[Array, "5"]]:
        """The same for all objects; any yaw up to 1,000 turns is wrapped."""
        high = jnp.asarray([1e5, 1e5, 2000 * math.pi, 200.0, 200.0], jnp.result_type(pose.x))
        return -high, high

    def null(self, pose: Pose, dt: Scalar, limits: Limits) -> Float[Array, "5"]:
        """Straight on with the present velocity."""
        return jnp.stack([pose.x + pose.vx * dt, pose.y + pose.vy * dt, pose.yaw, pose.vx, pose.vy])

    def forward(self, pose: Pose, action: Float[Array, "5"], dt: Scalar, limits: Limits) -> Pose:
        """The action itself."""
        x, y, yaw, vx, vy = self.clip(pose, action, dt, limits)
        return Pose(x, y, pose.z, wrap(yaw), vx, vy)

    def inverse(self, pose: Pose, target: Pose, dt: Scalar, limits: Limits) -> Float[Array, "5"]:
        """The target itself."""
        return self.clip(pose, jnp.stack([target.x, target.y, target.yaw, target.vx, target.vy]), dt, limits)


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


def _sinc(u: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """sin(u) / u."""
    small = jnp.abs(u) < 1e-3
    safe = jnp.where(small, 1.0, u)
    return jnp.where(small, 1 - u**2 / 6, jnp.sin(safe) / safe)


def _rotate(x: Float[Array, ""], y: Float[Array, ""], angle: Float[Array, ""]) -> tuple[Array, Array]:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return x * cos - y * sin, x * sin + y * cos


def _arc(lon: Float[Array, ""], lat: Float[Array, ""]) -> tuple[Array, Array]:
    """Half the turn, and the signed length, of the arc from the origin, tangent to +x, that ends at (lon, lat)."""
    still = jnp.abs(lon) + jnp.abs(lat) < 1e-6  # where atan2 and the root have no gradient
    forth, side = jnp.where(still, 1.0, lon), jnp.where(still, 0.0, lat)
    sign = jnp.where(forth < 0, -1.0, 1.0)
    b = jnp.arctan2(sign * side, jnp.abs(forth))
    bent = (jnp.abs(b) < 1) & ~still
    length = sign * jnp.sqrt(forth**2 + side**2) / _sinc(jnp.where(bent, b, 0.0))
    return b, jnp.where(bent, length, lon)


def _delta_bounds(pose: Pose, dt: Scalar) -> tuple[Float[Array, "3"], Float[Array, "3"]]:
    high = jnp.stack([_DELTA * dt, _DELTA * dt, math.pi]).astype(jnp.result_type(pose.x))
    return -high, high


def _displaced(pose: Pose, dx: Float[Array, ""], dy: Float[Array, ""], turn: Float[Array, ""], dt: Scalar) -> Pose:
    return Pose(pose.x + dx, pose.y + dy, pose.z, wrap(pose.yaw + turn), dx / dt, dy / dt)
