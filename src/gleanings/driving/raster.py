"""The signed distance on a raster, for programs that want a plain lookup and accept its error."""

import numpy as np
from jaxtyping import Float

from gleanings.driving.grid import Frame, nearest_value
from gleanings.driving.scene import CELL_M, REACH_M, STEP_M, Edges, Grid, Ground, Raster

_ROWS = 64


def no_raster() -> Raster:
    """A raster of size 0."""
    zero = np.float32(0)
    return Raster(zero, zero, np.zeros((0, 0), np.float32), zero)


def compile_raster(edges: Edges, grid: Grid, frame: Frame, ground: Ground) -> Raster:
    """Signed distance at the corners of 0.5 m squares, at the height of the lower road (any height where unknown).

    `error` is the largest difference from the exact distance found at the centres of the squares. Source: ours.
    """
    xs = frame.x0 + STEP_M * np.arange(round(frame.nx * CELL_M / STEP_M) + 1)
    ys = frame.y0 + STEP_M * np.arange(round(frame.ny * CELL_M / STEP_M) + 1)
    value = _sample(xs, ys, edges, grid, frame, ground)
    centre = _sample(xs[:-1] + STEP_M / 2, ys[:-1] + STEP_M / 2, edges, grid, frame, ground)
    guess = (value[:-1, :-1] + value[1:, :-1] + value[:-1, 1:] + value[1:, 1:]) / 4
    error = np.abs(guess - centre).max(initial=0.0)
    return Raster(np.float32(frame.x0), np.float32(frame.y0), value.astype(np.float32), np.float32(error))


def _sample(
    xs: Float[np.ndarray, " GX"], ys: Float[np.ndarray, " GY"], edges: Edges, grid: Grid, frame: Frame, ground: Ground
) -> Float[np.ndarray, "GY GX"]:
    """Values at the crossings of columns xs and rows ys, a band of rows at a time."""
    ix = np.minimum((xs - frame.x0) // CELL_M, frame.nx - 1).astype(np.int64)
    bands = []
    for low in range(0, len(ys), _ROWS):
        band = ys[low : low + _ROWS]
        iy = np.minimum((band - frame.y0) // CELL_M, frame.ny - 1).astype(np.int64)
        cell = (iy[:, None] * frame.nx + ix).ravel()
        x, y = (value.ravel() for value in np.meshgrid(xs, band))
        bands.append(nearest_value(edges, grid, cell, x, y, np.asarray(ground.low, np.float64)[cell]))
    return np.concatenate(bands).reshape(len(ys), len(xs)).clip(-REACH_M, REACH_M)
