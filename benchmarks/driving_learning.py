"""Speed of learning to drive: training beside stable-baselines3 and rejax, gradient steps, driving, making scenes.

    python benchmarks/driving_learning.py --quick
    python benchmarks/driving_learning.py --sb3-python SB3/bin/python --rejax-python REJAX/bin/python
Results go to benchmarks/results/driving_learning-<processor>.json, where parts not asked for stay as they were.
A row that could not be measured says why; none is guessed. One core; CPU time counts. About fifteen minutes; --quick
without peers 20 s, once compiled programs are in the cache of the user. On a GPU, where wall time counts:
    export JAX_PLATFORMS=cuda,cpu XLA_PYTHON_CLIENT_PREALLOCATE=false
    python benchmarks/driving_learning.py --parts gpu_training --rejax-python ... --sb3-python ...
Each peer has an environment of its own, whose interpreter an option or an environment variable (GLEANINGS_SB3_PYTHON,
GLEANINGS_REJAX_PYTHON) names; both also step our scenes, from the source beside this folder:
    SB3/bin/pip install -r benchmarks/peers/requirements-sb3.txt
    REJAX/bin/pip install -r benchmarks/peers/requirements-rejax.txt
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

# Before jax counts the cores for its thread pool; one, since with two its threads take CPU time for little. On a GPU
# all, since its compiler uses them.
if hasattr(os, "sched_setaffinity") and "cuda" not in os.environ.get("JAX_PLATFORMS", ""):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
# One thread a process, as in the workers of a study: threads cost these small loops more than they give.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import tyro
from _driving_learning_driving import driving_targets, measure_driving
from _driving_learning_gpu import gpu_targets, measure_gpu
from _driving_learning_scenes import make_scenes, measure_scenes, scene_targets, write_bank
from _driving_learning_steps import measure_steps, step_targets
from _driving_learning_training import REJAX, SB3, measure_training, training_targets
from _results import Measure, Row, judged, results_path, run_parts

from gleanings.driving.run import keep_programs
from gleanings.driving.scene import Scene

Part = Literal["training", "steps", "driving", "scenes", "gpu_training"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Options:
    """Speed of learning to drive. Timings mean something only while nothing else runs."""

    quick: bool = False
    """Few scenes, small batches, few repeats; peers still run where they are named."""
    parts: tuple[Part, ...] = PARTS
    """What to measure."""
    sb3_python: Path | None = None
    """Interpreter of the environment with stable-baselines3."""
    rejax_python: Path | None = None
    """Interpreter of the environment with rejax."""
    output: Path = Path(__file__).parent / "results"
    """Folder of the results."""


def measures(options: Options, scenes: list[Scene], made_s: float, path: Path) -> dict[str, Measure]:
    """Each part, which reports its rows one by one."""
    quick, bank = options.quick, write_bank(path, scenes)
    environments, count = (16, 2) if quick else (64, 9)
    pythons = {SB3: options.sb3_python, REJAX: options.rejax_python}
    return {
        "training": lambda report: measure_training(bank, path, pythons, quick, report),
        "steps": lambda report: measure_steps(bank, quick, report),
        "driving": lambda report: measure_driving(bank, environments, count, report),
        "scenes": lambda report: measure_scenes(scenes, made_s, report),
        "gpu_training": lambda report: measure_gpu(bank, path, pythons, quick, report),
    }


def targets(results: dict[str, Any]) -> list[Row]:
    """The figures to reach, each with what was measured; `met` is None where nothing was."""
    every = (
        *training_targets(results["training"]),
        *step_targets(results["steps"]),
        *driving_targets(results["driving"]),
        *scene_targets(results["scenes"]),
        *gpu_targets(results["gpu_training"]),
    )
    return judged(every)


def main(options: Options) -> None:
    """Measures, prints and saves."""
    keep_programs()
    with jax.default_device(jax.devices("cpu")[0]):
        scenes, made_s = make_scenes(8 if options.quick else 256)
    results = results_path(options.output, "driving_learning", options.quick)
    with tempfile.TemporaryDirectory() as folder:
        parts = measures(options, scenes, made_s, Path(folder) / "bank.npz")
        run_parts(results, parts, options.parts, targets, {"scenes": len(scenes), "jax_backend": jax.default_backend()})


if __name__ == "__main__":
    main(tyro.cli(Options))
