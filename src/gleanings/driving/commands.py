"""`gleanings drive`: compile logs, run agents in them, look at the result. Only `run` loads jax."""

import datetime
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gleanings.core.config import load
from gleanings.core.errors import ConfigError, DataError, printable
from gleanings.core.rundir import RunDirectory
from gleanings.driving.config import AgentName, CompileConfig, Controlled, DynamicsName, PolicyName
from gleanings.driving.learn.commands import COMMANDS as LEARN

if TYPE_CHECKING:
    from gleanings.driving.raw import RawScene
    from gleanings.driving.run import Drive, Driven

Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR|FILE|FAMILY")]


def compile(
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SRC...")],
    out: Path,
    max_objects: int = 256,
    simplify: float = 0.001,
    raster: bool = False,
    workers: int = 0,
) -> None:
    """Compile logs of any known format into files that open in milliseconds.

    A run that was stopped goes on where it was; what cannot be read is listed and passed over.

    Raises: DataError for a path that leads to no scene; ConfigError for options that cannot be meant.

    Args:
        sources: Files, folders or glob patterns.
        out: Folder of the compiled files.
        max_objects: Objects kept in a scene, the nearest to the ego.
        simplify: Metres by which merging collinear pieces of a road edge may move it.
        raster: Also store the distance to the road edge on a 0.5 m raster.
        workers: Processes that read and compile; 0: this one.
    """
    from gleanings.driving.store import compile_files

    if not sources:
        raise ConfigError("name at least one file, folder or pattern to compile")
    config = CompileConfig(max_objects=max_objects, simplify_m=simplify, raster=raster)
    with _bar("files") as bar:
        report = compile_files(list(sources), out, config, workers=workers, progress=bar)
    if report.errors and not report.scenes:
        raise DataError(report.errors[0])
    for error in report.errors:
        print(f"skipped: {printable(error)}", file=sys.stderr)
    print(f"{report.scenes} scenes in {out}, {report.skipped} files were there already, {len(report.errors)} broken")


def run(
    source: Source,
    out: Path | None = None,
    controlled: Controlled = "sdc",
    policy: PolicyName = "expert",
    agents: AgentName = "log",
    dynamics: DynamicsName = "bicycle",
    count: int = 4,
    limit: int | None = None,
    steps: int | None = None,
    batch: int = 8,
    replays: int = 3,
    seed: int = 0,
) -> None:
    """Roll out agents in scenes; print the metrics, write a report and replays of the worst scenes.

    `gleanings resume RUN` finishes a run that was interrupted.

    Raises: ConfigError for options that cannot be used; DataError for files that cannot be read.

    Args:
        source: Raw or compiled scenes, or a family of generated ones (`gleanings drive families`), or all.
        out: Folder of the run, runs/drive-DATE if not given.
        controlled: Objects that the policy drives.
        policy: expert follows the log through the dynamics, null coasts, idm keeps its distance on the logged path.
        agents: All others: log replays, idm reacts, constant keeps its velocity.
        dynamics: How actions move an object: bicycle, its 13 x 21 discrete actions, or free displacements.
        count: Scenes to generate; of all, the families in turn.
        limit: Read at most so many scenes.
        steps: Steps to simulate; to the end of the log if not given.
        batch: Scenes simulated together.
        replays: Pages to write.
        seed: Seed of generated scenes and of all randomness.
    """
    from gleanings.driving.run import Drive

    if min(count, batch) < 1 or replays < 0 or (limit is not None and limit < 1):
        raise ConfigError("count, batch and limit must be 1 or more, replays 0 or more")
    given = {name: value for name, value in locals().items() if name in Drive.__dataclass_fields__}
    _run(Drive(**given), out or Path("runs") / f"drive-{datetime.datetime.now():%Y-%m-%d-%H%M%S}", resume=False)


def resume(folder: Path) -> None:
    """Finish the interrupted run in `folder`; scenes that are done are not simulated again."""
    from gleanings.driving.run import Drive

    _run(load(Drive, folder / "config.json"), folder, resume=True)


def view(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE|FAMILY")],
    out: Path | None = None,
    scene: int | None = None,
) -> None:
    """Write a scene of a run, or a logged one, as a page or film; of a run alone, list its pages.

    Raises: ConfigError for a scene that is not there or a page that cannot be written; DataError for files that cannot
    be read.

    Args:
        source: Folder of a run, or a file of scenes, raw or compiled, or a family, or all.
        out: The page to write, .html, .gif or .mp4; if not given replay.html, for a run its own page of the scene.
        scene: Number of the scene, from 0; the first if not given. One of a run that has no page is simulated again.
    """
    if out is not None and out.suffix not in (".html", ".gif", ".mp4"):
        raise ConfigError(f"{out}: a page is an .html, a film a .gif or an .mp4")
    of_run = (Path(source) / "config.json").is_file()
    chosen = None if of_run else _scene(source, scene or 0)
    try:
        pages = _pages(RunDirectory.open(source), out, scene) if of_run else [_page(chosen, out or Path("replay.html"))]
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: cannot be written: {error.strerror}") from error
    print("\n".join(map(str, pages)))


