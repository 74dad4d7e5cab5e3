"""What `gleanings drive train` does around the training: demonstrations by stratum, judgement, report. Source: ours."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

from gleanings.core.errors import ConfigError
from gleanings.core.metrics import read_metrics
from gleanings.core.report import Report
from gleanings.core.rundir import RunDirectory
from gleanings.driving.learn.assessment import Assessment, assess, failure_clips, save_scenes
from gleanings.driving.learn.config import DemoConfig, Others, WorldConfig
from gleanings.driving.learn.demos import Audit, Demonstrations, make_demonstrations
from gleanings.driving.learn.exporting import open_run
from gleanings.driving.learn.material import GENERATED, LOGS, Material
from gleanings.driving.learn.policy import Policy, load_policy
from gleanings.driving.learn.report import evaluation_report, training_report
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Scene

_DEFAULT = DemoConfig()
_PAGE = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">\n'


def demonstrate(
    material: Material, world: WorldConfig, config: DemoConfig = _DEFAULT
) -> tuple[Demonstrations, dict[str, Audit]]:
    """Demonstrations of all training scenes, and an audit of each stratum; errors as `make_demonstrations`."""
    strata, parts, audits = np.array(material.strata("train")), [], {}
    for stratum in (LOGS, GENERATED):
        rows = np.flatnonzero(strata == stratum)
        if not len(rows):
            continue
        scenes = material.split.train[rows[0] : rows[-1] + 1]
        found, audits[stratum] = make_demonstrations(scenes, World(world), config)
        parts.append(found._replace(scene=found.scene + np.int32(rows[0])))
    return Demonstrations(*(np.concatenate(fields) for fields in zip(*parts, strict=True))), audits


def finish(path: Path, material: Material, audits: Mapping[str, Audit], note: Callable[[str], None]) -> Path:
    """Judge the policies of a run in the test scenes; write its artifacts and report.html, whose path is returned.

    Interrupted, it is done again when the run is resumed.
    """
    config = open_run(path)[1]
    with RunDirectory.create(path, RunDirectory.open(path).config, resume=True) as run:
        run.save_artifact("demos.json", _json({name: asdict(audit) for name, audit in audits.items()}))
        policies = {f"seed {seed}": load_policy(run.artifacts / f"policy-{seed}") for seed in config.seeds}
        assessed = assess(
            policies,
            material.split.test,
            strata=material.strata("test"),
            calibration=material.split.calibration,
            calibration_strata=material.strata("calibration"),
            worlds=_worlds(config.world.others),
            note=note,
        )
        save_scenes(assessed, config.seeds, run.artifacts / "scenes.npz")
        rows = read_metrics(run.path / "metrics.jsonl").rows
        clips = _clips(assessed, policies, run.artifacts / "clips", note)
        report = training_report(config, rows, audits, assessed, clips, material.notes)
        return report.save(run.path / "report.html")


def evaluate_into(
    out: Path, policy: Policy, scenes: Sequence[Scene], worlds: Sequence[str], source: str, note: Callable[[str], None]
) -> tuple[str, Path]:
    """Drive the scenes, write evaluation.json, clips and report.html into `out`; the table and the path of the report.

    ConfigError: an unknown world, scenes that the policy was not made for, a folder that cannot be made.
    """
    if not worlds or not set(worlds) <= set(get_args(Others)):
        raise ConfigError(f"others={','.join(worlds)}: use {' or '.join(get_args(Others))}, or both with a comma")
    make_folder(out)
    label = str(policy.contract.algorithm)
    assessed = assess({label: policy}, scenes, worlds=worlds, note=note)
    found = assessed.policies[label]
    styles = {
        world: {name: value if math.isfinite(value) else None for name, value in style._asdict().items()}
        for world, style in assessed.styles[label].items()
    }
    record: dict[str, Any] = found.to_json() | {"styles": styles}
    (out / "evaluation.json").write_text(_json(record), encoding="utf-8")
    report: Report = evaluation_report(assessed, _clips(assessed, {label: policy}, out / "clips", note), source)
    return found.table(), report.save(out / "report.html")


def make_folder(out: Path) -> None:
    """ConfigError: none can be made there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: no folder can be made there: {error.strerror}") from error


def _json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def _worlds(trained: str) -> tuple[str, ...]:
    """The world of the training first."""
    return (trained, *(world for world in get_args(Others) if world != trained))


def _clips(
    assessed: Assessment, policies: Mapping[str, Policy], folder: Path, note: Callable[[str], None]
) -> dict[str, str]:
    """Clips of the worst failures by scene, each also a page in the folder, numbered from the worst."""
    note("clips of the worst failures")
    clips = failure_clips(assessed, policies)
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.html"):
        old.unlink()
    for place, (scene, clip) in enumerate(clips.items(), start=1):
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in scene)
        (folder / f"{place}-{name}.html").write_text(f"{_PAGE}<title>{name}</title>\n{clip}\n", encoding="utf-8")
    return clips
