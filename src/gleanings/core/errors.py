"""The errors that gleanings raises on purpose. Each message says what, where, and what to do about it."""

import os
from collections.abc import Sequence


def printable(text: str) -> str:
    """`text` with escapes for line ends, control characters and half letters, which a terminal obeys or cannot show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class GleaningsError(Exception):
    """Base of every deliberate error; the command prints its one line and exits with `exit_code`."""

    exit_code = 1


class ConfigError(GleaningsError):
    """An argument, option or configuration value that cannot be used."""

    exit_code = 2


class DataError(GleaningsError):
    """Input data that cannot be read or does not hold what is expected.

    `path` is the file, `record` the index or key of the record inside it, `offset` the byte position. The line may
    quote the file: what is not printable in it is escaped.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        path: str | os.PathLike[str] | None = None,
        record: int | str | None = None,
        offset: int | None = None,
    ) -> None:
        self.path, self.record, self.offset = path, record, offset
        parts = [("", path), ("record ", record), ("byte ", offset)]
        where = ", ".join(f"{label}{value}" for label, value in parts if value is not None)
        super().__init__(printable(f"{where}: {message}" if where else message))


class CheckpointError(GleaningsError):
    """A checkpoint that cannot be written, or is damaged. `step` and `file` name the one concerned."""

    exit_code = 4

    def __init__(self, message: str, step: int | None = None, file: str | os.PathLike[str] | None = None) -> None:
        self.step, self.file = step, file
        where = ", ".join([f"checkpoint of step {step}"] * (step is not None) + [str(file)] * (file is not None))
        super().__init__(f"{where}: {message}" if where else message)


class NumericsError(GleaningsError):
    """NaN or infinity where finite numbers are needed. `names` lists the leaves, the first bad one first."""

    exit_code = 5

    def __init__(self, message: str, step: int | None = None, names: Sequence[str] = ()) -> None:
        self.step, self.names = step, tuple(names)
        where = f"step {step}: " if step is not None else ""
        what = f" (non-finite: {', '.join(names)})" if names else ""
        super().__init__(f"{where}{message}{what}")
