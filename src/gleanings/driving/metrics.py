"""Metrics of a step and of whole trajectories. Importing this module loads jax.

Masks are False where a metric is not defined (no edges, no path, no log ...); such values hold 0 or False.
Source: design page 3.8 (ours).
"""

from collections.abc import Callable, Iterable
from functools import partial

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Int32

from gleanings.core.errors import ConfigError
from gleanings.driving import _metrics_contact as contact
from gleanings.driving import _metrics_road as roads
from gleanings.driving import _metrics_route as route
from gleanings.driving._step_context import StepContext, defined, last_defined
from gleanings.driving.advance import advance, begin, follows_contacts, measured_rows
from gleanings.driving.comfort import comfort
from gleanings.driving.config import PER_STEP_METRICS, SimConfig
from gleanings.driving.geometry import rows_of
from gleanings.driving.scene import Pose, Scene, Trajectory
from gleanings.driving.state import Metric, SimState

__all__ = ["PER_STEP_METRICS", "StepContext", "check_names", "displacement", "measure", "measure_step", "step_metrics"]

WHOLE_METRICS = ("ade_m", "fde_m", "comfort")
"""Metrics of a whole trajectory, one value an object."""
_DEFAULT = SimConfig()
_MEASURES: dict[str, Callable[[StepContext], Metric]] = {
    "collision": contact.collision,
    "overlap_gap": contact.overlap_gap,
    "at_fault": contact.at_fault,
    "off_road": roads.off_road,
    "off_road_m": roads.off_road_m,
    "wrong_way": roads.wrong_way,
    "off_route": route.off_route,
    "off_route_m": route.off_route_m,
    "progress_m": route.progress_m,
    "progress_ratio": route.progress_ratio,
    "log_divergence": route.log_divergence,
    "infeasible": route.infeasible,
    "ttc_s": contact.ttc_s,
    "ttc_low": contact.ttc_low,
    "red_light": roads.red_light,
    "speeding_mps": roads.speeding_mps,
    "goal_reached": route.goal_reached,
}


def check_names(names: Iterable[str]) -> None:
    """ConfigError that lists the known names if one of `names` is no metric of a step."""
    for name in names:
        if name not in _MEASURES:
            raise ConfigError(f"metric {name!r} is not known; known: {', '.join(_MEASURES)}")


def measure_step(context: StepContext, names: Iterable[str]) -> dict[str, Metric]:
    """Metrics [N] of one step by name. ConfigError: an unknown name. Source: ours, 3.8."""
    names = tuple(names)
    check_names(names)
    found = {name: _MEASURES[name](context) for name in names}
    if context.config.measured == "all":
        return found
    return {name: defined(value, mask & context.measured) for name, (value, mask) in found.items()}


def step_metrics(
    scene: Scene,
    prev: SimState,
    state: SimState,
    names: Iterable[str] = PER_STEP_METRICS,
    config: SimConfig = _DEFAULT,
) -> dict[str, Metric]:
    """Metrics [N] at `state`, one step after `prev`, by name. Source: ours, 3.8.

    ConfigError: an unknown name; contacts of states whose simulator measures none, so that the overlaps that `config`
    excuses are not known (not checked in a traced program).
    """
    names = tuple(names)
    contacts = config.excuse_overlap and follows_contacts(names)
    if contacts and not isinstance(prev.met, Tracer) and _unknown(scene, prev, config):
        raise ConfigError(
            "these states do not say which overlaps are excused: make the simulator with metrics=('collision',), or "
            "give config=SimConfig(excuse_overlap=False)"
        )
    return measure_step(StepContext(scene, config, prev, state), names)


def _unknown(scene: Scene, state: SimState, config: SimConfig) -> bool:
    """Whether the state does not say of a measured object that is there which pairs, itself one, have met."""
    alive, met = rows_of((state.alive, state.met), measured_rows(scene, config))
    return bool(jnp.any(alive & ~jnp.any(met != 0, axis=1)))


def measure(
    scene: Scene,
    trajectory: Trajectory,
    names: Iterable[str] | None = None,
    config: SimConfig = _DEFAULT,
    first: int | None = None,
) -> dict[str, Metric]:
    """Metrics of any trajectory [T'+1, N] in a scene, by name: [T', N] for steps, [N] for `WHOLE_METRICS`.

    Row k of the trajectory is state index first + k (None: `config.start`, else `scene.start`); the first row is where
    the motion starts and is not measured itself. names: None: all. ConfigError: an unknown name, fewer than two rows,
    objects other than the scene's. Source: ours, 3.8.
    """
    names = (*PER_STEP_METRICS, *WHOLE_METRICS) if names is None else tuple(names)
    check_names(name for name in names if name not in WHOLE_METRICS)
    shape, slots = trajectory.x.shape, scene.objects.kind.shape[0]
    if len(shape) != 2 or shape[0] < 2 or shape[1] != slots:
        raise ConfigError(f"measure: a trajectory of shape {shape}; at least 2 rows of {slots} objects are needed")
    start = first if first is not None else scene.start if config.start is None else config.start
    return _measure(scene, trajectory, jnp.asarray(start, jnp.int32), names, config)


@partial(jax.jit, static_argnames=("names", "config"))
def _measure(
    scene: Scene, trajectory: Trajectory, first: Int32[Array, ""], names: tuple[str, ...], config: SimConfig
) -> dict[str, Metric]:
    steps = {name for name in names if name in _MEASURES}
    steps |= {"log_divergence"} if {"ade_m", "fde_m"} & set(names) else set()
    contacts = follows_contacts(steps)
    *pose, valid = jax.tree.map(lambda rows: rows[0], trajectory)
    state, _ = begin(scene, config, first, Pose(*pose), valid, jax.random.key(0), contacts=contacts)

    def one(state: SimState, row: Trajectory) -> tuple[SimState, dict[str, Metric]]:
        *pose, valid = row
        after, gaps = advance(scene, config, state, Pose(*pose), valid, contacts=contacts, agents=state.agents)
        return after, measure_step(StepContext(scene, config, state, after, gaps, first), sorted(steps))

    _, found = jax.lax.scan(one, state, jax.tree.map(lambda rows: rows[1:], trajectory))
    if "log_divergence" in found:
        found["ade_m"], found["fde_m"] = displacement(found["log_divergence"])
    if "comfort" in names:
        found["comfort"] = comfort(scene, trajectory)
    return {name: found[name] for name in names}


def displacement(divergence: Metric) -> tuple[Metric, Metric]:
    """Mean (ade_m) and last (fde_m) defined distance to the log [N] from `log_divergence` [T', N]. Metres."""
    value, mask = divergence
    some = mask.any(0)
    mean = jnp.where(mask, value, 0.0).sum(0) / jnp.maximum(mask.sum(0), 1)
    return defined(mean, some), defined(last_defined(divergence, 0.0), some)
