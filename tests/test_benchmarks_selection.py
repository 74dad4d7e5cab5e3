"""What the benchmarks of selection compare is the same: dense solves, values, targets."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from gleanings.core.keys import root
from gleanings.selection.trap import Trap, trap_rows


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    yield importlib.import_module
    own = ("_selection_", "_peers", "_results", "_timing")
    for name in [name for name in sys.modules if name.startswith(own)]:
        del sys.modules[name]


def test_dense_solves_find_what_the_prefix_path_finds(load, monkeypatch):
    """The last hundred rows stand in for none; with ten times the ridge the two differ."""
    trap, rows = load("_selection_trap"), trap_rows(Trap(0.5), 500, 400, 0.5, root(3))
    found = trap.agreement(rows)
    assert found["relative_difference"] < 1e-4
    assert found["same_choices"]
    dense = trap.dense_trial
    monkeypatch.setattr(trap, "dense_trial", lambda rows, dims, ridge, actions: dense(rows, dims, 10 * ridge, actions))
    assert trap.agreement(rows)["relative_difference"] > 1e-3


def test_values_by_hand(load):
    ope = load("_selection_ope")
    log = ope.random_log(300)
    reward, action, propensity, policy, model = log.values()
    rho = policy[np.arange(300), action] / propensity
    dm, error = (policy * model).sum(1), reward - model[np.arange(300), action]
    expected = {
        "IPS": (rho * reward).mean(),
        "IPS, clipped": (rho.clip(max=5) * reward).mean(),
        "SNIPS": (rho * reward).sum() / rho.sum(),
        "DM": dm.mean(),
        "DR": (dm + rho * error).mean(),
        "SNDR": dm.mean() + (rho * error).sum() / rho.sum(),
        "SwitchDR": (dm + rho * (rho <= 5) * error).mean(),
        "DRos": (dm + 5 * rho / (rho**2 + 5) * error).mean(),
    }
    found = {name: estimate.value for name, estimate in ope.our_values(log).items()}
    assert found == pytest.approx(expected, abs=1e-12)


def test_targets_without_measurements_are_open(load):
    assert [row[3] for row in load("_selection_table").table_targets([])] == [None, None]
    assert {row[3] for row in load("_selection_ope").ope_targets([{"case": "all", "unmeasured": "no"}])} == {None}
    assert {row[3] for row in load("_selection_trap").trap_targets([], [])} == {None}
