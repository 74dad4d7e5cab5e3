"""Speed and memory of `gleanings.driving`, beside a dense twin, highway-env and metadrive.

    python benchmarks/driving.py --quick
    python benchmarks/driving.py --scene motion_data_one_example.tfrecord --highway-python HIGHWAY/bin/python
Results go to benchmarks/results/driving-<processor>.json, where parts that are not asked for stay as they were.
A row that could not be measured says why; none is guessed. One thread; CPU time counts, on a GPU wall time.
Without --scene a generated scene of the same size stands in, and the results say so.
Each peer has an environment of its own, whose interpreter an option or an environment variable
(GLEANINGS_HIGHWAY_PYTHON, GLEANINGS_METADRIVE_PYTHON) names:
    HIGHWAY/bin/pip install -r benchmarks/peers/requirements-highway.txt
    METADRIVE/bin/pip install -r benchmarks/peers/requirements-metadrive.txt
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

if hasattr(os, "sched_setaffinity"):  # before jax counts the cores for its thread pool
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
# One thread a process, as in the workers of a study: threads cost these small loops more than they give.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import tyro
from _driving_files import file_targets, measure_files, measure_imports
from _driving_peers import measure_peers, peer_targets
from _driving_scale import measure_scale, scale_targets
from _driving_scene import Reference, reference
from _driving_steps import measure_steps, step_targets
from _timing import cpu_model, machine

Part = Literal["steps", "scale", "files", "imports", "peers"]
PARTS: tuple[Part, ...] = get_args(Part)
Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Speed of the driving room. Timings mean something only while nothing else runs."""

    quick: bool = False
    """Few repeats, small batches, a small map."""
    parts: tuple[Part, ...] = PARTS
    """What to measure."""
    scene: Path | None = None
    """File with a real scene of 128 objects; its first one is taken."""
    repeats: int = 0
    """Timed calls of each operation; 0: by size."""
    highway_python: Path | None = None
    """Interpreter of the environment with highway-env."""
    metadrive_python: Path | None = None
    """Interpreter of the environment with metadrive."""
    output: Path = Path(__file__).parent / "results"
    """Folder of the results."""

    def count(self) -> int:
        """Timed calls of each operation."""
        return self.repeats or (2 if self.quick else 15)


def measures(options: Options, scene: Reference) -> dict[Part, Callable[[Callable[[Row], None]], None]]:
    """Each part, which reports its rows one by one."""
    quick, count = options.quick, options.count()
    pythons = {"highway": options.highway_python, "metadrive": options.metadrive_python}
    return {
        "steps": lambda report: measure_steps(scene, count, report),
        "scale": lambda report: measure_scale(scene, quick, count, report),
        "files": lambda report: measure_files(scene, count, report),
        "imports": lambda report: measure_imports(1 if quick else 5, report),
        "peers": lambda report: measure_peers(scene, pythons, quick, report),
    }


def targets(results: dict[str, Any]) -> list[Row]:
    """The figures to reach, each with what was measured; `met` is None where nothing was."""
    every = (
        *step_targets(results["steps"]),
        *scale_targets(results["scale"]),
        *file_targets(results["files"], results["imports"]),
        *peer_targets(results["peers"]),
    )
    rows = []
    for what, direction, limit, measured in every:
        met = None if measured is None else measured <= limit if direction == "<=" else measured >= limit
        rows.append({"what": what, "limit": f"{direction} {limit:g}", "measured": measured, "met": met})
    return rows


def results_path(options: Options) -> Path:
    """Where the results go: named after the processor, or the GPU."""
    has_gpu = jax.default_backend() == "gpu"
    name = jax.devices()[0].device_kind if has_gpu else re.sub(r"\(\w+\)", "", cpu_model())
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return options.output / f"driving-{slug}{'-quick' if options.quick else ''}.json"


def main(options: Options) -> None:
    """Measures, prints and saves; every finished row is on disk at once."""
    path = results_path(options)
    path.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {part: [] for part in PARTS} | {"machines": {}}
    results |= json.loads(path.read_text()) if path.exists() else {}
    has_gpu = jax.default_backend() == "gpu"
    results["gpu"] = "the rows below" if has_gpu else {"unmeasured": "no GPU on this machine"}
    jax.config.update("jax_enable_compilation_cache", False)
    scene = reference(options.scene, 3000) if options.quick else reference(options.scene)

    def save() -> None:
        path.write_text(json.dumps(results | {"targets": targets(results)}, indent=1) + "\n")

    for part, measure in measures(options, scene).items():
        if part not in options.parts:
            continue
        results[part], results["machines"][part] = [], machine() | {"scene": scene.facts()}

        def keep(row: Row, part: Part = part) -> None:
            results[part].append(row)
            save()
            print(json.dumps({"part": part, **row}), flush=True)

        measure(keep)
    save()
    for row in targets(results):
        verdict = {True: "met", False: "MISSED", None: "unmeasured"}[row["met"]]
        print(f"{verdict:10} {row['what']}: {row['measured']} ({row['limit']})")
    print(path)


if __name__ == "__main__":
    main(tyro.cli(Options))
