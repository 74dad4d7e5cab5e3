"""Untrusted files, and fields of nested data (JSON, pickles) as arrays and texts: wrong ones are DataErrors. Ours."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gleanings.core.errors import DataError
from gleanings.data.tfrecord import regular_size

_PLAIN = (bool, int, float, type(None))


def read_file(path: Path, most: int) -> bytes:
    """The bytes of an ordinary file. DataError: no such file, a device or pipe, or more than `most` bytes."""
    size = regular_size(path, sys.maxsize)
    if size > most:
        raise DataError(f"{size:,} bytes; at most {most:,} are read. Split the file", path)
    try:
        with path.open("rb") as stream:
            return stream.read(size)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path) from error


def numbers(values: Any, what: str, *shape: int) -> Float[np.ndarray, "..."]:
    """A list of numbers, of lists of numbers, or an array, as float64; -1 in `shape`: any length. None is NaN.

    DataError: another shape or something that is no number. Everything is measured before it is copied, as a list may
    hold itself, or one array a million times; only the first number of `shape` should be -1.
    """
    measured = values.shape if isinstance(values, np.ndarray) else (len(items(values, what)), *shape[1:])
    if len(measured) != len(shape) or any(want not in (-1, n) for n, want in zip(measured, shape, strict=True)):
        raise DataError(f"{what} has shape {measured}; expected {shape}")
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biuf":
            raise DataError(f"{what} is an array of {values.dtype}; expected numbers")
        return values.astype(np.float64)
    if len(shape) > 1:
        rows = [numbers(row, what, *shape[1:]) for row in values]
        return np.stack(rows) if rows else np.zeros((0, *(max(n, 0) for n in shape[1:])))
    if not all(isinstance(value, _PLAIN) for value in values):
        raise DataError(f"{what} holds something that is no number")
    return _array(values, what)


def _array(values: list[Any] | tuple[Any, ...], what: str) -> Float[np.ndarray, " _"]:
    try:
        return np.array(values, np.float64)
    except OverflowError:
        raise DataError(f"{what} holds a number beyond 1e308") from None


def number(value: Any, what: str) -> float:
    """One number; None is NaN. DataError: something else."""
    return float(numbers([value], what, 1)[0])


def whole(value: Any, what: str) -> int:
    """A whole number. DataError: something else."""
    if isinstance(value, int):
        return int(value)
    raise DataError(f"{what} is {_kind(value)}; expected a whole number")


def text(value: Any, what: str) -> str:
    """A text, or a whole number as text, of at most 200 characters. DataError: something else."""
    value = str(value) if isinstance(value, int) and abs(value) < 1 << 64 else value
    if isinstance(value, str) and len(value) <= 200:
        return value
    raise DataError(f"{what} is {_kind(value)}; expected a text of at most 200 characters")


def table(value: Any, what: str) -> dict[Any, Any]:
    """A dict. DataError: something else."""
    if isinstance(value, dict):
        return value
    raise DataError(f"{what} is {_kind(value)}; expected named values")


def items(value: Any, what: str) -> list[Any] | tuple[Any, ...]:
    """A list or tuple. DataError: something else."""
    if isinstance(value, list | tuple):
        return value
    raise DataError(f"{what} is {_kind(value)}; expected a list")


def field(record: Any, name: str, what: str) -> Any:
    """`record[name]`. DataError: not a dict, or no such key."""
    if isinstance(record, dict) and name in record:
        return record[name]
    raise DataError(f"{what} has no {name!r}")


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Names the file in DataErrors that come from inside and name none."""
    try:
        yield
    except DataError as error:
        if error.path is not None:
            raise
        raise DataError(str(error), path) from error


def _kind(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"
