"""Batches through Grain: what comes out, and that a restored iterator continues exactly."""

import json

import numpy as np
import pytest

from gleanings.core.errors import ConfigError
from gleanings.data.source import source


def rows(seed: int = 0, n: int = 10, batch_size: int = 3):
    index = np.arange(n)
    return source({"index": index, "square": index[:, None] ** 2}, batch_size, seed)


def test_an_epoch_visits_examples_once_and_the_next_differs():
    batches = rows()
    epochs = [[next(batches) for _ in range(3)] for _ in range(2)]
    for epoch in epochs:
        seen = np.concatenate([batch["index"] for batch in epoch])
        assert len(set(seen)) == 9
        for batch in epoch:
            np.testing.assert_array_equal(batch["square"][:, 0], batch["index"] ** 2)
    first, second = (np.concatenate([batch["index"] for batch in epoch]) for epoch in epochs)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("taken", [0, 1, 3, 7])
def test_a_restored_iterator_equals_an_uninterrupted_one(taken: int):
    whole = rows()
    for _ in range(taken):
        next(whole)
    state = json.loads(json.dumps(whole.get_state()))
    restored = rows()
    next(restored)
    restored.set_state(state)
    for _ in range(8):
        np.testing.assert_array_equal(next(whole)["index"], next(restored)["index"])


def test_the_order_is_a_function_of_the_seed():
    first, same, other = (np.concatenate([next(it)["index"] for it in [rows(s)] * 3]) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_impossible_batches_are_refused():
    with pytest.raises(ConfigError, match=r"batch_size is 11, expected 1\.\.10"):
        rows(batch_size=11)
    with pytest.raises(ConfigError, match="share their first axis"):
        source({"a": np.zeros(2), "b": np.zeros(3)}, 1)
