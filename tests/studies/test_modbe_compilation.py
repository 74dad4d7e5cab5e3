"""The study of ModBE compiles once a shape, for all q and seeds, and not for long."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from gleanings.core.keys import root
from gleanings.selection import Trap
from gleanings.studies import _modbe_trials
from gleanings.studies._modbe_trials import Cell, trials

_TIMED = """
import time, jax, jax.numpy as jnp
from gleanings.core.keys import root
from gleanings.selection.prefix import compare, factors, leading, staged_fits
from gleanings.selection.trap import Trap, trap_rows
from gleanings.studies._modbe_trials import DIMS, _run

def prefix(rows):
    factor, masks = factors(rows, 2, 1e-3), leading(DIMS)
    fits = staged_fits(factor, rows, masks)
    return compare(factor, rows, fits, masks)

rows, keys = trap_rows(Trap(0.5), 1000, 1000, 0.5, root(0)), jax.vmap(root)(jnp.arange(60))
path = {"prefix": (jax.jit(prefix), (rows,)), "study": (_run, (Trap(0.0), DIMS, 1000, 1000.0, 0.5, keys))}
function, arguments = path["PATH"]
begin = time.process_time()
function.lower(*arguments).compile()
print(time.process_time() - begin)
"""


def test_one_trace_serves_all_q_all_n_of_a_size_and_all_seeds(monkeypatch):
    """Traces run the Python of a trial; compiled code does not. The shape is one that no other test has."""
    traced = []
    inner = _modbe_trials.trap_rows
    monkeypatch.setattr(_modbe_trials, "trap_rows", lambda *given: traced.append(given[2:4]) or inner(*given))
    cells = [Cell(f"{q}-{n}", n, Trap(q, columns=13), (1, 3, 5)) for q in (0.2, 0.5, 1.0) for n in (250, 500, 1000)]
    trials(cells[:1], range(1000, 1004))
    once = len(traced)
    found = trials(cells[1:], range(2000, 2004))
    assert once > 0
    assert len(traced) == once
    assert len(found) == 8
    keys = jax.vmap(root)(jnp.arange(4))
    _modbe_trials._run.lower(Trap(0.0, columns=13), (1, 3, 5), 2000, jnp.float32(2000), jnp.float32(0.2), keys)
    assert len(traced) > once


# The study holds the prefix path, so that a slow one shows there too.
@pytest.mark.parametrize("path", ["study", pytest.param("prefix", marks=pytest.mark.slow)])
def test_one_shape_compiles_in_ten_cpu_seconds(path):
    """In a process of its own and without the cache on disk."""
    environment = os.environ | {
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", _TIMED.replace("PATH", path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert 0.05 < float(done.stdout) <= 10
