"""One number for how well an object drove, in the style of nuPlan's closed-loop score; unofficial."""

import jax.numpy as jnp
from jaxtyping import Array

from gleanings.driving._step_context import defined, last_defined
from gleanings.driving.comfort import comfort
from gleanings.driving.scene import Scene, Trajectory
from gleanings.driving.state import Metric

NEEDS = ("at_fault", "off_road_m", "wrong_way", "progress_ratio", "ttc_low", "speeding_mps")
"""Metrics of a step that `score` reads."""
OFF_ROAD_M = 0.3
WRONG_WAY_M = 6.0
LEAST_PROGRESS = 0.2
SPEEDING_MPS = 1.0


def score(scene: Scene, metrics: dict[str, Metric], trajectory: Trajectory) -> Metric:
    """Score [N] in [0, 1] from metrics [T', N] of a rollout and its trajectory [T'+1, N]; vehicles and cyclists.

    0 after a contact at fault, a corner > 0.3 m off the road, >= 6 m driven the wrong way or progress <= 20 % of the
    log's; else a weighted mean of time to collision (5), progress (5), speeding (4) and comfort (2). A part that is not
    defined (no edges, log shorter than 5 m ...) counts as met. Source: design page 3.8, after nuPlan (recalled).
    """
    moved = jnp.hypot(jnp.diff(trajectory.x, axis=0), jnp.diff(trajectory.y, axis=0))
    moved = jnp.where(trajectory.valid[1:] & trajectory.valid[:-1], moved, 0.0)
    wrong = jnp.where(_held(metrics["wrong_way"], False), moved, 0.0).sum(0)
    progress = last_defined(metrics["progress_ratio"], 1.0)
    passed = (
        ~_held(metrics["at_fault"], False).any(0)
        & (_held(metrics["off_road_m"], -jnp.inf).max(0) <= OFF_ROAD_M)
        & (wrong < WRONG_WAY_M)
        & (progress > LEAST_PROGRESS)
    )
    parts = (
        (5, ~_held(metrics["ttc_low"], False).any(0)),
        (5, jnp.minimum(progress, 1.0)),
        (4, _held(metrics["speeding_mps"], -jnp.inf).max(0) <= SPEEDING_MPS),
        (2, _held(comfort(scene, trajectory), True)),
    )
    mean = sum(weight * part.astype(jnp.float32) for weight, part in parts) / 16
    return defined(jnp.where(passed, mean, 0.0), metrics["at_fault"].mask.any(0))


def _held(metric: Metric, otherwise: float | bool | Array) -> Array:
    """Values, with `otherwise` where they are not defined."""
    return jnp.where(metric.mask, metric.value, otherwise)
