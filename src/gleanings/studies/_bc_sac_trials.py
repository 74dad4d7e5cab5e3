"""What the arms and controls of the study bc-sac do in the test scenes, and clips of where they fail."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.driving.learn.baselines import controls
from gleanings.driving.learn.config import Others, WorldConfig
from gleanings.driving.learn.drives import drive
from gleanings.driving.learn.episode_clips import episode_clips
from gleanings.driving.learn.outcomes import THRESHOLDS, Outcomes, outcomes_of
from gleanings.driving.learn.world import World
from gleanings.driving.run import keep_programs
from gleanings.driving.scene import Scene, name_of
from gleanings.studies._bc_sac_arms import load_driver
from gleanings.studies._bc_sac_outcomes import unpacked
from gleanings.studies._bc_sac_scenes import Shard, joined, kinds_and_sites, load_bank, ranked

BITS = ("failure", "failure_star", "at_fault", "off_road")
MEANS = ("ade_m", "comfort", "saturated", "reward")
Sets = dict[str, tuple[tuple[Shard, ...], tuple[str, ...]]]
"""Sets of scenes by name: shards, and the names of the scenes that are taken of them."""
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CLIPS = (
    ("bc-sac", "", 4, "BC-SAC fails"),
    ("bc-sac", "sac", 2, "BC-SAC fails, SAC does not"),
    ("bc", "bc-sac", 2, "BC fails, BC-SAC does not"),
)
"""Which scenes are shown: who fails, who does not, how many."""


def judged(
    folder: Path, sets: Sets, others: Others, arm: str, seeds: tuple[int, ...], ways: bool = False
) -> dict[str, Any]:
    """Outcomes of the seeds of an arm in each set of scenes; `ways`: also the progress of each scene."""
    return driven_by(folder, sets, others, [load_driver(folder, arm, seed) for seed in seeds], ways=ways)


def controlled(folder: Path, sets: Sets) -> dict[str, dict[str, Any]]:
    """Outcomes of each control in each set of scenes, among logged others."""
    return {name: driven_by(folder, sets, "log", [driver]) for name, driver in controls().items()}


def driven_by(
    folder: Path, sets: Sets, others: Others, drivers: list[Any], bits: Sequence[str] = BITS, ways: bool = False
) -> dict[str, Any]:
    """Outcomes of drivers in each set of scenes, by scene for the metrics in `bits` and, with `ways`, for the progress.

    All scenes are driven once, as one bank, so that one program serves all sets.
    """
    keep_programs()
    names = tuple(dict.fromkeys(name for _, chosen in sets.values() for name in chosen))
    bank = _bank_of(folder, tuple(dict.fromkeys(shard for shards, _ in sets.values() for shard in shards)), names)
    world, held = World(WorldConfig(others=others)), jax.device_get(bank)
    driven = []
    for driver in drivers:
        drives = drive(world, bank, driver, jax.random.key(0))
        driven.append((outcomes_of(world, held, drives), np.asarray(drives.u)))
    place = {name: i for i, name in enumerate(names)}
    return {
        one: _told(driven, np.array([place[name] for name in chosen]), bits, ways) for one, (_, chosen) in sets.items()
    }


@functools.lru_cache(maxsize=1)
def _bank_of(folder: Path, shards: tuple[Shard, ...], names: tuple[str, ...]) -> Scene:
    load_bank.cache_clear()  # of the training scenes, which a worker still holds
    return load_bank.__wrapped__(folder, shards, names)


def _told(
    driven: list[tuple[Outcomes, Any]], scenes: Int[np.ndarray, " C"], bits: Sequence[str], ways: bool
) -> dict[str, Any]:
    """What drivers did in some of the scenes."""
    rows = [Outcomes(**{name: value[scenes] for name, value in vars(row).items()}) for row, _ in driven]
    actions = [u[scenes].reshape(-1, 2) for _, u in driven]
    found: dict[str, Any] = {name: [packed(row.values(name) > 0) for row in rows] for name in bits}
    found |= {name: [float(np.nanmean(row.values(name))) for row in rows] for name in MEANS}
    found["progress"] = [float(np.nanmean(row.progress_ratio)) for row in rows]
    found["distance"] = [_covered(row) for row in rows]
    if ways:
        found["ways"] = [hundredths(row.progress_ratio) for row in rows]
    found["star_at"] = {f"{at:g}": [float(row.failure_star(at).mean()) for row in rows] for at in THRESHOLDS}
    found["actions"] = np.quantile(np.concatenate(actions), _QUANTILES, axis=0).T.tolist()
    return found


def _covered(row: Outcomes) -> float:
    """Share of the log's distance, where that is at least 5 m."""
    known = np.isfinite(row.progress_ratio) & (row.progress_ratio > 0)
    logged = row.progress_m[known] / row.progress_ratio[known]
    return float(row.progress_m[known].sum() / max(logged.sum(), 1e-9))


