"""Keys are a pure function of (seed, name, step)."""

import zlib

import jax
import numpy as np
import pytest

from gleanings.core import keys


def _data(key):
    return np.asarray(jax.random.key_data(key)).tolist()


def test_stream_is_the_stated_formula():
    expected = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), zlib.crc32(b"draw")), 3)
    assert _data(keys.stream(7, "draw", 3)) == _data(expected)


def test_streams_names_and_steps_differ():
    grid = [(seed, name, step) for seed in (0, 1) for name in ("draw", "update", "") for step in (0, 1, 2)]
    assert len({tuple(_data(keys.stream(*point))) for point in grid}) == len(grid)


@pytest.mark.parametrize("step", [0, 5, 2**31 - 1])
def test_traced_seed_and_step_give_the_same_key(step):
    traced = jax.jit(lambda seed, step: keys.stream(seed, "draw", step))(jax.numpy.int32(9), step)
    assert _data(traced) == _data(keys.stream(9, "draw", step))
