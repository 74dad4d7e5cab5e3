"""Fitted Q iteration and evaluation in any function class: backwards over stages, or in sweeps with a discount."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from gleanings.core.errors import ConfigError, NumericsError
from gleanings.selection.classes import AnyArray, FunctionClass, Q
from gleanings.selection.log import Transitions

Policy = Callable[[AnyArray], AnyArray]
NextValue = Callable[[Q, np.ndarray, int], np.ndarray]


def fqi(
    model_class: FunctionClass,
    data: Transitions,
    key: Array,
    *,
    sweeps: int | None = None,
    value_range: tuple[float, float] | None = None,
) -> list[Q]:
    """Fitted Q iteration: one q a stage, or a single one after `sweeps` regressions of a discounted process,
    by default as many as `default_sweeps`.

    Targets are clipped to `value_range`, by default to what the rewards of a discounted process make possible.
    ConfigError: the class returns something else than [B, A]. NumericsError: values that are not finite.
    """

    def best(q: Q, x: np.ndarray, stage: int) -> np.ndarray:
        return values_of(q, x, data.num_actions).max(-1)

    return _iterate(model_class, data, key, sweeps, value_range, best)


def fqe(
    model_class: FunctionClass,
    data: Transitions,
    policy: Sequence[Policy],
    key: Array,
    *,
    sweeps: int | None = None,
    value_range: tuple[float, float] | None = None,
) -> list[Q]:
    """Fitted Q evaluation of a deterministic policy, one function x [B, D] -> action [B] a stage; else as `fqi`."""

    def played(q: Q, x: np.ndarray, stage: int) -> np.ndarray:
        action = np.asarray(policy[stage](x))
        return np.take_along_axis(values_of(q, x, data.num_actions), action[:, None], -1)[:, 0]

    return _iterate(model_class, data, key, sweeps, value_range, played)


def backup(
    data: Transitions,
    rows: Int[np.ndarray, " n"],
    later: Q | None,
    next_value: NextValue,
    stage: int,
    value_range: tuple[float, float] | None,
) -> Float[np.ndarray, " n"]:
    """r + continues * next_value at some rows of a stage; r alone where nothing is later."""
    y = data.reward[rows]
    if later is not None:
        y = y + data.continues[rows] * next_value(later, data.next_observation[rows], stage)
    return y if value_range is None else np.clip(y, *value_range)


def values_of(q: Q, observation: Float[np.ndarray, "B D"], num_actions: int) -> Float[np.ndarray, "B A"]:
    """q at observations, checked. ConfigError: not [B, A]. NumericsError: not finite."""
    values = np.asarray(q(observation))
    expected = (len(observation), num_actions)
    if values.shape != expected:
        raise ConfigError(f"a fit returned values of shape {values.shape}; expected [B, A] = {expected}")
    if not np.isfinite(values).all():
        raise NumericsError("a fit returned values that are not finite")
    return values


def possible_values(data: Transitions) -> tuple[float, float] | None:
    """Smallest and largest discounted sum that the logged rewards make possible; None for a staged process."""
    if data.stage is not None:
        return None
    low, high = min(0.0, float(data.reward.min())), max(0.0, float(data.reward.max()))
    return low / (1 - data.discount), high / (1 - data.discount)


def default_sweeps(discount: float) -> int:
    """Sweeps after which a discounted process has 99 % of its value: discount^sweeps <= 0.01, at most 1000."""
    return 1 if not 0.01 < discount < 1 else min(math.ceil(math.log(0.01) / math.log(discount)), 1000)


def _iterate(
    model_class: FunctionClass,
    data: Transitions,
    key: Array,
    sweeps: int | None,
    value_range: tuple[float, float] | None,
    next_value: NextValue,
) -> list[Q]:
    bounds = value_range or possible_values(data)
    staged = data.stage is not None
    later: Q | None = None
    fits: list[Q] = []
    for step in range(data.num_stages if staged else sweeps or default_sweeps(data.discount)):
        stage = data.num_stages - 1 - step if staged else 0
        rows = data.at(stage)
        y = backup(data, rows, later, next_value, stage + 1 if staged else 0, bounds)
        observation, action = data.observation[rows], data.action[rows]
        key, own = jax.random.split(key)
        # A class that can go on from the last sweep does so; stages have targets of their own.
        warm = None if staged or later is None else getattr(model_class, "sweep_from", None)
        regress = model_class.regress if warm is None else partial(warm, later)
        fitted = regress(observation, action, y, num_actions=data.num_actions, key=own)
        fits.append(fitted)
        later = fitted
    return fits[::-1] if staged else fits[-1:]
