"""Arms of the study bc-sac-variants: methods by training scenes, and BC-SAC with one thing changed.

Banks and demonstrations are repeated up to the size of the pool, so that arms share compiled programs: what is drawn
from a set that is repeated is drawn from the set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.config import BCConfig, BCSACConfig, WorldConfig
from gleanings.driving.learn.demos import Demonstrations, make_demonstrations
from gleanings.driving.learn.policy import load_policy
from gleanings.driving.learn.training import Training, export_policies
from gleanings.driving.learn.world import World
from gleanings.driving.run import keep_programs
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.sim import on_device
from gleanings.driving.stack import sizes_of
from gleanings.studies._bc_sac_arms import Effort, Learner, learn, policies, setup
from gleanings.studies._bc_sac_scenes import Shard, demonstrated, load_demos, read_shard

METHODS = ("bc", "sac", "bc-sac")
TRAINED_ON = ("all", "top50", "top10")
"""Sets of training scenes: the pool, its harder half and its hardest tenth."""
FROZEN = {
    "bc": {"learning_rate": 4e-3},
    "sac": {"temperature": 0.1},
    "bc-sac": {"imitation_weight": 0.03, "temperature": 0.02},
}
"""What the study bc-sac froze in its third version; its BC had the common number of gradient steps, as here."""
BASE = "bc-sac-all"
"""What the variants are compared with."""
REWARDS: dict[str, dict[str, Any]] = {
    "binary": {"reward": "binary"},
    "no-offsets": {"clearance_m": 0.0, "edge_m": 0.0},
    "absorb": {"after_failure": "absorb"},
}
VARIANTS = (*REWARDS, "no-followers", "few-demos", "warm-start")
FEW, FIRST = 10, 10
"""One demonstrated scene in so many is left; the critics learn alone in one gradient step out of so many."""
_AUDITED = 208
_held: dict[Any, Scene] = {}


@dataclass(frozen=True)
class Pool:
    """Training scenes: where they are, those an arm drives in and has demonstrations of, and the sizes of its bank.

    driven, shown: names; rows: demonstrated decisions, to which they are repeated."""

    folder: Path
    shards: tuple[Shard, ...]
    driven: tuple[str, ...]
    shown: tuple[str, ...]
    sizes: tuple[tuple[str, int], ...]
    rows: int


def arms_of(methods: Sequence[str], sets: Sequence[str]) -> list[str]:
    """Names of the arms of part E."""
    return [f"{method}-{trained_on}" for trained_on in sets for method in methods]


def settings(arm: str, effort: Effort) -> tuple[Learner, WorldConfig]:
    """Configuration of an arm, as bc-sac froze it but for what a variant changes."""
    method = "bc-sac" if arm in VARIANTS else arm.rsplit("-", 1)[0]
    learner, world = setup("bc-short" if method == "bc" else method, FROZEN, effort)
    if arm == "warm-start":
        assert isinstance(learner, BCSACConfig)
        learner = replace(learner, critic_first=effort.updates // FIRST)
    return learner, replace(world, **REWARDS.get(arm, {}))


def pooled(folder: Path, shards: tuple[Shard, ...]) -> dict[str, Any]:
    """Write the demonstrations of all scenes of a folder; their audit, the names in order, and the largest sizes."""
    audit = demonstrated(folder, shards)
    scenes = [scene for shard in shards for scene in read_shard(folder, shard)]
    sizes = [sizes_of(scene) for scene in scenes]
    largest = {letter: max(size[letter] for size in sizes) for letter in sizes[0]}
    return {"audit": audit, "names": [name_of(scene) for scene in scenes], "sizes": largest}


def audited(folder: Path, shards: tuple[Shard, ...]) -> dict[str, dict[str, float]]:
    """What each reward makes of the experts in the first scenes: share of decisions below 0, and the mean."""
    keep_programs()
    scenes = [scene for shard in shards for scene in read_shard(folder, shard)][:_AUDITED]
    found = {}
    for name in ("", "binary", "no-offsets"):
        audit = make_demonstrations(scenes, World(WorldConfig(**REWARDS.get(name, {}))))[1]
        found[name or "clearance"] = {"negative": audit.negative, "reward": audit.reward}
    return found


def trained(arm: str, pool: Pool, effort: Effort, seeds: tuple[int, ...], policies_of: Path) -> dict[str, Any]:
    """Train the seeds of an arm, write their policies beside the folder `policies_of`; learning curves.

    The arm warm-start starts from BC's policies of the same seeds, trained on all scenes, which must be there.
    """
    learner, world = settings(arm, effort)
    start = None
    if arm == "warm-start":
        start = [load_policy(policies(policies_of, "bc-all") / f"policy-{seed}") for seed in seeds]
    scenes = () if isinstance(learner, BCConfig) else _bank(pool)
    curve, states = learn(learner, world, scenes, _demos(pool), seeds, start)
    export_policies(Training(learner, world, seeds), states, policies(policies_of, arm), [])
    decisions = 0 if isinstance(learner, BCConfig) else effort.iterations * effort.environments * world.horizon
    return {"updates": effort.updates, "decisions": decisions, "curve": curve}


def _bank(pool: Pool) -> Scene:
    """The scenes of a pool on the device, one pool at a time."""
    key = (pool.folder, pool.driven)
    if key not in _held:
        _held.clear()
        found = {name_of(scene): scene for shard in pool.shards for scene in read_shard(pool.folder, shard)}
        names = islice(cycle(pool.driven), len(found))
        _held[key] = on_device(make_bank([found[name] for name in names], dict(pool.sizes)))
    return _held[key]


def _demos(pool: Pool) -> Demonstrations:
    """The demonstrations of the scenes shown."""
    every = load_demos(pool.folder)
    names = [name_of(scene) for shard in pool.shards for scene in read_shard(pool.folder, shard)]
    wanted = set(pool.shown)
    some = np.array([name in wanted for name in names])
    rows = np.resize(np.flatnonzero(some[np.asarray(every.scene)]), pool.rows)
    return Demonstrations(*(np.asarray(field)[rows] for field in every))


def few(names: tuple[str, ...]) -> tuple[str, ...]:
    """One in ten of the scenes by chance, at least one."""
    order = np.random.default_rng(0).permutation(len(names))
    return tuple(names[i] for i in sorted(order[: max(1, len(names) // FEW)]))
