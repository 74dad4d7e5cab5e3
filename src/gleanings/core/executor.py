"""Many independent tasks, in this process, in worker processes, or on Ray; the results are the same.

A task is `fn(item)`, where `fn` is importable by name. An exception in `fn` is the task's result and is not
retried, because it would come again; a lost or overdue worker is, because it may not.
"""

import os
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from gleanings.core._workers import Worker, wait_for_any
from gleanings.core.errors import ConfigError


@dataclass(frozen=True)
class TaskResult:
    """Outcome of item number `index`: its `value`, or an `error` in one line; `attempts` counts the tries."""

    index: int
    value: Any
    error: str | None
    attempts: int


@runtime_checkable
class Executor(Protocol):
    """Whatever can run tasks: yields one TaskResult per item, in the order of completion."""

    def run(self, fn: Callable[[Any], Any], items: list[Any]) -> Iterator[TaskResult]:
        """Run `fn` on every item."""
        ...


def map_tasks(
    fn: Callable[[Any], Any], items: Iterable[Any], executor: "Executor | None" = None
) -> Iterator[TaskResult]:
    """Yield a TaskResult for each of `items`, as they are completed. Default executor: InProcess().

    Raises: ConfigError when `fn` or an item cannot be sent to a worker, or Ray is missing.
    """
    return (executor or InProcess()).run(fn, list(items))


@contextmanager
def kept(executor: "Executor | None") -> Iterator["Executor | None"]:
    """`executor` for several runs, the worker processes of which stay until the end."""
    if not isinstance(executor, Processes):
        yield executor
        return
    with executor.kept() as workers:
        yield workers


@dataclass(frozen=True)
class InProcess:
    """One task after the other, here."""

    def run(self, fn: Callable[[Any], Any], items: list[Any]) -> Iterator[TaskResult]:
        """Run `fn` on every item, in order."""
        for index, item in enumerate(items):
            yield TaskResult(index, *guarded(fn, item), 1)


@dataclass(frozen=True)
class Processes:
    """`n` worker processes on this machine, each with its share of the cores.

    A task that loses its worker (killed, out of memory) or takes longer than `timeout_s` seconds, the start
    of a new worker included, is tried `retries` more times. Workers are spawned, not forked, because jax has
    threads; a script that uses them needs the usual `if __name__ == "__main__":`.
    """

    n: int
    timeout_s: float | None = None
    retries: int = 1

    def __post_init__(self) -> None:
        if self.n < 1 or self.retries < 0 or (self.timeout_s is not None and self.timeout_s <= 0):
            raise ConfigError(f"expected n >= 1, retries >= 0 and timeout_s > 0, found {self}")

    def run(self, fn: Callable[[Any], Any], items: list[Any]) -> Iterator[TaskResult]:
        """Run `fn` on every item; workers are ended when the iterator is closed."""
        with self.kept(min(self.n, len(items))) as executor:
            yield from executor.run(fn, items)

    @contextmanager
    def kept(self, n: int | None = None) -> Iterator["Executor"]:
        """The same with workers that stay from run to run, with what they have loaded and compiled; at most `n`."""
        executor = _Kept(self, self.n if n is None else n, [])
        try:
            yield executor
        finally:
            for worker in executor.workers:
                worker.end()


@dataclass(frozen=True)
class _Kept:
    """Worker processes for several runs, started when there is a task for them."""

    settings: Processes
    n: int
    workers: list[Worker]

    def run(self, fn: Callable[[Any], Any], items: list[Any]) -> Iterator[TaskResult]:
        """Run `fn` on every item; workers with a task are ended when the iterator is closed."""
        waiting = deque((index, 1) for index in range(len(items)))
        workers = self.workers
        try:
            while waiting or any(worker.task for worker in workers):
                while len(workers) < min(self.n, len(waiting) + sum(worker.task is not None for worker in workers)):
                    taken = {worker.share for worker in workers}
                    workers.append(Worker(min(set(range(self.n)) - taken), self.n))
                for worker in workers:
                    if waiting and worker.task is None:
                        task = waiting.popleft()
                        worker.send(task, fn, items[task[0]], self.settings.timeout_s)
                for worker in wait_for_any([worker for worker in workers if worker.task]):
                    index, attempt = worker.task or (0, 0)
                    outcome = worker.receive()
                    if outcome.lost:
                        workers.remove(worker)
                    if outcome.lost and attempt <= self.settings.retries:
                        waiting.append((index, attempt + 1))
                    else:
                        yield TaskResult(index, outcome.value, outcome.error, attempt)
        finally:
            for worker in [worker for worker in workers if worker.task]:
                worker.end()
                workers.remove(worker)


@dataclass(frozen=True)
class RayTasks:
    """Tasks on a Ray cluster: the one already connected to, the one at `address`, or a new local one.

    A task that loses its worker is tried `retries` more times. Needs the extra `ray`.
    """

    address: str | None = None
    retries: int = 1

    def run(self, fn: Callable[[Any], Any], items: list[Any]) -> Iterator[TaskResult]:
        """Run `fn` on every item. Raises: ConfigError when Ray is not installed or not reachable."""
        ray = _connect(self.address)
        remote: Any = ray.remote(max_retries=0)(guarded)
        pending = {remote.remote(fn, item): (index, 1) for index, item in enumerate(items)}
        while pending:
            (done,), _ = ray.wait(list(pending))
            index, attempt = pending.pop(done)
            try:
                value, error = ray.get(done)
                yield TaskResult(index, value, error, attempt)
            except ray.exceptions.RayError as error:
                if attempt <= self.retries:
                    pending[remote.remote(fn, items[index])] = (index, attempt + 1)
                else:
                    yield TaskResult(index, None, f"worker lost: {type(error).__name__}", attempt)


def guarded(fn: Callable[[Any], Any], item: Any) -> tuple[Any, str | None]:
    """(fn(item), None), or (None, the exception in one line with the place it came from)."""
    try:
        return fn(item), None
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())
        return None, f"{type(error).__name__}: {text} ({os.path.basename(frame.filename)}:{frame.lineno})"


def _connect(address: str | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError("RayTasks needs Ray: pip install 'gleanings[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, include_dashboard=False if address is None else None, log_to_driver=False)
        except ConnectionError as error:
            raise ConfigError(f"no Ray cluster at {address!r}: {error}") from error
    return ray
