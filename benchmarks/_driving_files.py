"""Reading, compiling and opening a scene, and importing the room."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from _driving_scene import Reference
from _results import Row, Target
from _timing import interleave, summary, timer

from gleanings.driving.compile import compile_scene
from gleanings.driving.config import CompileConfig
from gleanings.driving.load import load_scenes
from gleanings.driving.readers.detect import iter_raw
from gleanings.driving.shards import save_scenes

IMPORTS = {
    "import jax, equinox": "import jax, equinox",
    "import gleanings.driving": "import gleanings.driving",
    "import the simulator": "from gleanings.driving.sim import Simulator",
}
_CHILD = "import time; start = time.process_time(); {}; print(time.process_time() - start, time.perf_counter())"


def measure_files(reference: Reference, count: int, report: Callable[[Row], None]) -> None:
    """A row each for reading a record, compiling it and opening the compiled file."""
    config = CompileConfig(max_objects=128, objects=128)
    with tempfile.TemporaryDirectory() as folder:
        save_scenes(folder, [reference.scene])
        files = [path for path in Path(folder).iterdir() if path.is_file()]
        timers = {
            "compile": timer(lambda: compile_scene(reference.raw, config)),
            "open compiled": timer(lambda: load_scenes(folder)),
        }
        if reference.file:
            timers["read a record"] = timer(lambda: next(iter_raw(reference.file or "")))
        else:
            report({"case": "read a record", "unmeasured": "--scene names no file"})
        for name, samples in interleave(timers, count).items():
            report({"case": name, **summary(samples)})
        report({"case": "compiled file", "bytes": sum(path.stat().st_size for path in files)})


def measure_imports(count: int, report: Callable[[Row], None]) -> None:
    """CPU seconds of each import in a process of its own, in turns."""
    found: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(count):
        for name, code in IMPORTS.items():
            child = [sys.executable, "-c", _CHILD.format(code)]
            done = subprocess.run(child, check=True, capture_output=True, text=True, env=dict(os.environ))
            found[name].append(float(done.stdout.split()[0]))
    for name, seconds in found.items():
        report({"case": name, "cpu_min_s": round(min(seconds), 3), "repeats": len(seconds)})


def file_targets(files: list[Row], imports: list[Row]) -> list[Target]:
    """Largest times and sizes."""
    cpu = {row["case"]: row.get("cpu_median_ms") for row in files}
    size = next((row["bytes"] for row in files if "bytes" in row), None)
    seconds = {row["case"]: row["cpu_min_s"] for row in imports}
    whole, bare = seconds.get("import the simulator"), seconds.get("import jax, equinox")
    return [
        ("read a record, CPU ms", "<=", 80.0, cpu.get("read a record")),
        ("compile a scene, CPU ms", "<=", 1000.0, cpu.get("compile")),
        ("open a compiled scene, CPU ms", "<=", 20.0, cpu.get("open compiled")),
        ("compiled file, MB", "<=", 4.0, size and round(size / 1e6, 2)),
        ("import gleanings.driving, CPU s", "<=", 0.5, seconds.get("import gleanings.driving")),
        ("import with Simulator, CPU s", "<=", 1.5, whole),
        ("import with Simulator / import jax, equinox", "<=", 1.2, round(whole / bare, 2) if whole and bare else None),
    ]
