"""`gleanings drive demos|train|evaluate|export`: learn to drive from logs. Only what runs loads jax."""

import datetime
import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.config import (
    Algorithm,
    BCConfig,
    BCSACConfig,
    DemoConfig,
    DQNConfig,
    OnNonfinite,
    Others,
    RewardName,
    WorldConfig,
    sac_config,
)
from gleanings.driving.learn.contract import caveat

if TYPE_CHECKING:
    from gleanings.driving.learn.material import Material
    from gleanings.driving.scene import Scene

_LEARNERS = {"bc": BCConfig, "sac": sac_config, "bc-sac": BCSACConfig, "dqn": DQNConfig}


def demos(scenes: str, out: Path, limit: int | None = None, edge_m: float = 0.5, clearance_m: float = 1.0) -> None:
    """Cut learning scenes out of logs, label them, and write demonstrations and their audit.

    Also of logs that the reward of SAC would punish too often, which is noted.

    Raises: DataError for files that cannot be read; ConfigError for logs that cannot be learnt from, or a folder that
        cannot be written.

    Args:
        scenes: File, folder or pattern of logs, raw or compiled.
        out: Folder for demos.npz and demos.json.
        limit: Read at most so many scenes.
        edge_m: Distance to the road edge below which the reward falls.
        clearance_m: Distance to other boxes below which the reward falls.
    """
    import numpy as np

    from gleanings.driving.learn.cutting import learning_scenes, left_out
    from gleanings.driving.learn.demos import make_demonstrations
    from gleanings.driving.learn.run import make_folder
    from gleanings.driving.learn.world import World

    world, skipped = World(WorldConfig(edge_m=edge_m, clearance_m=clearance_m)), Counter[str]()
    make_folder(out)
    cut = learning_scenes(scenes, limit=limit, skipped=skipped)
    found, audit = make_demonstrations(cut, world, DemoConfig(max_audit=1.0))
    np.savez(out / "demos.npz", **found._asdict())
    (out / "demos.json").write_text(json.dumps(asdict(audit) | {"left_out": skipped}, indent=1) + "\n")
    _note(left_out(skipped))
    if audit.negative > (most := DemoConfig().max_audit):
        _note(f"{audit.negative:.0%} of the decisions have a negative reward: above {most:.0%} only bc learns of them")
    print(f"{audit.kept} of {audit.decisions} decisions of {audit.scenes} scenes in {out}")


def train(
    scenes: str | None = None,
    algorithm: Algorithm = "bc-sac",
    out: Path | None = None,
    seeds: int = 1,
    others: Others = "log",
    iterations: int | None = None,
    count: int = 256,
    with_generated: int = 0,
    limit: int | None = None,
    edge_m: float = 0.5,
    clearance_m: float = 1.0,
    on_nonfinite: OnNonfinite = "stop",
    reward: RewardName = "clearance",
    start: Path | None = None,
    critic_first: int = 0,
    resume: bool = False,
    report: bool = True,
) -> None:
    """Train a driving policy for several seeds and judge it in test scenes: checkpoints, metrics, policies, report.

    Ctrl-C saves and stops; --resume with the same options continues, bit for bit.

    Raises: ConfigError for options that cannot be used; DataError for files that cannot be read.

    Args:
        scenes: File, folder or pattern of logs; generated hazards if not given.
        algorithm: Behaviour cloning, SAC, both in one loss, or DQN on discretised actions.
        out: Folder of the run, runs/learn-DATE if not given.
        seeds: Policies trained side by side.
        others: What the other objects do while it drives: their log, or IDM.
        iterations: Iterations; that of the algorithm if not given.
        count: Hazards to generate for training, without --scenes; as many again for validation and testing.
        with_generated: Hazards to train on beside the logs, reported apart.
        limit: Read at most so many scenes.
        edge_m: Distance to the road edge below which the reward falls.
        clearance_m: Distance to other boxes below which the reward falls.
        on_nonfinite: When a seed gives NaN or infinity, stop ends the run; skip-seed leaves that seed as it was, which
            then counts as failing in every scene, and trains the others. May be changed with --resume.
        reward: By these distances, or binary: -1 in a decision with contact or off the road, else 0.
        start: Policy from which all seeds start, or a run whose policies of the same seeds they start from.
        critic_first: Gradient steps, the first of all, in which only the critics of SAC and BC-SAC learn.
        resume: Go on with the run in `out`.
        report: Drive the test scenes at the end and write report.html.
    """
    if seeds < 1 or count < 1 or with_generated < 0:
        raise ConfigError("seeds and count are at least 1, with-generated at least 0")
    if with_generated and scenes is None:
        raise ConfigError("--with-generated adds hazards to --scenes; without logs --count says how many there are")
    learner = _LEARNERS[algorithm]()
    learner = learner if iterations is None else replace(learner, iterations=iterations)
    if critic_first:
        if not isinstance(learner, BCSACConfig):
            raise ConfigError(f"--critic-first is for sac and bc-sac; {algorithm} has no critics beside an actor")
        learner = replace(learner, critic_first=critic_first)
    folder = out or Path("runs") / f"learn-{datetime.datetime.now():%Y-%m-%d-%H%M%S}"
    _check_folder(folder, resume)
    world = WorldConfig(others=others, edge_m=edge_m, clearance_m=clearance_m, reward=reward)
    from gleanings.driving.learn._start import load_start
    from gleanings.driving.learn.run import demonstrate, finish
    from gleanings.driving.learn.training import train as events

    starts = None if start is None else load_start(start, range(seeds))
    _keep_programs()
    material = _material(scenes, limit, count, with_generated)
    for note in material.notes:
        _note(note)
    # Where nothing is rewarded it does not matter that the reward would punish the logs.
    config = DemoConfig(max_audit=1.0) if algorithm == "bc" else DemoConfig()
    labelled, audits = demonstrate(material, world, config)
    options: dict[str, Any] = {"world": world, "seeds": range(seeds), "validation": material.split.validation}
    options |= {"directory": folder, "resume": resume, "on_nonfinite": on_nonfinite}
    options["start"] = starts
    metrics: dict[str, float] = {}
    frozen: Mapping[str, int] = {}
    for event in events(learner, material.split.train, labelled, **options):
        metrics, frozen = event.metrics, event.frozen
    shown = sorted(item for item in metrics.items() if not item[0].startswith("seed-"))
    print("\n".join(f"{name:<22}{value:.4g}" for name, value in shown))
    for seed, step in frozen.items():
        print(f"{seed}: {caveat(step)}")
    print(f"policies: {folder / 'artifacts'}")
    if report:
        print(f"report: {finish(folder, material, audits, _say)}")


