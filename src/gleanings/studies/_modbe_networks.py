"""Networks in the study modbe: CartPole, and a problem that every class can solve, with and without widened starts."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gleanings.core.keys import root, stream
from gleanings.selection import (
    FQE,
    HoldOutTD,
    LargestClass,
    MeanMaxQ,
    ModBE,
    ModBEConfig,
    RegressedBellman,
    Transitions,
    fit_candidates,
    fqi,
    mlp,
)
from gleanings.selection.candidates import Candidates
from gleanings.selection.cartpole import DISCOUNT, MAX_STEPS, cartpole_log, failed, observation, start, step
from gleanings.selection.classes import AnyArray, FunctionClass, Q

WIDTHS = (2, 8, 32, 128)
NETWORK_RULES = ("modbe", "modbe-fresh", "hold-out", "regressed", "fqe", "mean-max", "largest")
STARTS = ("widened", "fresh")
_SWEEPS, _FQE_SWEEPS, _SWEEP_STEPS, _STEPS, _ROWS = 80, 40, 50, 1000, 4000
_COMPLETE_WIDTHS, _COMPLETE_SWEEPS, _COMPLETE_ROWS, _COMPLETE_DISCOUNT, _COLUMNS = (2, 8, 32), 40, 1000, 0.9, 4
_EPISODES, _FAR = 32, 2.0
_MODBE = ModBE(ModBEConfig("paired_t", z=1.645))


class Fresh(FunctionClass):
    """The same class, whose regressions never start from another fit."""

    inner: FunctionClass

    @property
    def name(self) -> str:
        """That of the class."""
        return self.inner.name

    def n_params(self, num_actions: int) -> int | None:
        """Those of the class."""
        return self.inner.n_params(num_actions)

    def regress(self, observation: AnyArray, action: AnyArray, target: AnyArray, *, num_actions: int, key: Array) -> Q:
        """As the class."""
        return self.inner.regress(observation, action, target, num_actions=num_actions, key=key)


def network_trials(seeds: Sequence[int], rows: int = _ROWS, widths: Sequence[int] = WIDTHS) -> dict[str, Any]:
    """Both problems, one entry a seed everywhere: `cartpole` has steps survived by rule and by class, and tests by
    start; `complete` has tests by start."""
    found = [{"cartpole": _cartpole(seed, rows, widths), "complete": _complete(seed)} for seed in seeds]
    return merge(jax.tree.map(lambda x: [x], one) for one in found)


def merge(parts: Any) -> dict[str, Any]:
    """The same with the entries of all parts, in their order."""
    return jax.tree.map(lambda *lists: list(chain(*lists)), *parts, is_leaf=lambda x: isinstance(x, list))


def _cartpole(seed: int, rows: int, widths: Sequence[int]) -> dict[str, Any]:
    log = cartpole_log(rows, stream(seed, "networks-log"))
    data = Transitions(
        np.asarray(observation(log.state)),
        np.asarray(log.action),
        1 - np.asarray(log.failed, np.float32),
        np.asarray(observation(log.next_state)),
        np.asarray(log.failed),
        2,
        discount=DISCOUNT,
    )
    widened, fresh = _candidates(mlp(widths, _STEPS, _SWEEP_STEPS), data, seed, _SWEEPS)
    chosen = {
        "modbe": _MODBE.select(widened).index,
        "modbe-fresh": _MODBE.select(fresh).index,
        "hold-out": HoldOutTD().select(widened).index,
        "regressed": RegressedBellman().select(widened).index,
        "fqe": FQE(_FQE_SWEEPS).select(widened).index,
        "mean-max": MeanMaxQ().select(widened).index,
        "largest": LargestClass().select(widened).index,
    }
    steps = [float(_play(widened.fits(k)[0], stream(seed, "networks-play"))) for k in range(len(widths))]
    by_class = {c.name: steps[k] for k, c in enumerate(widened.classes)}
    by_rule = {rule: steps[index or 0] for rule, index in chosen.items()}
    return {
        "steps": by_rule | by_class | {"best": max(steps)},
        "tests": dict(zip(STARTS, map(_tests, (widened, fresh)), strict=True)),
    }


def _complete(seed: int) -> dict[str, Any]:
    """Reward linear in the state, the next state independent of everything: no rejection is right."""
    keys = jax.random.split(stream(seed, "networks-complete"), 4)
    x, following = jax.random.normal(keys[0], (2, _COMPLETE_ROWS, _COLUMNS))
    action = jax.random.randint(keys[1], (_COMPLETE_ROWS,), 0, 2)
    reward = (2 * action - 1) * x[:, 0] + 0.5 * jax.random.normal(keys[2], (_COMPLETE_ROWS,))
    arrays = (np.asarray(a) for a in (x, action, reward, following))
    never = np.zeros(_COMPLETE_ROWS, bool)
    data = Transitions(*arrays, terminal=never, num_actions=2, discount=_COMPLETE_DISCOUNT)
    both = _candidates(mlp(_COMPLETE_WIDTHS, _STEPS, _SWEEP_STEPS), data, seed, _COMPLETE_SWEEPS)
    return {"tests": dict(zip(STARTS, map(_tests, both), strict=True))}


def _candidates(
    classes: Sequence[FunctionClass], data: Transitions, seed: int, sweeps: int
) -> tuple[Candidates, Candidates]:
    """Candidates whose larger classes start from the smaller fit, and the same fits with fresh starts."""
    fit: Callable = partial(fqi, sweeps=sweeps)
    widened = fit_candidates(classes, fit, data, seed=seed, key=root(seed))
    place = {c.name: k for k, c in enumerate(classes)}
    again = [Fresh(c) for c in classes]
    fresh = fit_candidates(again, lambda c, d, key: widened.fits(place[c.name]), data, seed=seed, key=root(seed))
    return widened, fresh


def _tests(candidates: Candidates) -> dict[str, Any]:
    """ModBE's choice; its alarm; of all comparisons the share whose larger class is worse by two se, and the worst."""
    chosen, found = _MODBE.select(candidates), candidates.comparisons()
    upper = np.triu_indices(len(candidates.classes), 1)
    gain = (np.asarray(found.small)[0][:, None] - np.asarray(found.large)[0])[upper]
    worse = gain < -_FAR * np.asarray(found.se)[0][upper]
    noise = any(alarm.name == "optimisation noise" for alarm in chosen.alarms)
    return {"choice": chosen.index, "noise": noise, "worse": float(worse.mean()), "least": float(gain.min())}


@eqx.filter_jit
def _play(q: Q, key: Array) -> Array:
    """Mean number of steps, at most 200, that the greedy policy survives."""

    def one(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], Array]:
        state, alive = carry
        state = step(state, jnp.asarray(q(observation(state))).argmax(-1), key)
        alive = alive & ~failed(state)
        return (state, alive), alive

    first, rest = jax.random.split(key)
    begin = (start((_EPISODES,), first), jnp.ones(_EPISODES, bool))
    return jax.lax.scan(one, begin, jax.random.split(rest, MAX_STEPS))[1].sum(0).mean()
