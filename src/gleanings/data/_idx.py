"""Reading uint8 arrays out of IDX files, plain or gzip, that may be hostile."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gleanings.core.errors import DataError
from gleanings.data._npz import check_size, fill

_MAX_RANK = 8


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """The array in an IDX file: two zero bytes, type 8 (uint8), rank, big-endian sizes, data.

    Raises: DataError for another type, a size beyond the limits, a damaged or truncated file.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            start = stream.read(4)
            if len(start) < 4 or start[:2] != b"\0\0":
                raise DataError("found no IDX header; expected an .npz or IDX file", path, offset=0)
            if start[2] != 8:
                raise DataError(f"found IDX type {start[2]}, expected 8 (uint8)", path, offset=2)
            if start[3] > _MAX_RANK:
                raise DataError(f"found rank {start[3]}, expected 3", path, offset=3)
            shape = struct.unpack(f">{start[3]}I", stream.read(4 * start[3]))
            size = math.prod(shape)
            check_size(size, path.stat().st_size, packed, path)
            return fill(stream, size, path).reshape(shape)  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"damaged IDX file ({error})", path) from error
