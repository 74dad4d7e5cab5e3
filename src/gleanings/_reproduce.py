"""`gleanings reproduce`, `resume`, `report` and `cite`: studies run, judged and shown on one page."""

import datetime
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from gleanings import studies
from gleanings._progress import progress_of
from gleanings.core.config import load
from gleanings.core.errors import ConfigError, DataError, GleaningsError
from gleanings.core.executor import Processes
from gleanings.core.rundir import RunDirectory
from gleanings.core.study import (
    Entry,
    Evidence,
    Size,
    Study,
    StudyConfig,
    Verdict,
    print_scoreboard,
    run_study,
    scoreboard,
    write_report,
)

RunPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]

# Processes that share a study's tasks if the user does not say: what the quick budget is stated for.
_WORKERS = min(2, os.cpu_count() or 1)


@dataclass(frozen=True)
class Reproduction:
    """What a reproduction runs; config.json of its run directory. No names means every study."""

    names: tuple[str, ...] = ()
    size: Size = "quick"
    data: Path | None = None
    seed: int = 0


def reproduce(
    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[STUDY ...]")] = (),
    size: Size = "quick",
    data: Path | None = None,
    out: Path | None = None,
    resume: bool = False,
    seed: int = 0,
    workers: int = _WORKERS,
    commit_results: Path | None = None,
) -> None:
    """Run studies, print which claims hold, and write a report.

    Ctrl-C stops cleanly; what is finished is kept for `--resume`.

    Raises: ConfigError for an unknown study or an existing `out`; DataError for missing data; the first error
    of a study, after the others have run.

    Args:
        names: Studies to run; all of them if none is given.
        size: smoke (seconds, no verdict), quick (minutes) or full (what is published).
        data: Your data in place of what ships with the packages.
        out: Folder of the run, runs/reproduce-DATE if not given.
        resume: Continue the run in `out`, or the newest unfinished one.
        seed: First seed.
        workers: Processes that share a study's tasks.
        commit_results: Folder that receives a copy of each study's evidence, such as results.
    """
    if data and not data.exists():
        raise DataError("no such file or folder", data)
    asked = Reproduction(names, size, data.absolute() if data else None, seed)
    if not resume:
        stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
        return _run(out or Path("runs") / f"reproduce-{stamp}", asked, False, workers, commit_results)
    folder = out or _newest_unfinished(Path("runs"))
    settings = _settings(folder) if asked == Reproduction() else asked
    return _run(folder, settings, True, workers, commit_results)


def resume(run: RunPath, workers: int = _WORKERS) -> None:
    """Continue an interrupted run of `reproduce`, `select` or `drive run` with the settings it was started with.

    Raises: ConfigError when RUN is not the folder of such a run.

    Args:
        run: Folder of the run.
        workers: Processes that share a study's tasks.
    """
    held = RunDirectory.open(run).config if (run / "config.json").is_file() else {}
    # Imported late: they need jax.
    if "table" in held:
        from gleanings.selection import commands

        commands.resume(run)
    elif "learner" in held:
        again = f"gleanings drive train --out {run} --resume"
        raise ConfigError(f"{run} is a run of `drive train`: go on with `{again}` and the options of its start")
    elif "source" in held:
        from gleanings.driving import commands

        commands.resume(run)
    else:
        _run(run, _settings(run), True, workers, None)


def report(run: RunPath) -> None:
    """Write the reports of a run again from its stored evidence, judged by today's rules.

    Raises: ConfigError when RUN holds no evidence; DataError when the evidence is damaged.

    Args:
        run: Folder of a reproduction, or of one study in it.
    """
    entries = []
    for study, folder in _finished(run):
        evidence = Evidence.load(folder / "evidence.json")
        verdict = study.decide(evidence)
        entries.append(study.entry(evidence, verdict, write_report(study, evidence, verdict, folder / "report.html")))
    if (run / "config.json").is_file():
        print(scoreboard(_with_absent(entries), run))
    else:
        print(entries[0].report)


def cite(run: RunPath) -> None:
    """Print the BibTeX of the papers whose studies a run holds.

    Raises: ConfigError when RUN holds no evidence.

    Args:
        run: Folder of a reproduction, or of one study in it.
    """
    print("\n\n".join(study.bibtex.strip() for study, _ in _finished(run)))


def _run(folder: Path, settings: Reproduction, resuming: bool, workers: int, copies: Path | None) -> None:
    chosen = [studies.load(name) for name in settings.names or studies.STUDIES]
    executor = Processes(workers) if workers > 1 else None
    console, entries, errors = Console(), [], []
    with RunDirectory.create(folder, settings, resume=resuming):
        try:
            for study in chosen:
                with progress_of(study.name, console) as progress:
                    directory = folder / study.name
                    fields = (settings.size, settings.data, settings.seed, directory, executor, progress)
                    try:
                        evidence, verdict = run_study(study, StudyConfig(*fields))
                        entries.append(study.entry(evidence, verdict, directory / "report.html"))
                        _copy(study.name, settings.data, directory, copies)
                    except GleaningsError as error:
                        errors.append(error)
                        entries.append(study.entry(verdict=Verdict("not attempted", f"It failed: {error}")))
        except (KeyboardInterrupt, SystemExit):
            print(f"stopped; continue with: gleanings resume {folder}", file=sys.stderr)
            raise
        if any(entry.evidence for entry in entries):
            page = scoreboard(_with_absent(entries), folder)
            print_scoreboard(entries, console)
            print(f"report: {page}")
        if errors:
            raise errors[0]


def _with_absent(entries: list[Entry]) -> list[Entry]:
    """`entries` and, so that none is left out, every study that is not among them."""
    present = {entry.about["name"] for entry in entries}
    return entries + [studies.load(name).entry() for name in studies.STUDIES if name not in present]


def _copy(study: str, data: Path | None, directory: Path, copies: Path | None) -> None:
    if copies:
        copies.mkdir(parents=True, exist_ok=True)
        name = f"{study}-{data.stem}" if data else study
        shutil.copyfile(directory / "evidence.json", copies / f"{name}.json")


def _settings(folder: Path) -> Reproduction:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is not the folder of a reproduction: it has no config.json")
    try:
        return load(Reproduction, folder / "config.json")
    except ConfigError as error:
        hint = "continue a training run with the command that made it and --resume"
        raise ConfigError(f"{folder} is not the folder of a reproduction ({error}); {hint}") from error


def _newest_unfinished(runs: Path) -> Path:
    for folder in sorted(runs.glob("reproduce-*"), reverse=True):
        if (folder / "config.json").is_file() and RunDirectory.open(folder).status["status"] != "done":
            return folder
    raise ConfigError(f"no unfinished reproduction in {runs}; leave out --resume to start one")


def _finished(run: Path) -> Iterator[tuple[Study, Path]]:
    """Studies with evidence in the folder `run`, or the one whose folder it is."""
    folders = [path.parent for path in (run / "evidence.json", *sorted(run.glob("*/evidence.json"))) if path.is_file()]
    if not folders:
        raise ConfigError(f"{run} holds no evidence of a study; expected the folder of a reproduction")
    for folder in folders:
        yield studies.load(Evidence.load(folder / "evidence.json").study), folder
