"""Results of a benchmark: the file they are kept in, its parts, and the figures to reach."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from _timing import cpu_model, machine

Row = dict[str, Any]
Target = tuple[str, str, float, float | None]
"""What, '<=' or '>=', the limit, and what was measured; None: nothing was."""
Measure = Callable[[Callable[[Row], None]], None]
"""A part: it reports its rows one by one."""


def results_path(folder: Path, room: str, quick: bool) -> Path:
    """Where the results of a room go: named after the processor, or after the GPU where there is one."""
    device = jax.devices()[0]
    label = device.device_kind if device.platform == "gpu" else re.sub(r"\(\w+\)", "", cpu_model())
    slug = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    return folder / f"{room}-{slug}{'-quick' if quick else ''}.json"


def load_results(path: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    """The results kept in `path`, else `fresh`; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    results = fresh | (json.loads(path.read_text()) if path.exists() else {})
    has_gpu = jax.devices()[0].platform == "gpu"
    return results | {"gpu": "the rows below" if has_gpu else {"unmeasured": "no GPU on this machine"}}


def judged(targets: Iterable[Target]) -> list[Row]:
    """The figures to reach as rows; `met` is None where nothing was measured."""
    rows = []
    for what, direction, limit, measured in targets:
        met = None if measured is None else measured <= limit if direction == "<=" else measured >= limit
        rows.append({"what": what, "limit": f"{direction} {limit:g}", "measured": measured, "met": met})
    return rows


def save_results(path: Path, results: dict[str, Any], targets: list[Row]) -> None:
    """Writes the results with the figures to reach."""
    path.write_text(json.dumps(results | {"targets": targets}, indent=1) + "\n")


def print_targets(path: Path, targets: list[Row]) -> None:
    """One line a figure, then the file."""
    for row in targets:
        verdict = {True: "met", False: "MISSED", None: "unmeasured"}[row["met"]]
        print(f"{verdict:10} {row['what']}: {row['measured']} ({row['limit']})")
    print(path)


def run_parts(
    path: Path, measures: dict[str, Measure], chosen: Iterable[str], targets: Callable[[Row], list[Row]], facts: Row
) -> None:
    """Measures the chosen parts, prints and saves; every finished row is on disk at once, other parts stay.

    targets: the figures to reach, from the results. facts: kept with the machine of each part.
    """
    fresh: dict[str, Any] = {part: [] for part in measures} | {"machines": {}}
    results = load_results(path, fresh)
    for part in chosen:
        results[part], results["machines"][part] = [], machine() | facts

        def keep(row: Row, part: str = part) -> None:
            results[part].append(row)
            save_results(path, results, targets(results))
            print(json.dumps({"part": part, **row}), flush=True)

        measures[part](keep)
    save_results(path, results, targets(results))
    print_targets(path, targets(results))
