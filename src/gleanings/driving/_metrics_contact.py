"""Metrics of pairs: contact, gap, blame and time to collision. Source: design page 3.5 and 3.8 (ours)."""

import jax.numpy as jnp

from gleanings.driving import geometry
from gleanings.driving._step_context import StepContext, defined
from gleanings.driving.raw import Kind
from gleanings.driving.state import Metric

STANDING_MPS = 0.05
TTC_LOW_S = 0.95
MOVING_MPS = 0.5


def collision(step: StepContext) -> Metric:
    """Whether the object touches another one."""
    return defined(step.least_gap < 0, step.alive)


def overlap_gap(step: StepContext) -> Metric:
    """Least gap to another object, m; excused pairs do not count, nothing at its height: not defined."""
    return defined(step.least_gap, step.alive & (step.least_gap < geometry.FAR / 2))


def at_fault(step: StepContext) -> Metric:
    """Whether the object is to blame for a contact that begins at this step; vehicles and cyclists only.

    Logic of 3.5 in numbers of which a negative one means yes: `and` is a maximum, `or` a minimum. XLA's CPU code for
    that is several times faster than for booleans.
    """
    before, now = step.gaps_before, jnp.where(step.excused, geometry.FAR, step.gaps)
    begins = jnp.maximum(now, jnp.where(before < 0, 1.0, -1.0))
    standing, aligned = step.speed - STANDING_MPS, step.measured_of(step.lanes.aligned_1m)
    front, rear = geometry.end_gaps(step.measured_of(step.boxes), step.boxes)
    side = jnp.maximum(jnp.where(rear < 0, 1.0, -1.0), jnp.where(aligned, 1.0, -1.0)[:, None])
    blame = jnp.minimum(standing[None, :], jnp.minimum(front, side))
    moving = jnp.where(step.measured_of(standing) < 0, 1.0, -1.0)[:, None]
    found = step.of_all(jnp.maximum(begins, jnp.maximum(moving, blame)).min(1) < 0)
    return defined(found, step.is_kind(Kind.VEHICLE, Kind.CYCLIST))


def ttc_s(step: StepContext) -> Metric:
    """Least time to collision with another object, s, at most 5; excused pairs do not count."""
    return defined(step.least_ttc, step.alive)


def ttc_low(step: StepContext) -> Metric:
    """Whether `ttc_s` is below 0.95 s while the object moves."""
    return defined((step.least_ttc < TTC_LOW_S) & (step.speed > MOVING_MPS), step.alive)
