"""Actions that lead along a log: inverse dynamics of decisions that hold one action for several steps.

Source: arXiv 2212.11419, IV-B (the objective, from its text); start, damping and projection are ours.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from gleanings.driving import geometry
from gleanings.driving.dynamics import Bicycle, Limits, Scalar, along, largest_curvature, limits_of, wrap
from gleanings.driving.learn.actions import normalised
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Pose, Trajectory

_STILL_M = 0.02  # of travel, below which any steering leads there
_DAMPING, _STEPS = 1e-6, 2
_BICYCLE = Bicycle()
Size = tuple[Scalar, Scalar]


def towards(
    pose: Pose, target: Pose, size: Size, dt: Scalar, every: int
) -> tuple[Float32[Array, "2"], Bool[Array, "2"], Float32[Array, ""]]:
    """The u in [-1, 1]^2 that, held for `every` steps of `dt` s, brings the corners of a vehicle nearest to `target`.

    Poses are scalars, of which the speed along the heading counts; size: length, width, m. Also which of u's parts the
    move determines (over less than 2 cm no steering is) and the root mean square distance of the corners that is left,
    m. From the inverse of `Bicycle` two damped Gauss-Newton steps, each projected on the limits of vehicles.
    """
    limits = limits_of(jnp.asarray(int(Kind.VEHICLE)))
    start, goal = _local(pose, target)
    speed = start.vx
    high = largest_curvature(speed, limits)
    low_high = jnp.stack([limits.brake, -high]), jnp.stack([limits.accelerate, high])
    scale = jnp.stack([limits.accelerate, high])
    action = _BICYCLE.inverse(start, goal, every * dt, limits)
    for _ in range(_STEPS):
        slope = _slopes(speed, action, size, dt, every, limits) * scale
        miss = _corners(goal, size) - _corners(_driven(start, action, dt, every, limits), size)
        action = jnp.clip(action + scale * _solved(slope, miss), *low_high)
    moves = jnp.hypot(goal.x, goal.y) >= _STILL_M
    action = action * jnp.stack([jnp.ones_like(moves), moves])
    miss = _corners(goal, size) - _corners(_driven(start, action, dt, every, limits), size)
    mask = jnp.stack([jnp.ones_like(moves), moves])
    return normalised(action, speed), mask, jnp.sqrt((miss * miss).sum() / 4)


def label_actions(
    log: Trajectory, size: Size, dt: Scalar, every: int
) -> tuple[Float32[Array, "H 2"], Bool[Array, "H 2"], Float32[Array, " H"], Bool[Array, " H"]]:
    """`towards` from each logged pose [T] of one vehicle to the one `every` steps later, H = (T - 1) // every.

    Each label starts from the log, not from where the labels before would lead. Also whether all poses of the step are
    valid; where not, the label means nothing.
    """
    count = (log.x.shape[0] - 1) // every
    rows = every * jnp.arange(count)
    poses = Pose(*(jnp.asarray(field) for field in log[:6]))
    start, target = (Pose(*(field[rows + ahead] for field in poses)) for ahead in (0, every))
    action, mask, residual = jax.vmap(lambda pose, target: towards(pose, target, size, dt, every))(start, target)
    valid = jnp.asarray(log.valid)[rows[:, None] + jnp.arange(every + 1)].all(1)
    return action, mask, residual, valid


def _local(pose: Pose, target: Pose) -> tuple[Pose, Pose]:
    """Both in the frame of the first, each with the velocity along its heading."""
    zero, speed = jnp.zeros_like(pose.x), along(target)
    cos, sin = jnp.cos(pose.yaw), jnp.sin(pose.yaw)
    dx, dy, yaw = target.x - pose.x, target.y - pose.y, wrap(target.yaw - pose.yaw)
    start = Pose(zero, zero, zero, zero, along(pose), zero)
    goal = (cos * dx + sin * dy, cos * dy - sin * dx, zero, yaw, speed * jnp.cos(yaw), speed * jnp.sin(yaw))
    return start, Pose(*goal)


def _driven(start: Pose, action: Float[Array, "2"], dt: Scalar, every: int, limits: Limits) -> Pose:
    """As `World.decide` drives: braking ends in standing."""
    for _ in range(every):
        start = _BICYCLE.forward(start, action.at[0].max(-jnp.maximum(along(start), 0.0) / dt), dt, limits)
    return start


def _corners(pose: Pose, size: Size) -> Float[Array, "2 4"]:
    return jnp.stack(geometry.corners(pose.x, pose.y, pose.yaw, *map(jnp.asarray, size)))


def _slopes(
    speed: Float[Array, ""], action: Float[Array, "2"], size: Size, dt: Scalar, every: int, limits: Limits
) -> Float[Array, "2 4 2"]:
    """Of the corners by acceleration and curvature: of one arc, the latter to second order.

    Who gains speed meets the limit of the curvature after some steps, and only the way before follows it; who comes to
    a stop makes less way by acceleration.
    """
    a, k = action
    speeds = speed + a * dt * jnp.arange(every)
    free = speeds + a * dt >= jnp.minimum(speeds, 0.0)
    ways = jnp.where(free, speeds * dt + a * dt**2 / 2, jnp.maximum(speeds, 0.0) * dt / 2)
    steps = free.sum()
    by_rate = (steps**2 + jnp.where(steps < every, steps, 0)) * dt**2 / 2
    most = jax.vmap(largest_curvature, (0, None))(speeds, limits)
    way, first = ways.sum(), jnp.where((jnp.abs(k) <= most) | (jnp.arange(every) == 0), ways, 0.0).sum()
    turn = k * way
    tangent = jnp.stack([jnp.cos(turn), jnp.sin(turn)])
    normal = jnp.stack([-jnp.sin(2 * turn / 3), jnp.cos(2 * turn / 3)])
    x, y = geometry.corners(jnp.zeros_like(turn), jnp.zeros_like(turn), turn, *map(jnp.asarray, size))
    swing = jnp.stack([-y, x])
    by_a = by_rate * (tangent[:, None] + k * swing)
    by_k = first * (way - first / 2) * normal[:, None] + first * swing
    return jnp.stack([by_a, by_k], -1)


def _solved(slope: Float[Array, "2 4 2"], miss: Float[Array, "2 4"]) -> Float[Array, "2"]:
    """The damped least squares step."""
    g = jnp.einsum("ijk,ij->k", slope, miss)
    (aa, ab), (_, bb) = jnp.einsum("ijk,ijl->kl", slope, slope) + _DAMPING * jnp.eye(2)
    return jnp.stack([bb * g[0] - ab * g[1], aa * g[1] - ab * g[0]]) / (aa * bb - ab * ab)
