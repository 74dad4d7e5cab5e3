"""Shared fixtures, and the process-wide settings that must be made before jax is imported."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

# Eight host devices for the sharding tests; one thread a process, since tests run in parallel.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of LAPACK, which scipy and XLA share
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_REPOSITORY = Path(__file__).parents[1]
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_REPOSITORY / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_debug_key_reuse", True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Compile quickly rather than well, fixtures too, where programs run for less time than they compile.

    Tests of the room `driving` and those marked `plain_compilation`; slow ones run the programs that users run.
    """
    plain = "driving" in item.path.parts or item.get_closest_marker("plain_compilation") is not None
    plain = plain and item.get_closest_marker("slow") is None
    jax.config.update("jax_disable_most_optimizations", plain)
    try:
        return (yield)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--v=0"),
]
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets beside the checkout; tests that need it are skipped where absent."""
    folder = _REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Runs headless Chromium on a file; returns what it printed and the messages of its console."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        reason = "no chromium on the PATH (Debian package chromium)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)

    def run(page: Path, *flags: str) -> tuple[str, list[str]]:
        profile = tmp_path_factory.mktemp("profile")
        command = [found, *_FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return run
