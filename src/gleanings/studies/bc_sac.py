"""Study of imitation plus reinforcement learning for driving, arXiv 2212.11419: fewer failures where logs are rare.

Claim: a policy trained by imitation and reinforcement in one loss fails less often in the hardest scenes than one that
imitates only, and than one that is rewarded only.

Protocol, differences from the paper and the decision rule are in `_bc_sac_text`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gleanings.core.errors import ConfigError
from gleanings.core.study import Study, StudyConfig
from gleanings.studies._bc_sac_arms import FIELDS, GRIDS, Effort, trained, tried
from gleanings.studies._bc_sac_judge import judge
from gleanings.studies._bc_sac_report import headline, render, thumbnail
from gleanings.studies._bc_sac_scenes import demonstrated, joined, kinds_and_sites, make_shard, ranked, shards
from gleanings.studies._bc_sac_text import BIBTEX, CLAIM, DEVIATIONS, PAPER_FIGURE, PROTOCOL, RULE
from gleanings.studies._bc_sac_trials import controlled, film, judged, packed, pick_clips
from gleanings.studies._pieces import Pieces, compute

TUNING_SEEDS = (1000, 1001)
ARMS = ("bc", "bc-long", "sac", "bc-sac", "sac-progress", "bc-shuffled", "bc-sac-null")
FEWER = {"bc-long": 3, "sac-progress": 2, "bc-shuffled": 2, "bc-sac-null": 3}
"""Arms without a hypothesis, and their seeds at most."""
COMMITTED = {
    "bc": {"learning_rate": 8e-3},
    "sac": {"temperature": 0.1},
    "bc-sac": {"imitation_weight": 0.3, "temperature": 0.1},
    "sac-progress": {"progress_weight": 0.01, "temperature": 0.1},
}
"""What the last full run froze; sizes that do not tune take it."""


@dataclass(frozen=True)
class Scale:
    """What a size covers. pool: test scenes drawn, of which the hardest tenth is judged, at most `hard` of them, and
    the first `whole` as they come. shard: scenes that share maps of their own; `fine` for training."""

    train: int
    validation: int
    calibration: int
    pool: int
    whole: int
    hard: int
    seeds: int
    effort: Effort
    arms: tuple[str, ...]
    tuning: Effort | None = None
    shard: int = 208
    fine: int = 104


SCALES = {
    "smoke": Scale(16, 0, 32, 32, 32, 16, 2, Effort(1, 4, 4, 16), ("bc", "sac", "bc-sac"), shard=32, fine=16),
    "quick": Scale(416, 0, 416, 416, 208, 150, 3, Effort(6, 128, 160, 128), ("bc", "sac", "bc-sac", "bc-shuffled")),
    "full": Scale(4056, 1040, 2080, 10_400, 2000, 1000, 8, Effort(16, 256, 160), ARMS, tuning=Effort(4, 256, 160)),
}
_DECK, _SHARED = 13, 16  # kinds of a round of hazards, rounds on one map


def run(config: StudyConfig) -> dict[str, Any]:
    """Measure everything the rule needs; pieces that an earlier run has finished are taken over."""
    scale, folder = SCALES[config.size], config.directory / "scenes"
    frozen, tuning, data = prepare(config, scale, folder)
    return tested(config, scale, folder, frozen, data) | {"tuning": tuning, "frozen": frozen}


def prepare(config: StudyConfig, scale: Scale, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], Any]:
    """Scenes but those of the test, and what is frozen before the test scenes are drawn."""
    splits = {
        name: shards(name, config.seed, getattr(scale, name), scale.shard) for name in ("validation", "calibration")
    }
    splits["train"] = shards("train", config.seed, scale.train, scale.fine)
    made = compute(
        {
            _name(shard): partial(make_shard, folder, shard, count)
            for split in splits.values()
            for shard, count in split
        },
        config,
    )
    chosen = {name: tuple(shard for shard, _ in split) for name, split in splits.items()}
    data = {name: [made[_name(shard)] for shard in found] for name, found in chosen.items()}
    audit = compute({"demos": partial(demonstrated, folder, chosen["train"])}, config)["demos"]
    tuning: list[dict[str, Any]] = []
    frozen = {arm: dict(values) for arm, values in COMMITTED.items()}
    if scale.tuning is not None:
        for arms in (("bc", "sac"), ("bc-sac", "sac-progress")):
            tuning += _tune(config, scale, folder, chosen, frozen, arms)
    frozen = config.parts.get("frozen", lambda: frozen)
    return frozen, tuning, data | {"chosen": chosen, "audit": audit}


def _tune(
    config: StudyConfig, scale: Scale, folder: Path, chosen: Any, frozen: dict[str, Any], arms: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Try the grids of arms on the validation scenes and put what fails* least into `frozen`."""
    pieces: Pieces = {}
    for arm, value in _one_of_each_first(arms):
        settings = frozen | {arm: frozen[arm] | {FIELDS[arm]: value}}
        what = (folder, chosen["train"], chosen["validation"], arm, settings, scale.tuning, TUNING_SEEDS)
        pieces[f"tune-{arm}-{value:g}"] = partial(tried, *what)
    found = compute(pieces, config)
    rows = [
        {"arm": arm, "field": FIELDS[arm], "value": value, "seeds": list(TUNING_SEEDS)} | found[f"tune-{arm}-{value:g}"]
        for arm in arms
        for value in GRIDS[arm]
    ]
    for arm in arms:
        best = min((row for row in rows if row["arm"] == arm), key=lambda row: sum(row["failure_star"]))
        frozen[arm][FIELDS[arm]] = best["value"]
    if "sac" in arms:
        for arm in ("bc-sac", "sac-progress"):
            frozen[arm]["temperature"] = frozen["sac"]["temperature"]
    return rows


