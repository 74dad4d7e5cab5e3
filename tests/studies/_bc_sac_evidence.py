"""Made-up evidence of the study of BC-SAC, with rates that a test chooses."""

from typing import Any

import numpy as np

from gleanings.core.study import Cost, Evidence

KINDS = ("hazard-cut_in", "hazard-crossing", "curve", "merge")
RATES = {
    "bc": (0.6, 0.08, 0.05, 0.98),
    "bc-short": (0.61, 0.08, 0.05, 0.98),
    "sac": (0.5, 0.15, 0.5, 0.7),
    "bc-sac": (0.3, 0.03, 0.05, 0.92),
    "sac-progress": (0.4, 0.06, 0.1, 0.9),
    "bc-shuffled": (0.9, 0.6, 0.7, 0.5),
    "bc-sac-null": (0.6, 0.08, 0.05, 0.98),
}
"""By arm: failure in hard scenes and in the harder half of all; failure in the easy half; share of the scenes without
failure that count for failure*; share of the way."""
CONTROLS = {
    "expert replay": (0.0, 0.0, 0.0, 1.0),
    "IDM on route": (0.35, 0.1, 0.1, 0.9),
    "constant speed": (0.8, 0.4, 0.05, 1.0),
    "brake to stop": (0.6, 0.5, 1.0, 0.1),
    "random": (0.95, 0.9, 0.9, 0.3),
}
_QUANTILES = [[-0.8, -0.2, 0.0, 0.2, 0.6], [-0.3, -0.05, 0.0, 0.05, 0.3]]


def packed(flags: np.ndarray) -> str:
    """Bools as hex digits."""
    return np.packbits(flags).tobytes().hex()


def made_up(
    rates: dict[str, tuple[float, float, float, float]] | None = None,
    *,
    hard: int = 160,
    all_of: int = 160,
    seeds: int = 8,
    swing: dict[str, float] | None = None,
    noise: float = 0.5,
    without: tuple[str, ...] = (),
    size: str = "full",
    given: int = 0,
) -> Evidence:
    """Evidence in which each seed of an arm fails in as many scenes as `rates` say, plus `swing` (sd over seeds).

    noise: how far arms and seeds differ in which scenes they fail. without: arms and controls that were not run. Four
    scenes share a map.
    """
    chosen = RATES | CONTROLS | (rates or {})
    scenes = {"hard": _scenes(hard, 0), "all": _scenes(all_of, 1)}
    rank = np.arange(all_of) / all_of
    scenes["all"] |= {"rank": rank.tolist(), "easy": packed(rank < 0.5)}
    scenes["all"] |= {"top50": packed(rank >= 0.5), "top10": packed(rank >= 0.9)}
    scenes["hard"] |= {"names": [f"hazard-{i}" for i in range(hard)], "top3": packed(np.arange(hard) >= 0.7 * hard)}
    if given:
        scenes["given"] = _scenes(given, 0) | {"names": [f"log/{i}" for i in range(given)], "kind": ["given"] * given}
    arms = {name: _arm(name, chosen[name], scenes, seeds, (swing or {}).get(name, 0.01), noise) for name in RATES}
    for one in arms.values():
        one["worlds"]["idm"] = {part: one["worlds"]["log"][part] for part in scenes if part != "all"}
    controls = {name: {"worlds": _arm(name, chosen[name], scenes, 1, 0.0, noise)["worlds"]} for name in CONTROLS}
    values = {
        "size": {"train": 4056, "validation": 500, "calibration": 1000, "pool": 9000, "seeds": seeds, "iterations": 24}
        | {"gradient_steps": 160, "episodes": 64, "environments": 64},
        "data": {"drawn": {"cut_in": 1200, "crossing": 900}, "failed": {"cut_in": 90, "crossing": 12}}
        | {"audit": _audit()},
        "tuning": _tuning(),
        "frozen": {"bc": {"learning_rate": 1e-3}, "sac": {"temperature": 0.01}}
        | {"bc-sac": {"imitation_weight": 0.1, "temperature": 0.01}}
        | {"sac-progress": {"progress_weight": 0.03, "temperature": 0.01}},
        "scenes": scenes,
        "arms": {name: one for name, one in arms.items() if name not in without},
        "controls": {name: one for name, one in controls.items() if name not in without},
        "clips": [{"scene": "hazard-3", "why": "BC-SAC fails", "file": "clips/3.html"}],
    }
    return Evidence("bc-sac", size, values, Cost(1.0, 1.0, 1.0), "2026-01-01", {"processor": "one"})


