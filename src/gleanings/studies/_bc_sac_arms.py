"""Training of the arms of the study bc-sac: one configuration an arm, several seeds a piece, a policy file a seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gleanings.core.errors import ConfigError
from gleanings.driving.learn import bc_sac
from gleanings.driving.learn.config import BCConfig, BCSACConfig, DQNConfig, WorldConfig, sac_config
from gleanings.driving.learn.demos import Demonstrations
from gleanings.driving.learn.drives import drive
from gleanings.driving.learn.outcomes import outcomes_of
from gleanings.driving.learn.policy import Policy, load_policy
from gleanings.driving.learn.training import Training, driver_of, export_policies, train
from gleanings.driving.learn.world import World
from gleanings.driving.run import keep_programs
from gleanings.driving.scene import Scene
from gleanings.studies._bc_sac_scenes import Shard, load_bank, load_demos

CAPACITY, RATE, TIMES, NO_ENTROPY = 4096, 3e-3, 4, 1e-6
"""Episodes that a replay holds; learning rate of SAC and BC-SAC; times the common gradient steps that BC makes; a
temperature without effect."""
Learner = BCConfig | BCSACConfig
FIELDS = {"bc": "learning_rate", "sac": "temperature", "bc-sac": "imitation_weight", "sac-progress": "progress_weight"}
"""What is tuned of an arm; SAC with progress takes the temperature found for SAC."""
GRIDS = {
    "bc": (3e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "sac": (0.002, 0.005, 0.02, 0.05, 0.1),
    "bc-sac": (0.01, 0.03, 0.1, 0.3, 1.0),
    "sac-progress": (0.01, 0.03, 0.1),
}
CURVES = ("actor/bc_nll", "actor/error", "critic/q", "collect/failure", "collect/reward", "collect/progress")


@dataclass(frozen=True)
class Effort:
    """How long everything is trained. environments: episodes collected in an iteration, of `gradient_steps` steps with
    `batch` rows."""

    iterations: int
    environments: int
    gradient_steps: int
    batch: int = 256

    @property
    def updates(self) -> int:
        """Gradient steps in all."""
        return self.iterations * self.gradient_steps


def setup(arm: str, frozen: dict[str, dict[str, float]], effort: Effort) -> tuple[Learner, WorldConfig]:
    """Configuration of an arm, with what was tuned (or is being tried) in `frozen`. ConfigError: no such arm."""
    world = WorldConfig()
    size = {"iterations": effort.iterations, "gradient_steps": effort.gradient_steps, "batch": effort.batch}
    more = size | {"environments": effort.environments, "capacity": CAPACITY, "learning_rate": RATE}
    if arm in ("bc", "bc-short", "bc-shuffled"):
        times = TIMES if arm == "bc" else 1
        return BCConfig(**(size | {"iterations": times * effort.iterations} | frozen["bc"])), world  # pyright: ignore
    if arm == "sac":
        return sac_config(**more, **frozen["sac"]), world
    if arm == "bc-sac":
        return BCSACConfig(**more, **frozen["bc-sac"]), world  # pyright: ignore[reportArgumentType]
    if arm == "bc-sac-null":
        without = replace(world, clearance_weight=0.0, edge_weight=0.0)
        settings = frozen["bc-sac"] | {"temperature": NO_ENTROPY}
        return BCSACConfig(**more, **settings), without  # pyright: ignore[reportArgumentType]
    if arm == "sac-progress":
        chosen = dict(frozen["sac-progress"])
        return sac_config(**more, temperature=chosen["temperature"]), replace(
            world, progress_weight=chosen["progress_weight"]
        )
    raise ConfigError(f"the study has no arm {arm!r}")


def trained(
    folder: Path, shards: tuple[Shard, ...], arm: str, frozen: Any, effort: Effort, seeds: tuple[int, ...]
) -> dict[str, Any]:
    """Train the seeds of an arm, write their policies, and return the learning curves."""
    learner, world = setup(arm, frozen, effort)
    curve, states = learnt(learner, world, folder, shards, seeds, arm == "bc-shuffled")
    export_policies(Training(learner, world, seeds), states, policies(folder, arm), [])
    decisions = 0 if isinstance(learner, BCConfig) else effort.iterations * effort.environments * world.horizon
    return {"updates": learner.iterations * learner.gradient_steps, "decisions": decisions, "curve": curve}


def tried(
    folder: Path,
    shards: tuple[Shard, ...],
    validation: tuple[Shard, ...],
    arm: str,
    frozen: Any,
    effort: Effort,
    seeds: tuple[int, ...],
) -> dict[str, list[float]]:
    """Train the seeds of an arm, and drive the validation scenes: failure, failure* and progress of each seed."""
    learner, world = setup(arm, frozen, effort)
    _, states = learnt(learner, world, folder, shards, seeds)
    bank = load_bank(folder, validation)
    rows = [_driven(bank, driver_of(learner, states, index)) for index in range(len(seeds))]
    return {name: [row[name] for row in rows] for name in rows[0]}


def policies(folder: Path, arm: str) -> Path:
    """Where the policies of an arm are."""
    return folder.parent / "policies" / arm


def load_driver(folder: Path, arm: str, seed: int) -> bc_sac.Driver:
    """What drives as the policy of a seed does; all arms share compiled programs."""
    return bc_sac.Driver(load_policy(policies(folder, arm) / f"policy-{seed}").network)  # pyright: ignore


def learnt(
    learner: Learner | DQNConfig,
    world: WorldConfig,
    folder: Path,
    shards: tuple[Shard, ...],
    seeds: tuple[int, ...],
    shuffled: bool = False,
) -> tuple[dict[str, list[float]], Any]:
    """Learning curves, means over the seeds, and the last states. shuffled: labels go to other observations."""
    demos = load_demos(folder)
    if shuffled:
        order = np.random.default_rng(0).permutation(len(demos.obs))
        demos = Demonstrations(demos.obs, demos.action[order], demos.mask[order], *demos[3:])
    scenes = () if isinstance(learner, BCConfig) else load_bank(folder, shards)
    return learn(learner, world, scenes, demos, seeds)


def learn(
    learner: Learner | DQNConfig,
    world: WorldConfig,
    scenes: Scene | tuple[()],
    demos: Demonstrations,
    seeds: tuple[int, ...],
    start: Sequence[Policy] | None = None,
) -> tuple[dict[str, list[float]], Any]:
    """Train in a bank of scenes, perhaps from policies: the learning curves, and the states."""
    keep_programs()
    rows, event = [], None
    for event in train(learner, scenes, demos, world=world, seeds=seeds, start=start, progress=False):
        rows.append({"step": event.step} | event.metrics)
    assert event is not None
    shown = [name for name in ("step", *CURVES) if name in rows[0]]
    return {name: [float(row[name]) for row in rows] for name in shown}, event.state


def _driven(bank: Scene, driver: Any) -> dict[str, float]:
    world = World(WorldConfig())
    outcomes = outcomes_of(world, jax.device_get(bank), drive(world, bank, driver, jax.random.key(0)))
    progress = outcomes.progress_ratio
    return {
        "failure": float(outcomes.failed.mean()),
        "failure_star": float(outcomes.failure_star().mean()),
        "progress": float(np.nanmean(progress)),
    }
