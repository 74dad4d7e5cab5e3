"""A run that compiles is killed while it writes: what is finished stays, what is half done has no name, it goes on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.driving._files import write_nocturne

from gleanings.driving.store import compile_files, load_compiled

# The second file's data never ends: the run hangs with a temporary file open.
_HANG = """
import os, sys, time
from gleanings.driving import _container
from gleanings.driving.store import compile_files
written = []
def hang(descriptor):
    written.append(descriptor)
    if len(written) == 2:
        print("writing", flush=True)
        time.sleep(60)
_container.os.fsync = hang
compile_files(sys.argv[2:], sys.argv[1])
"""


def test_a_killed_run_leaves_whole_files_and_goes_on(tmp_path: Path) -> None:
    sources: list[Path] = []
    for name in ("a", "b", "c"):
        source = write_nocturne(tmp_path)
        sources.append(source.rename(tmp_path / f"{name}.json"))
        sources[-1].write_text(sources[-1].read_text().replace('"n"', f'"{name}"'))
    out = tmp_path / "out"
    command = [sys.executable, "-c", _HANG, str(out), *map(str, sources)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert len(list(out.glob(".*.tmp"))) == 1
    (first,) = out.glob("*.scenes")
    assert len(load_compiled(first)) == 1
    begun = time.time_ns()
    report = compile_files(sources, out)
    assert (report.scenes, report.skipped, report.errors) == (3, 1, [])
    assert first.stat().st_mtime_ns < begun
    assert not list(out.glob(".*.tmp"))
    assert sum(len(load_compiled(file)) for file in out.iterdir()) == 3
