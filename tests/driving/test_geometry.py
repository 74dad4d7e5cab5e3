"""Boxes against polygon clipping, small time steps and sampled outlines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from gleanings.driving import geometry
from gleanings.driving.scene import Pose

_gap_matrix, _time_to_collision = jax.jit(geometry.gap_matrix), jax.jit(geometry.time_to_collision)
_distances = jax.jit(lambda box: (geometry.box_distance(box, box), geometry.pair_gap(box, box)))


def _scatter(count: int, seed: int, spread: float) -> tuple[Pose, jax.Array, jax.Array]:
    """Poses [count], lengths and widths in float32."""
    rng = np.random.default_rng(seed)
    x, y, vx, vy = rng.uniform(-1, 1, (4, count)) * np.array([spread, spread, 10, 10])[:, None]
    yaw = rng.choice([0.0, np.pi / 2, 1.0, -2.0, 3.1], count) + rng.choice([0.0, 1.0], count) * rng.normal(0, 1, count)
    fields = [jnp.asarray(v, jnp.float32) for v in (x, y, np.zeros(count), yaw, vx, vy)]
    sizes = rng.uniform(0.5, 12, count), rng.uniform(0.3, 3, count)
    return Pose(*fields), *(jnp.asarray(size, jnp.float32) for size in sizes)


def _polygon(pose: Pose, length, width, i: int) -> np.ndarray:
    c, s = np.cos(float(pose.yaw[i])), np.sin(float(pose.yaw[i]))
    local = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [float(length[i]) / 2, float(width[i]) / 2]
    return local @ np.array([[c, s], [-s, c]]) + [float(pose.x[i]), float(pose.y[i])]


def _clipped(subject: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """Intersection of two convex counter-clockwise polygons (Sutherland and Hodgman 1974); may be empty."""
    for a, b in zip(clip, np.roll(clip, -1, 0), strict=True):
        if not len(subject):
            break
        side = (b - a)[0] * (subject - a)[:, 1] - (b - a)[1] * (subject - a)[:, 0]
        points = []
        for p, q, sp, sq in zip(subject, np.roll(subject, -1, 0), side, np.roll(side, -1), strict=True):
            if sp >= 0:
                points.append(p)
            if (sp >= 0) != (sq >= 0):
                points.append(p + (q - p) * sp / (sp - sq))
        subject = np.asarray(points)
    return subject


def _area(polygon: np.ndarray) -> float:
    if len(polygon) < 3:
        return 0.0
    x, y = (polygon - polygon[0]).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _check_contact(boxes: int) -> None:
    pose, length, width = _scatter(boxes, 0, 3 * boxes**0.5)
    one = jnp.ones(boxes)
    gaps = np.asarray(_gap_matrix(pose, length, width, one, jnp.ones(boxes, bool)))
    assert (gaps.diagonal() == geometry.FAR).all()
    touching = 0
    for i in range(boxes):
        for j in range(i):
            if abs(gaps[i, j]) >= 1e-5 and gaps[i, j] < 3:
                area = _area(_clipped(_polygon(pose, length, width, i), _polygon(pose, length, width, j)))
                assert (area > 1e-12) == (gaps[i, j] < 0), (i, j, area, gaps[i, j])
                touching += area > 0
    assert touching > boxes / 2
    np.testing.assert_allclose(gaps, gaps.T, atol=1e-5)


def test_contact_is_that_of_polygon_clipping():
    _check_contact(63)


@pytest.mark.slow
def test_contact_is_that_of_polygon_clipping_on_many_pairs():
    _check_contact(450)


def test_height_life_and_identity_decide_which_pairs_can_touch():
    zero = jnp.zeros(4)
    pose = Pose(zero, zero, jnp.array([0.0, 1.4, 3.0, 0.0]), zero, zero, zero)
    gaps = _gap_matrix(pose, zero + 4, zero + 2, zero + 1.5, jnp.array([True, True, True, False]))
    assert (np.asarray(gaps) < 0).tolist() == [
        [False, True, False, False],
        [True, False, False, False],
        [False, False, False, False],
        [False, False, False, False],
    ]
    assert gaps[0, 1] == -2.0  # two boxes of 4 by 2 m on one another come free after 2 m sideways


def test_time_to_collision_is_that_of_small_steps():
    pose, length, width = _scatter(16, 1, 12.0)
    pose = pose._replace(
        vx=np.where(np.arange(16) % 5 == 0, 0, pose.vx), vy=np.where(np.arange(16) % 5 == 0, 0, pose.vy)
    )
    pairs = jnp.ones((16, 16), bool)
    found = np.asarray(_time_to_collision(pose, length, width, pairs))
    times = np.arange(0, 5, 0.001)
    cos, sin = np.cos(pose.yaw), np.sin(pose.yaw)
    meetings = 0
    for i in range(16):
        for j in range(i):
            dx = pose.x[j] - pose.x[i] + times * (pose.vx[j] - pose.vx[i])
            dy = pose.y[j] - pose.y[i] + times * (pose.vy[j] - pose.vy[i])
            gap = np.full(len(times), -np.inf)
            for k in (i, j):
                for axis in ((cos[k], sin[k]), (-sin[k], cos[k])):
                    radii = [
                        (length[m] * abs(axis[0] * cos[m] + axis[1] * sin[m])) / 2
                        + (width[m] * abs(axis[1] * cos[m] - axis[0] * sin[m])) / 2
                        for m in (i, j)
                    ]
                    gap = np.maximum(gap, np.abs(dx * axis[0] + dy * axis[1]) - sum(radii))
            expected = times[np.argmax(gap < 0)] if (gap < 0).any() else 5.0
            if gap.min() < -2e-3 or gap.min() > 2e-3:
                assert abs(found[i, j] - expected) <= 2e-3, (i, j)
            meetings += 0 < expected < 5
    assert meetings > 8
    none = _time_to_collision(pose, length, width, jnp.zeros((16, 16), bool))
    assert (np.asarray(none) == geometry.TTC_CAP).all()


def test_a_standing_pair_meets_never_or_now():
    pose = Pose(*(jnp.array(v) for v in ([0.0, 3.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 2.0], [1.0, 1.0])))
    pairs = jnp.ones((2, 2), bool)
    assert _time_to_collision(pose, jnp.array([4.0, 4.0]), jnp.ones(2), pairs)[0, 1] == 0
    assert _time_to_collision(pose, jnp.array([2.0, 2.0]), jnp.ones(2), pairs)[0, 1] == geometry.TTC_CAP


def test_distance_is_the_least_between_outlines():
    pose, length, width = _scatter(12, 2, 12.0)
    box = geometry.boxes(pose, length, width)
    found, gaps = (np.asarray(value) for value in _distances(box))
    share = np.linspace(0, 1, 1000)[:, None]
    outlines = []
    for i in range(12):
        corners = _polygon(pose, length, width, i)
        sides = zip(corners, np.roll(corners, -1, 0), strict=True)
        outlines.append(cKDTree(np.concatenate([a + share * (b - a) for a, b in sides])))
    for i in range(12):
        for j in range(i):
            least = 0 if gaps[i, j] < 0 else outlines[i].query(outlines[j].data)[0].min()
            assert found[i, j] == found[j, i]
            assert abs(found[i, j] - least) < 1e-2
            assert found[i, j] >= gaps[i, j] - 1e-4


def test_corners_and_side_points():
    pose, length, width = _scatter(5, 3, 20.0)
    x, y = geometry.corners(pose.x, pose.y, pose.yaw, length, width)
    for i in range(5):
        np.testing.assert_allclose(np.stack([x[i], y[i]], 1), _polygon(pose, length, width, i), atol=1e-5)
    x8, y8 = geometry.side_points(pose.x, pose.y, pose.yaw, length, width)
    np.testing.assert_array_equal(x8[:, :4], x)
    for side, (a, b) in enumerate(((3, 0), (0, 1), (1, 2), (2, 3))):
        np.testing.assert_allclose(x8[:, 4 + side], (x[:, a] + x[:, b]) / 2, atol=1e-5)
        np.testing.assert_allclose(y8[:, 4 + side], (y[:, a] + y[:, b]) / 2, atol=1e-5)


def test_gradients_are_finite_where_boxes_coincide():
    zero = jnp.zeros(3)
    pose = Pose(zero, zero, zero, zero, zero, zero)

    def loss(x):
        return _gap_matrix(pose._replace(x=x), zero + 4, zero + 2, zero + 1.5, jnp.ones(3, bool)).min(1).sum()

    assert np.isfinite(jax.jit(jax.grad(loss))(zero)).all()
