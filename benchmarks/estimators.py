"""Speed, memory and compile time of `gleanings.estimators`, beside RLOO at equal evaluations and beside torch.

    python benchmarks/estimators.py --quick
    python benchmarks/estimators.py --peers-python PEERS/bin/python      # or GLEANINGS_PEERS_PYTHON
Results go to benchmarks/results/estimators-<processor>.json, where parts that are not asked for stay as they were.
A row that could not be measured says why; none is guessed. Steps that are compared run in turns, on the same two cores.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

if hasattr(os, "sched_setaffinity"):  # before jax counts the cores for its thread pool
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])

import jax
import tyro
from _estimator_members import baseline, members, reason_to_skip
from _estimator_peers import measure_peers
from _estimator_probes import probe
from _estimator_steps import BATCH, bare, running, vae
from _results import Row, Target, judged, load_results, print_targets, results_path, save_results
from _timing import Timer, compile_step, interleave, machine, paired_ratio, summary, timer

from gleanings import estimators as ge

VARIABLES, BITS = 32, 200
RATIOS = {
    "ratio_median": "median_ms",
    "ratio_min": "min_ms",
    "ratio_cpu": "cpu_median_ms",
    "compile_ratio": "compile_ms",
    "compile_ratio_cpu": "compile_cpu_ms",
}
"""Each figure of a member over that of its baseline, measured in the same turns."""
KEY = ("case", "K", "n", "estimator")
"""What names a row of the steps."""
Case = Literal["bare", "vae"]
Part = Literal["steps", "peers", "memory", "sharding"]


@dataclass(frozen=True)
class Options:
    """Speed of the estimators. Timings mean something only while nothing else runs."""

    quick: bool = False
    """K = 4 and 16 and six repeats instead of K = 4 to 1024 and thirty."""
    parts: tuple[Part, ...] = ("steps", "peers", "memory", "sharding")
    """What to measure."""
    cases: tuple[Case, ...] = ("bare", "vae")
    """A gradient of a trivial f, and a VAE step."""
    categories: Annotated[tuple[int, ...], tyro.conf.arg(name="K")] = ()
    """Numbers of categories; empty: by size."""
    only: str = ""
    """Regular expression that names of estimators must match (the baselines always run)."""
    repeats: int = 0
    """Timed calls of each step; 0: by size."""
    compile_tries: int = 0
    """Compilations of each step, of which the quickest counts; 0: by size."""
    peers_python: Path | None = None
    """Interpreter of the environment with benchmarks/peers/requirements.txt."""
    output: Path = Path(__file__).parent / "results"
    """Folder of the results."""

    def sizes(self) -> tuple[int, ...]:
        """Numbers of categories to run."""
        return self.categories or ((4, 16) if self.quick else (4, 16, 64, 256, 1024))

    def count(self) -> int:
        """Timed calls of each step."""
        return self.repeats or (6 if self.quick else 30)

    def tries(self) -> int:
        """Compilations of each step."""
        return self.compile_tries or (1 if self.quick else 3)


def prepare(case: Case, estimator: ge.AbstractEstimator, shape: tuple[int, ...], tries: int) -> tuple[Row, Timer]:
    """Compiles one step; what is known before it runs, and its timer."""
    function, arguments = (bare if case == "bare" else vae)(estimator, shape)
    compiled = compile_step(function, *arguments, donate=(0,) if case == "vae" else (), tries=tries)
    facts = {
        "compile_ms": round(1e3 * compiled.wall_s, 1),
        "compile_cpu_ms": round(1e3 * compiled.cpu_s, 1),
        "temporary_mib": round(compiled.temporary_bytes / 2**20, 2),
        "peak_mib": round((compiled.temporary_bytes + compiled.output_bytes) / 2**20, 2),
    }
    call = running(compiled.call, arguments) if case == "vae" else lambda: compiled.call(*arguments)
    return facts, timer(call)


def compare(case: Case, n: int, group: dict[str, Any], shape: tuple[int, ...], options: Options) -> Iterator[Row]:
    """Times the members that cost n evaluations and their baseline in turns; one row each, baseline first."""
    name, estimator = baseline(n, len(shape) == 1)
    prepared = {key: prepare(case, e, shape, options.tries()) for key, e in {name: estimator, **group}.items()}
    samples = interleave({key: run for key, (_, run) in prepared.items()}, options.count())
    base = prepared[name][0] | summary(samples[name])
    for key, (facts, _) in prepared.items():
        row = facts | summary(samples[key])
        ratios = {ratio: round(row[field] / base[field], 3) for ratio, field in RATIOS.items()}
        yield {"estimator": key, **row, **ratios, "ratio_paired": paired_ratio(samples[key], samples[name])}


def measure_steps(options: Options, report: Callable[[Row], None]) -> None:
    """Every estimator at every K, grouped by its number of evaluations; then the binary ones at K = None."""
    for case in options.cases:
        for k in (*options.sizes(), None):
            shape = (BITS,) if k is None else (VARIABLES, k)
            common = {"case": case, "K": k, "D": shape[0], "batch": BATCH}
            groups: dict[int, dict[str, ge.AbstractEstimator]] = {}
            for name, estimator in members(k).items():
                n = estimator.evaluations(jax.numpy.zeros((1, *shape)))
                reason = reason_to_skip(name, n, shape)
                if not re.search(options.only, name):
                    continue
                if reason:
                    report({**common, "n": n, "estimator": name, "unmeasured": reason})
                else:
                    groups.setdefault(n, {})[name] = estimator
            for n, group in sorted(groups.items()):
                for row in compare(case, n, group, shape, options):
                    report({**common, "n": n, **row})


def targets(results: dict[str, Any]) -> list[Row]:
    """The figures to reach, each with what was measured; `met` is None where nothing was."""
    found: list[Target] = []
    for row in results["steps"]:
        coupled = re.match("CoupledLOO|DisARM", row["estimator"]) and "ratio_median" in row
        if coupled and row["case"] == "vae" and (row["K"] or 2) <= 64:
            name = f"{row['estimator']} / RLOO-{row['n']}, VAE, K={row['K']}"
            found.append((f"step {name}", "<=", 1.15, row.get("ratio_paired", row["ratio_median"])))
            found.append((f"compile {name}", "<=", 1.5, row["compile_ratio"]))
    peak = results["memory"].get("process_peak_mib")
    worst = max(results["sharding"].get("relative_difference", {}).values(), default=None)
    last: list[Target] = [
        ("MiB of a process, tree K=1024 D=32 batch 200", "<=", 2048, peak),
        ("batch on 8 devices against one, relative difference", "<=", 1e-6, worst),
    ]
    return [*judged(found), *(row["target"] for row in results["peers"] if "target" in row), *judged(last)]


def main(options: Options) -> None:
    """Measures, prints and saves; every finished row is on disk at once."""
    path = results_path(options.output, "estimators", options.quick)
    fresh: dict[str, Any] = {
        "steps": [],
        "peers": [],
        "memory": {"unmeasured": "not asked for"},
        "sharding": {"unmeasured": "not asked for"},
        "machines": {},
    }
    results = load_results(path, fresh)
    for part in options.parts:
        # Steps that are not measured again stay: they belong to the same processor.
        results[part] = results[part] if part == "steps" else fresh[part]
        results["machines"][part] = machine()

    def keep(part: str, row: Row) -> None:
        key = [row.get(field) for field in KEY]
        results[part] = [old for old in results[part] if part != "steps" or [old.get(f) for f in KEY] != key]
        results[part].append(row)
        save_results(path, results, targets(results))
        print(json.dumps(row), flush=True)

    jax.config.update("jax_enable_compilation_cache", False)
    if "peers" in options.parts:
        measure_peers(options.peers_python, options.count(), lambda row: keep("peers", row))
    if "steps" in options.parts:
        measure_steps(options, lambda row: keep("steps", row))
    for part in ("memory", "sharding"):
        if part in options.parts:
            results[part] = probe(part)
    save_results(path, results, targets(results))
    print_targets(path, targets(results))


if __name__ == "__main__":
    main(tyro.cli(Options))