def evaluate(
    policy: Path,
    scenes: str | None = None,
    others: str = "log",
    count: int = 128,
    limit: int | None = None,
    out: Path | None = None,
) -> None:
    """Drive scenes with a trained policy and print failures, progress and comfort with intervals.

    Raises: ConfigError for scenes that the policy was not made for; CheckpointError for a damaged policy.

    Args:
        policy: Folder of a policy, such as RUN/artifacts/policy-0.
        scenes: File, folder or pattern of logs; generated hazards if not given.
        others: What the others do, log or idm, or both with a comma.
        count: Hazards to generate.
        limit: Read at most so many scenes.
        out: Folder for evaluation.json, and report.html with clips of the worst failures.
    """
    from gleanings.driving.learn.cutting import learning_scenes, left_out
    from gleanings.driving.learn.evaluate import evaluate_policy
    from gleanings.driving.learn.policy import load_policy

    loaded = load_policy(policy)
    _keep_programs()
    skipped: Counter[str] = Counter()
    found = (
        _hazards(count) if scenes is None else learning_scenes(scenes, limit=limit, evaluation=True, skipped=skipped)
    )
    _note(left_out(skipped))
    worlds = tuple(part.strip() for part in others.split(","))
    if out is None:
        print(evaluate_policy(loaded, found, others=worlds).table())
        return
    from gleanings.driving.learn.run import evaluate_into

    table, page = evaluate_into(out, loaded, found, worlds, scenes or "generated hazards", _say)
    print(f"{table}\nreport: {page}")


def export(run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")], out: Path, seed: int = 0) -> None:
    """Write the policy of one seed out of the last checkpoint of a run, as RUN/artifacts/policy-SEED.

    Raises: ConfigError for a folder that is no finished run, or has no such seed; CheckpointError for a damaged one.

    Args:
        run: Folder of the run.
        out: Folder of the policy.
        seed: Seed that was trained.
    """
    from gleanings.driving.learn.exporting import export_run

    print(export_run(run, seed, out))


COMMANDS: dict[str, Any] = {"demos": demos, "train": train, "evaluate": evaluate, "export": export}


def _check_folder(folder: Path, resume: bool) -> None:
    """ConfigError for a run that is there, before scenes are made for minutes."""
    if not resume and (folder / "config.json").exists():
        raise ConfigError(f"{folder} holds a run: go on with it by --resume, or choose another folder")


def _keep_programs() -> None:
    from gleanings.driving.run import keep_programs

    keep_programs()


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"... {text}", file=sys.stderr)


def _note(text: str) -> None:
    if text:
        print(f"note: {text}", file=sys.stderr)


def _material(scenes: str | None, limit: int | None, count: int, with_generated: int) -> "Material":
    from gleanings.driving.learn.cutting import learning_scenes, left_out
    from gleanings.driving.learn.material import joined, of_hazards, of_logs

    if scenes is None:
        _say("generating hazards")
        return of_hazards(count)
    skipped: Counter[str] = Counter()
    logs = of_logs(learning_scenes(scenes, limit=limit, skipped=skipped))
    logs = replace(logs, notes=(*logs.notes, *filter(None, [left_out(skipped)])))
    return joined(logs, of_hazards(with_generated)) if with_generated else logs


def _hazards(count: int) -> "list[Scene]":
    """Those that `train` tests with."""
    from gleanings.driving.learn.hazards import make_hazards

    return make_hazards(seed=3, count=count)[0]
