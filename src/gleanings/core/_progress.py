"""How far a run is: a bar on a terminal, one plain line a minute elsewhere, both on standard error."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

_BAR_S, _LINE_S = 0.2, 60.0


class Progress:
    """Context manager that shows `update`s of a run of `total` steps which starts at step `start`."""

    def __init__(self, total: int, start: int, shown: bool) -> None:
        self._total, self._start, self._shown = total, start, shown
        self._begun = self._last = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self._shown and sys.stderr.isatty():
            self._bar = _bar(self._total, self._start)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show `step` and the first metrics, if anything is due."""
        now = time.monotonic()
        due = now - self._last >= (_LINE_S if self._bar is None else _BAR_S)
        if not self._shown or not (due or (self._bar is not None and step == self._total)):
            return
        self._last = now
        rate = (step - self._start) / (now - self._begun)
        text = "  ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:4])
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, rate=f"{rate:.4g}/s", metrics=text)
            return
        left = f"{(self._total - step) / rate / 60:.0f} min left" if rate > 0 else "no estimate yet"
        self.note(f"step {step}/{self._total}  {rate:.4g}/s  {left}  {text}".rstrip())

    def note(self, text: str) -> None:
        """Print one line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self._shown:
            print(text, file=sys.stderr, flush=True)


def _bar(total: int, start: int) -> Any:
    """A running bar, or None while another one holds the terminal."""
    from rich import errors, progress
    from rich.console import Console

    columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[rate]}"))
    more = (progress.TimeRemainingColumn(), progress.TextColumn("{task.fields[metrics]}"))
    bar = progress.Progress(*columns, *more, console=Console(stderr=True))
    bar.add_task("", total=total, completed=start, rate="", metrics="")
    try:
        bar.start()
    except errors.LiveError:
        return None
    return bar
