"""Labels against the model that they invert, and against a general optimiser where no action leads to the target."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

from gleanings.driving.dynamics import Bicycle, limits_of
from gleanings.driving.learn.actions import physical
from gleanings.driving.learn.labels import label_actions, towards
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Pose, Trajectory

SIZE, DT, EVERY = (4.6, 1.9), 0.1, 2


@jax.jit
@jax.vmap
def drive(pose: Pose, u):
    """Poses after each of `EVERY` steps of the bicycle under one action."""
    action = physical(u, jnp.hypot(pose.vx, pose.vy))
    passed = []
    for _ in range(EVERY):
        stop = -jnp.hypot(pose.vx, pose.vy) / DT
        pose = Bicycle().forward(pose, action.at[0].max(stop), DT, limits_of(jnp.asarray(int(Kind.VEHICLE))))
        passed.append(pose)
    return passed


LABEL = jax.jit(jax.vmap(lambda pose, target: towards(pose, target, SIZE, DT, EVERY)))


def poses(count: int, seed: int) -> tuple[Pose, np.ndarray]:
    """Poses anywhere with 0 to 30 m/s, a tenth of them nearly at rest, and actions."""
    rng = np.random.default_rng(seed)
    speed = rng.uniform(0, 30, count) * np.where(np.arange(count) % 10, 1, 0.03)
    x, y, yaw = rng.uniform(-300, 300, count), rng.uniform(-300, 300, count), rng.uniform(-3.1, 3.1, count)
    columns = (x, y, 0 * x, yaw, speed * np.cos(yaw), speed * np.sin(yaw))
    u = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    return Pose(*(column.astype(np.float32) for column in columns)), u


def test_actions_that_led_there_come_back():
    pose, u = poses(2000, 0)
    after = drive(pose, u)[-1]
    found, mask, residual = map(np.asarray, LABEL(pose, after))
    way = np.hypot(after.x - pose.x, after.y - pose.y)
    np.testing.assert_array_equal(mask[:, 0], True)
    sure = np.abs(way - 0.02) > 1e-4  # poses are known to 0.03 mm
    np.testing.assert_array_equal(mask[sure, 1], (way >= 0.02)[sure])
    sure = mask & np.stack([np.hypot(pose.vx, pose.vy) > 8 * DT * np.maximum(-u[:, 0], 0), mask[:, 1]], 1)
    assert 0.9 < mask[:, 1].mean() < 1
    assert residual[mask[:, 1]].max() < 1e-3
    assert np.abs(found - u)[sure].max() < 1e-3  # within a first step, one stop is as good as another
    assert found.dtype == np.float32


def test_no_action_is_better():
    """Targets no action leads to: a bounded optimiser on the same corners, through an independent model, in float64."""
    pose, u = poses(60, 1)
    rng = np.random.default_rng(2)
    after = Pose(*map(np.asarray, drive(pose, u)[-1]))
    off = rng.normal(0, 1, (3, 60)) * [[0.1], [0.1], [0.03]]
    target = Pose(after.x + off[0], after.y + off[1], after.z, after.yaw + off[2], after.vx, after.vy)
    target = Pose(*(np.float32(field) for field in target))
    found, mask, residual = map(np.asarray, LABEL(pose, target))
    for k in np.flatnonzero(mask[:, 1]):
        start, goal = (np.array([float(field[k]) for field in p]) for p in (pose, target))
        miss = lambda v: corners(arc(start, v)) - corners(goal[[0, 1, 3]])  # noqa: E731
        best = min(
            (least_squares(miss, guess, bounds=(-1, 1), xtol=1e-12) for guess in ([0.0, 0.0], 0.99 * found[k])),
            key=lambda fit: fit.cost,
        )
        least = math.sqrt(2 * best.cost / 4)
        slow = np.hypot(pose.vx[k], pose.vy[k]) < 2  # where two steps are few
        assert least - 1e-4 <= residual[k] <= (1.25 if slow else 1.05) * least + 1e-3, k
        own = math.sqrt((miss(found[k].astype(float)) ** 2).sum() / 4)
        assert abs(own - residual[k]) < 2e-4, k


def arc(start: np.ndarray, u: np.ndarray) -> np.ndarray:
    """x, y, yaw after `EVERY` steps of arcs, each drawn in 100 chords."""
    x, y, _, yaw, vx, vy = start
    v = math.hypot(vx, vy)
    a, k = (4 * u[0] if u[0] > 0 else 8 * u[0]), u[1] * min(0.22, 10 / max(v, 1) ** 2)
    for _ in range(EVERY):
        most = min(0.22, 10 / max(v, 1) ** 2)
        a = max(a, -v / DT)
        way, bend = (v * DT + a * DT**2 / 2) / 100, min(max(k, -most), most)
        turns = yaw + bend * way * (np.arange(100) + 0.5)
        x, y = x + way * np.cos(turns).sum(), y + way * np.sin(turns).sum()
        yaw, v = yaw + 100 * bend * way, v + a * DT
    return np.array([x, y, yaw])


def corners(pose: np.ndarray) -> np.ndarray:
    x, y, yaw = pose
    ahead, left = np.array([1, -1, -1, 1]) * SIZE[0] / 2, np.array([1, 1, -1, -1]) * SIZE[1] / 2
    return np.concatenate([x + ahead * np.cos(yaw) - left * np.sin(yaw), y + ahead * np.sin(yaw) + left * np.cos(yaw)])


def test_labels_of_a_log_start_from_the_log_and_know_its_gaps():
    pose, u = poses(12, 3)
    steps = [pose, *drive(pose, u)]  # [3] of poses [12]: a log of three rows for each
    rows = [np.stack([np.asarray(getattr(step, name)) for step in steps]) for name in Pose._fields]
    valid = np.ones((3, 12), bool)
    valid[1, 5] = valid[2, 6] = False
    label = jax.jit(jax.vmap(lambda log: label_actions(log, SIZE, DT, EVERY), in_axes=1))
    action, mask, _, known = map(np.asarray, label(Trajectory(*rows, valid)))
    assert action.shape == (12, 1, 2)
    np.testing.assert_array_equal(known[:, 0], ~np.isin(np.arange(12), (5, 6)))
    alone = map(np.asarray, LABEL(pose, steps[-1]))
    for one, many in zip(alone, (action, mask), strict=False):
        np.testing.assert_allclose(many[:, 0], one, atol=1e-5)


def test_standing_determines_no_steering():
    zero = np.zeros(3, np.float32)
    yaw = np.float32([0, 1, -2])
    pose = Pose(zero, zero, zero, yaw, zero, zero)
    found, mask, residual = map(np.asarray, LABEL(pose, pose._replace(x=np.float32([0, 0.01, 0.0]))))
    np.testing.assert_array_equal(mask, [[True, False]] * 3)
    np.testing.assert_array_equal(found[[0, 2]], 0)
    np.testing.assert_array_equal(found[:, 1], 0)
    assert residual.max() <= 0.011
