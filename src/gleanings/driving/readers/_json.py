"""JSON files that cannot be trusted: size, nesting and number of values are known before anything is parsed. Ours."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gleanings.core.errors import DataError
from gleanings.driving.readers._values import read_file

MAX_BYTES, MAX_DEPTH = 512 << 20, 64
_MAX_VALUES, _MAX_CONTAINERS, _CHUNK = 50_000_000, 20_000_000, 1 << 24
_DEPTH = np.zeros(256, np.int8)
_DEPTH[list(b"[{")], _DEPTH[list(b"]}")] = 1, -1


def load_json(path: Path) -> Any:
    """The content of a JSON file.

    DataError: no such file, not JSON, larger than 512 MB, nested deeper than 64, or more than 50 million values.
    """
    data = read_file(path, MAX_BYTES)
    _check(data, path)
    try:
        return json.loads(data)
    except ValueError as error:  # also what UnicodeDecodeError and numbers of 5,000 digits are
        raise DataError(f"not JSON ({error})", path) from error


def _check(data: bytes, path: Path) -> None:
    """Count nesting and values outside strings, a chunk at a time."""
    if b"\0" in data:
        raise DataError("not JSON in UTF-8: it holds zero bytes", path, offset=data.index(b"\0"))
    plain = np.frombuffer(re.sub(rb"\\.", b"  ", data, flags=re.DOTALL) if b"\\" in data else data, np.uint8)
    quotes = depth = values = containers = 0
    for at in range(0, len(plain), _CHUNK):
        chunk = plain[at : at + _CHUNK]
        inside = _quoted(chunk, quotes)
        quotes += int(np.count_nonzero(chunk == ord('"')))
        step = np.where(inside, 0, _DEPTH[chunk])
        levels = depth + np.cumsum(step, dtype=np.int32)
        if levels.max() > MAX_DEPTH:
            where = at + int(np.argmax(levels > MAX_DEPTH))
            raise DataError(f"nested deeper than {MAX_DEPTH}; no scene is", path, offset=where)
        depth = int(levels[-1])
        values += int(np.count_nonzero(~inside & (chunk == ord(","))))
        containers += int(np.count_nonzero(step == 1))
        if values > _MAX_VALUES or containers > _MAX_CONTAINERS:
            raise DataError(f"more than {_MAX_VALUES:,} values or {_MAX_CONTAINERS:,} lists. Split the file", path)


def _quoted(chunk: UInt8[np.ndarray, " n"], before: int) -> np.ndarray:
    """Whether each byte stands inside a string, `before` quotes having come before."""
    return (np.cumsum(chunk == ord('"'), dtype=np.int32) + before) % 2 == 1
