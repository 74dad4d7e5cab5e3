"""Metrics of pairs: contact, gap, blame and time to collision. Source: design page 3.5 and 3.8 (ours)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from gleanings.driving import geometry
from gleanings.driving._step_context import StepContext, defined
from gleanings.driving.raw import Kind
from gleanings.driving.state import Metric

STANDING_MPS = 0.05
TTC_LOW_S = 0.95
MOVING_MPS = 0.5


def collision(step: StepContext) -> Metric:
    """Whether the object touches another one."""
    return defined(step.contact.any(1), step.alive)


def overlap_gap(step: StepContext) -> Metric:
    """Least gap to another object, m; excused pairs do not count, nothing at its height: not defined."""
    least = jnp.where(step.excused, geometry.FAR, step.gaps).min(1)
    return defined(least, step.alive & (least < geometry.FAR / 2))


def at_fault(step: StepContext) -> Metric:
    """Whether the object is to blame for a contact that begins at this step; vehicles and cyclists only."""
    return defined((step.new_contact & _blame(step)).any(1), step.is_kind(Kind.VEHICLE, Kind.CYCLIST))


def _blame(step: StepContext) -> Bool[Array, "N N"]:
    """Whether i would be to blame for a contact with j."""
    standing = step.speed < STANDING_MPS
    front = geometry.pair_gap(geometry.ends(step.boxes, 1), step.boxes) < 0
    rear = geometry.pair_gap(geometry.ends(step.boxes, -1), step.boxes) < 0
    side = ~rear & ~step.lanes.aligned_1m[:, None]
    return ~standing[:, None] & (standing[None, :] | front | side)


def ttc_s(step: StepContext) -> Metric:
    """Least time to collision with another object, s, at most 5; excused pairs do not count."""
    return defined(step.least_ttc, step.alive)


def ttc_low(step: StepContext) -> Metric:
    """Whether `ttc_s` is below 0.95 s while the object moves."""
    return defined((step.least_ttc < TTC_LOW_S) & (step.speed > MOVING_MPS), step.alive)
