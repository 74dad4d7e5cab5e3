"""What `gleanings drive run` does: roll out scenes batch by batch, keep every row, show the worst as replays."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gleanings.core.errors import ConfigError, DataError
from gleanings.core.metrics import read_metrics
from gleanings.core.rundir import RunDirectory
from gleanings.driving.agents import ConstantVelocity, LogPlayback, SimAgent
from gleanings.driving.config import AgentName, Controlled, DynamicsName, PolicyName, SimConfig
from gleanings.driving.dynamics import Bicycle, DeltaLocal, Discrete, Dynamics
from gleanings.driving.evaluation import Evaluation, roll_out, sum_up
from gleanings.driving.families import FAMILIES, make_scenes
from gleanings.driving.idm import IDM
from gleanings.driving.load import SceneError, check_source, iter_scenes
from gleanings.driving.policies import driven_by, expert
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.sim import Simulator
from gleanings.driving.state import Rollout
from gleanings.driving.video import save_video
from gleanings.driving.viewer import save_replay

WORST_FIRST = ("collision", "at_fault", "off_road", "red_light", "wrong_way")
AGENTS: dict[str, Callable[[], SimAgent]] = {"log": LogPlayback, "idm": IDM, "constant": ConstantVelocity}
DYNAMICS: dict[str, Callable[[], Dynamics]] = {
    "bicycle": Bicycle,
    "discrete": lambda: Discrete(Bicycle()),
    "delta": DeltaLocal,
}


@dataclass(frozen=True)
class Drive:
    """A run of the simulator, as kept in config.json. The fields are the arguments of `gleanings drive run`."""

    source: str
    controlled: Controlled = "sdc"
    policy: PolicyName = "expert"
    agents: AgentName = "log"
    dynamics: DynamicsName = "bicycle"
    count: int = 4
    limit: int | None = None
    steps: int | None = None
    batch: int = 8
    replays: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Driven:
    """Result of a run: rows and means, pages of the worst scenes (index of the scene, path), what was not read."""

    evaluation: Evaluation
    replays: tuple[tuple[int, Path], ...]
    skipped: tuple[str, ...]


def scenes_of(drive: Drive) -> tuple[list[Scene], list[str]]:
    """The scenes of `drive.source`, a family ("all" for every one) or files, and what could not be read or simulated.

    ConfigError: neither. DataError: nothing could be read.
    """
    check_source(drive.source)
    if drive.source == "all" or drive.source in FAMILIES:
        return make_scenes(drive.source, seed=drive.seed, count=drive.count), []
    scenes: list[Scene] = []
    errors: list[DataError] = []
    for item in iter_scenes(drive.source):
        if isinstance(item, SceneError):
            errors.append(item.error)
        elif drive.limit is not None and len(scenes) == drive.limit:
            break
        elif item.start >= len(item.log.x) - 1:
            errors.append(DataError("starts at its last step: nothing is left to simulate", None, name_of(item)))
        else:
            scenes.append(item)
    if not scenes:
        raise errors[0] if errors else DataError("no scenes", drive.source)
    return scenes, [str(error) for error in errors]


def simulator_of(drive: Drive) -> tuple[Simulator, Any]:
    """The simulator of a run and the policy of its controlled objects. ConfigError: settings that cannot be meant."""
    config = SimConfig(controlled=drive.controlled, steps=drive.steps)
    sim = Simulator(config, dynamics=DYNAMICS[drive.dynamics](), agents=AGENTS[drive.agents]())
    policies = {"expert": expert(sim.dynamics), "null": None, "idm": driven_by(IDM(), sim.dynamics)}
    return sim, policies[drive.policy]


def run_drive(
    run: RunDirectory, drive: Drive, found: tuple[list[Scene], list[str]], progress: Callable[[int, int], None]
) -> Driven:
    """Roll out all scenes `found` by `scenes_of`; rows that an interrupted run has written are taken over.

    progress(scenes done, all scenes). Writes metrics.jsonl, artifacts/evaluation.json, artifacts/replay-*.html.
    """
    keep_programs()
    scenes, skipped = found
    sim, policy = simulator_of(drive)
    key = jax.random.key(drive.seed)
    rows = _finished(run, len(scenes))
    left = [index for index in range(len(scenes)) if index not in rows]
    progress(len(rows), len(scenes))
    for index, row, _ in roll_out(sim, scenes, policy, key, batch=drive.batch, indices=left):
        rows[index] = row
        run.metrics.write(index, {name: value for name, value in row.items() if np.isfinite(value)})
        progress(len(rows), len(scenes))
    evaluation = sum_up([rows[index] for index in range(len(scenes))], scenes)
    run.save_artifact("evaluation.json", json.dumps(evaluation.to_json(), indent=1) + "\n")
    shown = worst(evaluation.rows)[: drive.replays]
    pages = {index: run.artifacts / f"replay-{index}.html" for index in shown}
    for index, _, rollout in roll_out(sim, scenes, policy, key, batch=drive.batch, indices=shown):
        _show(drive, scenes[index], rollout, pages[index])
    return Driven(evaluation, tuple(pages.items()), tuple(skipped))


def show_again(drive: Drive, number: int, path: Path) -> Path:
    """Simulate scene `number` of a run once more and write its page (.html) or film (.gif, .mp4) to `path`.

    ConfigError: no such scene. DataError: its source cannot be read any more.
    """
    keep_programs()
    scenes, _ = scenes_of(drive)
    if not 0 <= number < len(scenes):
        raise ConfigError(f"scene is {number}; the run has scenes 0 to {len(scenes) - 1}")
    sim, policy = simulator_of(drive)
    key = jax.random.key(drive.seed)
    _, _, rollout = next(roll_out(sim, scenes, policy, key, batch=drive.batch, indices=[number]))
    return _show(drive, scenes[number], rollout, path)


def _show(drive: Drive, scene: Scene, rollout: Rollout, path: Path) -> Path:
    if path.suffix != ".html":
        return save_video(scene, rollout, path)
    return save_replay(scene, rollout, path, title=f"{name_of(scene)}: {drive.policy} among {drive.agents}")


def worst(rows: Sequence[dict[str, float]]) -> list[int]:
    """Indices of scenes, those with events first, then by falling divergence from the log."""

    def badness(index: int) -> tuple[float, ...]:
        row = rows[index]
        events = [row.get(name, 0.0) for name in WORST_FIRST]
        return (*np.nan_to_num(events), float(np.nan_to_num(row.get("ade_m", 0.0))))

    return sorted(range(len(rows)), key=badness, reverse=True)


def _finished(run: RunDirectory, count: int) -> dict[int, dict[str, float]]:
    """Rows of metrics.jsonl by scene; what is missing in a row was not finite."""
    path = run.path / "metrics.jsonl"
    found = read_metrics(path).rows if path.exists() else []
    kept = [row for row in found if 0 <= int(row["step"]) < count]
    rows = {int(row["step"]): {k: float(v) for k, v in row.items() if k not in ("step", "time")} for row in kept}
    nan = float("nan")
    return {index: {k[:-2]: nan for k in row if k[-2:] == "_n"} | row for index, row in rows.items()}


def keep_programs() -> None:
    """Keep compiled programs for later runs, in the user's cache folder unless jax has one."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gleanings" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(folder))
