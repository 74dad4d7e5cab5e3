"""Clocks of the benchmarks: interleaved timing, compile time, compiled memory, the machine."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

Sample = tuple[float, float]
"""Wall and CPU seconds of one call; the CPU seconds are those of all threads of the process."""
Timer = Callable[[int], list[Sample]]
"""Runs that many calls and returns their times."""


@dataclass(frozen=True)
class Compiled:
    """An executable, the seconds to trace and compile it, and the bytes it needs beside its inputs."""

    call: Callable[..., Any]
    wall_s: float
    cpu_s: float
    temporary_bytes: int
    output_bytes: int


def compile_step(function: Callable, *arguments: Any, donate: tuple[int, ...] = (), tries: int = 1) -> Compiled:
    """Traces and compiles `function` from cold caches; the quickest of `tries` attempts counts."""
    attempts = []
    for _ in range(tries):
        jax.clear_caches()
        wall, cpu = time.perf_counter(), time.process_time()
        executable = jax.jit(function, donate_argnums=donate).lower(*arguments).compile()
        attempts.append((time.perf_counter() - wall, time.process_time() - cpu))
    memory = executable.memory_analysis()
    wall_s, cpu_s = min(attempts)
    return Compiled(executable, wall_s, cpu_s, memory.temp_size_in_bytes, memory.output_size_in_bytes)


def timer(call: Callable[[], Any]) -> Timer:
    """Times `call` in this process, waiting for its result each time."""

    def run(repeats: int) -> list[Sample]:
        samples = []
        for _ in range(repeats):
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            samples.append((time.perf_counter() - wall, time.process_time() - cpu))
        return samples

    return run


def interleave(
    timers: Mapping[str, Timer], repeats: int, *, block: int = 3, warm: int = 0, limit_s: float = 60.0
) -> dict[str, list[Sample]]:
    """Times every timer `repeats` times, in blocks taken in turn, so that a busy minute hits all alike.

    Each timer runs once unmeasured, and `warm` times more before each block; the rounds end early, with equally many
    times each, after `limit_s`.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in timers}
    for run in timers.values():
        run(1)
    start, names = time.perf_counter(), list(timers)
    for turn in range(-(-repeats // block)):
        count = min(block, repeats - turn * block)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            samples[name] += timers[name](warm + count)[warm:]
        if time.perf_counter() - start > limit_s:
            break
    return samples


def summary(samples: list[Sample]) -> dict[str, float | int]:
    """Median and minimum of the wall and of the CPU time in milliseconds, and how many calls they rest on."""
    wall, cpu = ([1e3 * value for value in column] for column in zip(*samples, strict=True))
    return {
        "median_ms": round(statistics.median(wall), 4),
        "min_ms": round(min(wall), 4),
        "cpu_median_ms": round(statistics.median(cpu), 4),
        "cpu_min_ms": round(min(cpu), 4),
        "repeats": len(samples),
    }


def paired_ratio(samples: list[Sample], base: list[Sample]) -> float:
    """Median over calls of the wall time over that of the baseline's call of the same turn.

    A slow minute of the machine hits both, while it moves the two medians by themselves.
    """
    return round(statistics.median(own[0] / other[0] for own, other in zip(samples, base, strict=True)), 3)


def cpu_model() -> str:
    """The processor as the system names it."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Processor, cores, memory, load, devices, versions and date: what a figure needs to be read later."""
    versions = {}
    for name in ("jax", "jaxlib", "optax", "equinox", "numpy", "gleanings"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "device": jax.devices()[0].device_kind,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
