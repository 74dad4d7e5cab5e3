"""Roll out a simulator on many scenes and sum up: one row a scene, means with intervals over scenes."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from gleanings.core.errors import ConfigError
from gleanings.core.stats import Interval, bootstrap_ci
from gleanings.driving.fans import CPU_CHUNK
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.sim import Simulator, on_device
from gleanings.driving.stack import groups_of, grow, stack_scenes
from gleanings.driving.state import Rollout
from gleanings.driving.summary import averages, chosen, per_object


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    rows: for each scene, in the order given, the dict of `summarise`. names: of the scenes. who: the group of objects.
    means: by metric, mean over the scenes for which it is defined (`n` of them) with a 95 % bootstrap interval over
    scenes (NaN bounds if there is only one); metrics defined for no scene are left out.
    """

    rows: tuple[dict[str, float], ...]
    names: tuple[str, ...]
    who: str
    means: dict[str, Interval]

    def table(self) -> str:
        """Text: a line a metric with mean, interval, scenes and objects."""
        lines = [f"{len(self.rows)} scenes, objects: {self.who}", f"{'metric':<16}{'mean [95 %]':<32}scenes  objects"]
        for name, mean in self.means.items():
            objects = sum(row[f"{name}_n"] for row in self.rows)
            lines.append(f"{name:<16}{_shown(mean):<32}{mean.n:>6}  {objects:>7.0f}")
        missing = [name for name in _metrics_of(self.rows) if name not in self.means]
        return "\n".join(lines + ([f"not available: {', '.join(missing)}"] if missing else []))

    def __str__(self) -> str:
        return self.table()

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`: who, means (estimate, low, high, level, n) and scenes; what is not defined is None."""
        means = {name: {key: _plain(value) for key, value in vars(mean).items()} for name, mean in self.means.items()}
        scenes = [
            {"scene": name} | {key: _plain(value) for key, value in row.items()}
            for name, row in zip(self.names, self.rows, strict=True)
        ]
        return {"who": self.who, "means": means, "scenes": scenes}


def evaluate(
    sim: Simulator,
    scenes: Sequence[Scene],
    policy: Callable[..., Any] | None,
    key: Key[Array, ""],
    batch: int = 16,
    who: str = "controlled",
) -> Evaluation:
    """Roll out `policy` (None: coast) in each scene and average over the group `who`.

    Scenes of equal sizes run together, `batch` at a time, compiled once a size; on a CPU in chunks of 8. Scene i has
    the key fold_in(key, i), whatever the batch. ConfigError: no scenes, batch < 1, an unknown group. Source: ours.
    """
    rows: list[dict[str, float]] = [{} for _ in scenes]
    for members, result in _batches(sim, scenes, policy, key, batch, who, range(len(scenes)), keep=False):
        for place, index in enumerate(members):
            rows[index] = _row(result, place)
    return sum_up(rows, scenes, who)


def roll_out(
    sim: Simulator,
    scenes: Sequence[Scene],
    policy: Callable[..., Any] | None,
    key: Key[Array, ""],
    *,
    batch: int = 16,
    who: str = "controlled",
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[int, dict[str, float], Rollout]]:
    """Index, row of `summarise` and rollout (NumPy) of the scenes, or of those at `indices`, as they are done.

    What `evaluate` does, for those who keep rows or rollouts; batches are not in the order of the scenes.
    ConfigError: as there.
    """
    chosen = range(len(scenes)) if indices is None else indices
    for members, result in _batches(sim, scenes, policy, key, batch, who, chosen, keep=True):
        rollouts = jax.tree.map(np.asarray, _without_keys(result[2]))
        for place, index in enumerate(members):
            yield index, _row(result, place), jax.tree.map(lambda array, at=place: array[at], rollouts)


def sum_up(rows: Sequence[dict[str, float]], scenes: Sequence[Scene], who: str = "controlled") -> Evaluation:
    """The rows of `summarise`, one a scene, with their means. ConfigError: no scenes."""
    if not rows:
        raise ConfigError("evaluate: no scenes")
    return Evaluation(tuple(rows), tuple(name_of(scene) for scene in scenes), who, _means(rows))


def _batches(
    sim: Simulator,
    scenes: Sequence[Scene],
    policy: Any,
    key: Key[Array, ""],
    batch: int,
    who: str,
    indices: Sequence[int],
    keep: bool,
) -> Iterator[tuple[list[int], Any]]:
    """Indices of at most `batch` scenes, and what `_run` finds for them.

    Sizes of batches are those of all scenes, whatever the indices, so that what is left of a run, or shown again of it,
    runs in the programs of the whole; a smaller batch is filled up with its own last scene.
    """
    if isinstance(scenes, Scene):
        raise ConfigError("expected a list of scenes; for one scene: [scene]")
    if batch < 1:
        raise ConfigError(f"batch = {batch}; expected at least 1")
    wanted = set(indices)
    for index in indices:
        sim.check(scenes[index])
    steps = [_steps(sim, scene) for scene in scenes]
    for count in sorted({steps[index] for index in wanted}):
        alike = [index for index, own in enumerate(steps) if own == count]
        for places, largest in groups_of([scenes[index] for index in alike]):
            group = [alike[place] for place in places]
            left = [index for index in group if index in wanted]
            for first in range(0, len(left), batch):
                members = left[first : first + batch]
                rows = [*members, *members[-1:] * (min(batch, len(group)) - len(members))]
                stacked = stack_scenes([grow(scenes[index], largest) for index in rows])
                keys = _keys(key, np.asarray(rows))
                filled = on_device(stacked)
                yield members, _run(sim, policy, who, filled, keys, count, _chunk(len(rows)), keep)


@jax.jit
def _keys(key: Key[Array, ""], indices: Int[Array, " B"]) -> Key[Array, " B"]:
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)


def _steps(sim: Simulator, scene: Scene) -> int:
    """Steps of an episode, as in `Simulator.rollout`."""
    left = scene.log.x.shape[0] - 1 - int(sim.start(scene))
    return left if sim.config.steps is None else min(left, sim.config.steps)


@eqx.filter_jit
def _run(
    sim: Simulator, policy: Any, who: str, scenes: Scene, keys: Key[Array, " B"], steps: int, chunk: int, keep: bool
) -> Any:
    """`per_object`, `chosen` and, with `keep`, rollouts of B scenes, `chunk` of them in one vmap."""

    def one(item: tuple[Scene, Key[Array, ""]]) -> Any:
        scene, key = item
        rollout = sim.rollout(scene, policy, key, steps=steps)
        return per_object(scene, rollout), chosen(scene, rollout, who), rollout if keep else None

    if chunk >= keys.shape[0]:
        return jax.vmap(lambda scene, key: one((scene, key)))(scenes, keys)
    return jax.lax.map(one, (scenes, keys), batch_size=chunk)


def _chunk(count: int) -> int:
    return CPU_CHUNK if jax.default_backend() == "cpu" else count


def _row(result: Any, place: int) -> dict[str, float]:
    values, group, _ = result
    return averages(jax.tree.map(lambda array: np.asarray(array)[place], values), np.asarray(group)[place])


def _without_keys(rollout: Rollout) -> Rollout:
    """The rollout with its random keys, which NumPy cannot hold, as their data."""
    return jax.tree.map(
        lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf, rollout
    )


def _means(rows: Sequence[dict[str, float]]) -> dict[str, Interval]:
    means = {}
    for name in _metrics_of(rows):
        values = np.asarray([row[name] for row in rows if math.isfinite(row[name])])
        if len(values) > 1:
            means[name] = bootstrap_ci(values)
        elif len(values):
            means[name] = Interval(float(values[0]), math.nan, math.nan, 0.95, 1)
    return means


def _metrics_of(rows: Sequence[dict[str, float]]) -> list[str]:
    return [name for name in rows[0] if f"{name}_n" in rows[0]]


def _shown(mean: Interval) -> str:
    return str(mean) if mean.n > 1 else f"{mean.estimate:.4g}"


def _plain(value: float | int) -> float | int | None:
    return value if math.isfinite(value) else None
