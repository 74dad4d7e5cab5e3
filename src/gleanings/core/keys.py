"""Random keys that are a pure function of (seed, stream name, step), so nothing random is stored."""

import zlib

import jax
from jaxtyping import Array, Int, Key


def root(seed: int | Int[Array, ""]) -> Key[Array, ""]:
    """Typed root key of `seed`. Source: ours."""
    return jax.random.key(seed)


def stream(seed: int | Int[Array, ""], name: str, step: int | Int[Array, ""] = 0) -> Key[Array, ""]:
    """Key of `step` in the stream called `name`: fold_in(fold_in(root(seed), crc32(name)), step).

    `step` may be traced. Streams of different names, and steps within one, are independent. Source: ours.
    """
    return jax.random.fold_in(jax.random.fold_in(root(seed), zlib.crc32(name.encode())), step)
