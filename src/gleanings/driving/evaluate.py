"""Roll out a simulator on many scenes and sum up: one row a scene, means with intervals over scenes."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from gleanings.core.errors import ConfigError
from gleanings.core.stats import Interval, bootstrap_ci
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.stack import group_scenes
from gleanings.driving.summary import Who, averages, chosen, per_object

_CPU_CHUNK = 8  # scenes of one vmap; more leave the CPU's cache


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
            lines.append(f"{name:<16}{mean!s:<32}{mean.n:>6}  {objects:>7.0f}")
        missing = [name for name in _metrics_of(self.rows) if name not in self.means]
        return "\n".join(lines + ([f"not available: {', '.join(missing)}"] if missing else []))

    def to_json(self) -> str:
        """JSON object with who, means (estimate, low, high, level, n) and scenes; what is not defined is null."""
        means = {name: {key: _plain(value) for key, value in vars(mean).items()} for name, mean in self.means.items()}
        scenes = [
            {"scene": name} | {key: _plain(value) for key, value in row.items()}
            for name, row in zip(self.names, self.rows, strict=True)
        ]
        return json.dumps({"who": self.who, "means": means, "scenes": scenes})


def evaluate(
    sim: Any,
    scenes: Sequence[Scene],
    policy: Callable[..., Any] | None,
    key: Key[Array, ""],
    batch: int = 16,
    who: Who = "controlled",
) -> Evaluation:
    """Roll out `policy` (None: coast) in each scene with `sim`, a `Simulator`, and average over the group `who`.

    Scenes of equal sizes run together, `batch` at a time, compiled once a size; on a CPU in chunks of 8. Scene i has
    the key fold_in(key, i), whatever the batch. ConfigError: no scenes, batch < 1, an unknown group. Source: ours.
    """
    scenes = list(scenes)
    if not scenes:
        raise ConfigError("evaluate: no scenes")
    rows: list[dict[str, float]] = [{} for _ in scenes]
    counts: dict[Any, int] = {}
    for indices, stacked in group_scenes(scenes, batch):
        # The last, smaller batch of a size is filled up with its own last scene, so as not to compile again.
        size = tuple(array.shape[1:] for array in jax.tree.leaves(stacked))
        fill = counts.setdefault(size, len(indices)) - len(indices)
        places = jnp.asarray([*range(len(indices)), *[len(indices) - 1] * fill])
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.asarray(indices)[places])
        filled = jax.tree.map(lambda array, at=places: jnp.asarray(array)[at], stacked)
        values, groups = jax.device_get(_run(sim, policy, who, filled, keys, _chunk(len(places))))
        for place, index in enumerate(indices):
            rows[index] = averages(jax.tree.map(lambda array, at=place: array[at], values), groups[place])
    return Evaluation(tuple(rows), tuple(name_of(scene) for scene in scenes), who, _means(rows))


@eqx.filter_jit
def _run(sim: Any, policy: Any, who: Who, scenes: Scene, keys: Key[Array, " B"], chunk: int | None) -> Any:
    """`per_object` and `chosen` of B scenes; in chunks one after the other, or all in one vmap."""

    def one(item: tuple[Scene, Key[Array, ""]]) -> Any:
        scene, key = item
        rollout = sim.rollout(scene, policy, key)
        return per_object(scene, rollout), chosen(scene, rollout, who)

    if chunk is None:
        return jax.vmap(lambda scene, key: one((scene, key)))(scenes, keys)
    return jax.lax.map(one, (scenes, keys), batch_size=chunk)


def _chunk(count: int) -> int | None:
    return min(_CPU_CHUNK, count) if jax.default_backend() == "cpu" else None


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


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
