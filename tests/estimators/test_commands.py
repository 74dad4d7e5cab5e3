"""The two commands of the room: what they print and write, how they resume, what they refuse."""

import inspect
import json

import jax
import numpy as np
import pytest

import gleanings.estimators as library
from gleanings.cli import main
from gleanings.core.metrics import read_metrics
from gleanings.estimators import (
    ARMS,
    AbstractEstimator,
    CoupledLOO,
    DisARMTree,
    ReinforceLOO,
    ReinMax,
    check,
    exact_gradient,
)
from gleanings.estimators._names import NAMES, named
from gleanings.estimators.toys import toy

from ._oracle import toy as oracle_toy

pytestmark = pytest.mark.plain_compilation


def run(*arguments: str) -> int:
    return main(["estimators", *map(str, arguments)])


def test_every_member_has_a_name():
    public = {getattr(library, name) for name in library.__all__}
    members = {
        c for c in public if inspect.isclass(c) and issubclass(c, AbstractEstimator) and not inspect.isabstract(c)
    }
    assert {cls for cls, _ in NAMES.values()} == members


@pytest.mark.parametrize(
    ("name", "options", "estimator"),
    [
        ("coupled-loo", {}, CoupledLOO(4)),
        ("coupled-loo-8", {}, CoupledLOO(8)),
        ("coupled-loo", {"num_evaluations": 6}, CoupledLOO(6)),
        ("coupled-loo-stick-4", {}, CoupledLOO(4, structure="stick")),
        ("reinforce-loo-3", {"binary": True}, ReinforceLOO(3, variable="binary")),
        ("arms-8", {"binary": True}, ARMS(8)),
        ("disarm-tree", {}, DisARMTree()),
        ("reinmax", {}, ReinMax()),
    ],
)
def test_names_stand_for_estimators(name, options, estimator):
    assert named(name, **options) == estimator


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("compare", "--estimators", "couple-loo-4"), "did you mean 'coupled-loo-4'"),
        (("compare", "--estimators", "zzz"), "choose from reinforce,"),
        (("compare", "--estimators", "disarm-tree-3"), "takes no number"),
        (("compare", "--estimators", "disarm"), "binary variables only"),
        (("compare", "--binary", "--estimators", "coupled-loo-1"), "at least 2"),
        (("compare", "--variables", "0"), "sizes from 1"),
        (("compare", "--draws", "10"), "draws = 10"),
        (("train", "--estimator", "coupled-loo-4", "--num-evaluations", "4"), "leave out num_evaluations"),
        (("train", "--estimator", "arms"), "binary variables only"),
        (("train", "--categories", "0"), "at least 1"),
        (("train", "--learning-rate", "-1"), "must be positive"),
        (("train", "--resume"), "add --out RUN"),
    ],
)
def test_bad_options_give_one_line_and_exit_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert len(error.splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_missing_or_damaged_data_give_exit_code_3(capsys, tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK nonsense")
    for path in (tmp_path / "absent.npz", tmp_path / "x.npz"):
        assert run("train", "--data", path, "--out", tmp_path / "run") == 3
        assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_compare_prints_a_ranked_table(capsys):
    names = ("reinforce-loo-2", "disarm-tree", "coupled-loo-4", "reinmax")
    assert run("compare", "--variables", 2, "--categories", 3, "--draws", 4000, "--estimators", *names) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy mlp, 2 variables of 3 categories, 4,000 draws, seed 0"
    cells = {line.split()[2]: line.split() for line in lines[2:]}
    assert set(cells) == {"ReinMax", "ReinforceLOO(2)", "DisARMTree", "CoupledLOO(4)"}
    assert {cells[name][0] + cells[name][1] for name in ("ReinforceLOO(2)", "DisARMTree")} == {"21", "22"}
    assert abs(float(cells["ReinforceLOO(2)"][5]) - 1) < 0.15
    assert float(cells["CoupledLOO(4)"][5]) < 0.95
    assert float(cells["ReinMax"][7]) > 4.5 > float(cells["CoupledLOO(4)"][7])


def test_compare_knows_binary_variables(capsys):
    options = ("--variables", 3, "--objective", "sep", "--draws", 1000, "--estimators", "arms-4", "coupled-loo-4")
    assert run("compare", "--binary", *options) == 0
    out = capsys.readouterr().out
    assert "toy sep, 3 binary variables" in out
    assert "ARMS(4)" in out
    assert "CoupledLOO(4, binary)" in out


@pytest.mark.parametrize("binary", [False, True])
def test_compare_runs_a_selection_if_none_is_named(binary, monkeypatch, capsys):
    measured = []
    monkeypatch.setattr(check, "compare", lambda estimators, f, logits, key, draws: measured.extend(estimators))
    assert run("compare", *(["--binary"] if binary else []), "--draws", 1000) == 0
    assert len(set(measured)) == len(measured) >= 6
    assert {member.variable for member in measured} == {"binary" if binary else "categorical"}
    assert ReinforceLOO(4, variable="binary" if binary else "categorical") in measured
    f, logits = toy("mlp", 2, 3, binary=binary)
    for member in measured:
        value, cotangent = jax.eval_shape(lambda x, key, m=member: m(f, x, key), logits, jax.random.key(0))
        assert (value.shape, cotangent.shape) == ((), logits.shape)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("objective", ["mlp", "sep"])
def test_toys_are_those_of_the_page(objective, binary):
    f, logits = toy(objective, 3, 2 if binary else 4, seed=5, binary=binary)
    expected = oracle_toy(objective, 3, 2 if binary else 4, seed=5, binary=binary)
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-6)
    z = np.random.default_rng(0).integers(0, 2, (6, *logits.shape)).astype(np.float32)
    np.testing.assert_allclose(f(jax.numpy.asarray(z)), expected.f(z), rtol=1e-4, atol=1e-5)
    assert np.isfinite(exact_gradient(f, logits, "binary" if binary else "categorical")[0])


def images_file(path):
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 256, (n, 4, 4), dtype=np.uint8) for name, n in (("train_x", 60), ("test_x", 20))}
    np.savez(path, **arrays)
    return path


