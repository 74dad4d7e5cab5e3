"""A choice on disk: it acts as before, and a damaged file is refused."""

import contextlib
import json

import numpy as np
import pytest

from gleanings.core.errors import ConfigError, DataError
from gleanings.selection import (
    Auto,
    BanditLog,
    ComplexityCoverage,
    Identity,
    Largest,
    Mlp,
    Transitions,
    fit_candidates,
    load_selection,
    modbe,
    parse_classes,
    pca,
    prefix_linear,
    select_policy,
)
from gleanings.selection.bandit_problems import mixing_bandit
from gleanings.selection.mdp_rules import LargestClass
from gleanings.selection.pessimistic import HeadLinear


def bandit_log(n: int = 300) -> BanditLog:
    rng = np.random.default_rng(0)
    x, arm = rng.normal(size=(n, 2)), rng.integers(0, 3, n)
    reward = x[:, 0] * np.array([1, -1, 0])[arm] + 0.3 * rng.normal(size=n)
    city = np.array(["rome", "oslo"])[rng.integers(0, 2, n)]
    table = {"arm": arm, "r": reward, "p": np.full(n, 1 / 3), "x0": x[:, 0], "x1": x[:, 1], "city": city}
    return BanditLog.from_table(table, action="arm", reward="r", propensity="p")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Auto(), ["constant", "linear:1,all"]),
        (ComplexityCoverage(), ["linear:1", "rff:8"]),
        (Largest(), ["linear:all", "mlp:4"]),
    ],
    ids=["greedy", "mixture", "pessimistic network"],
)
def test_a_bandit_choice_acts_as_before(rule, words, tmp_path):
    log = bandit_log()
    found = select_policy(log, parse_classes(words, log), rule)
    found.save(tmp_path / "chosen")
    again = load_selection(tmp_path / "chosen")
    assert (again.act(log.context) == found.act(log.context)).all()
    assert again.to_json() == found.to_json()
    assert str(again) == str(found)
    fresh = {"x0": [2.0, -2.0], "x1": [0.0, 0.0], "city": ["rome", "paris"]}
    assert (again.act(fresh) == found.act(fresh)).all()


def process() -> Transitions:
    """Two stages of 300 rows, as wide as the log above, so that their networks compile once."""
    rng = np.random.default_rng(1)
    x, later = rng.normal(size=(2, 600, 4)).astype(np.float32)
    action, stage = rng.integers(0, 3, 600).astype(np.int32), np.arange(600, dtype=np.int32) // 300
    reward = (x[:, 0] * np.array([1, -1, 0])[action] + 0.3 * rng.normal(size=600)).astype(np.float32)
    return Transitions(x, action, reward, later, np.zeros(600, bool), 3, stage=stage)


def test_choices_of_processes_and_principal_components(tmp_path):
    data = process()
    for number, classes in enumerate([prefix_linear(Identity(), (1, 2, 5)), [Mlp(4)]]):
        found = LargestClass().select(fit_candidates(classes, None, data))
        found.save(tmp_path / str(number))
        again = load_selection(tmp_path / str(number))
        for stage in range(2):
            assert (again.act(data.observation, stage) == found.act(data.observation, stage)).all()
    log = bandit_log()
    reduced = HeadLinear(2, pca(log.context, 2))
    found = select_policy(log, [reduced])
    found.save(tmp_path / "pca")
    assert (load_selection(tmp_path / "pca").act(log.context) == found.act(log.context)).all()


def test_python_functions_stay_in_python(tmp_path):
    problem = mixing_bandit(200, 0)
    found = select_policy(problem.log, problem.classes)
    with pytest.raises(ConfigError, match="a Python function, which a file cannot hold"):
        found.save(tmp_path / "no")
    assert not (tmp_path / "no").exists()
    with pytest.raises(ConfigError, match="made from arrays"):
        found.act({"x": [1.0]})


def test_damage_is_a_data_error(tmp_path):
    log = bandit_log()
    select_policy(log, parse_classes(["constant", "linear:all"], log)).save(tmp_path)
    decision, policy = tmp_path / "decision.json", tmp_path / "policy.npz"
    text, packed = decision.read_text(), policy.read_bytes()
    for wrong in ("{}", "[]", text[:100], json.dumps(json.loads(text) | {"certificate": 3})):
        decision.write_text(wrong)
        with pytest.raises(DataError, match="not a saved choice"):
            load_selection(tmp_path)
    decision.write_text(text)
    rng = np.random.default_rng(0)
    for _ in range(50):
        damaged = bytearray(packed)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        policy.write_bytes(damaged)
        with contextlib.suppress(DataError):
            load_selection(tmp_path)
    for structure in ({"type": "Trap"}, {"type": "LinearQ"}, {"array": "none"}, 3, [[[]]]):
        np.savez(policy, structure=np.frombuffer(json.dumps({"columns": 4, "q": [structure]}).encode(), np.uint8))
        with pytest.raises(DataError, match="not a saved policy"):
            load_selection(tmp_path)
    policy.unlink()
    with pytest.raises(DataError, match="no such file"):
        load_selection(tmp_path)


def test_a_report_from_python(tmp_path):
    page = modbe(prefix_linear(Identity(), (1, 2, 5)), None, process()).report(tmp_path / "why.html").read_text()
    assert "share under the choice" in page
    assert "difference / tolerance" in page
