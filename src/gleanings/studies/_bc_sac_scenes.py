"""Scenes of the study bc-sac: generated in shards, scored, kept as files between its pieces, and loaded as one bank."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.config import DemoConfig
from gleanings.driving.learn.cutting import learning_scenes
from gleanings.driving.learn.demos import Demonstrations, make_demonstrations
from gleanings.driving.learn.difficulty import Buckets, difficulty_scores, make_buckets
from gleanings.driving.learn.evaluate import kind_of
from gleanings.driving.learn.hazards import make_hazards
from gleanings.driving.learn.split import log_id
from gleanings.driving.learn.world import World
from gleanings.driving.run import keep_programs
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.sim import on_device
from gleanings.driving.store import load_compiled, save_scenes

Shard = tuple[str, int]
"""What the scenes of a shard are for, and the seed of their hazards; each has maps of its own."""
GIVEN: Shard = ("given", 0)
"""Scenes of the user's logs."""
MOST_GIVEN = 400
"""Of them, spread evenly over the logs' windows."""
_DEMOS = "demos.npz"
SPLITS = {"train": 5700, "validation": 6700, "calibration": 7700, "test": 8700} | {
    "variants-train": 3500,
    "variants-calibration": 4000,
    "variants-test": 4500,
}
"""First seed of each split, from the study's seed on; bc-sac-variants has splits of its own."""
DECK, SHARED = 13, 16
"""Kinds of a round of hazards; rounds on one map."""


def shards(split: str, seed: int, count: int, size: int, starts: Mapping[str, int] = SPLITS) -> list[tuple[Shard, int]]:
    """Shards of a split and how many scenes each has, `count` in all. starts: first seeds of the splits."""
    first = 10_000 * (seed + 1) + starts[split]
    return [((split, first + k), min(size, count - k * size)) for k in range(-(-count // size))]


def make_shard(
    folder: Path,
    shard: Shard,
    count: int,
    calibration: Sequence[float] = (),
    keep: bool = True,
    scored: bool = True,
    config: DemoConfig | None = None,
) -> Any:
    """Generate, score and save a shard; counts by kind, and of each scene its name and score.

    calibration: scores; with them only scenes of the hardest tenth are saved, unless `keep`. Scenes of training, and
    any unless `scored`, have a score of 0.
    """
    keep_programs()
    scenes, discards = make_hazards(seed=shard[1], count=count, config=config)
    scores = difficulty_scores(scenes) if scored and shard[0] != "train" else np.zeros(count)
    names = [name_of(scene) for scene in scenes]
    kept = np.ones(count, bool)
    if len(calibration) and not keep:
        kept = make_buckets(scores, np.asarray(calibration), names).mask("top10")
    saved = [scene for scene, some in zip(scenes, kept, strict=True) if some]
    if saved:
        _save(folder, shard, saved)
    found = {"names": names, "scores": scores.tolist(), "saved": [n for n, k in zip(names, kept, strict=True) if k]}
    return found | {"drawn": dict(discards.drawn), "failed": dict(discards.failed)}


def make_given(folder: Path, source: Path) -> dict[str, list[str]]:
    """Cut logs into learning scenes and save at most `MOST_GIVEN`: their names, and the log of each.

    ConfigError: they hold none; DataError: a file that cannot be read.
    """
    found = {name_of(scene): scene for scene in learning_scenes(str(source), evaluation=True)}
    every = -(-len(found) // MOST_GIVEN)
    _save(folder, GIVEN, list(found.values())[::every])
    names = list(found)[::every]
    return {"names": names, "logs": [log_id(name) for name in names]}


def _save(folder: Path, shard: Shard, scenes: list[Scene]) -> None:
    """Padded alike, so that few sizes are compiled."""
    bank = make_bank(scenes)
    alike = [jax.tree.map(lambda leaf, i=i: leaf[i], bank) for i in range(len(scenes))]
    save_scenes(folder, alike, stem=_stem(shard))


@functools.lru_cache(maxsize=2)
def load_bank(folder: Path, chosen: tuple[Shard, ...], names: tuple[str, ...] = ()) -> Scene:
    """The scenes of shards, or of them those with these names, as one bank on the device."""
    found = {name_of(scene): scene for shard in chosen for scene in read_shard(folder, shard)}
    if missing := [name for name in names if name not in found]:
        raise ConfigError(f"{folder} lacks scene {missing[0]!r}; delete the folder and run the study anew")
    return on_device(make_bank([found[name] for name in names or found]))


@functools.lru_cache(maxsize=2)
def load_demos(folder: Path) -> Demonstrations:
    """The demonstrations that `demonstrated` wrote, on the device."""
    with np.load(folder / _DEMOS, allow_pickle=False) as found:
        return Demonstrations(*(jax.device_put(found[name]) for name in Demonstrations._fields))


def read_shard(folder: Path, shard: Shard) -> list[Scene]:
    """The scenes of a shard that were saved, in their order."""
    return [scene for path in sorted(folder.glob(f"{_stem(shard)}-*")) for scene in load_compiled(path)]


def _stem(shard: Shard) -> str:
    return f"{shard[0]}{shard[1]}"


def joined(parts: Sequence[dict[str, Any]], what: str) -> list[Any]:
    """A column of all shards, in their order."""
    return [value for part in parts for value in part[what]]


def ranked(parts: Sequence[dict[str, Any]], calibration: Sequence[dict[str, Any]]) -> Buckets:
    """Ranks of the scenes of shards among the calibration scenes."""
    own, others = (np.asarray(joined(rows, "scores"), float) for rows in (parts, calibration))
    return make_buckets(own, others, joined(parts, "names"))


def kinds_and_sites(names: Sequence[str], deck: int = DECK, shared: int = SHARED) -> tuple[list[str], list[int]]:
    """Kind of each hazard and a number of its map, which `shared` rounds of `deck` kinds have in common."""
    kinds = [kind_of(name) for name in names]
    tails = [name.rsplit("-", 2)[1:] for name in names]
    keys = [(int(seed), int(index) // deck // shared) for seed, index in tails]
    number = {key: k for k, key in enumerate(dict.fromkeys(keys))}
    return kinds, [number[key] for key in keys]


def counts_of(parts: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Hazards drawn and discarded in shards, by kind."""
    kinds = sorted({kind for part in parts for kind in part["drawn"]})
    return {
        what: {kind: sum(part[what].get(kind, 0) for part in parts) for kind in kinds} for what in ("drawn", "failed")
    }


def piece_name(shard: Shard) -> str:
    """What the piece of a study that makes a shard is called."""
    return f"scenes-{shard[0]}-{shard[1]}"


def demonstrated(folder: Path, chosen: tuple[Shard, ...]) -> dict[str, Any]:
    """Write the demonstrations of shards, from which all arms learn, and return their audit."""
    keep_programs()
    scenes = [scene for shard in chosen for scene in read_shard(folder, shard)]
    demos, audit = make_demonstrations(scenes, World())
    np.savez(folder / _DEMOS, allow_pickle=False, **demos._asdict())
    return {name: value for name, value in vars(audit).items() if name != "empty"}
