"""Study of what BC-SAC is trained on and of its parts, arXiv 2212.11419: are the hardest scenes the best to learn from?

Claim: training on the hardest tenth of the scenes is best, for imitation, for reinforcement and for both in one loss.
Beside it, without a verdict: BC-SAC with one part changed.

Protocol, differences from the paper and the decision rule are in `_bc_sac_variants_text`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gleanings.core.study import Study, StudyConfig
from gleanings.driving.learn.config import DemoConfig
from gleanings.driving.learn.difficulty import Buckets
from gleanings.driving.learn.evaluate import kind_of
from gleanings.studies._bc_sac_arms import Effort
from gleanings.studies._bc_sac_scenes import Shard, joined, make_shard, piece_name, ranked, shards
from gleanings.studies._bc_sac_trials import chosen_sets, controlled, judged
from gleanings.studies._bc_sac_variants_arms import METHODS, TRAINED_ON, VARIANTS, Pool, arms_of, audited, few, pooled
from gleanings.studies._bc_sac_variants_arms import trained as train_arm
from gleanings.studies._bc_sac_variants_judge import judge
from gleanings.studies._bc_sac_variants_report import headline, render, thumbnail
from gleanings.studies._bc_sac_variants_text import BIBTEX, CLAIM, DEVIATIONS, PAPER_FIGURE, PROTOCOL, RULE
from gleanings.studies._pieces import Pieces, compute

_ALONE = DemoConfig(follower_share=0.0)


@dataclass(frozen=True)
class Scale:
    """What a size covers. train: scenes of the pool; pool: test scenes drawn, of which the hardest tenth is judged, at
    most `hard`, and the first `whole` as they come. shard: scenes that share maps of their own; `fine` for training.
    changed: seeds of each variant, the first ones."""

    train: int
    calibration: int
    pool: int
    whole: int
    hard: int
    seeds: int
    effort: Effort
    methods: tuple[str, ...] = METHODS
    sets: tuple[str, ...] = TRAINED_ON
    variants: tuple[str, ...] = ()
    changed: int = 2
    shard: int = 208
    fine: int = 104


_TWO, _ENDS = ("bc", "bc-sac"), ("all", "top10")
SCALES = {
    "smoke": Scale(32, 32, 32, 32, 16, 2, Effort(1, 4, 4, 16), _TWO, _ENDS, ("warm-start",), shard=32, fine=32),
    "quick": Scale(416, 416, 416, 208, 150, 3, Effort(5, 128, 128, 128), _TWO, _ENDS),
    "full": Scale(4056, 1040, 4576, 832, 500, 5, Effort(9, 256, 160), variants=VARIANTS, changed=3),
}


def run(config: StudyConfig) -> dict[str, Any]:
    """Measure everything the rule needs; pieces that an earlier run has finished are taken over."""
    scale, folder = SCALES[config.size], config.directory / "scenes"
    pools, data = prepare(config, scale, folder)
    return tested(config, scale, folder, pools, data)


def prepare(config: StudyConfig, scale: Scale, folder: Path) -> tuple[dict[str, Pool], dict[str, Any]]:
    """The training scenes of every arm, and what is told of them."""
    splits = {
        "train": shards("variants-train", config.seed, scale.train, scale.fine),
        "calibration": shards("variants-calibration", config.seed, scale.calibration, scale.shard),
    }
    without = folder / "no-followers"
    pieces: Pieces = {
        piece_name(shard): partial(make_shard, folder, shard, count)
        for split in splits.values()
        for shard, count in split
    }
    alone = [(("train", seed), count) for (_, seed), count in splits["train"] if "no-followers" in scale.variants]
    pieces |= {f"alone-{shard[1]}": partial(make_shard, without, shard, n, config=_ALONE) for shard, n in alone}
    made = compute(pieces, config)
    chosen = {name: tuple(shard for shard, _ in split) for name, split in splits.items()}
    parts = {name: [made[piece_name(shard)] for shard in split] for name, split in chosen.items()}
    pieces = {"pool": partial(pooled, folder, chosen["train"])}
    if alone:
        pieces["pool-alone"] = partial(pooled, without, tuple(shard for shard, _ in alone))
        pieces["audits"] = partial(audited, folder, chosen["train"])
    found = compute(pieces, config)
    sets = _hardest(ranked(parts["train"], parts["calibration"]))
    pools = _pools(scale, folder, chosen["train"], sets, found)
    told = {name: dict(zip(("scenes", "kinds"), _kinds(names), strict=True)) for name, names in sets.items()}
    audits = {"pool": found["pool"]["audit"], "rewards": found.get("audits", {})}
    drawn = [*parts["train"], *parts["calibration"], *(made[f"alone-{shard[1]}"] for shard, _ in alone)]
    return pools, {"calibration": parts["calibration"], "sets": told, "audits": audits, "drawn": drawn}


def _hardest(buckets: Buckets) -> dict[str, tuple[str, ...]]:
    """Names of the training scenes in each set; no set is empty."""
    found = {}
    for name in TRAINED_ON:
        mask = buckets.mask(name)
        rows = np.flatnonzero(mask) if mask.any() else np.array([int(np.argmax(buckets.rank))])
        found[name] = tuple(buckets.scenes[i] for i in rows)
    return found


def _pools(
    scale: Scale, folder: Path, chosen: tuple[Shard, ...], sets: dict[str, tuple[str, ...]], found: dict[str, Any]
) -> dict[str, Pool]:
    """By arm; all have banks and demonstrations of one size."""
    known = [found[name] for name in ("pool", "pool-alone") if name in found]
    sizes = {letter: max(one["sizes"][letter] for one in known) for letter in known[0]["sizes"]}
    common = (tuple(sizes.items()), found["pool"]["audit"]["kept"])
    pools = {}
    for arm in _trained(scale):
        names = sets[arm.rsplit("-", 1)[1]]
        pools[arm] = Pool(folder, chosen, names, names, *common)
    for arm in scale.variants:
        shown = few(sets["all"]) if arm == "few-demos" else sets["all"]
        pools[arm] = Pool(folder, chosen, sets["all"], shown, *common)
    if "pool-alone" in found:
        names, alone = tuple(found["pool-alone"]["names"]), tuple(("train", seed) for _, seed in chosen)
        pools["no-followers"] = Pool(folder / "no-followers", alone, names, names, *common)
    return pools


def tested(
    config: StudyConfig, scale: Scale, folder: Path, pools: dict[str, Pool], data: dict[str, Any]
) -> dict[str, Any]:
    """Train the arms, draw the test scenes, and drive them; the variants after part E, whose BC one starts from."""
    test = shards("variants-test", config.seed, scale.pool, scale.shard)
    seeds = dict.fromkeys(_trained(scale), tuple(range(scale.seeds)))
    seeds |= dict.fromkeys(scale.variants, tuple(range(scale.changed)))
    training = {arm: partial(train_arm, arm, pools[arm], scale.effort, own, folder) for arm, own in seeds.items()}
    pieces: Pieces = {f"train-{arm}": training[arm] for arm in _trained(scale)}
    calibration, whole = joined(data["calibration"], "scores"), -(-scale.whole // scale.shard)
    pieces |= {
        piece_name(shard): partial(make_shard, folder, shard, count, calibration, k < whole)
        for k, (shard, count) in enumerate(test)
    }
    found = compute(pieces, config)
    found |= compute({f"train-{arm}": training[arm] for arm in scale.variants}, config)
    parts = [found[piece_name(shard)] for shard, _ in test]
    sets, scenes = chosen_sets([shard for shard, _ in test], parts, data["calibration"], (scale.hard, scale.whole))
    driving: Pieces = {"controls": partial(controlled, folder, sets)}
    driving |= {f"drive-{arm}": partial(judged, folder, sets, "log", arm, own, True) for arm, own in seeds.items()}
    driven = compute(driving, config)
    arms = {
        arm: {"seeds": list(own), "worlds": {"log": driven[f"drive-{arm}"]}} | found[f"train-{arm}"]
        for arm, own in seeds.items()
    }
    size = ("train", "calibration", "pool", "seeds", "changed")
    return {
        "size": {name: getattr(scale, name) for name in size} | vars(scale.effort),
        "data": _counts([*data["drawn"], *parts]) | {"sets": data["sets"], "audits": data["audits"]},
        "scenes": scenes,
        "arms": arms,
        "controls": {name: {"worlds": {"log": rows}} for name, rows in driven["controls"].items()},
    }


def _trained(scale: Scale) -> list[str]:
    """Arms of part E, the slowest first and in turns: side by side, two processes would compile the same program."""
    order = sorted(scale.methods, key=("bc-sac", "sac", "bc").index)
    both = [method for method in order if method != "bc"]
    return arms_of(both, scale.sets) + arms_of([method for method in order if method == "bc"], scale.sets)


def _kinds(names: tuple[str, ...]) -> tuple[int, dict[str, int]]:
    """How many scenes, and how many of each kind."""
    kinds, counts = np.unique([kind_of(name) for name in names], return_counts=True)
    return len(names), dict(zip(kinds.tolist(), counts.tolist(), strict=True))


def _counts(parts: list[dict[str, Any]]) -> dict[str, int]:
    """Hazards drawn and discarded."""
    return {what: sum(sum(part[what].values()) for part in parts) for what in ("drawn", "failed")}


STUDY = Study(
    name="bc-sac-variants",
    title="What BC-SAC learns from, and what its parts are worth",
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
