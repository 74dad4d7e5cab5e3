"""Ctrl-C and SIGTERM as a request to stop after the work in hand."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class StopRequest:
    """`signum` is the signal received, or None."""

    signum: int | None = None

    def leave(self) -> NoReturn:
        """Raise what ends the process with exit code 128 + signum: 130 for Ctrl-C, 143 for SIGTERM."""
        if self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.signum or 0))


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first signal, and leave at once on the second. Only the main thread can do so; others never see one."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(signum: int, frame: FrameType | None) -> None:
        if request.signum is not None:
            request.leave()
        request.signum = signum

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
