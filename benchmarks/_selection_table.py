"""From a Parquet file to a decision in a process of its own, beside reading the file with pyarrow alone.

    python _selection_table.py read|select FILE
prints one JSON line: seconds, and resident memory before and at its peak. The children use all threads they want.
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from _results import Row

CONTEXT, ARMS = 17, 10
CLASSES = ("constant", "linear:4,8,12,all")


def write_table(path: Path, rows: int, seed: int = 0) -> int:
    """A log with 20 columns of doubles or whole numbers, of which the first 8 of 17 context columns matter; its bytes
    when decoded."""
    import pyarrow
    from pyarrow import parquet

    rng = np.random.default_rng(seed)
    context = rng.normal(size=(rows, CONTEXT))
    weights = np.where(np.arange(CONTEXT) < 8, rng.normal(size=(ARMS, CONTEXT)) / 3, 0)
    logits = np.exp(context @ rng.normal(size=(CONTEXT, ARMS)) / 8)
    logger = 0.2 / ARMS + 0.8 * logits / logits.sum(1, keepdims=True)
    action = (rng.random((rows, 1)) > logger.cumsum(1)).sum(1).clip(0, ARMS - 1)
    columns = {"action": action, "reward": (context * weights[action]).sum(1) + rng.normal(size=rows)}
    columns |= {"propensity": logger[np.arange(rows), action]} | {f"x{i}": context[:, i] for i in range(CONTEXT)}
    parquet.write_table(pyarrow.table(columns), path)
    return sum(column.nbytes for column in columns.values())


def measure_table(quick: bool, report: Callable[[Row], None]) -> None:
    """One row each for reading alone and for the decision, the better of three runs."""
    rows = 100_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        writer = [sys.executable, __file__, "write", str(path), str(rows)]
        decoded = json.loads(subprocess.run(writer, check=True, capture_output=True, text=True).stdout)["bytes"]
        own = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "XLA_FLAGS")}
        runs: dict[str, list[Row]] = {"read": [], "select": []}
        for _ in range(1 if quick else 3):
            for case in runs:
                child = [sys.executable, __file__, case, str(path)]
                done = subprocess.run(child, check=True, capture_output=True, text=True, env=own)
                runs[case].append(json.loads(done.stdout.splitlines()[-1]))
        for case, found in runs.items():
            best = min(found, key=lambda row: row["wall_s"])
            over = max(row["peak_mib"] - row["imported_mib"] for row in found)
            facts = {"rows": rows, "decoded_mib": round(decoded / 2**20, 1), "runs": len(found)}
            report({"case": case, **facts, **best, "memory_over_decoded": round(over * 2**20 / decoded, 2)})


def table_targets(rows: list[Row]) -> Iterator[tuple[str, str, float, float | None]]:
    """What, direction, limit, and what was measured."""
    row = next((row for row in rows if row["case"] == "select"), {})
    yield "Parquet to a decision, wall s", "<=", 10.0, row.get("wall_s")
    yield "Parquet to a decision, peak memory over the decoded size", "<=", 3.0, row.get("memory_over_decoded")


def _read(path: str) -> Row:
    from pyarrow import parquet

    table, imported, clock = None, _peak_mib(), _clock()
    table = parquet.read_table(path)
    return {**clock(), "imported_mib": imported, "peak_mib": _peak_mib(), "columns": table.num_columns}


def _select(path: str) -> Row:
    import pyarrow.parquet  # noqa: F401  (counts as imported)

    from gleanings.selection.bandit import BanditLog
    from gleanings.selection.class_words import parse_classes
    from gleanings.selection.policy import select_policy

    imported, clock = _peak_mib(), _clock()
    log = BanditLog.from_table(path, action="action", reward="reward", propensity="propensity")
    read = clock()
    found = select_policy(log, parse_classes(CLASSES, log))
    facts = {"read_wall_s": read["wall_s"], "decision": str(found).splitlines()[0]}
    return {**clock(), "imported_mib": imported, "peak_mib": _peak_mib(), **facts}


def _clock() -> Callable[[], Row]:
    wall, cpu = time.perf_counter(), time.process_time()
    return lambda: {
        "wall_s": round(time.perf_counter() - wall, 3),
        "cpu_s": round(time.process_time() - cpu, 3),
    }


def _peak_mib() -> float:
    """Largest resident memory so far; on Linux that of getrusage starts at what the parent had."""
    status = Path("/proc/self/status")
    if status.exists():
        return round(int(re.findall(r"VmHWM:\s*(\d+)", status.read_text())[0]) / 2**10, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        print(json.dumps({"bytes": write_table(Path(sys.argv[2]), int(sys.argv[3]))}))
    else:
        print(json.dumps({"read": _read, "select": _select}[sys.argv[1]](sys.argv[2])))
