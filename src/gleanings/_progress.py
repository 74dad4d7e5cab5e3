"""One progress bar per study on a terminal; plain lines, at most one in a while, elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gleanings.core.study import Progress as Callback

_QUIET_S = 15.0


@contextmanager
def progress_of(study: str, console: Console) -> Iterator[Callback]:
    """Callback (part, parts done, parts in all or None) that shows how far `study` is."""
    if console.is_terminal:
        with _bar(study, console) as callback:
            yield callback
    else:
        yield _Lines(study, console).show


@contextmanager
def _bar(study: str, console: Console) -> Iterator[Callback]:
    part = TextColumn("{task.fields[part]}", style="dim")
    times = (TimeElapsedColumn(), TimeRemainingColumn(), part)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(study, total=None, part="starting")

        def show(name: str, done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total, part="" if done == total else name)

        yield show


class _Lines:
    def __init__(self, study: str, console: Console) -> None:
        self._study, self._console, self._start, self._said = study, console, time.monotonic(), 0.0
        console.print(f"{study}: started", highlight=False)

    def show(self, part: str, done: int, total: int | None) -> None:
        """Print a line if the last one is old enough."""
        now = time.monotonic()
        if now - max(self._said, self._start) >= _QUIET_S:
            self._said = now
            seconds = f"{now - self._start:.0f} s"
            self._console.print(f"{self._study}: {done}/{total or '?'} parts, {seconds}, {part}", highlight=False)
