"""Policies that training starts from: whether they fit, and states whose actors are theirs. Source: ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.config import BCConfig, BCSACConfig, DQNConfig, WorldConfig
from gleanings.driving.learn.policy import RECORD, Policy, load_policy


def load_start(folder: Path, seeds: Sequence[int]) -> list[Policy]:
    """The policy in a folder for all seeds, or of each seed its own out of a run. ConfigError: neither is there."""
    if (folder / RECORD).is_file():
        return [load_policy(folder)] * len(seeds)
    for inside in (folder, folder / "artifacts"):
        found = [inside / f"policy-{seed}" for seed in seeds]
        if all((path / RECORD).is_file() for path in found):
            return [load_policy(path) for path in found]
    names = ", ".join(f"policy-{seed}" for seed in seeds)
    raise ConfigError(f"{folder} holds no policy, nor those of the seeds ({names}): name a policy or a finished run")


def check_start(
    learner: BCConfig | BCSACConfig | DQNConfig,
    world: WorldConfig,
    seeds: Sequence[int],
    start: Policy | Sequence[Policy] | None,
) -> tuple[Policy, ...]:
    """A policy a seed, or none at all. ConfigError: another number of them, another network, head or observation."""
    if start is None:
        return ()
    starts = (start,) * len(seeds) if isinstance(start, Policy) else tuple(start)
    if len(starts) != len(seeds):
        raise ConfigError(f"start has {len(starts)} policies for {len(seeds)} seeds: give one for all, or one a seed")
    if isinstance(learner, DQNConfig):
        raise ConfigError("start gives actors, and a DQN has none: leave it out")
    for policy in starts:
        _check(learner, world, policy)
    return starts


def _check(learner: BCConfig | BCSACConfig, world: WorldConfig, policy: Policy) -> None:
    """ConfigError with both values of what differs; what others do and what is rewarded may."""
    contract = policy.contract
    names = ["net", "head", *(["components"] if learner.head == "mixture" else [])]
    different = [
        f"{name} is {getattr(contract, name)!r} in it, {getattr(learner, name)!r} in the training"
        for name in names
        if getattr(contract, name) != getattr(learner, name)
    ]
    if contract.algorithm == "dqn":
        different.insert(0, "it is a DQN")
    if different:
        raise ConfigError(f"training cannot start from this policy: {'; '.join(different)}")
    contract.check(world, contract.dt)


def started(states: Any, starts: Sequence[Policy]) -> Any:
    """States [seeds] whose actors, and their averages, are those of the policies; without policies the states."""
    if not starts:
        return states
    given = [jax.tree.leaves(policy.network) for policy in starts]

    def actor() -> Any:  # copies, so that a program may reuse the memory of both
        leaves = [jnp.stack(rows) for rows in zip(*given, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(states.actor), leaves)

    return eqx.tree_at(lambda s: (s.actor, s.average), states, (actor(), actor()))
