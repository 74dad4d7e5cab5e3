"""What a rollout amounts to: one value an object, then one number a metric."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from gleanings.core.errors import ConfigError
from gleanings.driving._step_context import defined, last_defined
from gleanings.driving.comfort import comfort
from gleanings.driving.metrics import displacement
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Scene
from gleanings.driving.score import NEEDS, score
from gleanings.driving.state import ALIVE, Metric, Rollout

MOVING_M = 5.0
_LEAST = ("overlap_gap", "ttc_s")
_LAST = ("progress_m", "progress_ratio")


def per_object(scene: Scene, rollout: Rollout) -> dict[str, Metric]:
    """Each metric of a rollout as one value an object [N]; pure jax, so that it can be jitted and vmapped.

    A bool: whether it held at any step. overlap_gap, ttc_s: least; progress: last; log_divergence: mean; others:
    largest. Beside the rollout's metrics: ade_m and fde_m (with log_divergence), comfort (with a trajectory), score
    (with the trajectory and the metrics of `score.NEEDS`). Source: ours, 3.8.
    """
    metrics = rollout.metrics
    if not rollout.flags.shape[0]:  # no steps: one at which nothing is defined
        metrics = jax.tree.map(lambda rows: jnp.zeros((1, *rows.shape[1:]), rows.dtype), metrics)
    values = {name: _reduce(name, metric) for name, metric in metrics.items()}
    if "log_divergence" in values:
        values["ade_m"], values["fde_m"] = displacement(metrics["log_divergence"])
    if rollout.trajectory is not None:
        values["comfort"] = comfort(scene, rollout.trajectory)
        if all(name in metrics for name in NEEDS):
            values["score"] = score(scene, metrics, rollout.trajectory)
    return values


_values = jax.jit(per_object)


def _reduce(name: str, metric: Metric) -> Metric:
    value, mask = metric
    if value.dtype == jnp.bool_:
        reduced = (value & mask).any(0)
    elif name in _LEAST:
        reduced = jnp.where(mask, value, jnp.inf).min(0)
    elif name in _LAST:
        reduced = last_defined(metric, 0.0)
    elif name == "log_divergence":
        reduced = displacement(metric)[0].value
    else:
        reduced = jnp.where(mask, value, -jnp.inf).max(0)
    return defined(reduced, mask.any(0))


def chosen(scene: Scene, rollout: Rollout, who: str) -> Bool[Array, " N"]:
    """Objects of the group `who` that were in the scene at some step. ConfigError: an unknown group.

    controlled, sdc, predicted, all; moving: vehicles whose log extends over more than 5 m.
    """
    objects = scene.objects
    groups = {
        "controlled": rollout.controlled,
        "sdc": objects.is_sdc,
        "predicted": objects.to_predict,
        "moving": (objects.kind == int(Kind.VEHICLE)) & (objects.extent > MOVING_M),
        "all": objects.exists,
    }
    if who not in groups:
        raise ConfigError(f"who={who!r} is not known; known: {', '.join(groups)}")
    return jnp.asarray(groups[who]) & ((jnp.asarray(rollout.flags) & ALIVE) != 0).any(0)


def summarise(scene: Scene, rollout: Rollout, who: str = "controlled") -> dict[str, float]:
    """Means over the objects of a group, by metric, for the rollout of one scene (no batch axis).

    `n`: objects in the group; `NAME_n`: those for which NAME is defined, over which the mean is taken (NaN if none).
    ConfigError: an unknown group. Source: ours, 3.8.
    """
    return averages(_values(scene, rollout), chosen(scene, rollout, who))


def averages(values: dict[str, Metric], group: Bool[Array, " N"] | Bool[np.ndarray, " N"]) -> dict[str, float]:
    """The flat result of `summarise` from `per_object` and `chosen`."""
    inside = np.asarray(group)
    result = {"n": float(inside.sum())}
    for name, (value, mask) in values.items():
        use = np.asarray(mask) & inside
        result[name] = float(np.asarray(value, float)[use].mean()) if use.any() else float("nan")
        result[f"{name}_n"] = float(use.sum())
    return result
