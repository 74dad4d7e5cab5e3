"""How likely the log is under many rollouts: a realism score in the style of the WOMD sim-agents challenge; unofficial.

Bins, weights and the treatment of objects are ours: numbers cannot be compared with those of the challenge. For each
object and feature a histogram of the values of all rollouts and steps gives the mean log-likelihood of the logged
values; its exponential, averaged over the objects, is the feature's likelihood. The log itself is the best that can be
done, since the mean of log q under p is largest for q = p. Source: Montali et al. 2023 (arXiv 2305.12032), the idea.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from gleanings.core.errors import ConfigError
from gleanings.driving.agents import Policy
from gleanings.driving.fans import many
from gleanings.driving.metrics import measure
from gleanings.driving.scene import Scene, Trajectory
from gleanings.driving.sim import Simulator, on_device
from gleanings.driving.state import Rollout
from gleanings.driving.summary import chosen

METRICS = ("overlap_gap", "ttc_s", "off_road_m", "collision", "off_road", "red_light")
"""Metrics that the simulator must measure for `realism`."""
LAPLACE = 0.1
"""Count that every bin of a histogram has from the start."""


class Feature(NamedTuple):
    """Weight of a feature, and lowest edge, highest edge and number of bins; values beyond fall in the last ones."""

    weight: float
    low: float
    high: float
    bins: int


FEATURES = {
    "speed_mps": Feature(0.05, 0.0, 30.0, 30),
    "acceleration_mps2": Feature(0.05, -8.0, 8.0, 32),
    "yaw_rate": Feature(0.05, -1.5, 1.5, 30),
    "yaw_acceleration": Feature(0.05, -5.0, 5.0, 20),
    "overlap_gap": Feature(0.15, -2.0, 38.0, 20),
    "ttc_s": Feature(0.10, 0.0, 5.0, 10),
    "off_road_m": Feature(0.10, -15.0, 5.0, 20),
    "collision": Feature(0.25, 0.0, 1.0, 2),
    "off_road": Feature(0.15, 0.0, 1.0, 2),
    "red_light": Feature(0.05, 0.0, 1.0, 2),
}
"""Features and their weights, which add up to 1; ours. The last three are events: whether one happened at any step."""
_EVENTS = ("collision", "off_road", "red_light")


def sample(
    sim: Simulator,
    scene: Scene,
    key: Key[Array, ""],
    count: int = 32,
    policy: Policy | None = None,
    steps: int | None = None,
) -> Rollout:
    """`count` rollouts, the i-th with fold_in(key, i): a `Rollout` with a leading axis on every array. Source: ours.

    Let all objects react with `SimConfig(controlled=(), metrics=realism.METRICS)`. ConfigError: count < 1.
    """
    if count < 1:
        raise ConfigError(f"count {count}: 1 or more")
    sim.check(scene)
    steps = int(scene.log.x.shape[0] - 1 - sim.start(scene)) if steps is None else steps
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    return _sample(sim, on_device(scene), keys, policy, steps)


@eqx.filter_jit
def _sample(sim: Simulator, scene: Scene, keys: Array, policy: Policy | None, steps: int) -> Rollout:
    bits = jax.random.key_data(keys)
    return many(lambda own: sim.rollout(scene, policy, jax.random.wrap_key_data(own), steps), bits)


def realism(scene: Scene, rollouts: Rollout, who: str = "moving") -> dict[str, float]:
    """Likelihood of the log by feature, their weighted mean `realism`, `min_ade_m`, and `n`, the number of objects.

    rollouts: R of them, as from `sample`, with trajectories and `METRICS`. who: a group of `summarise` (default:
    vehicles whose log extends over 5 m). Likelihoods lie in (0, 1]; NaN: the log never defines the feature, which
    then has no weight. min_ade_m: distance to the log of the best rollout of each object, m. Source: see the module.
    """
    missing = [name for name in METRICS if name not in rollouts.metrics]
    if missing or rollouts.trajectory is None or np.ndim(rollouts.first) != 1:
        raise ConfigError(f"realism needs rollouts from `sample` with trajectories and metrics; missing: {missing}")
    group = np.asarray(chosen(scene, jax.tree.map(lambda rows: rows[0], rollouts._replace(state=None)), who))
    motion, first = Trajectory(*map(np.asarray, rollouts.trajectory)), int(rollouts.first[0])
    steps = min(motion.x.shape[1], len(scene.log.x) - first)
    log = Trajectory(*(np.asarray(field)[first : first + steps] for field in scene.log))
    simulated = _features(motion, rollouts.metrics, float(scene.dt))
    logged = _features(log, measure(scene, log, METRICS, first=first), float(scene.dt))
    result = {name: _likelihood(name, simulated[name], logged[name], group) for name in FEATURES}
    weights = {name: FEATURES[name].weight for name, value in result.items() if np.isfinite(value)}
    total = sum(weight * result[name] for name, weight in weights.items())
    result["realism"] = total / sum(weights.values()) if weights else float("nan")
    return result | {"min_ade_m": _least_ade(motion, log, group), "n": float(group.sum())}


_Values = tuple[Float[np.ndarray, "... N"], Bool[np.ndarray, "... N"]]


def _features(rows: Trajectory, metrics: dict, dt: float) -> dict[str, _Values]:
    """Values and where they are defined by feature; those of a motion from differences of its positions and yaw."""
    here, pair = rows.valid, rows.valid[..., 1:, :] & rows.valid[..., :-1, :]
    triple = pair[..., 1:, :] & here[..., :-2, :]
    speed = np.hypot(np.diff(rows.x, axis=-2), np.diff(rows.y, axis=-2)) / dt
    turn = np.diff(rows.yaw, axis=-2)
    rate = (turn - 2 * np.pi * np.round(turn / (2 * np.pi))) / dt
    found = {
        "speed_mps": (speed, pair),
        "acceleration_mps2": (np.diff(speed, axis=-2) / dt, triple),
        "yaw_rate": (rate, pair),
        "yaw_acceleration": (np.diff(rate, axis=-2) / dt, triple),
    }
    for name in METRICS:
        value, mask = (np.asarray(part) for part in metrics[name])
        if name in _EVENTS:
            value, mask = (value & mask).any(-2, keepdims=True), mask.any(-2, keepdims=True)
        found[name] = (value.astype(np.float64), mask)
    return found


def _likelihood(name: str, simulated: _Values, logged: _Values, group: Bool[np.ndarray, " N"]) -> float:
    """Mean over the objects of the group of exp(mean log-likelihood of the logged values); NaN without any."""
    feature = FEATURES[name]
    counts = np.full((len(group), feature.bins), LAPLACE)
    value, mask = simulated
    np.add.at(counts, (np.nonzero(mask)[-1], _bins(feature, value[mask])), 1.0)
    chance = np.log(counts / counts.sum(1, keepdims=True))
    value, mask = logged
    mean = np.where(mask, chance[np.arange(len(group)), _bins(feature, value)], 0.0).sum(0) / np.maximum(mask.sum(0), 1)
    known = group & mask.any(0)
    return float(np.exp(mean[known]).mean()) if known.any() else float("nan")


def _bins(feature: Feature, value: Float[np.ndarray, "..."]) -> np.ndarray:
    place = (value - feature.low) / (feature.high - feature.low) * feature.bins
    return np.clip(place, 0, feature.bins - 1).astype(int)


def _least_ade(motion: Trajectory, log: Trajectory, group: Bool[np.ndarray, " N"]) -> float:
    steps = len(log.x)
    both = motion.valid[:, :steps] & log.valid
    apart = np.where(both, np.hypot(motion.x[:, :steps] - log.x, motion.y[:, :steps] - log.y), 0.0)
    mean = np.where(both.any(1), apart.sum(1) / np.maximum(both.sum(1), 1), np.inf)
    least = mean.min(0)
    known = group & both.any((0, 1))
    return float(least[known].mean()) if known.any() else float("nan")
