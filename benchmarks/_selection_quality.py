"""Quality of policies learned from a log of handwritten digits, beside those of vowpalwabbit; no target."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _peers import Peer, PeerError, peers_python
from _results import Row
from _selection_ope import WORKER

from gleanings.selection.bandit import BanditLog
from gleanings.selection.bandit_rules import Auto, HoldOut, Largest, PolicyValue
from gleanings.selection.pessimistic import heads
from gleanings.selection.policy import select_policy

VARIABLE = "GLEANINGS_VW_PYTHON"
ARMS, LABELLED, TRAIN, COLUMNS = 10, 60, 1000, (1, 3, 8, 20, 40)
RULES = {
    "HoldOut": HoldOut(),
    "Auto": Auto(),
    "PolicyValue DR": PolicyValue(),
    "largest class": Largest(pessimistic=False),
}
VOWPAL = {
    f"vowpalwabbit cb dr, {passes} passes": {"arguments": f"--cb {ARMS} --cb_type dr", "passes": passes}
    for passes in (1, 10)
}


def digits_log(n: int, seed: int) -> dict[str, np.ndarray]:
    """A log of n decisions on 1000 contexts, and 797 test contexts with their labels, on 40 principal columns.

    The logger plays the square roots of the probabilities of a classifier of 60 labels, normalised, mixed with 20 %
    uniform; the reward is 1 for the right digit.
    """
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    pixels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    train, test = order[:TRAIN], order[TRAIN:]
    few = train[np.concatenate([np.flatnonzero(labels[train] == d)[: LABELLED // ARMS] for d in range(ARMS)])]
    root = np.sqrt(LogisticRegression(max_iter=2000).fit(pixels[few] / 16, labels[few]).predict_proba(pixels / 16))
    logger = 0.8 * root / root.sum(1, keepdims=True) + 0.2 / ARMS
    mean = pixels[train].mean(0)
    _, _, axes = np.linalg.svd(pixels[train] - mean, full_matrices=False)
    columns = (pixels - mean) @ axes[: COLUMNS[-1]].T
    columns /= columns[train].std()
    rows = rng.choice(train, n)
    action = (rng.random((n, 1)) > logger[rows].cumsum(1)).sum(1).clip(0, ARMS - 1)
    return {
        "context": columns[rows],
        "action": action,
        "reward": (action == labels[rows]).astype(float),
        "propensity": logger[rows, action],
        "test": columns[test],
        "labels": labels[test],
    }


def measure_quality(vw: Path | None, quick: bool, report: Callable[[Row], None]) -> None:
    """Mean error on the test contexts over seeds: a row a learner. Ours keep a fifth of the log for the value."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        report({"learner": "all", "unmeasured": "digits need scikit-learn"})
        return
    n, logs = 2000, [digits_log(2000, seed) for seed in range(2 if quick else 10)]
    for name, rule in RULES.items():
        start = time.perf_counter()
        errors = [_our_error(rule, given) for given in logs]
        report(_row(name, n, errors, time.perf_counter() - start))
    python = peers_python(vw, VARIABLE)
    try:
        if python is None:
            raise PeerError(f"no environment with vowpalwabbit: set --vw-python or {VARIABLE}")
        with Peer(python, 300.0, WORKER) as peer, tempfile.TemporaryDirectory() as folder:
            report(peer.ask("info", packages=["vowpalwabbit"]) | {"learner": "versions"})
            for name, arguments in VOWPAL.items():
                report(_row(name, n, *_vowpal_errors(peer, Path(folder), logs, arguments)))
    except PeerError as error:
        report({"learner": "vowpalwabbit", "unmeasured": str(error)})


def _our_error(rule: Any, given: dict[str, np.ndarray]) -> float:
    labels = tuple(str(d) for d in range(ARMS))
    log = BanditLog(given["context"], given["action"], given["reward"], given["propensity"], labels)
    found = select_policy(log, heads(tuple(1 + c for c in COLUMNS)), rule)
    return float((found.act(given["test"]).argmax(1) != given["labels"]).mean())


def _vowpal_errors(peer: Peer, folder: Path, logs: list, arguments: dict) -> tuple[list[float], float]:
    errors, seconds = [], 0.0
    for seed, given in enumerate(logs):
        path = folder / f"digits-{seed}.npz"
        np.savez(path, **given)
        answer = peer.ask("vw-digits", path=str(path), **arguments)
        errors.append(float((np.array(answer["action"]) != given["labels"]).mean()))
        seconds += answer["wall_s"]
    return errors, seconds


def _row(learner: str, n: int, errors: list[float], seconds: float) -> Row:
    error = round(float(np.mean(errors)), 4)
    se = round(float(np.std(errors, ddof=1) / len(errors) ** 0.5), 4)
    facts = {"learner": learner, "n": n, "seeds": len(errors), "error": error, "se": se}
    return {**facts, "wall_s_a_seed": round(seconds / len(errors), 3), "errors": errors}
