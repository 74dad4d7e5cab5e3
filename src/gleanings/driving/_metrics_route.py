"""Metrics of an object's own log, path and goal, and of its limits. Source: design page 3.3, 3.8 (ours)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from gleanings.driving._step_context import StepContext, defined
from gleanings.driving.dynamics import along, largest_curvature, limits_of, wrap
from gleanings.driving.path import wrap_arc
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Scene
from gleanings.driving.state import Metric

OFF_ROUTE_M = 4.0
SHORT_LOG_M = 5.0
TURN_M = 0.06
SLACK = 1e-3
"""By so much, in m/s^2 or 1/m, a step may exceed the limits."""


def off_route(step: StepContext) -> Metric:
    """Whether the object is more than 4 m from its path."""
    distance = off_route_m(step)
    return defined(distance.value > OFF_ROUTE_M, distance.mask)


def off_route_m(step: StepContext) -> Metric:
    """Plan distance to the point of the path at the present arc, m; defined for objects with a path.

    Not at the end of a path that fills its array: it is cut there, and the way goes on.
    """
    paths, state = step.scene.paths, step.state
    arc = wrap_arc(state.arc, paths.length, paths.closed)
    cell = jnp.clip(jnp.floor(arc).astype(jnp.int32), 0, paths.x.shape[1] - 2)[:, None]
    share = arc - cell[:, 0]

    def at(samples: Float32[Array, "N Q"]) -> Float32[Array, " N"]:
        here, there = (jnp.take_along_axis(samples, cell + k, axis=1)[:, 0] for k in (0, 1))
        return here + share * (there - here)

    distance = jnp.hypot(state.x - at(paths.x), state.y - at(paths.y))
    return defined(distance, step.alive & (paths.length > 0) & ~past_cut(step.scene, state.arc))


def progress_m(step: StepContext) -> Metric:
    """Arc gained along the path since the object's start, m, over all rounds; defined for objects with a path."""
    return defined(step.state.arc - step.log_arcs[0], step.alive & (step.scene.paths.length > 0))


def progress_ratio(step: StepContext) -> Metric:
    """`progress_m` over that of the whole log; defined where the log gains at least 5 m."""
    start, end = step.log_arcs
    logged = end - start
    gained = progress_m(step)
    return defined(gained.value / jnp.maximum(logged, SHORT_LOG_M), gained.mask & (logged >= SHORT_LOG_M))


def log_divergence(step: StepContext) -> Metric:
    """Plan distance to the logged position of the same step, m; defined where the log is valid."""
    log, state = step.scene.log, step.state
    row = jnp.clip(state.t, 0, log.x.shape[0] - 1)
    distance = jnp.hypot(state.x - log.x[row], state.y - log.y[row])
    return defined(distance, step.alive & log.valid[row] & (state.t == row))


def goal_reached(step: StepContext) -> Metric:
    """Whether the centre is inside the goal circle; defined where there is a goal."""
    goals, state = step.scene.goals, step.state
    distance = jnp.hypot(state.x - goals.x, state.y - goals.y)
    return defined(distance <= goals.radius, step.alive & goals.exists)


def infeasible(step: StepContext) -> Metric:
    """Whether acceleration or curvature of the step is beyond the limits of the kind; not for pedestrians.

    The arc length behind a chord and a turn is that of a circle: chord (turn / 2) / sin(turn / 2).
    """
    before, after = step.previous, step.state
    limits = limits_of(step.scene.objects.kind)
    speed = along(before.pose)
    gain = (along(after.pose) - speed) / step.scene.dt
    turn = wrap(after.yaw - before.yaw)
    arc = jnp.hypot(after.x - before.x, after.y - before.y) / jnp.sinc(turn / (2 * jnp.pi))
    bend = jax.vmap(largest_curvature)(speed, limits)
    fast = (gain < limits.brake - SLACK) | (gain > limits.accelerate + SLACK)
    sharp = (arc > TURN_M) & (jnp.abs(turn) > (bend + SLACK) * arc)
    walks = step.scene.objects.kind == int(Kind.PEDESTRIAN)
    return defined(fast | sharp, step.alive & before.alive & ~walks)


def past_cut(scene: Scene, arc: Float32[Array, " N"]) -> Bool[Array, " N"]:
    """Whether arcs (m) lie at the end of a path that is cut, because its array is full: the way goes on there."""
    last = scene.paths.x.shape[1] - 1
    return ~scene.paths.closed & (arc >= last)
