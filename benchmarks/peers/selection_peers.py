"""Runs the peers of `gleanings.selection`: a worker for an environment with obp, or with vowpalwabbit, and no JAX.

One JSON command a line on stdin, one JSON answer a line on stdout; arrays stand in .npz files:
    {"case": "obp-values", "path": ..., "clip": 5.0}       -> {"case": ..., "values": {"IPS": ..., ...}}
    {"case": "obp-bootstrap", "path": ..., "draws": 200}   -> {"case": ..., "low": ..., "high": ...}
    {"case": "obp-times", "path": ..., "part": "values", "repeats": 3, "clip": 5.0, "draws": 200}
                                                           -> {"case": ..., "times": [[wall s, cpu s], ...]}
    {"case": "vw-digits", "path": ..., "arguments": ..., "passes": 20}
                                                           -> {"case": ..., "action": [...], "wall_s": ...}
    {"case": "info", "packages": [...]}                    -> versions
A command that fails answers {"case": ..., "error": ...}.
"""

import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version

import numpy as np
from _worker import serve


@cache
def _arrays(path: str) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _obp(path: str, clip: float) -> tuple[dict, dict]:
    """Its estimators under our names, and their arguments."""
    from obp import ope

    given = _arrays(path)
    arguments = {
        "reward": given["reward"],
        "action": given["action"],
        "pscore": given["propensity"],
        "action_dist": given["policy"][:, :, None],
        "estimated_rewards_by_reg_model": given["model"][:, :, None],
    }
    estimators = {
        "IPS": ope.InverseProbabilityWeighting(),
        "IPS, clipped": ope.InverseProbabilityWeighting(lambda_=clip),
        "SNIPS": ope.SelfNormalizedInverseProbabilityWeighting(),
        "DM": ope.DirectMethod(),
        "DR": ope.DoublyRobust(),
        "SNDR": ope.SelfNormalizedDoublyRobust(),
        "SwitchDR": ope.SwitchDoublyRobust(lambda_=clip),
        "DRos": ope.DoublyRobustWithShrinkage(lambda_=clip),
    }
    return estimators, arguments


def obp_values(path: str, clip: float) -> dict:
    """The eight values."""
    estimators, arguments = _obp(path, clip)
    return {"values": {name: float(e.estimate_policy_value(**arguments)) for name, e in estimators.items()}}


def obp_bootstrap(path: str, draws: int) -> dict:
    """The bootstrap interval of DR: rows of its terms drawn with replacement."""
    estimators, arguments = _obp(path, 1.0)
    found = estimators["DR"].estimate_interval(**arguments, n_bootstrap_samples=draws, random_state=0)
    return {"low": float(found["95.0% CI (lower)"]), "high": float(found["95.0% CI (upper)"])}


def obp_times(path: str, part: str, repeats: int, clip: float, draws: int) -> dict:
    """Times of the eight values, of the bootstrap, or of both; reading the file is not timed."""
    _obp(path, clip)
    values, boot = (lambda: obp_values(path, clip)), (lambda: obp_bootstrap(path, draws))
    calls = {"values": [values], "bootstrap": [boot], "both": [values, boot]}[part]
    return {"times": [_clocked(calls) for _ in range(repeats)]}


def _clocked(calls: list[Callable[[], dict]]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for call in calls:
        call()
    return time.perf_counter() - wall, time.process_time() - cpu


def vw_digits(path: str, arguments: str, passes: int) -> dict:
    """Actions on `test` of a contextual bandit learned from `context`, `action`, `reward`, `propensity`."""
    from vowpalwabbit import Workspace

    given = _arrays(path)
    wall, learner = time.perf_counter(), Workspace(f"{arguments} --quiet")
    logged = zip(given["context"], given["action"], given["reward"], given["propensity"], strict=True)
    lines = [f"{a + 1}:{1 - r}:{p} | {_features(x)}" for x, a, r, p in logged]
    for _ in range(passes):
        for line in lines:
            learner.learn(line)
    found = [learner.predict(f"| {_features(x)}") for x in given["test"]]
    learner.finish()
    return {"action": [int(a) - 1 for a in found], "wall_s": time.perf_counter() - wall}


def _features(x: np.ndarray) -> str:
    # Names that are whole numbers would be taken as places in the table of weights.
    return " ".join(f"x{i}:{value:.6g}" for i, value in enumerate(x))


def info(packages: list[str]) -> dict:
    """Versions."""
    return {"versions": {name: version(name) for name in packages}}


CASES = {
    "obp-values": obp_values,
    "obp-bootstrap": obp_bootstrap,
    "obp-times": obp_times,
    "vw-digits": vw_digits,
    "info": info,
}


if __name__ == "__main__":
    serve(CASES)
