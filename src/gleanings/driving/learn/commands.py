"""`gleanings drive demos|train|evaluate|export`: learn to drive from logs. Only what runs loads jax."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.config import (
    Algorithm,
    BCConfig,
    BCSACConfig,
    DemoConfig,
    DQNConfig,
    Others,
    WorldConfig,
    sac_config,
)

if TYPE_CHECKING:
    from gleanings.driving.learn.demos import Audit, Demonstrations
    from gleanings.driving.scene import Scene

_LEARNERS = {"bc": BCConfig, "sac": sac_config, "bc-sac": BCSACConfig, "dqn": DQNConfig}


def demos(scenes: str, out: Path, limit: int | None = None, edge_m: float = 0.5) -> None:
    """Cut learning scenes out of logs, label them, and write demonstrations and their audit.

    Raises: DataError for files that cannot be read; ConfigError for logs that cannot be learnt from.

    Args:
        scenes: File, folder or pattern of logs, raw or compiled.
        out: Folder for demos.npz and demos.json.
        limit: Read at most so many scenes.
        edge_m: Distance to the road edge below which the reward falls.
    """
    import numpy as np

    found, audit, _ = _demonstrated(_cut(scenes, limit), WorldConfig(edge_m=edge_m), DemoConfig())
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "demos.npz", **found._asdict())
    (out / "demos.json").write_text(json.dumps(asdict(audit), indent=1) + "\n")
    print(f"{audit.kept} of {audit.decisions} decisions of {audit.scenes} scenes in {out}")


def train(
    scenes: str | None = None,
    algorithm: Algorithm = "bc-sac",
    out: Path | None = None,
    seeds: int = 1,
    others: Others = "log",
    iterations: int | None = None,
    count: int = 256,
    limit: int | None = None,
    edge_m: float = 0.5,
    resume: bool = False,
) -> None:
    """Train a driving policy for several seeds; checkpoints, metrics and policies go to a run directory.

    Ctrl-C saves and stops; --resume with the same options continues, bit for bit.

    Raises: ConfigError for options that cannot be used; DataError for files that cannot be read.

    Args:
        scenes: File, folder or pattern of logs; generated hazards if not given.
        algorithm: Behaviour cloning, SAC, both in one loss, or DQN on discretised actions.
        out: Folder of the run, runs/learn-DATE if not given.
        seeds: Policies trained side by side.
        others: What the other objects do while it drives: their log, or IDM.
        iterations: Iterations; that of the algorithm if not given.
        count: Hazards to generate.
        limit: Read at most so many scenes.
        edge_m: Distance to the road edge below which the reward falls.
        resume: Go on with the run in `out`.
    """
    if seeds < 1 or count < 1:
        raise ConfigError("seeds and count are at least 1")
    learner = _LEARNERS[algorithm]()
    learner = learner if iterations is None else replace(learner, iterations=iterations)
    folder = out or Path("runs") / f"learn-{datetime.datetime.now():%Y-%m-%d-%H%M%S}"
    world = WorldConfig(others=others, edge_m=edge_m)
    from gleanings.driving.learn.split import split_scenes
    from gleanings.driving.learn.training import train as events

    split = split_scenes(_hazards(count) if scenes is None else _cut(scenes, limit), seed=0, fractions=(0.8, 0.2, 0, 0))
    labelled, _, kept = _demonstrated(split.train, world, DemoConfig())
    options: dict[str, Any] = {"world": world, "seeds": range(seeds), "validation": split.validation}
    metrics: dict[str, float] = {}
    for event in events(learner, kept, labelled, directory=folder, resume=resume, **options):
        metrics = event.metrics
    shown = sorted(item for item in metrics.items() if not item[0].startswith("seed-"))
    print("\n".join(f"{name:<22}{value:.4g}" for name, value in shown))
    print(f"policies: {folder / 'artifacts'}")


def evaluate(
    policy: Path, scenes: str | None = None, others: str = "log", count: int = 256, limit: int | None = None
) -> None:
    """Drive scenes with a trained policy and print failures, progress and comfort with intervals.

    Raises: ConfigError for scenes that the policy was not made for; CheckpointError for a damaged policy.

    Args:
        policy: Folder of a policy, such as RUN/artifacts/policy-0.
        scenes: File, folder or pattern of logs; generated hazards if not given.
        others: What the others do, log or idm, or both with a comma.
        count: Hazards to generate.
        limit: Read at most so many scenes.
    """
    from gleanings.driving.learn.evaluate import evaluate_policy
    from gleanings.driving.learn.policy import load_policy

    loaded = load_policy(policy)
    found = _hazards(count, seed=1) if scenes is None else _cut(scenes, limit)
    print(evaluate_policy(loaded, found, others=tuple(part.strip() for part in others.split(","))).table())


COMMANDS: dict[str, Any] = {"demos": demos, "train": train, "evaluate": evaluate}


def _hazards(count: int, seed: int = 0) -> "list[Scene]":
    from gleanings.driving.learn.hazards import make_hazards

    return make_hazards(seed=seed, count=count)[0]


def _cut(source: str, limit: int | None) -> "list[Scene]":
    """Learning scenes out of files. ConfigError: none."""
    from collections import Counter

    from gleanings.driving.learn.cutting import windows
    from gleanings.driving.load import load_scenes

    skipped: Counter[str] = Counter()
    found = [cut for scene in load_scenes(source, limit=limit) for cut in windows(scene, DemoConfig(), skipped)]
    if not found:
        reasons = ", ".join(f"{count} {name}" for name, count in skipped.most_common()) or "no vehicle travels 30 m"
        raise ConfigError(f"{source} holds no scene to learn from ({reasons})")
    return found


def _demonstrated(
    scenes: "Sequence[Scene]", world: WorldConfig, config: DemoConfig
) -> "tuple[Demonstrations, Audit, Sequence[Scene]]":
    from gleanings.driving.learn.demos import make_demonstrations
    from gleanings.driving.learn.world import World

    labelled, audit = make_demonstrations(scenes, World(world), config)
    return labelled, audit, scenes
