"""Where a run took place: versions, machine, source revision, command line."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_PACKAGES = ("gleanings", "jax", "jaxlib", "equinox", "optax", "orbax-checkpoint", "grain", "numpy", "scipy")


def environment() -> dict[str, Any]:
    """JSON-able description of this process. Devices are listed only if jax has been imported already."""
    jax = sys.modules.get("jax")
    return {
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 2),
        "devices": [device.device_kind for device in jax.devices()] if jax else None,
        "revision": _revision(),
        "argv": sys.argv,
        "time": round(time.time(), 3),
    }


def _version(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _revision() -> str | None:
    """Commit of the working tree that holds this source, if any."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return None
