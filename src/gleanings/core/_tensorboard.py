"""TensorBoard event files, written in the calling thread: the usual writer's thread and queue die noisily."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

_FLUSH_S = 5.0


class TensorBoardView:
    """Scalars of a run for TensorBoard. It is a view only: errors of the disk are passed over in silence.

    `purge` makes TensorBoard forget what earlier files hold from that step on.
    """

    def __init__(self, folder: Path, purge: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self._flushed = 0.0
        if purge is not None:
            self._write(Event(wall_time=time.time(), step=purge, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Add the metrics of `step`."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Write what is left and close the file."""
        with suppress(OSError):
            self._writer.close()

    def _write(self, event: Event) -> None:
        with suppress(OSError):
            self._writer.write_event(event)
            if time.monotonic() - self._flushed > _FLUSH_S:
                self._flushed = time.monotonic()
                self._writer.flush()
