"""`gleanings doctor`: what this machine and installation can do, with a write-and-restore test."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from gleanings._fetch import cache

_REQUIRED = ("gleanings", "jax", "jaxlib", "equinox", "optax", "orbax-checkpoint", "grain", "numpy", "scipy")
_OPTIONAL = {"scikit-learn": "studies", "ray": "ray"}
_MIN_GIB = 1.0


class Line(NamedTuple):
    """One line of the table; `state` is ok, info or FAIL."""

    what: str
    found: str
    state: str


def doctor() -> None:
    """Print versions, devices, free disk and memory, sandbox, browser, and test saving and restoring.

    Ends with `no failure`, or with the failures and exit code 1.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table("check", "found", "state")
    failures = 0
    for check in (_versions, _devices, _room, _programs, _checkpoint):
        for line in _guarded(check):
            failures += line.state == "FAIL"
            table.add_row(*line, style={"FAIL": "bold red", "info": "dim"}.get(line.state))
    Console().print(table)
    if failures:
        print(f"{failures} failure(s)")
        raise SystemExit(1)
    print("no failure")


def _guarded(check: Callable[[], Iterator[Line]]) -> Iterator[Line]:
    try:
        yield from check()
    except Exception as error:  # whatever breaks on a stranger's machine is the finding
        yield Line(check.__name__.strip("_"), f"{type(error).__name__}: {error}", "FAIL")


def _versions() -> Iterator[Line]:
    yield Line("python", f"{platform.python_version()} on {platform.platform()}", "ok")
    for name in _REQUIRED:
        try:
            yield Line(name, importlib.metadata.version(name), "ok")
        except importlib.metadata.PackageNotFoundError:
            yield Line(name, "not installed: pip install gleanings", "FAIL")
    for name, extra in _OPTIONAL.items():
        try:
            yield Line(name, importlib.metadata.version(name), "ok")
        except importlib.metadata.PackageNotFoundError:
            yield Line(name, f"not installed: pip install 'gleanings[{extra}]'", "info")


def _devices() -> Iterator[Line]:
    import jax

    yield Line("devices", ", ".join(f"{device.platform} ({device.device_kind})" for device in jax.devices()), "ok")


def _room() -> Iterator[Line]:
    yield Line("cores", str(os.cpu_count()), "ok")
    memory = _free_memory_gib()
    yield Line("free memory", f"{memory:.1f} GiB", "ok" if memory >= _MIN_GIB else "FAIL")
    for what, folder in (("free disk here", Path.cwd()), ("free disk in the cache", cache())):
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free / 2**30
        yield Line(what, f"{free:.1f} GiB ({folder})", "ok" if free >= _MIN_GIB else "FAIL")


def _free_memory_gib() -> float:
    try:
        return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) / 2**20
    except (OSError, IndexError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _programs() -> Iterator[Line]:
    sandboxes = {
        "bubblewrap": ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"],
        "unshare": ["unshare", "--user", "--map-root-user", "--net", "true"],
    }
    working = [name for name, command in sandboxes.items() if _works(command)]
    yield Line("sandbox", ", ".join(working) or "none: do not run programs you do not trust", "info")
    browser = shutil.which("chromium") or shutil.which("google-chrome") or "none: the report's picture test is skipped"
    yield Line("browser", browser, "info")


def _works(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _checkpoint() -> Iterator[Line]:
    import jax.numpy as jnp
    import numpy as np

    from gleanings.core.checkpoint import Checkpoints

    state = {"weights": jnp.arange(1000.0), "step": jnp.asarray(3)}
    with tempfile.TemporaryDirectory() as folder:
        Checkpoints(Path(folder)).save(3, state)
        restored = Checkpoints(Path(folder)).restore({key: jnp.zeros_like(value) for key, value in state.items()})
    same = all(np.array_equal(restored.state[key], value) for key, value in state.items())
    yield Line("save and restore", "bit-equal" if same else "the state came back changed", "ok" if same else "FAIL")
