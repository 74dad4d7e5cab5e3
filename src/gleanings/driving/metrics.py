"""Metrics of a step and of whole trajectories. Importing this module loads jax.

Masks are False where a metric is not defined (no edges, no path, no log ...); such values hold 0 or False.
Source: design page 3.8 (ours).
"""

from collections.abc import Callable, Iterable

from gleanings.core.errors import ConfigError
from gleanings.driving import _metrics_contact as contact
from gleanings.driving import _metrics_road as roads
from gleanings.driving import _metrics_route as route
from gleanings.driving._step_context import StepContext
from gleanings.driving.config import PER_STEP_METRICS, SimConfig
from gleanings.driving.scene import Scene
from gleanings.driving.state import Metric, SimState

__all__ = ["PER_STEP_METRICS", "StepContext", "check_names", "measure_step", "step_metrics"]

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
    return {name: _MEASURES[name](context) for name in names}


def step_metrics(
    scene: Scene,
    prev: SimState,
    state: SimState,
    names: Iterable[str] = PER_STEP_METRICS,
    config: SimConfig = _DEFAULT,
) -> dict[str, Metric]:
    """Metrics [N] at `state`, one step after `prev`, by name. ConfigError: an unknown name. Source: ours, 3.8."""
    return measure_step(StepContext(scene, config, prev, state), names)