def _scenes(count: int, first: int) -> dict[str, Any]:
    kinds = [KINDS[i % len(KINDS)] for i in range(count)]
    return {"kind": kinds, "site": [first + i // 16 for i in range(count)], "score": np.linspace(0, 1, count).tolist()}


def _arm(
    name: str, rates: tuple[float, ...], scenes: dict[str, Any], seeds: int, swing: float, noise: float
) -> dict[str, Any]:
    rng = np.random.default_rng(sum(map(ord, name)))
    steps = rng.permutation(np.linspace(-1, 1, seeds)) if seeds > 1 else np.zeros(1)
    shift = swing * steps / (steps.std(ddof=1) if seeds > 1 else 1)
    halves = {"hard": (rates[0],), "all": rates[1::-1], "given": (rates[0],)}
    found = {
        part: _outcomes(np.repeat(halves[part], len(one["kind"]) // len(halves[part])), rates, shift, noise, rng)
        for part, one in scenes.items()
    }
    curve = {"step": [0, 1, 2], "actor/bc_nll": [1.0, 0.5, 0.3], "collect/failure": [0.9, 0.6, 0.4]}
    learnt = {"seeds": list(range(seeds)), "updates": 3840, "decisions": 0 if name == "bc" else 82_000, "curve": curve}
    return learnt | {"worlds": {"log": found}}


def _outcomes(
    likely: np.ndarray, rates: tuple[float, ...], shift: np.ndarray, noise: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Of a set, failed with the chances `likely`; first fail those whose latent value, which all arms share, is low."""
    shared = np.random.default_rng(5).random((2, len(likely)))
    failed, star = [], []
    for one in shift:
        fails, slow = np.zeros((2, len(likely)), bool)
        latent = (1 - noise) * shared + noise * rng.random(shared.shape)
        for chance in np.unique(likely):
            _mark(fails, np.flatnonzero(likely == chance), latent[0], float(np.clip(chance + one, 0, 1)))
        _mark(slow, np.flatnonzero(~fails), latent[1], rates[2])
        failed.append(fails)
        star.append(fails | slow)
    stops = {f"{k / 10}": rates[2] * min(1.0, (k - 2) / 3) for k in range(3, 10)}
    struck = [row & (shared[1] > 0.6) for row in failed]
    n = len(shift)
    return {
        "failure": [packed(row) for row in failed],
        "failure_star": [packed(row) for row in star],
        "at_fault": [packed(row & ~hit) for row, hit in zip(failed, struck, strict=True)],
        "off_road": [packed(row & (shared[1] < 0.1)) for row in failed],
        "progress": [rates[3] + 0.3 * float(one) for one in shift],
        "distance": [rates[3]] * n,
        "ade_m": [2.0] * n,
        "comfort": [0.9] * n,
        "saturated": [0.05] * n,
        "star_at": {at: [rates[0] + (1 - rates[0]) * share] * n for at, share in stops.items()},
        "actions": _QUANTILES,
    }


def _mark(flags: np.ndarray, rows: np.ndarray, latent: np.ndarray, share: float) -> None:
    """Set the share of the rows whose latent value is lowest."""
    flags[rows[np.argsort(latent[rows])[: round(share * len(rows))]]] = True


def _audit() -> dict[str, Any]:
    shares = {"clipped": 0.01, "negative": 0.001, "reward": 0.2, "standing": 0.2}
    return {"decisions": 160_000, "kept": 150_000, "residual_m": [0.001, 0.01, 0.05, 0.3]} | shares


def _tuning() -> list[dict[str, Any]]:
    grids = {
        ("bc", "learning_rate"): {1e-4: (0.3, 1.0), 1e-3: (0.2, 1.0)},
        ("sac", "temperature"): {0.002: (0.3, 0.6), 0.01: (0.2, 0.7)},
        ("bc-sac", "imitation_weight"): {0.01: (0.12, 0.7), 0.1: (0.15, 0.9), 1.0: (0.3, 1.02)},
        ("sac-progress", "progress_weight"): {0.003: (0.16, 0.75), 0.03: (0.2, 0.85), 0.3: (0.35, 1.0)},
    }
    return [
        {"arm": arm, "field": field, "value": value, "seeds": [1000, 1001]}
        | {"failure": [rate - 0.01, rate + 0.01], "failure_star": [rate, rate], "progress": [way, way]}
        for (arm, field), grid in grids.items()
        for value, (rate, way) in grid.items()
    ]
