"""One spawned worker process and the pipe to it. The pipe carries only what this program itself wrote."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any

from gleanings.core.errors import ConfigError

_SPAWN = get_context("spawn")


@dataclass(frozen=True)
class Outcome:
    """A task's value or error; `lost` when the worker died or was overdue, and has been ended."""

    value: Any = None
    error: str | None = None
    lost: bool = False


class Worker:
    """A process that computes `fn(item)` for what it is sent; `task` is what it works on, or None.

    It has the cores of share `share` out of `shares`.
    """

    def __init__(self, share: int, shares: int) -> None:
        self.share = share
        self.task: tuple[int, int] | None = None
        self.deadline = float("inf")
        self.pipe, theirs = _SPAWN.Pipe()
        cores = _cores()
        threads = max(1, len(cores) // shares)
        # Without a bound, pools of threads that ignore the limit get into each other's way.
        bound = cores[share * threads : (share + 1) * threads] if shares <= len(cores) else cores
        self.process = _SPAWN.Process(target=_serve, args=(theirs, bound), daemon=True)
        with _thread_limit(threads):
            self.process.start()
        theirs.close()  # so that the pipe ends when the worker does

    def send(self, task: tuple[int, int], fn: Callable[[Any], Any], item: Any, timeout_s: float | None) -> None:
        """Start `task` = (index, attempt). Raises: ConfigError when it cannot be sent."""
        self.task = task
        self.deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        try:
            self.pipe.send((fn, item))
        except OSError:
            pass  # the worker has died; receive() will say so
        except Exception as error:
            raise ConfigError(f"task {task[0]} cannot be sent to a worker process: {error}") from error

    def receive(self) -> Outcome:
        """Result of the task, once `wait_for_any` has named this worker."""
        self.task = None
        if self.pipe.poll():
            try:
                return Outcome(*self.pipe.recv())
            except (EOFError, OSError):
                pass  # it died while writing
        overdue = self.process.is_alive() and time.monotonic() >= self.deadline
        self.end()
        reason = "took longer than its time limit" if overdue else f"ended with exit code {self.process.exitcode}"
        return Outcome(error=f"worker lost: it {reason}", lost=True)

    def end(self) -> None:
        """Kill the process; it holds nothing that needs saving."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def wait_for_any(workers: Sequence[Worker]) -> list[Worker]:
    """Sleep until a worker has answered, died or passed its deadline; those that have."""
    seconds = min(worker.deadline for worker in workers) - time.monotonic()
    handles = [handle for worker in workers for handle in (worker.pipe, worker.process.sentinel)]
    ready = connection.wait(handles, None if seconds == float("inf") else max(0.0, seconds))
    now = time.monotonic()
    return [w for w in workers if w.pipe in ready or w.process.sentinel in ready or now >= w.deadline]


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _serve(pipe: connection.Connection, cores: list[int]) -> None:
    from gleanings.core.executor import guarded

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    while True:
        try:
            fn, item = pipe.recv()
        except EOFError:
            return
        result = guarded(fn, item)
        try:
            pipe.send(result)
        except OSError:
            return
        except Exception as error:
            pipe.send((None, f"the result cannot be sent back: {error}"))


@contextmanager
def _thread_limit(threads: int) -> Iterator[None]:
    # Libraries read these when they are imported, so they must stand before the child's interpreter starts.
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = {name: str(threads) for name in names}
    flags = os.environ.get("XLA_FLAGS", "")
    if threads == 1 and "intra_op_parallelism_threads" not in flags:
        limits["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1".strip()
    before = {name: os.environ.get(name) for name in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
