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

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

# Before jax counts the cores for its thread pool; on a GPU all, since its compiler uses them.
if hasattr(os, "sched_setaffinity") and "cuda" not in os.environ.get("JAX_PLATFORMS", ""):
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
from _results import Measure, Row, judged, results_path, run_parts

Part = Literal["steps", "scale", "files", "imports", "peers"]
PARTS: tuple[Part, ...] = get_args(Part)


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


def measures(options: Options, scene: Reference) -> dict[str, Measure]:
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
    return judged(every)


def main(options: Options) -> None:
    """Measures, prints and saves."""
    jax.config.update("jax_enable_compilation_cache", False)
    scene = reference(options.scene, 3000) if options.quick else reference(options.scene)
    path = results_path(options.output, "driving", options.quick)
    run_parts(path, measures(options, scene), options.parts, targets, {"scene": scene.facts()})


if __name__ == "__main__":
    main(tyro.cli(Options))
