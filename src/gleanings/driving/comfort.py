"""Comfort of a whole motion, from positions and yaw smoothed by Savitzky-Golay filters.

Each window of 11 samples is fitted by a parabola, whose derivatives at the middle sample are used; windows that are
not wholly valid are left out. The jerk is the first derivative, by the same filter, of these accelerations; it is
looked at where 21 samples are valid. Source: Savitzky & Golay 1964; bounds: nuPlan's, recalled (design page 3.8).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from gleanings.driving._step_context import defined
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Scene, Trajectory
from gleanings.driving.state import Metric

WINDOW = 11
ACCELERATION_MPS2 = (-4.05, 2.40)
LATERAL_MPS2 = 4.89
YAW_RATE = 0.95
YAW_ACCELERATION = 1.93
LONGITUDINAL_JERK = 4.13
JERK = 8.37


def _filters() -> tuple[np.ndarray, np.ndarray]:
    """Weights of the window for the first and second derivative of the fitted parabola, for samples 1 apart."""
    offset = np.arange(WINDOW) - WINDOW // 2
    fit = np.linalg.pinv(np.stack([np.ones(WINDOW), offset, offset**2], 1))
    return fit[1], 2 * fit[2]


_FIRST, _SECOND = _filters()


def comfort(scene: Scene, trajectory: Trajectory) -> Metric:
    """Whether each object's motion [T', N] keeps the six bounds [N].

    Defined for vehicles and cyclists with 11 valid steps in a row. Longitudinal and lateral: along and across the yaw
    of the middle sample. Source: see this module.
    """
    kind, trajectory = jnp.asarray(scene.objects.kind), jax.tree.map(jnp.asarray, trajectory)
    rides = (kind == int(Kind.VEHICLE)) | (kind == int(Kind.CYCLIST))
    if trajectory.x.shape[0] < WINDOW:
        return Metric(jnp.zeros(kind.shape, bool), jnp.zeros(kind.shape, bool))
    whole = _windows(trajectory.valid).all(0)
    dt = jnp.asarray(scene.dt)
    bad = (~_within_bounds(trajectory, dt) & whole).any(0)
    if whole.shape[0] >= WINDOW:
        bad = bad | (~_gentle(trajectory, dt) & _windows(whole).all(0)).any(0)
    return defined(~bad, rides & whole.any(0))


def _within_bounds(trajectory: Trajectory, dt: Array) -> Array:
    """Bounds on accelerations and on the turning of the yaw, at each window [T' - 10, N]."""
    ahead, left = _accelerations(trajectory, dt)
    yaw = _windows(trajectory.yaw)
    turn = yaw - yaw[WINDOW // 2]
    turn = turn - 2 * jnp.pi * jnp.round(turn / (2 * jnp.pi))
    rate, acceleration = _weigh(_FIRST, turn) / dt, _weigh(_SECOND, turn) / dt**2
    low, high = ACCELERATION_MPS2
    return (
        (ahead >= low)
        & (ahead <= high)
        & (jnp.abs(left) <= LATERAL_MPS2)
        & (jnp.abs(rate) <= YAW_RATE)
        & (jnp.abs(acceleration) <= YAW_ACCELERATION)
    )


def _gentle(trajectory: Trajectory, dt: Array) -> Array:
    """Bounds on the jerk, at each window of windows [T' - 20, N]."""
    ahead, _ = _accelerations(trajectory, dt)
    along = _weigh(_FIRST, _windows(ahead)) / dt
    x, y = (_weigh(_FIRST, _windows(_second(v, dt))) / dt for v in (trajectory.x, trajectory.y))
    return (jnp.abs(along) <= LONGITUDINAL_JERK) & (jnp.hypot(x, y) <= JERK)


def _accelerations(trajectory: Trajectory, dt: Array) -> tuple[Array, Array]:
    """Acceleration along and across the yaw, m/s^2 [T' - 10, N]."""
    ax, ay = _second(trajectory.x, dt), _second(trajectory.y, dt)
    yaw = trajectory.yaw[WINDOW // 2 : -(WINDOW // 2)]
    cos, sin = jnp.cos(yaw), jnp.sin(yaw)
    return ax * cos + ay * sin, ay * cos - ax * sin


def _second(signal: Float32[Array, "T N"], dt: Array) -> Array:
    windows = _windows(signal)
    # The weights add up to 0, so that taking the middle off costs nothing and saves float32 digits.
    return _weigh(_SECOND, windows - windows[WINDOW // 2]) / dt**2


def _windows(signal: Array) -> Array:
    """Windows [11, T - 10, N] of a signal [T, N]."""
    count = signal.shape[0] - WINDOW + 1
    return jnp.stack([signal[k : k + count] for k in range(WINDOW)])


def _weigh(weights: np.ndarray, windows: Array) -> Array:
    return jnp.einsum("k,ktn->tn", jnp.asarray(weights, windows.dtype), windows, precision="highest")
