"""The other side of the workers in `peers/`: starts one and asks it for times."""

import json
import os
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from _timing import Sample, Timer

WORKER = Path(__file__).parent / "peers" / "torch_peers.py"
VARIABLE = "GLEANINGS_PEERS_PYTHON"


class PeerError(RuntimeError):
    """The worker could not be started, died, took too long, or refused a command."""


def peers_python(option: Path | None, variable: str = VARIABLE) -> Path | None:
    """The interpreter that has the peers: the option, else the environment variable, else None."""
    named = option or os.environ.get(variable)
    return Path(named) if named else None


class Peer:
    """One worker process; closes with the `with` block. Raises PeerError where the worker gives no answer.

    Its idle threads must not spin on the cores of the side being timed, hence the wait policy.
    """

    def __init__(self, python_executable: Path, timeout_s: float = 120.0, worker: Path = WORKER):
        self._timeout_s = timeout_s
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        environment.pop("PYTHONPATH", None)
        try:
            self._process = subprocess.Popen(
                [str(python_executable), str(worker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
        except OSError as error:
            raise PeerError(f"{python_executable} does not start: {error}") from error

    def ask(self, case: str, **arguments: Any) -> dict[str, Any]:
        """Sends one command and waits for its answer, at most `timeout_s`; then the worker is stopped."""
        guard = threading.Timer(self._timeout_s, self._process.kill)
        guard.start()
        try:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps({"case": case, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            guard.cancel()
        if not line:
            raise PeerError(f"the peer worker gave no answer to {case!r} (not installed, or too slow)")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{case}: {answer['error']}")
        return answer

    def time_case(self, case: str, repeats: int, threads: int = 2) -> list[Sample]:
        """Wall and CPU seconds of each of `repeats` steps of `case`."""
        times = self.ask(case, repeats=repeats, threads=threads)["times"]
        return [(wall, cpu) for wall, cpu in times]

    def timer(self, case: str, threads: int = 2) -> Timer:
        """`time_case` in the shape that `interleave` takes."""
        return lambda repeats: self.time_case(case, repeats, threads)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