def _page(scene: Any, out: Path) -> Path:
    from gleanings.driving.video import save_video
    from gleanings.driving.viewer import save_replay

    return save_replay(scene, None, out) if out.suffix == ".html" else save_video(scene, None, out)


def _pages(run: RunDirectory, out: Path | None, scene: int | None) -> list[Path]:
    """The pages of a run that were asked for; one that is not there yet, or is to be `out`, is written first."""
    if out is None:
        pages = sorted(run.artifacts.glob(f"replay-{'*' if scene is None else scene}.html"))
        if pages:
            return pages
    if "learner" in run.config:
        raise ConfigError(f"{run.path} is a run of `drive train`: its clips are in report.html and in artifacts/clips")
    from gleanings.driving.run import Drive, show_again

    number = scene or 0
    return [show_again(load(Drive, run.path / "config.json"), number, out or run.artifacts / f"replay-{number}.html")]


def families() -> None:
    """List the families of generated scenes."""
    from gleanings.driving.families import FAMILIES

    width = max(map(len, FAMILIES))
    print("\n".join(f"{name:<{width}}  {line}" for name, line in FAMILIES.items()))


def inspect(
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    limit: int = 10,
) -> None:
    """Say what a file of scenes holds: format, steps, objects, map, lights, and what was mended.

    Raises: DataError for a file that cannot be read.

    Args:
        file: A raw or compiled file.
        limit: Show at most so many scenes.
    """
    from gleanings.driving.load import iter_raw
    from gleanings.driving.store import is_compiled

    if is_compiled(file):
        from gleanings.driving.store import describe

        print(describe(file, limit))
        return
    for number, scene in enumerate(iter_raw(file)):
        if number == limit:
            print("... more; --limit shows them")
            return
        print(_facts(scene))


COMMANDS: dict[str, Any] = {
    "run": run,
    "view": view,
    "compile": compile,
    "inspect": inspect,
    "families": families,
    **LEARN,
}


def _facts(scene: "RawScene") -> str:
    kinds = Counter(track.kind.name.lower() for track in scene.tracks)
    features = Counter(feature.kind for feature in scene.features)
    ego = scene.tracks[scene.sdc].name if scene.sdc >= 0 else "none"
    points = sum(len(feature.points) for feature in scene.features)
    seconds = float(scene.times[-1] - scene.times[0])
    rows = [
        ("source", scene.source),
        ("steps", f"{len(scene.times)} over {seconds:.1f} s, simulation starts at {scene.start}"),
        ("objects", f"{len(scene.tracks)} ({_listed(kinds)}), ego {ego}, {len(scene.predict)} to predict"),
        ("map", f"{_listed(features) or 'none'}; {points} points" + (", flat" if scene.flat else "")),
        ("lights", f"{len(scene.lights)}" if scene.lights else "none"),
        ("mended", _listed(Counter(scene.repairs)) or "nothing"),
        ("licence", scene.licence or "not stated in the file"),
    ]
    return "\n".join([printable(f"scene {scene.name}"), *(printable(f"  {name:<8} {value}") for name, value in rows)])


def _listed(counts: "Counter[str]") -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _scene(source: str, number: int) -> Any:
    from gleanings.driving.compile import compile_scene
    from gleanings.driving.families import FAMILIES, make_raw
    from gleanings.driving.load import check_source, load_scenes

    if number < 0:
        raise ConfigError(f"scene is {number}; scenes are numbered from 0")
    if source == "all" or source in FAMILIES:
        names = list(FAMILIES) if source == "all" else [source]
        return compile_scene(make_raw(names[number % len(names)], index=number // len(names)))
    check_source(source)
    found = load_scenes(source, limit=number + 1)
    if len(found) <= number:
        raise ConfigError(f"{source} holds {len(found)} scenes; --scene counts from 0")
    return found[number]


def _bar(what: str) -> "_Bar":
    return _Bar(what)


class _Bar:
    """Progress on a terminal; nothing elsewhere, where the result is a line or two."""

    def __init__(self, what: str) -> None:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(what, total=None)

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)


def _run(drive: "Drive", folder: Path, resume: bool) -> None:
    from gleanings.driving.run import run_drive, scenes_of, simulator_of
    from gleanings.driving.run_report import drive_report

    sim, _ = simulator_of(drive)  # what may fail comes before the folder, which a second try would find in its way
    scenes = scenes_of(drive)
    for scene in scenes[0]:
        sim.check(scene)
    try:
        with RunDirectory.create(folder, drive, resume=resume) as run, _bar("scenes") as bar:
            found: Driven = run_drive(run, drive, scenes, bar)
            path = drive_report(drive, found).save(run.path / "report.html")
    except (KeyboardInterrupt, SystemExit):
        print(f"stopped; continue with: gleanings resume {folder}", file=sys.stderr)
        raise
    for error in found.skipped:
        print(f"skipped: {error}", file=sys.stderr)
    print(found.evaluation.table())
    for number, page in found.replays:
        print(f"replay of scene {number}: {page}")
    print(f"report: {path}")
