"""A fair driver for generated scenes: it knows what it could have seen, late, and nothing of the log that is to come.

Every 0.2 s it takes the best of 35 plans (`_plans`). Source: ours (design page 3.4).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int32

from gleanings.driving.dynamics import Bicycle, along, largest_curvature, limits_of
from gleanings.driving.learn._plans import Foreseen, Style, Way, choose, place_on
from gleanings.driving.learn.actions import normalised, physical
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Pose
from gleanings.driving.visibility import hidden

HISTORY = 10
"""Steps before the start in the logs that the expert is given."""
_EVERY, _DT, _PAST = 2, 0.1, 5
_RANGE_M, _MEMORY_STEPS = 70.0, 20
_MOST_BEND = 0.3  # 1/m, of an extrapolated way


class Others(NamedTuple):
    """Logs of N other objects over T steps at 0.1 s, the start at step `HISTORY`: x, y, yaw, vx, vy, valid [T, N];
    length, width [N] in metres; drives [N]: whether it is a vehicle."""

    x: Any
    y: Any
    yaw: Any
    vx: Any
    vy: Any
    valid: Any
    length: Any
    width: Any
    drives: Any


class Episode(NamedTuple):
    """What an expert is given; NumPy or jax, batches have a leading axis on every field.

    start [5]: x, y, yaw, speed, arc on the way. red [T, S]: whether the light at `way.stops` [S] is red. delay: i32,
    decisions of 0.2 s by which it sees late, at most 5. noise [H, 2]: added to the acceleration (m/s^2), and as a share
    of the largest curvature.
    """

    way: Way
    others: Others
    red: Any
    start: Any
    style: Style
    delay: Any
    noise: Any


class Drive(NamedTuple):
    """u [H, 2] in [-1, 1]; x, y, yaw, speed [2 H + 1] at the steps from the start on."""

    u: Any
    x: Any
    y: Any
    yaw: Any
    speed: Any


class _Known(NamedTuple):
    """What was perceived of each object: the ring of what was in sight [6, N], newest first; the step at which it was
    last seen (-1: never), over how many of the decisions up to then (1 to 3), and whether it is at this one; [N]."""

    sight: Bool[Array, "6 N"]
    step: Int32[Array, " N"]
    frames: Int32[Array, " N"]
    now: Bool[Array, " N"]


class _Driver(NamedTuple):
    pose: Pose
    arc: Float32[Array, ""]
    rate: Float32[Array, ""]
    known: _Known


@jax.jit
def drive(episodes: Episode) -> Drive:
    """The drives of a batch of episodes; as many decisions as there are rows of noise."""
    return jax.vmap(_drive)(episodes)


def noise(rng: np.random.Generator, decisions: int) -> Float32[np.ndarray, "H 2"]:
    """Noise of the actions: Ornstein-Uhlenbeck over 1 s, 0.3 m/s^2 and 0.03 of the largest curvature."""
    keep = np.exp(-_EVERY * _DT)
    rows, value = [], rng.normal(size=2)
    for step in rng.normal(size=(decisions, 2)) * np.sqrt(1 - keep**2):
        value = keep * value + step
        rows.append(value)
    return (np.array(rows) * [0.3, 0.03]).astype(np.float32)


def _drive(episode: Episode) -> Drive:
    x, y, yaw, speed, arc = (episode.start[k] for k in range(5))
    pose = Pose(x, y, jnp.float32(0), yaw, speed * jnp.cos(yaw), speed * jnp.sin(yaw))
    back = jnp.arange(1, _PAST + 1)
    # Once for all steps: XLA takes sines for cheap and would take them again for each pair of objects.
    look = partial(_sight, episode, jnp.cos(episode.others.yaw), jnp.sin(episode.others.yaw))
    past = jax.vmap(lambda k: look(_moved_back(pose, 0.2 * k), HISTORY - _EVERY * k))(back)
    sight = jnp.concatenate([jnp.zeros_like(past[:1]), past])
    none = jnp.zeros(past.shape[1], jnp.int32)
    known = _Known(sight, none - 1, none, none > 0)
    rows = HISTORY + _EVERY * jnp.arange(episode.noise.shape[0])
    _, (u, poses) = lax.scan(
        partial(_decide, episode, look), _Driver(pose, arc, jnp.float32(0), known), (rows, episode.noise)
    )
    first = jnp.stack([x, y, yaw, speed])
    states = jnp.concatenate([first[None], poses.reshape(-1, 4)])
    return Drive(u, *states.T)


def _decide(
    episode: Episode, look: Callable[[Pose, Array], Array], driver: _Driver, at: tuple[Array, Array]
) -> tuple[_Driver, tuple[Array, Array]]:
    """One action for two steps from the step `at[0]` on."""
    step, noise = at
    pose, speed = driver.pose, jnp.maximum(along(driver.pose), 0.0)
    known = _perceive(episode, driver.known, look(pose, step), step)
    red = episode.red[step]
    rate, bend = choose(episode.way, episode.style, _foresee(episode, known, step), red, pose, driver.arc, driver.rate)
    limits = limits_of(jnp.asarray(int(Kind.VEHICLE)))
    bend = bend + noise[1] * largest_curvature(speed, limits)
    # Noise would make a standing car creep.
    wanted = jnp.maximum(rate + noise[0] * jnp.clip(speed / 3, 0, 1), -speed / (_EVERY * _DT))
    u = normalised(jnp.stack([wanted, bend]), speed)
    action = physical(u, along(pose))

    def move(pose: Pose, _: None) -> tuple[Pose, Array]:
        after = Bicycle().forward(pose, action, _DT, limits)
        return after, jnp.stack([after.x, after.y, after.yaw, along(after)])

    pose, rows = lax.scan(move, pose, None, length=_EVERY)
    return _Driver(pose, place_on(episode.way, pose.x, pose.y, driver.arc + speed * 0.2).arc, rate, known), (u, rows)


def _moved_back(pose: Pose, seconds: Float[Array, ""]) -> Pose:
    return pose._replace(x=pose.x - pose.vx * seconds, y=pose.y - pose.vy * seconds)


def _sight(
    episode: Episode, cos: Float[Array, "T N"], sin: Float[Array, "T N"], pose: Pose, step: Int32[Array, ""]
) -> Bool[Array, " N"]:
    """Which objects can be seen from a pose at a step: within 70 m, not `visibility.hidden`. cos, sin: of their yaw."""
    others = episode.others
    fields = (others.x, others.y, cos, sin, others.valid)
    x, y, cos, sin, valid = (lax.dynamic_index_in_dim(v, step, keepdims=False) for v in fields)
    unseen = hidden(pose.x, pose.y, x, y, cos, sin, others.length, others.width, valid)
    return valid & ~unseen & ((x - pose.x) ** 2 + (y - pose.y) ** 2 < _RANGE_M**2)


def _perceive(episode: Episode, known: _Known, sight: Bool[Array, " N"], step: Int32[Array, ""]) -> _Known:
    """What is known once the sight of `delay` decisions ago arrives."""
    ring = jnp.concatenate([sight[None], known.sight[:-1]])
    now = ring[episode.delay]
    frames = jnp.where(now, jnp.where(known.now, jnp.minimum(known.frames + 1, 3), 1), known.frames)
    return _Known(ring, jnp.where(now, step - _EVERY * episode.delay, known.step), frames, now)


def _foresee(episode: Episode, known: _Known, step: Int32[Array, ""]) -> Foreseen:
    """Where the known objects are taken to be over the next 3 s, from their last frames.

    The acceleration decays within 1 s, down to standing; the curvature of the way is kept.
    """
    others, at = episode.others, jnp.maximum(known.step, 0)
    span = _EVERY * (known.frames - 1)
    now, then = (_frame(others, jnp.maximum(row, 0)) for row in (at, at - span))
    seconds = jnp.maximum(span, 1) * _DT
    speed, before = jnp.hypot(now.vx, now.vy), jnp.hypot(then.vx, then.vy)
    rate = (speed - before) / seconds
    turn = jnp.arctan2(jnp.sin(now.yaw - then.yaw), jnp.cos(now.yaw - then.yaw)) / seconds
    bend = jnp.clip(turn / jnp.maximum(speed, 1.0), -_MOST_BEND, _MOST_BEND)
    ahead = (step - at) * _DT + 0.2 * jnp.arange(1, 16, dtype=jnp.float32)[:, None]
    stop = -jnp.log(jnp.maximum(1 + speed / jnp.minimum(rate, -1e-3), 1e-6))
    ahead = jnp.where((rate < 0) & (speed < -rate), jnp.minimum(ahead, stop), ahead)
    gone = jnp.maximum(speed * ahead + rate * (ahead - 1 + jnp.exp(-ahead)), 0.0)
    heading = jnp.arctan2(now.vy, now.vx)
    # Who moves sideways or backwards keeps its heading; who stands has none of its own.
    heading = jnp.where(speed > 0.3, heading, now.yaw)
    half = bend * gone / 2
    chord = gone * jnp.sinc(half / jnp.pi)
    yaw = now.yaw + 2 * half
    return Foreseen(
        now.x + chord * jnp.cos(heading + half),
        now.y + chord * jnp.sin(heading + half),
        jnp.cos(yaw),
        jnp.sin(yaw),
        others.length,
        others.width,
        speed,
        others.drives,
        (known.step >= 0) & (step - known.step <= _MEMORY_STEPS),
    )


def _frame(others: Others, step: Int32[Array, " N"]) -> Pose:
    """Poses at a step of each object's own."""
    rows = (jnp.take_along_axis(field, step[None], axis=0)[0] for field in others[:5])
    x, y, yaw, vx, vy = rows
    return Pose(x, y, jnp.zeros_like(x), yaw, vx, vy)
