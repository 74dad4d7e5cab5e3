"""Made-up evidence of the study of driving agents, with rates that a test chooses."""

from typing import Any

import numpy as np

from gleanings.core.study import Cost, Evidence

from ._bc_sac_evidence import packed

KINDS = ("cut_in", "crossing", "curve", "merge")
Rates = tuple[float, float, float, float]
RATES: dict[str, Rates] = {
    "bc-discrete": (0.1, 0.05, 0.1, 0.05),
    "bc-discrete-blind": (0.3, 0.2, 0.3, 0.2),
    "bc-gaussian": (0.3, 0.1, 0.3, 0.05),
    "bc-mixture": (0.25, 0.1, 0.25, 0.05),
    "dqn-log": (0.2, 0.15, 0.2, 0.1),
    "dqn-idm": (0.4, 0.36, 0.12, 0.08),
    "expert replay": (0.0, 0.0, 0.0, 0.0),
    "random": (0.95, 0.6, 0.95, 0.6),
}
"""By arm or control: failure and collision among others from the log, the same among others by IDM. The route is left
as often as an arm collides among others from the log."""
STAR = 0.03
"""Share of scenes that fail* without failing."""


def made_up(
    rates: dict[str, Rates] | None = None,
    *,
    scenes: int = 160,
    seeds: int = 5,
    swing: float = 0.01,
    noise: float = 0.3,
    size: str = "full",
) -> Evidence:
    """Evidence in which each seed fails in as many scenes as `rates` say, plus `swing` (sd over seeds).

    noise: how far arms and seeds differ in which scenes they fail. Four scenes share a map.
    """
    chosen = RATES | (rates or {})
    found = {who: _worlds(who, rate, scenes, 1 if " " in who or who == "random" else seeds, swing, noise)
             for who, rate in chosen.items()}  # fmt: skip
    controls = ("expert replay", "random")
    told = {"seeds": list(range(seeds)), "rate": 4e-3, "updates": 2880, "decisions": 0}
    curve = {"step": [1, 2, 3], "actor/bc_nll": [1.0, 0.5, 0.3], "collect/failure": [0.9, 0.6, 0.4]}
    kinds = [KINDS[i % len(KINDS)] for i in range(scenes)]
    audit = {"decisions": 160_000, "kept": 150_000, "clipped": 0.01, "reward": -0.01}
    values = {
        "size": {"train": 4056, "test": scenes, "seeds": seeds, "iterations": 18},
        "data": {"drawn": {"cut_in": 1200, "crossing": 900}, "failed": {"cut_in": 90}} | {"audit": audit},
        "scenes": {"all": {"kind": kinds, "site": [i // 16 for i in range(scenes)]}},
        "arms": {who: one | told | {"curve": curve} for who, one in found.items() if who not in controls},
        "controls": {who: found[who] for who in controls},
    }
    return Evidence("driving-agents", size, values, Cost(1.0, 1.0, 1.0), "2026-01-01", {"processor": "one"})


def _worlds(who: str, rates: Rates, scenes: int, seeds: int, swing: float, noise: float) -> dict[str, Any]:
    rng = np.random.default_rng(sum(map(ord, who)))
    steps = rng.permutation(np.linspace(-1, 1, seeds)) if seeds > 1 else np.zeros(1)
    shift = swing * steps / (steps.std(ddof=1) if seeds > 1 else 1)
    each = {"log": rates[:2], "idm": rates[2:]}
    return {"worlds": {world: {"all": _outcomes(pair, scenes, shift, noise, rng)} for world, pair in each.items()}}


def _outcomes(
    rates: tuple[float, ...], scenes: int, shift: np.ndarray, noise: float, rng: np.random.Generator
) -> dict[str, Any]:
    """First fail those scenes whose latent value, which all arms share, is low; of these first some collide."""
    shared, rows = np.random.default_rng(5).random(scenes), []
    for one in shift:
        order = np.argsort((1 - noise) * shared + noise * rng.random(scenes))
        counts = [round(scenes * float(np.clip(rate + one * (rate > 0), 0, 1))) for rate in rates]
        counts.append(min(scenes, counts[0] + round(STAR * scenes * (counts[0] > 0))))
        rows.append([np.isin(np.arange(scenes), order[:count]) for count in counts])
    failure, collision, star = ([packed(row[k]) for row in rows] for k in range(3))
    none = [packed(np.zeros(scenes, bool)) for _ in rows]
    flags = {"failure": failure, "collision": collision, "failure_star": star, "off_route": collision}
    means = {"progress": 0.9, "distance": 0.9, "ade_m": 2.0, "comfort": 0.9, "saturated": 0.05, "reward": -0.1}
    return flags | {"at_fault": none, "off_road": none} | {key: [value] * len(rows) for key, value in means.items()}
