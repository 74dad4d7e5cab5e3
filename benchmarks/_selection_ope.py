"""Off-policy values and the DR bootstrap beside those of Open Bandit Pipeline, on the same arrays, in turns."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from _peers import Peer, PeerError, peers_python
from _results import Row
from _timing import Sample, Timer, interleave, summary, timer

from gleanings.selection.ope import DM, DR, IPS, SNDR, SNIPS, DRos, Estimate, Estimator, SwitchDR

VARIABLE, WORKER = "GLEANINGS_OBP_PYTHON", Path(__file__).parent / "peers" / "selection_peers.py"
ARMS, CLIP, DRAWS = 10, 5.0, 200
ESTIMATORS: dict[str, Estimator] = {
    "IPS": IPS(),
    "IPS, clipped": IPS(CLIP),
    "SNIPS": SNIPS(),
    "DM": DM(),
    "DR": DR(),
    "SNDR": SNDR(),
    "SwitchDR": SwitchDR(CLIP),
    "DRos": DRos(CLIP),
}
BOOTSTRAP = DR(interval="bootstrap", draws=DRAWS)


def random_log(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rewards, actions, propensities, a policy and a reward model [n, A]."""
    rng = np.random.default_rng(seed)
    logger = 0.2 / ARMS + 0.8 * rng.dirichlet(np.ones(ARMS), n)
    action = (rng.random((n, 1)) > logger.cumsum(1)).sum(1).clip(0, ARMS - 1)
    mean = rng.random((n, ARMS))
    return {
        "reward": (rng.random(n) < mean[np.arange(n), action]).astype(float),
        "action": action,
        "propensity": logger[np.arange(n), action],
        "policy": rng.dirichlet(np.ones(ARMS), n),
        "model": np.clip(mean + 0.2 * rng.normal(size=mean.shape), 0, 1),
    }


def our_values(log: dict[str, np.ndarray]) -> dict[str, Estimate]:
    """The eight estimates."""
    return {name: estimator(*log.values()) for name, estimator in ESTIMATORS.items()}


def measure_ope(option: Path | None, quick: bool, repeats: int, report: Callable[[Row], None]) -> None:
    """One row of values and one row of times for each part; `unmeasured` where the peer is absent."""
    python = peers_python(option, VARIABLE)
    try:
        if python is None:
            raise PeerError(f"no environment with obp: set --obp-python or {VARIABLE}")
        with Peer(python, 300.0, WORKER) as peer, tempfile.TemporaryDirectory() as folder:
            report(peer.ask("info", packages=["obp", "numpy", "scikit-learn"]) | {"case": "versions"})
            log = random_log(20_000 if quick else 200_000)
            path = Path(folder) / "log.npz"
            np.savez(path, **log)
            report(_values(peer, str(path), log))
            for part in ("values", "bootstrap", "both"):
                report(_times(peer, str(path), log, part, repeats))
    except PeerError as error:
        report({"case": "all", "unmeasured": str(error)})


def _values(peer: Peer, path: str, log: dict[str, np.ndarray]) -> Row:
    theirs, ours = peer.ask("obp-values", path=path, clip=CLIP)["values"], our_values(log)
    interval, boot = peer.ask("obp-bootstrap", path=path, draws=DRAWS), BOOTSTRAP(*log.values())
    return {
        "case": "agreement",
        "n": len(log["reward"]),
        "values": {name: [e.value, theirs[name]] for name, e in ours.items()},
        "largest_difference": max(abs(e.value - theirs[name]) for name, e in ours.items()),
        "bootstrap": {"ours": [boot.low, boot.high], "obp": [interval["low"], interval["high"]]},
    }


def _times(peer: Peer, path: str, log: dict[str, np.ndarray], part: str, repeats: int) -> Row:
    values, boot = (lambda: our_values(log)), (lambda: BOOTSTRAP(*log.values()))
    ours = {"values": values, "bootstrap": boot, "both": lambda: (values(), boot())}[part]

    def theirs(count: int) -> list[Sample]:
        given = {"path": path, "part": part, "clip": CLIP, "draws": DRAWS}
        return [(wall, cpu) for wall, cpu in peer.ask("obp-times", repeats=count, **given)["times"]]

    timers: dict[str, Timer] = {"ours": timer(ours), "obp": theirs}
    times = {name: summary(own) for name, own in interleave(timers, repeats, block=2).items()}
    row: Row = {"case": part, **times}
    for figure, key in (("times_faster", "median_ms"), ("times_faster_cpu", "cpu_median_ms")):
        row[figure] = round(times["obp"][key] / times["ours"][key], 2)
    return row


def ope_targets(rows: list[Row]) -> Iterator[tuple[str, str, float, float | None]]:
    """What, direction, limit, and what was measured."""
    by_case = {row.get("case"): row for row in rows}
    both, what = by_case.get("both", {}), f"8 estimators and {DRAWS} bootstrap draws against obp, times faster"
    yield "8 estimators against obp, difference", "<=", 1e-10, by_case.get("agreement", {}).get("largest_difference")
    yield f"{what}, wall", ">=", 3.0, both.get("times_faster")
    yield f"{what}, CPU", ">=", 3.0, both.get("times_faster_cpu")
