"""The variance trap of study modbe: its whole grid, one seed alone, and dense solves of every class beside both."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _results import Row
from _selection_dense import dense_trial
from _timing import interleave, summary, timer

from gleanings.core.keys import root
from gleanings.selection.modbe import ModBEConfig, choose_by_hold_out, choose_by_modbe
from gleanings.selection.prefix import (
    Comparisons,
    Rows,
    compare,
    factors,
    leading,
    optimistic_values,
    staged_fits,
    staged_values,
)
from gleanings.selection.trap import Trap, trap_rows
from gleanings.studies._modbe_trials import DIMS, RIDGE, Cell, trials

FIRST_SEED, ACTIONS = 1000, 2
LIMIT = "the Gram matrices alone"


def measure_trap(quick: bool, report: Callable[[Row], None]) -> None:
    """The grid of the study's size full with compilation; then each cell compiled, beside dense solves of one seed.

    Both sides generate their data.
    """
    shares, sizes = ((0.2, 1.0), (500, 4000)) if quick else ((0.2, 0.5, 0.8, 0.9, 1.0), (250, 500, 1000, 2000, 4000))
    cells = [Cell(f"q{q:g}-n{n}", n, Trap(q)) for q in shares for n in sizes]
    seeds = range(FIRST_SEED, FIRST_SEED + (4 if quick else 60))
    jax.clear_caches()
    cold, found = _clocked(lambda: trials(cells, seeds))
    ours_s, dense_s, differing = 0.0, 0.0, []
    for cell in cells:
        ours_s += _clocked(lambda cell=cell: trials([cell], seeds))[0]["wall_s"] / len(seeds)
        _generated(cell.n, cell.trap.q)  # compiles
        clock, dense = _clocked(lambda c=cell: dense_trial(_generated(c.n, c.trap.q), DIMS, RIDGE, ACTIONS))
        dense_s += clock["wall_s"]
        # Rows that stand in for none change the draws, so only cells without them are the same data.
        if cell.n in (1000, 4000):
            choice = found[cell.name]["choice"]
            differing += [f"{cell.name} {rule}" for rule in choice if choice[rule][0] != dense.choice[rule]]
    report(
        {
            "cells": len(cells),
            "seeds": len(seeds),
            "with_compilation": cold,
            "ours_ms_a_seed": round(1e3 * ours_s / len(cells), 2),
            "dense_ms_a_seed": round(1e3 * dense_s / len(cells), 2),
            "times_faster": round(dense_s / ours_s, 2),
            "choices_that_differ": differing,
        }
    )


@functools.partial(jax.jit, static_argnums=0)
def _rows(n: int, q: float) -> Rows:
    return trap_rows(Trap(), n, n, q, root(FIRST_SEED))


def _generated(n: int, q: float) -> Rows:
    return jax.tree.map(np.asarray, _rows(n, q))


def measure_one_seed(quick: bool, repeats: int, report: Callable[[Row], None]) -> None:
    """One seed with and without its data, the Gram matrices alone, and dense solves, at several n."""
    for n in (1000, 4000) if quick else (1000, 2000, 4000, 8000, 16000):
        for row in _one_seed(n, repeats):
            report({"n": n, **row})


def analyse(rows: Rows) -> tuple[Comparisons, jax.Array]:
    """All that the study makes of a seed: fits, comparisons, and the choices of the rules."""
    masks = leading(DIMS)
    factor = factors(rows, ACTIONS, RIDGE)
    fits = staged_fits(factor, rows, masks)
    found = compare(factor, rows, fits, masks)
    n_params = ACTIONS * jnp.asarray(DIMS, jnp.float32)
    chosen = [
        choose_by_modbe(found, n_params, ModBEConfig()).chosen,
        choose_by_hold_out(found),
        staged_values(factor, rows, fits.weights).argmax(),
        optimistic_values(rows, fits.weights).argmax(),
    ]
    return found, jnp.stack(chosen)


def _one_seed(n: int, repeats: int) -> Iterator[Row]:
    trap = Trap(0.5)

    def make(key: jax.Array) -> Rows:
        return trap_rows(trap, n, n, trap.q, key)

    rows, key = jax.jit(make)(root(FIRST_SEED)), root(FIRST_SEED)
    host = jax.tree.map(np.asarray, rows)
    whole, alone = jax.jit(lambda key: analyse(make(key))), jax.jit(analyse)
    grams = jax.jit(lambda x: [jnp.dot(stage.T, stage) for stage in x])
    timers = {
        "with data generation": timer(lambda: whole(key)),
        "without": timer(lambda: alone(rows)),
        LIMIT: timer(lambda: grams(rows.features)),
        "dense solves": timer(lambda: dense_trial(host, DIMS, RIDGE, ACTIONS)),
    }
    times = {name: summary(own) for name, own in interleave(timers, repeats, limit_s=20.0).items()}
    limit = times[LIMIT]["cpu_median_ms"]
    for name, own in times.items():
        yield {"case": name, **own, "cpu_over_limit": round(own["cpu_median_ms"] / limit, 2)}
    yield {"case": "agreement with dense solves", **agreement(rows)}


def agreement(rows: Rows) -> Row:
    """Largest difference of any validation error from that of dense solves in double precision, and of the choices."""
    found, chosen = jax.jit(analyse)(rows)
    double = Rows(*(np.asarray(x, None if x.dtype == jnp.int32 else np.float64) for x in rows))
    dense = dense_trial(double, DIMS, RIDGE, ACTIONS)
    larger = ~np.isnan(dense.large)
    differences = [np.abs(found.small / dense.small - 1).max(), np.abs(found.large / dense.large - 1)[larger].max()]
    same = [int(chosen[i]) == dense.choice[rule] for i, rule in enumerate(("modbe", "hold-out", "fqe"))]
    return {"relative_difference": float(max(differences)), "same_choices": all(same)}


def trap_targets(trap: list[Row], one_seed: list[Row]) -> Iterator[tuple[str, str, float, float | None]]:
    """What, direction, limit, and what was measured."""
    for row in trap:
        yield "trap grid with compilation, wall s", "<=", 60.0, row["with_compilation"]["wall_s"]
        yield "trap, a seed against dense solves, times faster", ">=", 10.0, row["times_faster"]
        yield "trap, choices that differ from dense solves", "<=", 0.0, float(len(row["choices_that_differ"]))
    by_case = {(row["n"], row["case"]): row for row in one_seed}
    whole, alone, later = (by_case.get(key, {}) for key in ((4000, "with data generation"), *_LONGER))
    yield "one seed, n=4000, with data generation, CPU ms", "<=", 50.0, whole.get("cpu_median_ms")
    yield f"one seed, n=4000, without, CPU time over {LIMIT}", "<=", 3.0, alone.get("cpu_over_limit")
    linear = later["cpu_median_ms"] / alone["cpu_median_ms"] if later and alone else None
    yield "one seed without data generation, CPU time at n=16000 over n=4000", "<=", 4.4, linear and round(linear, 2)
    dense = by_case.get((4000, "dense solves"), {})
    faster = round(dense["cpu_median_ms"] / alone["cpu_median_ms"], 2) if dense and alone else None
    yield "one seed, n=4000, without data generation, against dense solves, times faster in CPU", ">=", 10.0, faster
    worst = [row["relative_difference"] for row in one_seed if "relative_difference" in row]
    yield "one seed, validation errors against dense solves, relative difference", "<=", 1e-3, max(worst, default=None)


_LONGER = ((4000, "without"), (16000, "without"))


def _clocked(call: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    clock = {"wall_s": round(time.perf_counter() - wall, 3), "cpu_s": round(time.process_time() - cpu, 3)}
    return clock, result
