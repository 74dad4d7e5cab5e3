"""Problems whose right answer is known, as logs: what the studies and the tests of this room run on."""

import functools
from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Array

from gleanings.core.keys import root
from gleanings.selection.log import Transitions
from gleanings.selection.prefix import Rows
from gleanings.selection.trap import DEFAULT, Trap, trap_rows


def variance_trap(n: int, trap: Trap = DEFAULT, *, key: Array | None = None) -> Transitions:
    """`n` rows a stage of the variance trap; see `trap`. Its features are the observation itself."""
    # q is an argument, so that it compiles nothing anew.
    rows = _drawn(replace(trap, q=0.0), n, trap.q, root(0) if key is None else key)
    shape = np.shape(rows.reward)
    stage = np.broadcast_to(np.arange(shape[0], dtype=np.int32)[:, None], shape).reshape(-1)
    columns = trap.columns
    return Transitions(
        observation=np.asarray(rows.features).reshape(-1, columns)[:, 1:],
        action=np.asarray(rows.action).reshape(-1),
        reward=np.asarray(rows.reward).reshape(-1),
        next_observation=np.asarray(rows.next_features).reshape(-1, columns)[:, 1:],
        terminal=np.zeros(stage.size, bool),
        num_actions=2,
        stage=stage,
    )


@functools.partial(jax.jit, static_argnames=("trap", "n"))
def _drawn(trap: Trap, n: int, q: float | Array, key: Array) -> Rows:
    return trap_rows(trap, n, n, q, key)
