"""What arms and controls of the study of BC-SAC did, read from its evidence, and how two compare.

Rates are shares in [0, 1]. S seeds, C scenes. Source: ours.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from gleanings.core.errors import ConfigError
from gleanings.core.stats import Difference, Interval, crossed_difference

PARTS = {
    "all": ("all", ""),
    "easy": ("all", "easy"),
    "top50": ("all", "top50"),
    "hard": ("hard", ""),
    "top3": ("hard", "top3"),
    "given": ("given", ""),
}
"""Groups of scenes: set and mask within it. `hard` is the hardest tenth, `given` the user's logs."""
NAMES = {
    "bc": "BC",
    "bc-short": "BC, 1/4 of the steps",
    "sac": "SAC",
    "bc-sac": "BC-SAC",
    "sac-progress": "SAC, progress",
    "bc-shuffled": "BC, shuffled labels",
    "bc-sac-null": "BC-SAC, nothing to gain",
}


def unpacked(text: str, count: int) -> Bool[np.ndarray, " C"]:
    """Packed bools as hex digits, `count` of them. ConfigError: another number of bytes."""
    held = np.frombuffer(bytes.fromhex(text), np.uint8)
    if len(held) != (count + 7) // 8:
        raise ConfigError(f"evidence: {len(held)} bytes of bits for {count} scenes")
    return np.unpackbits(held, count=count).astype(bool)


def found_by(values: dict[str, Any], who: str, part: str = "hard", world: str = "log") -> dict[str, Any]:
    """What an arm or control did in the set of scenes that `part` belongs to."""
    one = next(group[who] for group in (values["arms"], values["controls"]) if who in group)
    return one["worlds"][world][PARTS[part][0]]


def mask_of(values: dict[str, Any], part: str) -> Bool[np.ndarray, " C"]:
    """Scenes of a group within its set."""
    scenes, name = PARTS[part]
    count = len(values["scenes"][scenes]["kind"])
    return unpacked(values["scenes"][scenes][name], count) if name else np.ones(count, bool)


def outcomes(
    values: dict[str, Any], who: str, metric: str, part: str = "hard", world: str = "log"
) -> Float[np.ndarray, "S C"]:
    """0 or 1 a seed and scene of a group."""
    rows, mask = found_by(values, who, part, world)[metric], mask_of(values, part)
    return np.stack([unpacked(row, len(mask)) for row in rows])[:, mask].astype(float)


def rate(values: dict[str, Any], who: str, metric: str, part: str = "hard", world: str = "log") -> Interval:
    """Mean over seeds and scenes of a group with its 95 % interval, within [0, 1]; NaN bounds without variation."""
    grid = outcomes(values, who, metric, part, world)
    found = compared(grid, np.zeros_like(grid), *maps_of(values, part), draws=2000)
    return replace(found.interval, low=max(0.0, found.low), high=min(1.0, found.high))


def maps_of(values: dict[str, Any], part: str) -> tuple[Shaped[np.ndarray, " C"], Shaped[np.ndarray, " C"]]:
    """Kind and map of each scene of a group: intervals resample maps within kinds."""
    scenes, mask = values["scenes"][PARTS[part][0]], mask_of(values, part)
    kinds = np.asarray(scenes["kind"], str)[mask]
    sites = [f"{kind} {site}" for kind, site in zip(scenes["kind"], scenes["site"], strict=True)]
    return kinds, np.asarray(sites, str)[mask]


def compared(
    a: Float[np.ndarray, "S C"],
    b: Float[np.ndarray, "S C"],
    kinds: Shaped[np.ndarray, " C"],
    maps: Shaped[np.ndarray, " C"],
    weights: Float[np.ndarray, " C"] | None = None,
    *,
    draws: int = 5000,
) -> Difference:
    """A - B by seeds and maps within kinds; without an interval (NaN) where there are fewer than two maps."""
    if len(np.unique(maps)) > 1:
        return crossed_difference(a, b, kinds, weights=weights, clusters=maps, draws=draws)
    seeds, items, nan = *a.shape, math.nan
    share = np.full(items, 1 / max(items, 1)) if weights is None else weights
    per_seed = (a - b) @ share if items else np.full(seeds, nan)
    mean = float(per_seed.mean())
    note = f"{items} scenes of fewer than two maps: no interval"
    return Difference(mean, nan, nan, nan, 0.95, nan, nan, tuple(per_seed.tolist()), mean, seeds, items, note)


def difference(
    values: dict[str, Any], a: str, b: str, metric: str, part: str = "hard", *, against: str = "", world: str = "log"
) -> Difference:
    """A - B of two arms, paired by scene and by the first seeds of both.

    against: the contrast [A - B] in `part` less [A - B] in this group, whose scenes are others; a map may be in both.
    """
    names = [name for name in (part, against) if name]
    sides = [[outcomes(values, who, metric, name, world) for name in names] for who in (a, b)]
    seeds = min(len(side[0]) for side in sides)
    first, second = (np.concatenate([grid[:seeds] for grid in side], axis=1) for side in sides)
    kinds, maps = (np.concatenate(column) for column in zip(*(maps_of(values, name) for name in names), strict=True))
    sizes = [grid.shape[1] for grid in sides[0]]
    weights = np.concatenate([np.full(n, sign / max(n, 1)) for n, sign in zip(sizes, (1, -1), strict=False)])
    return compared(first, second, kinds, maps, weights)


def mean_of(values: dict[str, Any], who: str, metric: str, part: str = "hard") -> float:
    """Rate over seeds and scenes of a group; NaN without scenes."""
    grid = outcomes(values, who, metric, part)
    return float(grid.mean()) if grid.size else math.nan


def spread(values: dict[str, Any], who: str) -> float:
    """Standard deviation over seeds of failure in the hardest tenth."""
    rates = outcomes(values, who, "failure").mean(1)
    return float(rates.std(ddof=1)) if len(rates) > 1 else 0.0


def percent(interval: Interval) -> str:
    """`12 % [10, 15]`."""
    low, high = (f"{100 * bound:.1f}" for bound in (interval.low, interval.high))
    return f"{100 * interval.estimate:.1f} % [{low}, {high}]"


def points(interval: Interval) -> Interval:
    """In per cent instead of shares."""
    scaled = {key: 100 * getattr(interval, key) for key in ("estimate", "low", "high")}
    return replace(interval, **scaled)


def named(who: str) -> str:
    """An arm as the report calls it; controls keep their names."""
    return NAMES.get(who, who)