def _one_of_each_first(arms: tuple[str, ...]) -> list[tuple[str, float]]:
    """Arms and values of their grids: side by side, two processes would compile the same program."""
    tried_first = [(arm, GRIDS[arm][0]) for arm in arms]
    return tried_first + [(arm, value) for arm in arms for value in GRIDS[arm][1:]]


def open_test(config: StudyConfig, scale: Scale) -> list[Any]:
    """Shards of the test scenes. ConfigError: what is tuned is not frozen yet."""
    if not (config.parts.directory / "frozen.json").exists():
        raise ConfigError("the test scenes are drawn only after all that is tuned is frozen")
    return shards("test", config.seed, scale.pool, scale.shard)


def tested(config: StudyConfig, scale: Scale, folder: Path, frozen: Any, data: Any) -> dict[str, Any]:
    """Train the arms, draw the test scenes, and drive them."""
    test, chosen = open_test(config, scale), data["chosen"]
    calibration = joined(data["calibration"], "scores")
    whole = -(-scale.whole // scale.shard)
    pieces: Pieces = {}
    for arm in scale.arms:
        for half in _halves(scale, arm):
            what = (folder, chosen["train"], arm, frozen, scale.effort, half)
            pieces[f"train-{arm}-{half[0]}"] = partial(trained, *what)
    pieces |= {
        _name(shard): partial(make_shard, folder, shard, count, calibration, k < whole)
        for k, (shard, count) in enumerate(test)
    }
    found = compute(pieces, config)
    parts = [found[_name(shard)] for shard, _ in test]
    sets = _sets(scale, [shard for shard, _ in test], parts, data["calibration"])
    driven = compute(_drives(scale, folder, sets), config)
    arms = {arm: _arm(scale, arm, found, driven) for arm in scale.arms}
    controls = {
        name: {"worlds": {"log": {one: driven[f"controls-{one}"][name] for one in ("hard", "all")}}}
        for name in driven["controls-hard"]
    }
    scenes = {name: one["about"] for name, one in sets.items()}
    hard = {arm: arms[arm]["worlds"]["log"]["hard"] for arm in ("bc", "sac", "bc-sac")}
    picked = pick_clips(hard, scenes["hard"]["score"], scenes["hard"]["names"])
    clips = compute({"clips": partial(film, folder, sets["hard"]["chosen"][0], picked, 0)}, config)["clips"]
    everything = [*parts, *(row for name in ("train", "validation", "calibration") for row in data[name])]
    return {
        "size": _size(scale),
        "data": _counts(everything) | {"audit": data["audit"]},
        "scenes": scenes,
        "arms": arms,
        "controls": controls,
        "clips": clips,
    }


def _halves(scale: Scale, arm: str) -> list[tuple[int, ...]]:
    """The seeds of an arm in pieces for two processes; few seeds in one, since each piece compiles its program."""
    seeds = tuple(range(min(FEWER.get(arm, scale.seeds), scale.seeds)))
    middle = -(-len(seeds) // 2) if len(seeds) > 4 else len(seeds)
    return [half for half in (seeds[:middle], seeds[middle:]) if half]


def _sets(
    scale: Scale, found: list[Any], parts: list[dict[str, Any]], calibration: list[dict[str, Any]]
) -> dict[str, Any]:
    """The hardest tenth of the test scenes and the first of them as they came: which they are, and facts of them."""
    buckets, names, scores = ranked(parts, calibration), joined(parts, "names"), joined(parts, "scores")
    top = [i for i, hard in enumerate(buckets.mask("top10")) if hard][: scale.hard]
    rows = {"hard": top, "all": list(range(min(scale.whole, len(names))))}
    saved = {shard: set(part["saved"]) for shard, part in zip(found, parts, strict=True)}
    sets = {}
    for name, chosen in rows.items():
        picked = tuple(names[i] for i in chosen)
        kinds, sites = kinds_and_sites(picked, _DECK, _SHARED)
        used = tuple(shard for shard in found if saved[shard] & set(picked))
        about = {"names": list(picked), "kind": kinds, "site": sites, "score": [scores[i] for i in chosen]}
        masks = {"top3": "top3"} if name == "hard" else {"top50": "top50", "top10": "top10", "easy": "bottom50"}
        about |= {mask: packed(buckets.mask(bucket)[chosen]) for mask, bucket in masks.items()}
        about["rank"] = [float(buckets.rank[i]) for i in chosen]
        sets[name] = {"chosen": (used, picked), "about": about}
    return sets


def _drives(scale: Scale, folder: Path, sets: dict[str, Any]) -> Pieces:
    pieces: Pieces = {f"controls-{name}": partial(controlled, folder, one["chosen"]) for name, one in sets.items()}
    for arm in scale.arms:
        seeds = tuple(seed for half in _halves(scale, arm) for seed in half)
        for name, others in (("hard", "log"), ("all", "log"), ("hard", "idm")):
            if others == "log" or (scale.tuning and arm in ("bc", "sac", "bc-sac")):
                driven = seeds if others == "log" else seeds[:4]
                what = (folder, sets[name]["chosen"], others, arm, driven)
                pieces[f"drive-{arm}-{name}-{others}"] = partial(judged, *what)
    return pieces


def _arm(scale: Scale, arm: str, found: dict[str, Any], driven: dict[str, Any]) -> dict[str, Any]:
    """What is told of an arm: its training and its drives."""
    halves = _halves(scale, arm)
    parts = [found[f"train-{arm}-{half[0]}"] for half in halves]
    weights = [len(half) / sum(map(len, halves)) for half in halves]
    curve = {
        name: [sum(w * part["curve"][name][i] for w, part in zip(weights, parts, strict=True)) for i in range(len(row))]
        for name, row in parts[0]["curve"].items()
    }
    worlds: dict[str, Any] = {}
    for piece, rows in driven.items():
        if piece.startswith(f"drive-{arm}-") and len(parts_of := piece.removeprefix(f"drive-{arm}-").split("-")) == 2:
            worlds.setdefault(parts_of[1], {})[parts_of[0]] = rows
    seeds = [seed for half in halves for seed in half]
    return {
        "seeds": seeds,
        "updates": parts[0]["updates"],
        "decisions": parts[0]["decisions"],
        "curve": curve,
        "worlds": worlds,
    }


def _counts(parts: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Hazards drawn and discarded, by kind."""
    kinds = sorted({kind for part in parts for kind in part["drawn"]})
    return {
        what: {kind: sum(part[what].get(kind, 0) for part in parts) for kind in kinds} for what in ("drawn", "failed")
    }


def _size(scale: Scale) -> dict[str, int]:
    names = ("train", "validation", "calibration", "pool", "whole", "hard", "seeds")
    return {name: getattr(scale, name) for name in names} | vars(scale.effort)


def _name(shard: Any) -> str:
    return f"scenes-{shard[0]}-{shard[1]}"


STUDY = Study(
    name="bc-sac",
    title="Driving by imitation and reinforcement in one loss: BC-SAC",
    arxiv="2212.11419",
    claim=CLAIM,
    paper_figure=PAPER_FIGURE,
    protocol=PROTOCOL,
    deviations=DEVIATIONS,
    rule=RULE,
    bibtex=BIBTEX,
    run=run,
    judge=judge,
    render=render,
    thumbnail=thumbnail,
    headline=headline,
)
