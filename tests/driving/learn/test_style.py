"""Distances of actions against another library; leaving the route in closed form."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from gleanings.driving.learn.drives import Drives
from gleanings.driving.learn.style import marginals, off_route, style, wasserstein
from gleanings.driving.scene import Pose, Scene


@pytest.mark.parametrize(("few", "many"), [(1, 1), (3, 50), (200, 70)])
def test_distance_between_samples(few, many):
    rng = np.random.default_rng(few)
    a, b = rng.normal(size=few).round(1), rng.normal(0.3, 2, size=many).round(1)
    assert wasserstein(a, b) == pytest.approx(wasserstein_distance(a, b), abs=1e-12)
    assert wasserstein(a, a) == 0
    assert np.isnan(wasserstein(a, b[:0]))


def drives(x, y, arc, u) -> Drives:
    """Along the x axis; the arc after each decision is given."""
    zero = np.zeros_like(x)
    pose = Pose(x, y, zero, zero, zero, zero)
    return Drives(*[arc] * 3, *[arc > 9e9] * 4, u, pose, zero[:, 0], zero[:, 0] > 0)


def straight(count: int, samples: int = 50) -> Scene:
    """Egos in slot 1 whose path runs along the x axis, from arc 5 at the start."""
    path = np.broadcast_to(np.arange(samples, dtype=np.float32), (count, 2, samples))
    paths = SimpleNamespace(
        x=path,
        y=0 * path,
        length=np.full((count, 2), samples - 1.0),
        closed=np.zeros((count, 2), bool),
        logged=np.full((count, 2, 3), 5.0),
    )
    is_sdc = np.broadcast_to(np.array([False, True]), (count, 2))
    rest = dict.fromkeys(Scene._fields)
    return Scene(**rest | {"objects": SimpleNamespace(is_sdc=is_sdc), "paths": paths, "start": np.ones(count, int)})


def test_off_the_route_is_four_metres_from_it():
    x = np.array([[5.0, 6.5, 8.0]] * 4)
    y = np.array([[0, 0, 3.9], [0, 0, 4.1], [9, 0, 0], [0, 0, 9]])
    arc = np.array([[1.5, 3.0]] * 3 + [[1.5, 60.0]])  # the last is beyond the end of a path that fills its array
    found = off_route(straight(4), drives(x, y, arc, np.zeros((4, 2, 2))))
    assert found.tolist() == [False, True, False, False]


def test_steering_counts_where_the_ego_moves():
    x = np.array([[0.0, 1.0, 1.0]])
    one = drives(x, 0 * x, np.array([[1.0, 1.0]]), np.array([[[0.5, 0.1], [0.0, 0.9]]]))
    acceleration, steering = marginals(one)
    assert acceleration.tolist() == [0.5, 0.0]
    assert steering.tolist() == [0.1]
    found = style(straight(1), one, one._replace(u=one.u - 0.25))
    assert (found.acceleration, found.steering) == pytest.approx((0.25, 0.25))
