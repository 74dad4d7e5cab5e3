"""Arms of the study driving-agents: how each is set up and trained, and one driver that serves all of them."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.baselines import Choice, ExpertReplay, Random
from gleanings.driving.learn.config import BCConfig, DQNConfig, HeadName, NetConfig, Others, WorldConfig
from gleanings.driving.learn.drives import Driver
from gleanings.driving.learn.policy import Policy, load_policy
from gleanings.driving.learn.training import Training, export_policies
from gleanings.studies._bc_sac_arms import CAPACITY, Effort, learnt, policies
from gleanings.studies._bc_sac_scenes import Shard
from gleanings.studies._bc_sac_trials import Sets, driven_by

CLONING_RATE, DQN_RATE = 4e-3, 1e-3
"""Learning rates: the first is what the study bc-sac froze for its BC in its third version."""
CLONES: dict[str, tuple[HeadName, bool]] = {
    "bc-discrete": ("categorical", True),
    "bc-discrete-blind": ("categorical", False),
    "bc-gaussian": ("gaussian", True),
    "bc-mixture": ("mixture", True),
}
"""Head, and whether the route is seen, of the arms that imitate."""
TRAINED: dict[str, Others] = {"dqn-log": "log", "dqn-idm": "idm"}
"""What the others did while the arms that are rewarded were trained."""
ARMS = (*CLONES, *TRAINED)
CONTROLS: dict[str, Driver] = {"expert replay": ExpertReplay(), "random": Random()}
BITS = ("failure", "failure_star", "collision", "at_fault", "off_road", "off_route")
"""Outcomes that are kept scene by scene."""


def setup(arm: str, effort: Effort) -> tuple[BCConfig | DQNConfig, WorldConfig]:
    """Configuration of an arm and the world it is trained in. ConfigError: no such arm."""
    size: dict[str, Any] = {"iterations": effort.iterations, "gradient_steps": effort.gradient_steps}
    size |= {"batch": effort.batch}
    if arm in CLONES:
        head, route = CLONES[arm]
        return BCConfig(net=NetConfig(use_route=route), head=head, learning_rate=CLONING_RATE, **size), WorldConfig()
    if arm in TRAINED:
        size |= {"environments": effort.environments, "capacity": CAPACITY, "learning_rate": DQN_RATE}
        return DQNConfig(**size), WorldConfig(others=TRAINED[arm])
    raise ConfigError(f"the study has no arm {arm!r}")


def trained(
    folder: Path, shards: tuple[Shard, ...], arm: str, effort: Effort, seeds: tuple[int, ...]
) -> dict[str, Any]:
    """Train the seeds of an arm, write their policies, and return the learning curves."""
    learner, world = setup(arm, effort)
    curve, states = learnt(learner, world, folder, shards, seeds)
    export_policies(Training(learner, world, seeds), states, policies(folder, arm), [])
    decisions = effort.iterations * effort.environments * world.horizon if isinstance(learner, DQNConfig) else 0
    return {"updates": learner.iterations * learner.gradient_steps, "decisions": decisions, "curve": curve}


def judged(
    folder: Path, sets: Sets, others: Others, arms: tuple[str, ...], arm: str, seeds: tuple[int, ...]
) -> dict[str, Any]:
    """Outcomes of the seeds of an arm in each set of scenes; `arms`: all that share the program."""
    drivers = [panel(folder, arms, arm, seed) for seed in seeds]
    return driven_by(folder, sets, others, drivers, BITS)


def controlled(folder: Path, sets: Sets, others: Others, arms: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Outcomes of each control in each set of scenes."""
    return {name: driven_by(folder, sets, others, [panel(folder, arms, name, 0)], BITS) for name in CONTROLS}


def panel(folder: Path, arms: tuple[str, ...], who: str, seed: int) -> Choice:
    """What drives as a control, or as the policy of a seed of an arm: a choice, so that one program serves all."""
    members = CONTROLS | {arm: driver_of(folder, arm, seed if arm == who else 0) for arm in arms}
    return Choice(tuple(members.values()), jax.device_put(np.int32(list(members).index(who))))


@functools.lru_cache(maxsize=8)
def driver_of(folder: Path, arm: str, seed: int) -> Policy:
    """The policy of a seed that `trained` wrote; its contract is that of its arm, whatever the seed."""
    return load_policy(policies(folder, arm) / f"policy-{seed}")
