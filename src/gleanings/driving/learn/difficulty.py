"""How hard a scene is, by what a fixed planner makes of it under noise, and the hardest shares of a set of scenes.

The planner is IDM on the lane route: no policy that is compared, nor the one that made the logs. Source: ours; the
variant by a model of near misses follows arXiv 2212.11419, V-B, which had labels of people.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Key

from gleanings.core.errors import ConfigError
from gleanings.driving.alone import alone, state_alone
from gleanings.driving.dynamics import along, limits_of
from gleanings.driving.idm import IDM
from gleanings.driving.learn.bank import COMMON, make_bank, without_lanes
from gleanings.driving.learn.config import BucketConfig, WorldConfig
from gleanings.driving.learn.safety_reward import clearance
from gleanings.driving.learn.split import log_id
from gleanings.driving.learn.world import World
from gleanings.driving.policies import driven_by
from gleanings.driving.scene import Scene, name_of

_BATCH = 64
_SPEED, _HEADWAY, _NOISE_MPS2, _MEMORY_S = (0.95, 1.05), (0.8, 1.2), 0.2, 2.0
_NEAR_M = 2.0  # clearance below which a drive without failure counts
_WIDTH, _FITTING, _RATE, _DECAY = 64, 400, 1e-3, 1e-3
_NAME = re.compile(r"(top|bottom)([1-9]\d?)")
_DEFAULT = BucketConfig()
Scores = Float[np.ndarray, " _"]


class Drives(NamedTuple):
    """Of the planner's re-simulations [C, J]: whether it failed, and the least clearance to another box, m."""

    failed: Bool[np.ndarray, "C J"]
    clearance_m: Float32[np.ndarray, "C J"]


