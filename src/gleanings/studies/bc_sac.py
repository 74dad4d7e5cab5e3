"""Study of imitation plus reinforcement learning for driving, arXiv 2212.11419: fewer failures where logs are rare.

Claim: a policy trained by imitation and reinforcement in one loss fails less often in the hardest scenes than one that
imitates only, and than one that is rewarded only.

Protocol, differences from the paper and the decision rule are in `_bc_sac_text`.
"""

from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

from gleanings.core.errors import ConfigError
from gleanings.core.study import Study, StudyConfig
from gleanings.driving.learn.config import Others
from gleanings.studies._bc_sac_arms import FIELDS, GRIDS, Effort, trained, tried
from gleanings.studies._bc_sac_judge import judge
from gleanings.studies._bc_sac_report import headline, render, thumbnail
from gleanings.studies._bc_sac_scenes import (
    GIVEN,
    counts_of,
    demonstrated,
    joined,
    make_given,
    make_shard,
    piece_name,
    shards,
)
from gleanings.studies._bc_sac_text import BIBTEX, CLAIM, DEVIATIONS, PAPER_FIGURE, PROTOCOL, RULE
from gleanings.studies._bc_sac_trials import Sets, chosen_sets, controlled, film, judged, pick_clips
from gleanings.studies._pieces import Pieces, compute

TUNING_SEEDS = (1000, 1001)
ARMS = ("bc", "bc-short", "sac", "bc-sac", "sac-progress", "bc-shuffled", "bc-sac-null")
_SLOW = ("bc-sac", "sac", "bc-sac-null", "sac-progress", "bc", "bc-short", "bc-shuffled")  # the slowest start first
FEWER = {"bc-short": 3, "sac-progress": 2, "bc-shuffled": 2, "bc-sac-null": 3}
"""Arms without a hypothesis, and their seeds at most."""
COMMITTED = {
    "bc": {"learning_rate": 2e-3},
    "sac": {"temperature": 0.05},
    "bc-sac": {"imitation_weight": 0.1, "temperature": 0.02},
    "sac-progress": {"progress_weight": 0.03, "temperature": 0.05},
}
"""What the last full run froze; sizes that do not tune take it."""


@dataclass(frozen=True)
class Scale:
    """What a size covers. train: scenes with demonstrations, of which SAC and BC-SAC drive in the first `driven`. pool:
    test scenes drawn, of which the hardest tenth is judged, at most `hard` of them, and the first `whole` as they come.
    shard: scenes that share maps of their own; `fine` for training."""

    train: int
    driven: int
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
    "smoke": Scale(16, 16, 0, 32, 32, 32, 16, 2, Effort(1, 4, 4, 16), ("bc", "sac", "bc-sac"), shard=32, fine=16),
    "quick": Scale(
        416, 416, 0, 416, 416, 208, 150, 3, Effort(6, 128, 160, 128), ("bc", "sac", "bc-sac", "bc-shuffled")
    ),
    "full": Scale(
        8112, 4056, 1040, 2080, 10_400, 2000, 1000, 8, Effort(27, 256, 160), ARMS, tuning=Effort(12, 256, 160)
    ),
}


def run(config: StudyConfig) -> dict[str, Any]:
    """Measure everything the rule needs; pieces that an earlier run has finished are taken over."""
    scale, folder = SCALES[config.size], config.directory / "scenes"
    _cut_given(config, folder)  # first, so that logs that cannot be read stop the run before it has trained
    frozen, tuning, data = prepare(config, scale, folder)
    return tested(config, scale, folder, frozen, data) | {"tuning": tuning, "frozen": frozen}