SMALL = ("--variables", 2, "--categories", 3, "--hidden", 5, "--batch-size", 8, "--log-every", 5, "--save-every", 10)


def test_train_writes_a_run_and_resumes_it_bit_for_bit(tmp_path, capsys):
    data = images_file(tmp_path / "faces.npz")
    options = ("--data", data, "--estimator", "reinforce-loo-2", *SMALL)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run("train", *options, "--steps", 30, "--out", whole) == 0
    out = capsys.readouterr().out
    assert "valid: ELBO" in out
    assert f"report: {whole / 'report.html'}" in out
    assert run("train", *options, "--steps", 20, "--out", parts) == 0
    assert run("train", *options, "--steps", 30, "--out", parts) == 2
    assert run("train", *options, "--steps", 30, "--out", parts, "--resume") == 2
    assert "steps: 20 -> 30" in capsys.readouterr().err
    assert run("train", *options, "--steps", 30, "--out", parts, "--resume", "--allow-change") == 0
    curves = [read_metrics(folder / "metrics.jsonl").rows for folder in (whole, parts)]
    first, second = ([(row["step"], row["vae/elbo"]) for row in rows] for rows in curves)
    assert first == second
    assert [step for step, _ in first] == [5, 10, 15, 20, 25, 30]
    page = (whole / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "reinforce-loo-2 on faces, 30 steps, seed 0" in page
    assert json.loads((whole / "config.json").read_text())["estimator"] == "reinforce-loo-2"
    assert json.loads((whole / "status.json").read_text())["status"] == "done"
    assert (parts / "report.html").read_text() == page
