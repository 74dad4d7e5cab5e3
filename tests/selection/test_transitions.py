"""Logs of processes: what a time limit means for a value, and that an episode is never split."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gleanings.selection import BanditLog, Identity, Transitions, fit_candidates, fqi, prefix_linear
from gleanings.selection.bandit_rules import fold_of

DISCOUNT = 0.875  # exact in float32


def chain(cut_is_the_end: bool) -> Transitions:
    """Two states; action 1 moves to the other one, 0 stays; the second pays 1 a step. A time limit cuts every fourth.

    Every state and action occurs equally often, cut or not. V* = 7, 8.
    """
    state, action, cut = (np.tile(v.ravel(), 20) for v in np.meshgrid([0, 1], [0, 1], [0, 0, 0, 1], indexing="ij"))
    later = np.where(action == 1, 1 - state, state)
    ends = (cut == 1) & cut_is_the_end
    actions = action.astype(np.int32)
    return Transitions(state[:, None] * 1.0, actions, state * 1.0, later[:, None] * 1.0, ends, 2, discount=DISCOUNT)


def by_any_base_learner(data: Transitions) -> np.ndarray:
    """Q at both states, in float64."""
    with jax.enable_x64(True):
        q = fqi(prefix_linear(Identity(), (2,), 1e-12)[0], data, jax.random.key(0), sweeps=200)[0]
        return np.asarray(q(np.array([[0.0], [1.0]])))


def all_at_once(data: Transitions) -> np.ndarray:
    """The same in float32, and with 100 sweeps, which leave 8 x 0.875^100 = 1e-5."""
    q = fit_candidates(prefix_linear(Identity(), (1, 2), 1e-9), None, data, sweeps=100).fits(1)[0]
    return np.asarray(q(np.array([[0.0], [1.0]], np.float32)))


@pytest.mark.parametrize(("path", "tolerance"), [(by_any_base_learner, 1e-6), (all_at_once, 1e-4)])
def test_a_time_limit_is_not_an_end(path, tolerance):
    """Q is that of the endless chain; with the limit taken for an end it is off by more than 0.5."""
    truth = np.array([[DISCOUNT * 7, DISCOUNT * 8], [1 + DISCOUNT * 8, 1 + DISCOUNT * 7]])
    assert np.abs(path(chain(False)) - truth).max() < tolerance
    assert np.abs(path(chain(True)) - truth).min() > 0.5


@given(
    lengths=st.lists(st.integers(1, 12), min_size=3, max_size=40),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=50, deadline=None)
def test_an_episode_that_stands_there_twice_is_on_one_side(lengths, share, seed):
    """Each episode is copied under its own id, far from the first; the share is that of the episodes."""
    once = np.repeat(np.arange(len(lengths)), lengths)
    ids = 7 * np.concatenate([once, once])
    n = len(ids)
    rows = (np.zeros((n, 1)), np.arange(n) % 2, np.zeros(n), np.zeros((n, 1)), np.zeros(n, bool), 2)
    split = Transitions(*rows, discount=0.9, group=ids).split(share, seed)
    assert (split.train ^ split.valid).all()
    assert not set(ids[split.train]) & set(ids[split.valid])
    assert len(set(ids[split.valid])) == max(1, round(share * len(lengths)))
    log = BanditLog(rows[0], rows[1], rows[2], None, ("a", "b"), group=ids)
    folds = fold_of(log, 5, seed)
    assert all(len(set(folds[ids == name])) == 1 for name in set(ids))


def test_rows_without_episodes_are_split_alike_at_every_stage():
    """And would tear the copies apart, so that the property above is not one of every split."""
    ids = np.tile(np.arange(100), 4)
    rows = (np.zeros((400, 1)), np.arange(400) % 2, np.zeros(400), np.zeros((400, 1)), np.zeros(400, bool), 2)
    split = Transitions(*rows, stage=np.arange(400) // 200).split(0.2, 0)
    assert [int(split.valid[half].sum()) for half in (slice(200), slice(200, 400))] == [40, 40]
    assert set(ids[split.train]) & set(ids[split.valid])
