"""How a drive differs from the log's: off its route, and in its actions. Source: ours, design page 3.10."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from gleanings.driving.learn.drives import Drives
from gleanings.driving.scene import Scene

_OFF_ROUTE_M, _STANDING_M = 4.0, 0.02


class Style(NamedTuple):
    """Share of the scenes with a decision that ends over 4 m from the route; W1 distances of u to the log's, in [0, 2],
    of acceleration and, where the ego moves, of steering."""

    off_route: float
    acceleration: float
    steering: float


def style(bank: Scene, drives: Drives, logged: Drives) -> Style:
    """Of the drives of a bank; `logged`: those of `ExpertReplay` in it, whose actions are the log's."""
    distances = (wasserstein(own, other) for own, other in zip(marginals(drives), marginals(logged), strict=True))
    return Style(float(off_route(bank, drives).mean()), *distances)


def off_route(bank: Scene, drives: Drives) -> Bool[np.ndarray, " C"]:
    """Whether the ego is over 4 m from the point of its path at its arc after any decision; not at a cut path's end."""
    rows = np.arange(len(drives.reward))
    slot = np.asarray(bank.objects.is_sdc).argmax(1)
    paths = bank.paths
    x, y, length, closed = (np.asarray(field)[rows, slot] for field in (paths.x, paths.y, paths.length, paths.closed))
    start = np.asarray(paths.logged)[rows, slot, np.asarray(bank.start)]
    arc, last = start[:, None] + drives.progress_m, x.shape[1] - 1
    cut = ~closed[:, None] & (arc >= last)
    around = np.where(closed[:, None], arc % np.maximum(length, 1.0)[:, None], arc)
    cell = np.clip(np.floor(around).astype(int), 0, last - 1)
    share = around - cell

    def at(samples: Float[np.ndarray, "C Q"]) -> Float[np.ndarray, "C H"]:
        here, there = (np.take_along_axis(samples, cell + k, 1) for k in (0, 1))
        return here + share * (there - here)

    away = np.hypot(drives.pose.x[:, 1:] - at(x), drives.pose.y[:, 1:] - at(y))
    return ((away > _OFF_ROUTE_M) & (length > 0)[:, None] & ~cut).any(1)


def marginals(drives: Drives) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " K"]]:
    """u of acceleration of all decisions, and u of steering of those over which the ego moves."""
    moves = np.hypot(np.diff(drives.pose.x, axis=1), np.diff(drives.pose.y, axis=1)) >= _STANDING_M
    u = np.clip(drives.u, -1, 1).astype(float)
    return u[..., 0].ravel(), u[..., 1][moves]


def wasserstein(a: Float[np.ndarray, " M"], b: Float[np.ndarray, " K"]) -> float:
    """W1 between two samples: the area between their distribution functions; NaN if one is empty."""
    if not len(a) or not len(b):
        return float("nan")
    a, b = np.sort(a), np.sort(b)
    values = np.sort(np.concatenate([a, b]))
    gaps = np.searchsorted(a, values[:-1], "right") / len(a) - np.searchsorted(b, values[:-1], "right") / len(b)
    return float(np.abs(gaps) @ np.diff(values))
