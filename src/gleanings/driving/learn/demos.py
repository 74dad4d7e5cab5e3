"""Demonstrations: what an ego sees along its log and the actions that lead along it, and whether they may be used.

Source: arXiv 2212.11419, IV-B (inverse dynamics); what is dropped and what is an error: ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float32, Int32, Key

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving.dynamics import StateTarget, along
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.config import DemoConfig
from gleanings.driving.learn.labels import label_actions
from gleanings.driving.learn.safety_reward import clearance
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Pose, Scene, Trajectory, name_of
from gleanings.driving.sim import Simulator

_BATCH = 64
_MAX_DROPPED, _GOOD_AUDIT, _EDGE_STEP_M = 0.2, 0.1, 0.05
_QUANTILES = (0.5, 0.9, 0.99, 1.0)
_CLIPPED = 0.98
_DEFAULT = DemoConfig()


class Demonstrations(NamedTuple):
    """Rows M of demonstrated decisions, NumPy: observation [M, D], u in [-1, 1]^2 [M, 2] and which of its parts the log
    determines (bool [M, 2]), index of the scene and of the decision (i32 [M])."""

    obs: Float32[Array | np.ndarray, "M D"]
    action: Float32[Array | np.ndarray, "M 2"]
    mask: Bool[Array | np.ndarray, "M 2"]
    scene: Int32[Array | np.ndarray, " M"]
    step: Int32[Array | np.ndarray, " M"]


@dataclass(frozen=True)
class Audit:
    """What became of the logs; shares are of decisions."""

    scenes: int
    decisions: int
    """Of all scenes, kept or not."""
    kept: int
    dropped_gap: int
    """The log is not valid throughout."""
    dropped_residual: int
    """No action leads along the log."""
    residual_m: tuple[float, float, float, float]
    """Median, 90 %, 99 % and largest residual where the log is valid; NaN: nowhere."""
    standing: float
    """Share of the kept whose steering is undetermined."""
    clipped: float
    """Share of the kept with an |u| above 0.98."""
    negative: float
    """Share of the kept with a reward below 0."""
    reward: float
    """Mean reward of the kept."""
    empty: tuple[str, ...]
    """Scenes of which nothing was kept."""


class Played(NamedTuple):
    """Of the decisions [H] of a scene: what is seen before each, label, reward; over its steps the largest
    `off_road_m` (-inf: unknown), and the least clearance, m."""

    obs: Any
    action: Any
    mask: Any
    residual: Any
    valid: Any
    reward: Any
    edge: Any
    near: Any


def make_demonstrations(
    scenes: Sequence[Scene], world: World, config: DemoConfig = _DEFAULT
) -> tuple[Demonstrations, Audit]:
    """The demonstrated decisions of learning scenes (`windows`, `make_hazards`) and the audit of them.

    The ego is put where it was logged, with the speed along its heading; all else is as `world` shows it. Decisions
    over which the log is not valid, or whose label misses it by more than `config.max_residual_m`, are dropped.
    DataError: scenes without a logged ego. ConfigError: over 20 % dropped, rewards that punish the log (see `Audit`),
    scenes shorter than an episode.
    """
    _check(scenes, world)
    played = play_all(world, scenes)
    valid, fits = played.valid, played.residual <= config.max_residual_m
    kept = valid & fits
    audit = _audit(scenes, played, kept)
    _check_dropped(audit, config)
    _check_reward(audit, played, kept, world, config)
    scene, step = (index.astype(np.int32) for index in np.nonzero(kept))
    return Demonstrations(played.obs[kept], played.action[kept], played.mask[kept], scene, step), audit


def _check(scenes: Sequence[Scene], world: World) -> None:
    without = [name_of(s) for s in scenes if not (s.objects.is_sdc & s.log.valid[int(s.start)]).any()]
    if without:
        more = f" and {len(without) - 8} more" if len(without) > 8 else ""
        raise DataError(f"no ego with a log in {', '.join(without[:8])}{more}: leave these scenes out")
    steps = world.config.horizon * world.config.every
    for scene in scenes:
        if len(scene.log.x) <= int(scene.start) + steps:
            raise ConfigError(
                f"scene {name_of(scene)!r} has {len(scene.log.x) - 1 - int(scene.start)} steps after its start; an "
                f"episode has {steps}: cut learning scenes with `windows`"
            )


def play_all(world: World, scenes: Sequence[Scene]) -> Played:
    """Of all scenes [C, H], by one program for batches of one size."""
    bank, count = make_bank(scenes), len(scenes)
    batch = min(_BATCH, count)
    parts = []
    for first in range(0, count, batch):
        rows = np.minimum(np.arange(first, first + batch), count - 1)
        part = jax.device_put(jax.tree.map(lambda leaf, rows=rows: leaf[rows], bank))
        parts.append(jax.device_get(_play_batch(world, part, jax.random.key(0))))
    return Played(*(np.concatenate(fields)[:count] for fields in zip(*parts, strict=True)))


@eqx.filter_jit
def _play_batch(world: World, bank: Scene, key: Key[Array, ""]) -> Played:
    return jax.vmap(lambda scene: play(world, scene, key))(bank)


def play(world: World, scene: Scene, key: Key[Array, ""]) -> Played:
    """The episode of one scene with its ego on the log."""
    every, horizon = world.config.every, world.config.horizon
    sim = Simulator(world.sim.config, dynamics=StateTarget(), agents=world.sim.agents, reward=world.sim.reward)
    slot = jnp.argmax(jnp.asarray(scene.objects.is_sdc))
    logged = Trajectory(*(jnp.asarray(field)[:, slot] for field in scene.log))
    speed = along(Pose(*logged[:6]))
    goal = jnp.stack([logged.x, logged.y, logged.yaw, speed * jnp.cos(logged.yaw), speed * jnp.sin(logged.yaw)], 1)

    def step(state, _):
        # Without a finite action the ego coasts.
        own = jnp.where(logged.valid[state.t + 1], goal[state.t + 1], jnp.nan)
        rows = jnp.broadcast_to(own, (state.x.shape[0], 5))
        state, out = sim.step(scene, state, rows, key)
        edge, there = out.metrics["off_road_m"]
        return state, (out.reward[slot], jnp.where(there, edge, -jnp.inf)[slot], clearance(scene, state))

    def decision(state, _):
        seen = world.observe(scene, state)
        state, (reward, edge, near) = lax.scan(step, state, None, length=every)
        return state, (seen, world.reward.of_decision(reward), edge.max(), near.min())

    _, (seen, reward, edge, near) = lax.scan(decision, sim.reset(scene, key), None, length=horizon)
    rows = Trajectory(*(lax.dynamic_slice_in_dim(field, scene.start, every * horizon + 1) for field in logged))
    size = jnp.asarray(scene.objects.length)[slot], jnp.asarray(scene.objects.width)[slot]
    return Played(seen, *label_actions(rows, size, scene.dt, every), reward, edge, near)


def _audit(scenes: Sequence[Scene], played: Played, kept: Bool[np.ndarray, "C H"]) -> Audit:
    residual, action = played.residual[played.valid], played.action[kept]
    quantiles = np.quantile(residual, _QUANTILES) if len(residual) else np.full(4, np.nan)
    some = max(int(kept.sum()), 1)
    return Audit(
        scenes=len(scenes),
        decisions=kept.size,
        kept=int(kept.sum()),
        dropped_gap=int((~played.valid).sum()),
        dropped_residual=int((played.valid & ~kept).sum()),
        residual_m=tuple(quantiles.tolist()),
        standing=float((~played.mask[kept][:, 1]).sum() / some),
        clipped=float((np.abs(action) > _CLIPPED).any(1).sum() / some),
        negative=float((played.reward[kept] < 0).sum() / some),
        reward=float(played.reward[kept].sum() / some),
        empty=tuple(name_of(scene) for scene, some in zip(scenes, kept, strict=True) if not some.any()),
    )


def _check_dropped(audit: Audit, config: DemoConfig) -> None:
    dropped = audit.dropped_gap + audit.dropped_residual
    if dropped <= _MAX_DROPPED * audit.decisions:
        return
    cause = "logs with gaps" if audit.dropped_gap > audit.dropped_residual else "another dt, or poses too noisy"
    values = ", ".join(f"{value:.3g}" for value in audit.residual_m)
    raise ConfigError(
        f"{dropped} of {audit.decisions} demonstrated decisions are dropped ({audit.dropped_gap} by gaps of the log, "
        f"{audit.dropped_residual} by residuals above {config.max_residual_m} m; median, 90 %, 99 % and largest: "
        f"{values} m). Likely cause: {cause}"
    )


def _check_reward(
    audit: Audit, played: Played, kept: Bool[np.ndarray, "C H"], world: World, config: DemoConfig
) -> None:
    if audit.negative <= config.max_audit:
        return
    if world.config.reward == "binary":
        raise ConfigError(
            f"{audit.negative:.0%} of the demonstrated decisions are in contact or off the road; at most "
            f"{config.max_audit:.0%} may: look at the boxes and the edges of these logs"
        )
    near, edge = (np.asarray(field)[kept] for field in (played.near, played.edge))
    margin, share = propose_edge(near < world.config.clearance_m, edge, world.config.edge_m)
    advice = f"edge_m={margin:.2f} leaves {share:.0%}"
    if share > _GOOD_AUDIT:
        advice = f"No edge_m helps (0 leaves {share:.0%}): these logs pass others within {world.config.clearance_m} m"
    raise ConfigError(
        f"{audit.negative:.0%} of the demonstrated decisions have a negative reward (mean {audit.reward:.2f}); at most "
        f"{config.max_audit:.0%} may. {advice}"
    )


def propose_edge(near: Bool[np.ndarray, " M"], edge: Float32[np.ndarray, " M"], edge_m: float) -> tuple[float, float]:
    """The largest margin to the road edge, m, below `edge_m` that at most 10 % of decisions break; and their share.

    near: decisions punished for others; edge: their largest `off_road_m`. Where none will do: 0, and what it leaves.
    """
    tried = np.arange(np.floor(edge_m / _EDGE_STEP_M), -1, -1) * _EDGE_STEP_M
    shares = np.array([(near | (edge > -margin)).mean() for margin in tried])
    at = int(np.argmax(shares <= _GOOD_AUDIT)) if (shares <= _GOOD_AUDIT).any() else -1
    return float(tried[at]), float(shares[at])
