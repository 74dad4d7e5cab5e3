"""What a computation costs (wall time, CPU time, peak memory), and the machine it ran on."""

import contextlib
import multiprocessing
import os
import platform
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc/self")


@dataclass(frozen=True)
class Cost:
    """Wall and CPU time in seconds; peak resident memory of the largest process in MB (1e6 bytes)."""

    wall_s: float
    cpu_s: float
    peak_memory_mb: float

    def __add__(self, other: "Cost") -> "Cost":
        peak = max(self.peak_memory_mb, other.peak_memory_mb)
        return Cost(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s, peak)


class Meter:
    """Measures from its creation on; `read()` may be called often.

    CPU time includes child processes that have ended, on Linux also those of `multiprocessing` that live. `reset_peak`
    counts peak memory from here on, where the kernel allows it (Linux); otherwise over the life of the process.
    """

    def __init__(self, reset_peak: bool = False) -> None:
        if reset_peak:
            with contextlib.suppress(OSError):
                (_PROC / "clear_refs").write_text("5")  # see proc(5)
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()

    def read(self) -> Cost:
        """Cost since the creation of the meter."""
        return Cost(time.perf_counter() - self._wall, _cpu_seconds() - self._cpu, _peak_memory_mb())


def machine() -> dict[str, Any]:
    """Processor, usable cores, memory in GB, system, Python, and the devices if jax is already loaded."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    jax = sys.modules.get("jax")
    if jax is not None:
        facts |= {"jax": jax.__version__, "devices": sorted({d.device_kind for d in jax.devices()})}
    return facts


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    ended = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return ended + sum(_cpu_seconds_of(child.pid) for child in multiprocessing.active_children())


def _cpu_seconds_of(pid: int | None) -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _peak_memory_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    largest_child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    with contextlib.suppress(OSError, ValueError, IndexError):
        own = int((_PROC / "status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return max(own, largest_child) / 1e6


def _processor() -> str:
    with contextlib.suppress(OSError, IndexError):
        return Path("/proc/cpuinfo").read_text().split("model name")[1].split(":")[1].split("\n")[0].strip()
    return platform.processor() or platform.machine()