def prepare(config: StudyConfig, scale: Scale, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], Any]:
    """Scenes but those of the test, and what is frozen before the test scenes are drawn."""
    splits = {
        name: shards(name, config.seed, getattr(scale, name), scale.shard) for name in ("validation", "calibration")
    }
    splits["train"] = shards("train", config.seed, scale.train, scale.fine)
    chosen = {name: tuple(shard for shard, _ in split) for name, split in splits.items()}
    made = compute(_making(folder, splits.pop("train")), config)
    pieces: Pieces = {"demos": partial(demonstrated, folder, chosen["train"])}
    for split in splits.values():
        pieces |= _making(folder, split)
    made |= compute(pieces, config)
    data = {name: [made[piece_name(shard)] for shard in found] for name, found in chosen.items()}
    chosen["train"] = chosen["train"][: -(-scale.driven // scale.fine)]  # a bank of all would not fit two processes
    tuning: list[dict[str, Any]] = []
    frozen = {arm: dict(values) for arm, values in COMMITTED.items()}
    if scale.tuning is not None:
        for arms in (("bc", "sac"), ("bc-sac", "sac-progress")):
            tuning += _tune(config, scale, folder, chosen, frozen, arms)
    frozen = config.parts.get("frozen", lambda: frozen)
    return frozen, tuning, data | {"chosen": chosen, "audit": made["demos"]}


def _making(folder: Path, split: list[tuple[Any, int]]) -> Pieces:
    return {piece_name(shard): partial(make_shard, folder, shard, count) for shard, count in split}


def _tune(
    config: StudyConfig, scale: Scale, folder: Path, chosen: Any, frozen: dict[str, Any], arms: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Try the grids of arms on the validation scenes and put what fails* least into `frozen`."""
    pieces: Pieces = {}
    for arm, value in _one_of_each_first(arms):
        settings = frozen | {arm: frozen[arm] | {FIELDS[arm]: value}}
        effort = scale.effort if arm == "bc" else scale.tuning  # imitation is cheap
        what = (folder, chosen["train"], chosen["validation"], arm, settings, effort, TUNING_SEEDS)
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
        frozen["sac-progress"]["temperature"] = frozen["sac"]["temperature"]
    return rows


def _one_of_each_first(arms: tuple[str, ...]) -> list[tuple[str, float]]:
    """Arms and values of their grids; see `_turns`."""
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
    for arm, seeds in _turns(scale):
        what = (folder, chosen["train"], arm, frozen, scale.effort, seeds)
        pieces[f"train-{arm}-{seeds[0]}"] = partial(trained, *what)
    pieces |= {
        piece_name(shard): partial(make_shard, folder, shard, count, calibration, k < whole)
        for k, (shard, count) in enumerate(test)
    }
    found = compute(pieces, config)
    parts = [found[piece_name(shard)] for shard, _ in test]
    sets, scenes = _sets(scale, [shard for shard, _ in test], parts, data["calibration"])
    driven = compute(_drives(scale, folder, sets), config)
    given, about = _given(config, scale, folder)
    scenes |= about
    arms = {arm: _arm(scale, arm, found, driven, given) for arm in scale.arms}
    controls = {
        name: {"worlds": {"log": rows | given.get("controls", {}).get(name, {})}}
        for name, rows in driven["controls"].items()
    }
    hard = {arm: arms[arm]["worlds"]["log"]["hard"] for arm in ("bc", "sac", "bc-sac")}
    picked = pick_clips(hard, scenes["hard"]["score"], scenes["hard"]["names"])
    clips = compute({"clips": partial(film, folder, sets["hard"][0], picked, 0)}, config)["clips"]
    everything = [*parts, *(row for name in ("train", "validation", "calibration") for row in data[name])]
    return {
        "size": _size(scale),
        "data": counts_of(everything) | {"audit": data["audit"]},
        "scenes": scenes,
        "arms": arms,
        "controls": controls,
        "clips": clips,
    }


def _seeds(scale: Scale, arm: str) -> tuple[int, ...]:
    return tuple(range(min(FEWER.get(arm, scale.seeds), scale.seeds)))


def _groups(scale: Scale, arm: str) -> list[tuple[int, ...]]:
    """The seeds of an arm by pieces; of an arm that was tuned as many as there, so that they share its programs."""
    seeds, size = _seeds(scale, arm), scale.seeds
    if scale.tuning and arm in GRIDS:
        size = len(TUNING_SEEDS)
    return [seeds[first : first + size] for first in range(0, len(seeds), size)]


def _turns(scale: Scale) -> list[tuple[str, tuple[int, ...]]]:
    """Arms and seeds of the pieces. The arms take turns: side by side, two processes would compile the same program."""
    arms = sorted(scale.arms, key=_SLOW.index)
    rounds = zip_longest(*(_groups(scale, arm) for arm in arms))
    return [(arm, seeds) for row in rounds for arm, seeds in zip(arms, row, strict=True) if seeds]


def _sets(
    scale: Scale, found: list[Any], parts: list[dict[str, Any]], calibration: list[dict[str, Any]]
) -> tuple[Sets, dict[str, Any]]:
    """The hardest tenth of the test scenes and the first of them as they came: which they are, and facts of them."""
    return chosen_sets(found, parts, calibration, (scale.hard, scale.whole))


def _drives(scale: Scale, folder: Path, sets: Sets) -> Pieces:
    """By world, so that two processes do not compile the same program at once."""
    pieces: Pieces = {"controls": partial(controlled, folder, sets)}
    reactive = [arm for arm in scale.arms if scale.tuning and arm in ("bc", "sac", "bc-sac")]
    for arm in scale.arms:
        pieces[f"drive-{arm}-log"] = partial(judged, folder, sets, "log", arm, _seeds(scale, arm))
    for arm in reactive:
        hard = {"hard": sets["hard"]}
        pieces[f"drive-{arm}-idm"] = partial(judged, folder, hard, "idm", arm, _seeds(scale, arm)[:4])
    return pieces


def _cut_given(config: StudyConfig, folder: Path) -> dict[str, list[str]] | None:
    """Names and logs of the scenes of the user's logs; None without logs. Not in a worker: errors keep their class."""
    return None if config.data is None else config.parts.get("given", partial(make_given, folder, config.data))


def _given(config: StudyConfig, scale: Scale, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What arms and controls do in the user's logs, and facts of these scenes; both empty without logs."""
    made = _cut_given(config, folder)
    if made is None:
        return {}, {}
    number = {log: k for k, log in enumerate(dict.fromkeys(made["logs"]))}
    kinds, sites = [GIVEN[0]] * len(made["names"]), [number[log] for log in made["logs"]]
    about = {"names": made["names"], "kind": kinds, "site": sites}
    sets: Sets = {"given": ((GIVEN,), tuple(made["names"]))}
    pieces: Pieces = {"given-controls": partial(controlled, folder, sets)}
    for world in get_args(Others):
        pieces |= {
            f"given-{arm}-{world}": partial(judged, folder, sets, world, arm, _seeds(scale, arm)) for arm in scale.arms
        }
    driven = compute(pieces, config)
    return {name.removeprefix("given-"): rows for name, rows in driven.items()}, {"given": about}


def _arm(
    scale: Scale, arm: str, found: dict[str, Any], driven: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    """What is told of an arm: its training and its drives."""
    groups = _groups(scale, arm)
    parts = [found[f"train-{arm}-{group[0]}"] for group in groups]
    weights = [len(group) / sum(map(len, groups)) for group in groups]
    curve = {
        name: [sum(w * part["curve"][name][i] for w, part in zip(weights, parts, strict=True)) for i in range(len(row))]
        for name, row in parts[0]["curve"].items()
    }
    worlds = {name: driven.get(f"drive-{arm}-{name}", {}) | given.get(f"{arm}-{name}", {}) for name in get_args(Others)}
    return {
        "seeds": list(_seeds(scale, arm)),
        "updates": parts[0]["updates"],
        "decisions": parts[0]["decisions"],
        "curve": curve,
        "worlds": {name: rows for name, rows in worlds.items() if rows},
    }


def _size(scale: Scale) -> dict[str, int]:
    names = ("train", "driven", "validation", "calibration", "pool", "whole", "hard", "seeds")
    return {name: getattr(scale, name) for name in names} | vars(scale.effort)


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
