"""Metrics of the map: road edge, lanes and traffic lights. Source: design page 3.8 (ours)."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool

from gleanings.driving._step_context import LEVEL_M, StepContext, defined
from gleanings.driving.raw import RED, Kind
from gleanings.driving.state import Metric

WRONG_WAY_MPS = 0.5
STOP_LINE_M = 2.0
STOP_LINE_COS = math.cos(math.radians(60))


def off_road(step: StepContext) -> Metric:
    """Whether a corner is beyond the road edge."""
    return defined(step.edge.value > 0, step.edge.mask)


def off_road_m(step: StepContext) -> Metric:
    """Signed distance of the outermost corner to the road edge, m, positive off the road, within [-30, 30]."""
    return step.edge


def wrong_way(step: StepContext) -> Metric:
    """Whether a vehicle drives against every lane within 2.5 m; defined near a lane."""
    against = (step.speed > WRONG_WAY_MPS) & ~step.lanes.aligned
    return defined(against, step.is_kind(Kind.VEHICLE) & step.lanes.near)


def speeding_mps(step: StepContext) -> Metric:
    """Speed minus the limit of the nearest aligned lane, m/s, negative below it; defined where a limit is known."""
    limit = step.lanes.limit
    return defined(step.speed - limit, step.alive & jnp.isfinite(limit))


def red_light(step: StepContext) -> Metric:
    """Whether the front centre crosses a stop line, along its lane, that is red at t and t+1; scenes with lights."""
    lights = step.scene.lights
    if lights.x.shape[0] == 0:
        return defined(jnp.zeros(step.alive.shape, bool), jnp.zeros(step.alive.shape, bool))
    both = step.previous.alive & step.alive
    crossed = _crosses(step) & _is_red(step) & lights.exists & both[:, None]
    return defined(crossed.any(1), step.alive & lights.exists.any())


def _is_red(step: StepContext) -> Bool[Array, " S"]:
    """Lights that are red at t and at t+1; past the log the last state holds."""
    states = step.scene.lights.state
    last = states.shape[0] - 1
    then, now = states[jnp.clip(step.previous.t, 0, last)], states[jnp.clip(step.state.t, 0, last)]
    codes = jnp.asarray([int(code) for code in RED], states.dtype)
    return jnp.any(then[:, None] == codes, axis=1) & jnp.any(now[:, None] == codes, axis=1)


def _crosses(step: StepContext) -> Bool[Array, "N S"]:
    """Whether the front centre of object n passes stop line s, 2 m to either side, within 60 degrees of its lane."""
    lights, half = step.scene.lights, step.scene.objects.length / 2
    cos, sin = jnp.cos(lights.yaw), jnp.sin(lights.yaw)
    ahead, left = [], []
    for state in (step.previous, step.state):
        dx = (state.x + half * jnp.cos(state.yaw))[:, None] - lights.x
        dy = (state.y + half * jnp.sin(state.yaw))[:, None] - lights.y
        ahead.append(dx * cos + dy * sin)
        left.append(dy * cos - dx * sin)
    share = -ahead[0] / jnp.where(ahead[1] == ahead[0], 1.0, ahead[1] - ahead[0])
    side = left[0] + share * (left[1] - left[0])
    along = jnp.cos(step.state.yaw[:, None] - lights.yaw) >= STOP_LINE_COS
    level = ~(jnp.abs(step.base[:, None] - lights.z) > LEVEL_M)
    return (ahead[0] < 0) & (ahead[1] >= 0) & (jnp.abs(side) <= STOP_LINE_M) & along & level