@dataclass(frozen=True)
class Buckets:
    """Scenes C by name and their ranks: the share of calibration scenes that are easier, in [0, 1]."""

    scenes: tuple[str, ...]
    rank: Scores
    percentiles: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the groups that a report shows: all, the hardest shares, and the easier half."""
        return ("all", *(f"top{share}" for share in self.percentiles), "bottom50")

    def mask(self, name: str) -> Bool[np.ndarray, " C"]:
        """Scenes of "all", "top<p>" (rank above the (100 - p) % point) or "bottom<p>". ConfigError: another name."""
        if name == "all":
            return np.ones(len(self.rank), bool)
        found = _NAME.fullmatch(name)
        if found is None:
            raise ConfigError(f"there is no bucket {name!r}: choose from {', '.join(self.names)}")
        share = int(found[2]) / 100
        return self.rank > 1 - share if found[1] == "top" else self.rank <= share


def difficulty_scores(
    scenes: Sequence[Scene],
    config: BucketConfig = _DEFAULT,
    key: Key[Array, ""] | None = None,
    model: "DifficultyModel | None" = None,
) -> Scores:
    """Scores of learning scenes; one does not depend on what else is scored. key: None is `config.seed`.

    "planner": mean over re-simulations of [failed] + max(0, (2 m - clearance) / 2 m). "model": its probability of a
    near miss. ConfigError: "model" without one.
    """
    if config.kind == "model":
        if model is None:
            raise ConfigError('kind="model" needs a model: fit one with fit_difficulty_model')
        return model(scenes)
    drives = planner_drives(scenes, config, key)
    return (drives.failed + np.maximum(0.0, (_NEAR_M - drives.clearance_m) / _NEAR_M)).mean(1).astype(np.float64)


def near_misses(
    scenes: Sequence[Scene], config: BucketConfig = _DEFAULT, key: Key[Array, ""] | None = None
) -> Bool[np.ndarray, " C"]:
    """Whether the planner failed or passed another within `config.near_miss_m` in half its re-simulations."""
    drives = planner_drives(scenes, config, key)
    return (drives.failed | (drives.clearance_m < config.near_miss_m)).mean(1) >= 0.5


def planner_drives(
    scenes: Sequence[Scene], config: BucketConfig = _DEFAULT, key: Key[Array, ""] | None = None
) -> Drives:
    """Re-simulations of all scenes among logged others. The noise of a scene follows from its name alone."""
    key, world = jax.random.key(config.seed) if key is None else key, World(WorldConfig(others="log"))
    bank, count = without_lanes(make_bank(scenes, COMMON)), len(scenes)
    marks = np.array([zlib.crc32(name_of(scene).encode()) for scene in scenes], np.uint32)
    parts = []
    for first in range(0, count, min(_BATCH, count)):
        rows = np.minimum(np.arange(first, first + min(_BATCH, count)), count - 1)
        part = jax.device_put(jax.tree.map(lambda leaf, rows=rows: leaf[rows], bank))
        parts.append(jax.device_get(_drive_batch(world, part, jax.device_put(marks[rows]), key, config.simulations)))
    failed, near = (np.concatenate(field)[:count] for field in zip(*parts, strict=True))
    return Drives(failed, near)


@eqx.filter_jit
def _drive_batch(world: World, bank: Scene, marks: Array, key: Key[Array, ""], count: int) -> tuple[Array, Array]:
    def of_scene(scene: Scene, mark: Array) -> tuple[Array, Array]:
        keys = jax.random.split(jax.random.fold_in(key, mark), count)
        return jax.vmap(lambda key: _drive(world, scene, key))(keys)

    return jax.vmap(of_scene)(bank, marks)


def _drive(world: World, scene: Scene, key: Key[Array, ""]) -> tuple[Array, Array]:
    """One episode of the planner: whether it failed, and the least clearance."""
    sim = world.judge
    first, speed_key, headway_key, noise_key = jax.random.split(key, 4)
    slot = jnp.argmax(jnp.asarray(scene.objects.is_sdc))
    faster = jax.random.uniform(speed_key, (), jnp.float32, *_SPEED)
    headway = IDM().headway * jax.random.uniform(headway_key, (), jnp.float32, *_HEADWAY)
    policy = driven_by(eqx.tree_at(lambda idm: idm.headway, IDM(), headway), sim.dynamics)
    state = sim.reset(scene, first)
    state = eqx.tree_at(lambda s: (s.vx, s.vy), state, replace_fn=lambda v: v.at[slot].multiply(faster))
    draws = jax.random.normal(noise_key, (world.config.horizon * world.config.every + 1,), jnp.float32)
    keep = jnp.exp(-scene.dt / _MEMORY_S)
    own, limits = alone(scene, slot), limits_of(jnp.asarray(scene.objects.kind)[slot])

    def step(carry, draw):
        state, level = carry
        action = policy(own, state_alone(state, slot), first, (scene, state))[0]
        # Noise makes nobody drive backwards.
        least = -along(state.pose)[slot] / scene.dt
        rate = jnp.maximum(action[0] + _NOISE_MPS2 * level, jnp.minimum(least, action[0]))
        action = action.at[0].set(jnp.clip(rate, limits.brake, limits.accelerate))
        rows = jnp.broadcast_to(action, (state.x.shape[0], 2))  # of the others none is used
        state, out = sim.step(scene, state, rows, first)
        failed = out.metrics["collision"].value[slot] | out.metrics["off_road"].value[slot]
        level = keep * level + jnp.sqrt(1 - keep * keep) * draw
        return (state, level), (failed, clearance(scene, state))

    _, (failed, near) = lax.scan(step, (state, draws[0]), draws[1:])
    return failed.any(), near.min()


def make_buckets(
    scores_test: Scores, scores_calibration: Scores, names: Sequence[str], config: BucketConfig = _DEFAULT
) -> Buckets:
    """Ranks of test scenes (with their `names`) among the calibration scenes, which alone set the thresholds.

    Among calibration scenes of the same score, of which there are many with 0, a checksum of the name decides.
    ConfigError: no calibration scenes, or unequal numbers of scores and names.
    """
    if not len(scores_calibration) or len(names) != len(scores_test):
        raise ConfigError(
            f"{len(scores_calibration)} calibration scores, {len(scores_test)} test scores, {len(names)} names: at "
            "least one calibration scene is needed, and a name for each test scene"
        )
    ordered = np.sort(scores_calibration)
    below, upto = (np.searchsorted(ordered, scores_test, side) for side in ("left", "right"))
    share = np.array([zlib.crc32(name.encode()) / 2**32 for name in names])
    rank = (below + share * (upto - below)) / len(ordered)
    return Buckets(tuple(names), rank.astype(np.float64), config.percentiles)


class DifficultyModel(eqx.Module):
    """Probability of a near miss of the planner, from what the ego sees first. auc: on scenes held out."""

    net: eqx.nn.MLP
    mean: Float32[Array, " D"]
    scale: Float32[Array, " D"]
    auc: float = eqx.field(static=True, default=float("nan"))

    def __call__(self, scenes: Sequence[Scene]) -> Scores:
        """Probabilities [C]."""
        seen = jax.device_put(first_observations(scenes))
        return np.asarray(jax.nn.sigmoid(_logits(self.net, self.mean, self.scale, seen)), np.float64)


def first_observations(scenes: Sequence[Scene]) -> Float32[np.ndarray, "C D"]:
    """What the ego of each learning scene sees at the start."""
    return np.asarray(_begin(World(), jax.device_put(make_bank(scenes))))


@eqx.filter_jit
def _begin(world: World, bank: Scene) -> Float32[Array, "C D"]:
    return jax.vmap(lambda scene: world.begin(scene, jax.random.key(0))[1])(bank)


@eqx.filter_jit
def _logits(net: eqx.nn.MLP, mean: Array, scale: Array, seen: Float32[Array, "C D"]) -> Float32[Array, " C"]:
    return jax.vmap(net)((seen - mean) / scale)


def fit_difficulty_model(
    scenes: Sequence[Scene], labels: Bool[np.ndarray, " C"], key: Key[Array, ""]
) -> DifficultyModel:
    """Two layers of 64 on the first observation, cross-entropy on `labels` (see `near_misses`), Adam on all scenes.

    The scenes of a fifth of the logs, by a checksum, are held out for the AUC (NaN without both kinds there).
    ConfigError: labels that are all equal, or of another number.
    """
    labels = np.asarray(labels, bool)
    if len(labels) != len(scenes) or labels.all() or not labels.any():
        raise ConfigError(f"{labels.sum()} of {len(labels)} labels are true, for {len(scenes)} scenes: both are needed")
    seen = first_observations(scenes)
    held = np.array([zlib.crc32(log_id(name_of(scene)).encode()) % 5 == 0 for scene in scenes])
    held &= not held.all()
    mean, scale = seen[~held].mean(0), seen[~held].std(0) + 0.1
    net = eqx.nn.MLP(seen.shape[1], "scalar", _WIDTH, 2, key=key)
    parts = (jax.device_put(part) for part in (mean, scale, seen[~held], labels[~held].astype(np.float32)))
    net = _fit(net, *parts)
    logits = np.asarray(_logits(net, *map(jax.device_put, (mean, scale, seen))))
    return DifficultyModel(net, jax.device_put(mean), jax.device_put(scale), auc(logits[held], labels[held]))


@eqx.filter_jit
def _fit(net: eqx.nn.MLP, mean: Array, scale: Array, seen: Array, labels: Array) -> eqx.nn.MLP:
    arrays, static = eqx.partition(net, eqx.is_array)
    adam = optax.adamw(_RATE, weight_decay=_DECAY)

    def loss(arrays):
        logits = jax.vmap(eqx.combine(arrays, static))((seen - mean) / scale)
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

    def step(carry, _):
        arrays, state = carry
        updates, state = adam.update(jax.grad(loss)(arrays), state, arrays)
        return (optax.apply_updates(arrays, updates), state), None

    (arrays, _), _ = lax.scan(step, (arrays, adam.init(arrays)), None, length=_FITTING)
    return eqx.combine(arrays, static)  # pyright: ignore[reportReturnType]


def auc(scores: Float[np.ndarray, " C"], labels: Bool[np.ndarray, " C"]) -> float:
    """Probability that a true one has the larger score than a false one, ties half; NaN without both."""
    true, false = np.sort(scores[labels]), scores[~labels]
    if not len(true) or not len(false):
        return float("nan")
    above = len(true) - (np.searchsorted(true, false, "left") + np.searchsorted(true, false, "right")) / 2
    return float(above.mean() / len(true))
