"""Study of the planning agents of arXiv 2310.08710: discrete cloning, a route to follow, and the world trained in.

Claim: among open-loop agents discrete behaviour cloning does best; a route helps; an agent trained by reinforcement
against IDM collides over four times as often among others that replay their log.

Protocol, differences from the paper and the decision rule are in `_agents_text`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gleanings.core.study import Study, StudyConfig
from gleanings.driving.learn.config import Others
from gleanings.studies._agents_arms import ARMS, controlled, judged, setup, trained
from gleanings.studies._agents_judge import judge
from gleanings.studies._agents_report import headline, render, thumbnail
from gleanings.studies._agents_text import BIBTEX, CLAIM, DEVIATIONS, PAPER_FIGURE, PROTOCOL, RULE
from gleanings.studies._bc_sac_arms import Effort
from gleanings.studies._bc_sac_scenes import (
    Shard,
    counts_of,
    demonstrated,
    joined,
    kinds_and_sites,
    make_shard,
    piece_name,
    shards,
)
from gleanings.studies._bc_sac_trials import Sets
from gleanings.studies._pieces import Pieces, compute

STARTS = {"train": 4200, "test": 9300}
"""First seed of each split, from the study's seed on; those of the study bc-sac lie elsewhere."""
WORLDS: tuple[Others, ...] = ("log", "idm")


@dataclass(frozen=True)
class Scale:
    """How much a size does: scenes for training and for the test, seeds of each arm, how long each is trained. shard:
    scenes that share maps of their own."""

    train: int
    test: int
    seeds: int
    effort: Effort
    shard: int = 104
    arms: tuple[str, ...] = ARMS


SCALES = {
    "smoke": Scale(16, 16, 2, Effort(1, 4, 4, 16), shard=16),
    "quick": Scale(416, 208, 3, Effort(5, 128, 100, 128), arms=tuple(arm for arm in ARMS if arm != "dqn-log")),
    "full": Scale(4056, 1040, 5, Effort(18, 256, 160)),
}


def run(config: StudyConfig) -> dict[str, Any]:
    """Measure everything the rule needs; pieces that an earlier run has finished are taken over."""
    scale, folder = SCALES[config.size], config.directory / "scenes"
    train = shards("train", config.seed, scale.train, scale.shard, STARTS)
    test = shards("test", config.seed, scale.test, scale.shard, STARTS)
    made = compute(_making(folder, train), config)
    chosen = tuple(shard for shard, _ in train)
    made |= compute({"demos": partial(demonstrated, folder, chosen)} | _making(folder, test), config)
    seeds = tuple(range(scale.seeds))
    found = compute(
        {f"train-{arm}": partial(trained, folder, chosen, arm, scale.effort, seeds) for arm in scale.arms[::-1]}, config
    )
    parts = [made[piece_name(shard)] for shard, _ in test]
    sets, scenes = _set([shard for shard, _ in test], parts)
    driven = compute(_drives(scale, folder, sets), config)
    everything = [*parts, *(made[piece_name(shard)] for shard, _ in train)]
    return {
        "size": {name: getattr(scale, name) for name in ("train", "test", "seeds")} | vars(scale.effort),
        "data": counts_of(everything) | {"audit": made["demos"]},
        "scenes": scenes,
        "arms": {arm: _arm(arm, scale, found, driven) for arm in scale.arms},
        "controls": {
            name: {"worlds": {world: driven[f"drive-controls-{world}"][name] for world in WORLDS}}
            for name in driven["drive-controls-log"]
        },
    }


def _making(folder: Path, split: list[tuple[Shard, int]]) -> Pieces:
    return {piece_name(shard): partial(make_shard, folder, shard, count, scored=False) for shard, count in split}


def _set(chosen: list[Shard], parts: list[dict[str, Any]]) -> tuple[Sets, dict[str, Any]]:
    """The test scenes as they come, and facts of them."""
    names = tuple(joined(parts, "names"))
    kinds, sites = kinds_and_sites(names)
    return {"all": (tuple(chosen), names)}, {"all": {"names": list(names), "kind": kinds, "site": sites}}


def _drives(scale: Scale, folder: Path, sets: Sets) -> Pieces:
    """The worlds take turns: side by side, two processes would compile the same program."""
    pieces: Pieces = {}
    seeds = tuple(range(scale.seeds))
    for arm in scale.arms:
        for world in WORLDS:
            pieces[f"drive-{arm}-{world}"] = partial(judged, folder, sets, world, scale.arms, arm, seeds)
    return pieces | {
        f"drive-controls-{world}": partial(controlled, folder, sets, world, scale.arms) for world in WORLDS
    }


def _arm(arm: str, scale: Scale, found: dict[str, Any], driven: dict[str, Any]) -> dict[str, Any]:
    """What is told of an arm: its training and its drives."""
    worlds = {world: driven[f"drive-{arm}-{world}"] for world in WORLDS}
    rate = setup(arm, scale.effort)[0].learning_rate
    return {"seeds": list(range(scale.seeds)), "rate": rate, "worlds": worlds} | found[f"train-{arm}"]


STUDY = Study(
    name="driving-agents",
    title="Driving agents: discrete cloning, routes, and the world trained in",
    arxiv="2310.08710",
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
