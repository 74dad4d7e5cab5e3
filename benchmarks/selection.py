"""Speed, memory and quality of `gleanings.selection`, beside dense solves, pyarrow, obp and vowpalwabbit.

    python benchmarks/selection.py --quick
    python benchmarks/selection.py --obp-python OBP/bin/python --vw-python VW/bin/python
Results go to benchmarks/results/selection-<processor>.json, where parts that are not asked for stay as they were.
A row that could not be measured says why; none is guessed. What is compared runs in turns, one thread a side.
Each peer has an environment of its own, whose interpreter an option or an environment variable
(GLEANINGS_OBP_PYTHON, GLEANINGS_VW_PYTHON) names:
    OBP/bin/pip install -r benchmarks/peers/requirements-obp.txt
    OBP/bin/pip install --no-deps pyieoe==0.1.1
    OBP/bin/pip install --no-deps --ignore-requires-python obp==0.5.7
    VW/bin/pip install -r benchmarks/peers/requirements-vw.txt
    SCOPE/bin/pip install -r benchmarks/peers/requirements-scope.txt
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

if hasattr(os, "sched_setaffinity"):  # before jax counts the cores for its thread pool
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
# One thread a process, as in the workers of a study: threads cost these small products more than they give.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import tyro
from _results import Measure, Row, judged, results_path, run_parts
from _selection_ope import measure_ope, ope_targets
from _selection_quality import measure_quality
from _selection_table import measure_table, table_targets
from _selection_trap import measure_one_seed, measure_trap, trap_targets

Part = Literal["trap", "one-seed", "ope", "table", "quality", "cartpole"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Options:
    """Speed of the selection room. Timings mean something only while nothing else runs."""

    quick: bool = False
    """Few seeds, cells and rows."""
    parts: tuple[Part, ...] = PARTS
    """What to measure."""
    repeats: int = 0
    """Timed calls of each step; 0: by size."""
    obp_python: Path | None = None
    """Interpreter of the environment with obp."""
    vw_python: Path | None = None
    """Interpreter of the environment with vowpalwabbit."""
    scope_python: Path | None = None
    """Interpreter of the environment with scope-rl."""
    output: Path = Path(__file__).parent / "results"
    """Folder of the results."""

    def count(self) -> int:
        """Timed calls of each step."""
        return self.repeats or (4 if self.quick else 20)


def measures(options: Options) -> dict[str, Measure]:
    """Each part, which reports its rows one by one."""
    quick, count = options.quick, options.count()
    return {
        "trap": lambda report: measure_trap(quick, report),
        "one-seed": lambda report: measure_one_seed(quick, count, report),
        "ope": lambda report: measure_ope(options.obp_python, quick, count, report),
        "table": lambda report: measure_table(quick, report),
        "quality": lambda report: measure_quality(options.vw_python, quick, report),
        "cartpole": lambda report: report({"peer": "scope-rl 0.2.1", "unmeasured": "no comparison is written yet"}),
    }


def targets(results: dict[str, Any]) -> list[Row]:
    """The figures to reach, each with what was measured; `met` is None where nothing was."""
    every = (
        *trap_targets(results["trap"], results["one-seed"]),
        *ope_targets(results["ope"]),
        *table_targets(results["table"]),
    )
    return judged(every)


def main(options: Options) -> None:
    """Measures, prints and saves."""
    jax.config.update("jax_enable_compilation_cache", False)
    path = results_path(options.output, "selection", options.quick)
    run_parts(path, measures(options), options.parts, targets, {})


if __name__ == "__main__":
    main(tyro.cli(Options))
