"""Trials of the study modbe: all rules on the same logs of a variance trap, many seeds at once."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gleanings.core.keys import root
from gleanings.selection.cartpole import DISCOUNT, cartpole_log, cartpole_returns, cartpole_rows
from gleanings.selection.modbe import ModBEConfig, choose_by_hold_out, choose_by_modbe
from gleanings.selection.prefix import (
    Comparisons,
    Fits,
    Rows,
    compare,
    discounted_fits,
    discounted_values,
    factors,
    leading,
    optimistic_values,
    staged_fits,
    staged_values,
)
from gleanings.selection.trap import Trap, trap_bellman_error, trap_regret, trap_rows

DIMS = (1, 3, 6, 12, 24, 48, 96)
RIDGE = 1e-3
ACTIONS = 2
RULES = ("modbe", "modbe-paired", "modbe-zero", "hold-out", "fqe", "mean-max", "largest", "smallest", "best")
CARTPOLE_DIMS = (1, 3, 5, 15, 45, 135, 405)
CARTPOLE_RULES = ("modbe", "modbe-guarded", "hold-out", "fqe", "largest", "best")
_CARTPOLE_RIDGE, _SWEEPS, _EPISODES = 1e-4, 60, 32
_BUCKETS = (1000, 4000)  # rows are padded to these, so that a study compiles twice


@dataclass(frozen=True)
class Cell:
    """One cell of the study: a problem, rows a stage, classes."""

    name: str
    n: int
    trap: Trap = field(default_factory=Trap)
    dims: tuple[int, ...] = DIMS


def trials(cells: Iterable[Cell], seeds: range) -> dict[str, dict[str, Any]]:
    """By cell: of every rule's choice the regret [seeds] and the mean Bellman error, summed over stages; ModBE's and
    hold-out's choices, and whether ModBE's is certified; mean delta / zeta.
    """
    found = {}
    for cell in cells:
        size = next(b for b in _BUCKETS if cell.n <= b)
        keys = jax.vmap(root)(jnp.asarray(seeds))
        shape = Trap(0.0, cell.trap.stages, cell.trap.columns, cell.trap.nuisance, cell.trap.signals, cell.trap.noise)
        result = _run(shape, cell.dims, size, jnp.float32(cell.n), jnp.float32(cell.trap.q), keys)
        regret, choices, ratio, bellman, certified = (np.asarray(x) for x in result)
        found[cell.name] = {
            "regret": {rule: regret[:, i].tolist() for i, rule in enumerate(RULES)},
            "choice": {rule: choices[:, RULES.index(rule)].tolist() for rule in ("modbe", "hold-out")},
            "ratio": ratio.mean(0).tolist(),
            "certified": certified.tolist(),
            "bellman": dict(zip(RULES, bellman.mean(0).tolist(), strict=True)),
        }
    return found


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(trap: Trap, dims: tuple[int, ...], size: int, n: Array, q: Array, keys: Array) -> tuple[Array, ...]:
    # Seeds one after the other: under vmap the same products take half as long again.
    return jax.lax.map(functools.partial(_trial, trap, dims, size, n, q), keys)


class Compared(NamedTuple):
    """A log of the trap, and its classes fitted and compared."""

    rows: Rows
    factor: Array
    fits: Fits
    found: Comparisons


def compared(trap: Trap, dims: tuple[int, ...], size: int, n: Array, q: Array | float, key: Array) -> Compared:
    """Classes of the leading `dims` columns, on `n` rows a stage padded to `size`."""
    rows, masks = trap_rows(trap, size, n, q, key), leading(dims)
    rows = rows._replace(features=rows.features[..., : dims[-1]], next_features=rows.next_features[..., : dims[-1]])
    factor = factors(rows, ACTIONS, RIDGE)
    fits = staged_fits(factor, rows, masks)
    return Compared(rows, factor, fits, compare(factor, rows, fits, masks))


def _trial(trap: Trap, dims: tuple[int, ...], size: int, n: Array, q: Array, key: Array) -> tuple[Array, ...]:
    """Of each rule's choice regret, class and Bellman error; the largest delta / zeta over stages of each comparison;
    whether ModBE's choice is certified.
    """
    rows, factor, fits, found = compared(trap, dims, size, n, q, key)
    n_params = ACTIONS * jnp.asarray(dims, jnp.float32)
    padded = jnp.pad(fits.weights, [(0, 0)] * 3 + [(0, trap.columns - dims[-1])])
    weights = jnp.moveaxis(padded, 0, 1)
    regret, bellman = trap_regret(trap, weights), trap_bellman_error(trap, weights, q).sum(-1)
    choice = choose_by_modbe(found, n_params, ModBEConfig())
    chosen = {
        "modbe": choice.chosen,
        "modbe-paired": choose_by_modbe(found, n_params, ModBEConfig("paired_t")).chosen,
        "modbe-zero": choose_by_modbe(found, n_params, ModBEConfig("none")).chosen,
        "hold-out": choose_by_hold_out(found),
        "fqe": staged_values(factor, rows, fits.weights).argmax(),
        "mean-max": optimistic_values(rows, fits.weights).argmax(),
        "largest": jnp.asarray(len(dims) - 1),
        "smallest": jnp.asarray(0),
        "best": regret.argmin(),
    }
    index = jnp.stack([chosen[rule] for rule in RULES])
    zeta = jnp.where(choice.tolerance > 0, choice.tolerance, 1)
    return regret[index], index, ((choice.excess + choice.tolerance) / zeta).max(0), bellman[index], choice.certified


def cartpole_trials(n: int, seeds: range) -> dict[str, Any]:
    """Mean steps survived by every rule's choice [seeds]; whether ModBE's test was blind, and its choice certified;
    failures in the log.
    """
    results = [[np.asarray(x) for x in _cartpole_trial(n, root(seed))] for seed in seeds]
    steps, *facts = (np.stack(x) for x in zip(*results, strict=True))
    by_rule = {rule: steps[:, i].tolist() for i, rule in enumerate(CARTPOLE_RULES)}
    names = ("blind", "certified", "failures")
    return {"steps": by_rule} | {name: fact.tolist() for name, fact in zip(names, facts, strict=True)}


@functools.partial(jax.jit, static_argnums=0)
def _cartpole_trial(n: int, key: Array) -> tuple[Array, ...]:
    log_key, split_key, play_key = jax.random.split(key, 3)
    log, masks, possible = cartpole_log(n, log_key), leading(CARTPOLE_DIMS), (0.0, 1 / (1 - DISCOUNT))
    rows = cartpole_rows(log, split_key)
    factor = factors(rows, ACTIONS, _CARTPOLE_RIDGE)
    fits = discounted_fits(factor, rows, masks, _SWEEPS, possible)
    found = compare(factor, rows, fits, masks)
    steps = cartpole_returns(fits.weights[0], _EPISODES, play_key)
    n_params = ACTIONS * jnp.asarray(CARTPOLE_DIMS, jnp.float32)
    plain = choose_by_modbe(found, n_params, ModBEConfig())
    chosen = {
        "modbe": plain.chosen,
        "modbe-guarded": choose_by_modbe(found, n_params, ModBEConfig(on_blind="largest")).chosen,
        "hold-out": choose_by_hold_out(found),
        "fqe": discounted_values(factor, rows, fits.weights, _SWEEPS, possible).argmax(),
        "largest": jnp.asarray(len(CARTPOLE_DIMS) - 1),
        "best": steps.argmax(),
    }
    index = jnp.stack([chosen[rule] for rule in CARTPOLE_RULES])
    return steps[index], plain.blind, plain.certified, log.failed.sum()
