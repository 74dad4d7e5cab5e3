"""Shuffled batches of arrays through Grain, with a position that can be saved and restored."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np

from gleanings.core.errors import ConfigError


@runtime_checkable
class BatchIterator(Iterator[dict[str, np.ndarray]], Protocol):
    """Endless batches; `get_state` and `set_state` save and restore the position."""

    def get_state(self) -> dict[str, Any]:
        """JSON-able position of the iterator."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Move to a position that `get_state` returned."""
        ...


def source(arrays: Mapping[str, np.ndarray], batch_size: int, seed: int = 0) -> BatchIterator:
    """Endless shuffled batches {name: [batch_size, ...]} of arrays {name: [N, ...]} with one common N.

    Each epoch is a fresh permutation that depends on (seed, epoch) alone, so a restored iterator continues
    exactly; the last N mod batch_size examples of a permutation are left out.
    Raises: ConfigError when the lengths differ or batch_size does not lie in 1..N.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ConfigError(f"arrays must share their first axis, found lengths {lengths}")
    n = next(iter(lengths.values()))
    if not 1 <= batch_size <= n:
        raise ConfigError(f"batch_size is {batch_size}, expected 1..{n} (the number of examples)")
    batches = grain.MapDataset.source(_Epochs(arrays, batch_size, n // batch_size, seed))
    # One reading thread: the batches are slices of arrays in memory, so more would only cost start-up.
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


class _Epochs:
    """Random access to batch i of an endless sequence of permutations; vectorised, unlike Grain's shuffle."""

    def __init__(self, arrays: Mapping[str, np.ndarray], batch_size: int, per_epoch: int, seed: int) -> None:
        self._arrays, self._batch_size, self._per_epoch, self._seed = arrays, batch_size, per_epoch, seed
        self._cached = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return np.iinfo(np.int64).max

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        epoch, position = divmod(index, self._per_epoch)
        cached, order = self._cached  # one tuple, so that a reader in another thread never sees half of it
        if cached != epoch:
            n = len(next(iter(self._arrays.values())))
            order = np.random.default_rng((self._seed, epoch)).permutation(n)
            self._cached = (epoch, order)
        rows = order[position * self._batch_size :][: self._batch_size]
        return {name: array[rows] for name, array in self._arrays.items()}
