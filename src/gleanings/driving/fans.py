"""What if the ego did this instead: many short futures from one state, in one program that shares log and map."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, Key, Shaped

from gleanings.core.errors import ConfigError
from gleanings.driving.agents import Policy
from gleanings.driving.scene import Scene
from gleanings.driving.score import NEEDS, score
from gleanings.driving.sim import Simulator, on_device
from gleanings.driving.state import Action, Rollout, SimState

CPU_CHUNK = 8
"""Rollouts of one vmap; more leave the CPU's cache."""


class Plan(eqx.Module):
    """A policy that knows its actions in advance: row k of `actions` at state index first + k.

    After the last row, and for all objects but the ego, it coasts.
    """

    actions: Shaped[Array, "H A"] = eqx.field(converter=jnp.asarray)
    first: Int32[Array, ""]

    def __call__(self, scene: Scene, state: SimState, key: Array | None = None) -> Action:
        """Actions [N, A], used in the row of the ego; the key is not used."""
        row, ego = state.t - self.first, jnp.asarray(scene.objects.is_sdc)
        inside = (row >= 0) & (row < self.actions.shape[0])
        now = self.actions[jnp.clip(row, 0, self.actions.shape[0] - 1)]
        return Action(jnp.broadcast_to(now, (*ego.shape, *now.shape)), ego & inside)


def fan(
    sim: Simulator,
    scene: Scene,
    state: SimState,
    actions: Shaped[Array, "K H A"] | Shaped[np.ndarray, "K H A"] | Sequence[Policy],
    key: Key[Array, ""] | None = None,
    steps: int | None = None,
) -> Rollout:
    """K futures from `state`: a `Rollout` every array of which has a leading axis K.

    actions: of the ego, in one vmap (on a CPU in chunks of 8), or K policies, one after the other; other controlled
    objects coast. steps: None is H, or to the end of the log for policies. key: one for all futures, so that they
    differ by the ego alone; None is seed 0. ConfigError: no future, an ego that `sim` does not control. Source: ours.
    """
    if not len(actions):
        raise ConfigError("a fan needs at least one future")
    if not np.asarray(sim.controlled(scene) & jnp.asarray(scene.objects.is_sdc)).any():
        raise ConfigError("a fan moves the ego, which this simulator does not control or the scene lacks")
    key = jax.random.key(0) if key is None else key
    if isinstance(actions, jax.Array | np.ndarray):
        rows = jnp.asarray(actions)
        return _plans(sim, on_device(scene), state, rows, key, rows.shape[1] if steps is None else steps)
    futures = [sim.rollout(scene, policy, key, steps, state=state) for policy in actions]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *futures)


@eqx.filter_jit
def _plans(sim: Simulator, scene: Scene, state: SimState, actions: Array, key: Array, steps: int) -> Rollout:
    return many(lambda rows: sim.rollout(scene, Plan(rows, state.t), key, steps, state=state), actions)


def many(one: Callable[[Array], Rollout], items: Shaped[Array, "K ..."]) -> Rollout:
    """`one` of each of K items in one vmap, on a CPU in chunks of 8: a `Rollout` with a leading axis K."""

    def plain(item: Array) -> Rollout:
        rollout = one(item)
        # Typed keys cannot be joined where jax guards their reuse; their bits can.
        return rollout._replace(state=_with_key(rollout.state, jax.random.key_data(rollout.state.key)))

    chunked = jax.default_backend() == "cpu" and len(items) > CPU_CHUNK
    rollouts = jax.lax.map(plain, items, batch_size=CPU_CHUNK) if chunked else jax.vmap(plain)(items)
    return rollouts._replace(state=_with_key(rollouts.state, jax.random.wrap_key_data(rollouts.state.key)))


def _with_key(state: SimState, key: Array) -> SimState:
    return eqx.tree_at(lambda state: state.key, state, key)


def constant_grid(
    steps: int,
    acceleration: tuple[float, float] = (-4.0, 2.0),
    curvature: tuple[float, float] = (-0.05, 0.05),
    counts: tuple[int, int] = (8, 8),
) -> Float32[np.ndarray, "K H 2"]:
    """Constant actions of `Bicycle`, m/s^2 and 1/m: every acceleration with every curvature.

    `counts` evenly spaced values of each; row i counts[1] + j has acceleration i and curvature j. ConfigError: a count
    or `steps` below 1. Source: ours.
    """
    if min(steps, *counts) < 1:
        raise ConfigError(f"steps {steps} and counts {counts}: 1 or more")
    pairs = np.meshgrid(np.linspace(*acceleration, counts[0]), np.linspace(*curvature, counts[1]), indexing="ij")
    rows = np.stack([values.ravel() for values in pairs], axis=1).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(rows[:, None], (len(rows), steps, 2)))


def rank(scene: Scene, futures: Rollout) -> tuple[Float32[np.ndarray, " K"], Shaped[np.ndarray, " K"]]:
    """The ego's `score` of each future, and their order, best first; among equals, who made more way comes first.

    Where the score is not defined it counts as 0. ConfigError: no ego, or futures without trajectory, `progress_m` or
    metrics of `score.NEEDS`.
    """
    missing = [name for name in (*NEEDS, "progress_m") if name not in futures.metrics]
    if missing or futures.trajectory is None:
        raise ConfigError(f"rank needs futures with trajectories and metrics; missing: {', '.join(missing) or 'poses'}")
    if not np.asarray(scene.objects.is_sdc).any():
        raise ConfigError("rank scores the ego, which the scene lacks")
    ego = int(np.flatnonzero(np.asarray(scene.objects.is_sdc))[0])

    scene = on_device(scene)

    def of(metrics: Any, trajectory: Any) -> tuple[Array, Array]:
        found = score(scene, metrics, trajectory)
        return jnp.where(found.mask, found.value, 0.0)[ego], metrics["progress_m"].value[-1, ego]

    values, way = (np.asarray(part) for part in jax.vmap(of)(futures.metrics, futures.trajectory))
    return values, np.lexsort((-way, -values))
