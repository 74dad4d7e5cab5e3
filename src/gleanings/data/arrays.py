"""Named plain arrays in an npz file, read without trusting it."""

from pathlib import Path

import numpy as np

from gleanings.core.errors import DataError
from gleanings.data._npz import PLAIN, open_npz


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of numbers, booleans or text in the npz file `path`. DataError: no such file, or a damaged one."""
    path = Path(path)
    if not path.is_file():
        raise DataError("no such file", path)
    with open_npz(path) as npz:
        return {name: npz.read(name, PLAIN) for name in npz.keys}
