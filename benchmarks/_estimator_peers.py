"""Our VAE steps beside those of torch, storchastic and reinmax, in turns; ReinMax against that of reinmax."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _estimator_steps import running, vae
from _peers import VARIABLE, Peer, PeerError, peers_python
from _results import Row
from _timing import compile_step, interleave, summary, timer

from gleanings import estimators as ge

MANY, BITS = (32, 16), (200,)
REINMAX = "ReinMax = reinmax, gradient of each outcome"
TURN, WARM = 10, 3
"""Measured calls of a turn, after unmeasured ones: the threads of a process that has slept share a core at first."""
THREADS = (1, 2)
"""Small torch steps are sometimes quicker on one thread: the better of these counts for the peer."""

PAIRS: list[tuple[str, Any, tuple[int, ...], tuple[str, ...], float | None]] = [
    ("ReinforceLOO-2", ge.ReinforceLOO(2), MANY, ("storchastic-rloo2", "torch-rloo2"), 2.0),
    ("DisARM", ge.DisARM(), BITS, ("storchastic-disarm", "storchastic-arm"), 2.0),
    ("ReinMax", ge.ReinMax(), MANY, ("reinmax",), 1.0),
    ("StraightThrough", ge.StraightThrough(), MANY, ("torch-straight-through",), None),
    ("GumbelSoftmax", ge.GumbelSoftmax(), MANY, ("torch-gumbel-softmax",), None),
    ("CoupledLOO-2", ge.CoupledLOO(2), MANY, ("storchastic-rloo2",), None),
]
"""Our name, our estimator, the latents, the peers beside it, and the factor to reach against the first of them."""


def measure_peers(option: Path | None, repeats: int, report: Callable[[Row], None]) -> None:
    """Reports one row a pair and the comparisons of gradients; `unmeasured` rows for what the peers do not answer."""
    open_targets = {_what(ours, peers[0]): _at_least(factor) for ours, _, _, peers, factor in PAIRS if factor}
    open_targets[REINMAX] = "< 1e-5"

    def keep(row: Row) -> None:
        open_targets.pop(row.get("target", {}).get("what"), None)
        report(row)

    python = peers_python(option)
    try:
        if python is None:
            raise PeerError(f"no environment with the peers: set --peers-python or {VARIABLE}")
        with Peer(python) as peer:
            keep({"versions": peer.ask("info")["versions"]})
            for pair in PAIRS:
                for row in _pair(peer, repeats, *pair):
                    keep(row)
            keep(_reinmax_gradients(peer))
            keep({"unbiased": peer.ask("unbiased", draws=20_000)})
    except PeerError as error:
        report({"unmeasured": str(error)})
        for what, limit in open_targets.items():
            report({"unmeasured": str(error), "target": _target(what, limit, None, None)})


def _pair(
    peer: Peer,
    repeats: int,
    ours: str,
    estimator: Any,
    shape: tuple[int, ...],
    peers: tuple[str, ...],
    factor: float | None,
) -> list[Row]:
    step, arguments = vae(estimator, shape)
    compiled = compile_step(step, *arguments, donate=(0,))
    timers = {ours: timer(running(compiled.call, arguments))}
    timers |= {f"{name} {threads}": peer.timer(name, threads) for name in peers for threads in THREADS}
    samples = interleave(timers, repeats, block=TURN, warm=WARM)
    times = {name: summary(own) for name, own in samples.items()}
    return [_row(ours, name, times, factor if name == peers[0] else None) for name in peers]


def _row(ours: str, peer: str, times: dict[str, dict], factor: float | None) -> Row:
    """The peer on its better number of threads beside us; what it takes on two threads stands in the row as well."""
    ours_times, on = times[ours], {threads: times[f"{peer} {threads}"] for threads in THREADS}
    best = min(on, key=lambda threads: on[threads]["median_ms"])

    def faster(threads: int) -> float:
        """The smaller of the ratios of medians and of minima."""
        return round(min(on[threads][key] / ours_times[key] for key in ("median_ms", "min_ms")), 2)

    row = {"ours": ours, "peer": peer, "ours_times": ours_times, "peer_times_by_threads": on, "best_threads": best}
    row |= {"times_faster": faster(best), "times_faster_on_two_threads": faster(2)}
    if factor is not None:
        met = row["times_faster"] >= factor
        row["target"] = _target(_what(ours, peer), _at_least(factor), row["times_faster"], met)
    return row


def _what(ours: str, peer: str) -> str:
    return f"{ours} against {peer} at its best, times faster"


def _at_least(factor: float) -> str:
    return f">= {factor:g}"


def _target(what: str, limit: str, measured: float | None, met: bool | None) -> Row:
    return {"what": what, "limit": limit, "measured": measured, "met": met}


def _reinmax_gradients(peer: Peer, draws: int = 20_000) -> Row:
    """Both sides on one small problem. A gradient is a function of its outcome, so outcome by outcome they must agree
    within rounding, and their means within the error of the mean."""
    rng = np.random.default_rng(0)
    logits, weights = rng.normal(size=(2, 3)), 0.7 * rng.normal(size=(16, 2, 3))
    offsets, scales = rng.normal(size=16), rng.normal(size=16) / 4
    problem = {"logits": logits, "weights": weights, "offsets": offsets, "scales": scales}
    theirs = peer.ask("reinmax-gradient", **{k: v.tolist() for k, v in problem.items()}, draws=draws)

    def f(z: jax.Array) -> jax.Array:
        hidden = jnp.einsum("n...dk,hdk->n...h", z, jnp.asarray(weights, jnp.float32))
        return jnp.dot(jnp.tanh(hidden + jnp.asarray(offsets, jnp.float32)), jnp.asarray(scales, jnp.float32))

    stacked = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (draws, 2, 3))
    values, gradients = jax.jit(lambda key: ge.ReinMax()(f, stacked, key))(jax.random.key(0))
    gradients = np.asarray(gradients, np.float64)
    # The value names the outcome: no two of the nine have the same f.
    codes = {tuple(o["categories"]): np.asarray(o["gradient"]) for o in theirs["outcomes"]}
    by_value = {float(f(jnp.eye(3)[jnp.asarray(c)][None])[0]): g for c, g in codes.items()}
    keys = np.asarray(list(by_value))
    nearest = np.abs(np.asarray(values)[:, None] - keys).argmin(1)
    difference = float(np.abs(gradients - np.asarray(list(by_value.values()))[nearest]).max())
    error = np.hypot(gradients.std(0) / draws**0.5, np.asarray(theirs["standard_error"]))
    z = np.abs(gradients.mean(0) - np.asarray(theirs["mean"])) / error
    met = bool(difference < 1e-5 and z.max() < 4.5)
    target = _target(REINMAX, "< 1e-5", difference, met)
    return {"outcomes": len(codes), "max_abs_z_of_means": float(z.max()), "target": target}
