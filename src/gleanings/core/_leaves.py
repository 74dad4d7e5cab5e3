"""The arrays of a state apart from the rest (functions, static fields), each with its path as a name."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_ARRAYS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)


class Leaves(NamedTuple):
    """`names[i]` is the path of `arrays[i]`; `join(arrays)` puts new arrays into the tree they came from."""

    names: tuple[str, ...]
    arrays: list[Any]
    join: Callable[[Sequence[Any]], Any]
    structure: Any


def split(tree: Any) -> Leaves:
    """Array leaves of `tree`. Python numbers count as arrays; all other leaves stay with `join`."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    places = [i for i, (_, leaf) in enumerate(paths) if isinstance(leaf, _ARRAYS)]
    names = tuple(jax.tree_util.keystr(paths[i][0], simple=True, separator="/") or "state" for i in places)

    arrays = [paths[i][1] for i in places]
    rest = [None if isinstance(leaf, _ARRAYS) else leaf for _, leaf in paths]  # keeps no array alive

    def join(arrays: Sequence[Any]) -> Any:
        leaves = list(rest)
        for i, array in zip(places, arrays, strict=True):
            leaves[i] = array
        return jax.tree_util.tree_unflatten(structure, leaves)

    return Leaves(names, arrays, join, structure)


def is_key(leaf: Any) -> bool:
    """Whether `leaf` is an array of typed random keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