def packed(flags: Bool[np.ndarray, " C"]) -> str:
    """Flags as hexadecimal digits, for JSON."""
    return np.packbits(flags).tobytes().hex()


def hundredths(ratio: Float[np.ndarray, " C"]) -> str:
    """Ratios in [0, 2], to which others are clipped, as a byte each in hexadecimal digits; 255: undefined."""
    steps = np.round(100 * np.clip(ratio, 0.0, 2.0))
    return np.where(np.isnan(steps), 255, steps).astype(np.uint8).tobytes().hex()


def chosen_sets(
    found: list[Shard],
    parts: list[dict[str, Any]],
    calibration: list[dict[str, Any]],
    sizes: tuple[int, int],
) -> tuple[Sets, dict[str, Any]]:
    """The hardest tenth of the test scenes and the first of them as they came: which they are, and facts of them.

    sizes: of both, at most.
    """
    buckets, names, scores = ranked(parts, calibration), joined(parts, "names"), joined(parts, "scores")
    top = [i for i, hard in enumerate(buckets.mask("top10")) if hard][: sizes[0]]
    rows = {"hard": top, "all": list(range(min(sizes[1], len(names))))}
    saved = {shard: set(part["saved"]) for shard, part in zip(found, parts, strict=True)}
    sets, facts = {}, {}
    for name, chosen in rows.items():
        picked = tuple(names[i] for i in chosen)
        kinds, sites = kinds_and_sites(picked)
        used = tuple(shard for shard in found if saved[shard] & set(picked))
        about = {"names": list(picked), "kind": kinds, "site": sites, "score": [scores[i] for i in chosen]}
        masks = {"top3": "top3"} if name == "hard" else {"top50": "top50", "top10": "top10", "easy": "bottom50"}
        about |= {mask: packed(buckets.mask(bucket)[chosen]) for mask, bucket in masks.items()}
        about["rank"] = [float(buckets.rank[i]) for i in chosen]
        sets[name], facts[name] = (used, picked), about
    return sets, facts


def pick_clips(
    found: dict[str, dict[str, Any]], score: Sequence[float] | Float[np.ndarray, " C"], names: list[str]
) -> list[tuple[str, str]]:
    """Scenes to show, by name, and why: of the first seed, by score and then name; none twice."""
    order = sorted(range(len(names)), key=lambda i: (-score[i], names[i]))
    failed = {arm: unpacked(rows["failure"][0], len(names)) for arm, rows in found.items()}
    taken: list[tuple[str, str]] = []
    for fails, drives, count, why in CLIPS:
        fit = [i for i in order if failed[fails][i] and not (drives and failed[drives][i])]
        shown = {name for name, _ in taken}
        taken += [(names[i], why) for i in fit if names[i] not in shown][:count]
    return taken


def film(folder: Path, shards: tuple[Shard, ...], picked: list[tuple[str, str]], seed: int) -> list[dict[str, str]]:
    """Clips of scenes with BC, SAC and BC-SAC of one seed side by side: HTML fragments."""
    if not picked:
        return []
    bank = jax.device_get(load_bank(folder, shards, tuple(name for name, _ in picked)))
    scenes = [jax.tree.map(lambda leaf, i=i: leaf[i], bank) for i in range(len(picked))]
    assert [name_of(scene) for scene in scenes] == [name for name, _ in picked]
    drivers = {arm: load_driver(folder, arm, seed) for arm in ("bc", "sac", "bc-sac")}
    shown = episode_clips(World(WorldConfig()), scenes, drivers)
    return [{"scene": name, "why": why, "html": html} for (name, why), html in zip(picked, shown, strict=True)]
