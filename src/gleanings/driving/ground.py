"""Height of the road under a cell: up to two levels, so that a bridge and the road below are told apart."""

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from gleanings.driving.grid import Frame
from gleanings.driving.scene import CELL_M, Ground

_LEVEL_M, _FILL_M = 2.0, 6.0


def compile_ground(points: Float[np.ndarray, "K 3"], frame: Frame) -> Ground:
    """Lowest and highest road height in each 2 m cell; NaN: none, or no second one.

    points: x, y, z of lanes, edges and of the ground under logged boxes. Heights of a cell more than 2 m apart belong
    to different levels; a level's height is its mean. Cells without points take the nearest cell's within 6 m.
    Source: ours.
    """
    cells = frame.nx * frame.ny
    ix, iy = (np.floor((points[:, k] - low) / CELL_M) for k, low in enumerate((frame.x0, frame.y0)))
    inside = (ix >= 0) & (iy >= 0) & (ix < frame.nx) & (iy < frame.ny) & np.isfinite(points[:, 2])
    cell, z = (iy * frame.nx + ix)[inside].astype(np.int64), points[inside, 2]
    low, high = np.full(cells, np.nan), np.full(cells, np.nan)
    if len(cell):
        order = np.lexsort((z, cell))
        cell, z = cell[order], z[order]
        begins = (np.diff(cell, prepend=-1) > 0) | (np.diff(z, prepend=-np.inf) > _LEVEL_M)
        first = np.flatnonzero(begins)
        owner = cell[first]
        mean = np.add.reduceat(z, first) / np.diff(np.append(first, len(z)))
        low[owner[::-1]] = mean[::-1]
        high[owner] = mean
        high[high == low] = np.nan
        _fill(low, high, frame)
    return Ground(low.astype(np.float32), high.astype(np.float32))


def _fill(low: Float[np.ndarray, " C"], high: Float[np.ndarray, " C"], frame: Frame) -> None:
    """Give cells without a height those of the nearest cell that has one."""
    iy, ix = np.divmod(np.arange(len(low)), frame.nx)
    place = np.stack([ix, iy], 1) * CELL_M
    known, empty = np.flatnonzero(~np.isnan(low)), np.flatnonzero(np.isnan(low))
    distance, nearest = KDTree(place[known]).query(place[empty], distance_upper_bound=_FILL_M)
    close = np.isfinite(distance)
    source = known[np.asarray(nearest)[close]]
    low[empty[close]], high[empty[close]] = low[source], high[source]
