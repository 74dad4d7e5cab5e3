"""The follower: behind, never backwards, never through the ego, by its formula and by boxes."""

import numpy as np
import pytest

from gleanings.driving.learn._actors import gaps
from gleanings.driving.learn.follower import follow_arcs, follower

STEP = 0.1


def driven(seed: int) -> np.ndarray:
    """An ego [91, 6] on a winding way that starts, stops and goes on."""
    rng = np.random.default_rng(seed)
    speed = np.abs(8 + np.cumsum(rng.normal(0, 0.6, 91)))
    if seed % 2:
        speed[45:] = np.maximum(speed[44] - 0.6 * np.arange(46), 0.0)
    speed[:11] = speed[0]
    arc = np.concatenate([[0.0], np.cumsum(speed[1:] * STEP)])
    fine = np.linspace(0, arc[-1] + 1, 4000)
    yaw = 0.3 * np.sin(fine / 25.0)
    x, y = (np.concatenate([[0.0], np.cumsum(f(yaw)[1:] * np.diff(fine))]) for f in (np.cos, np.sin))
    place = [np.interp(arc, fine, v) for v in (x, y)]
    turn = np.interp(arc, fine, yaw)
    return np.stack([*place, 0 * arc, turn, speed * np.cos(turn), speed * np.sin(turn)], 1)


def test_formula_of_an_even_drive():
    arc = 10.0 * STEP * np.arange(50)
    np.testing.assert_allclose(follow_arcs(arc, 1.0, 7.0), arc - 10.0)  # late by 1 s is farther than 7 m
    np.testing.assert_allclose(follow_arcs(arc, 0.5, 7.0), arc - 7.0)


def test_an_ego_that_stops_is_closed_up_to():
    arc = np.minimum(8.0 * STEP * np.arange(120), 40.0)
    behind = follow_arcs(arc, 1.5, 6.5)
    assert behind[-1] == pytest.approx(33.5)
    assert (np.diff(behind) >= 0).all()
    assert (arc - behind >= 6.5 - 1e-9).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("pace", [1.0, 0.6])
def test_never_reverses_and_never_hits(seed: int, pace: float):
    ego, size = driven(seed), (4.6, 1.9, 1.5)
    road = np.stack([np.arange(-60.0, -0.5, 0.5), np.zeros(119), np.zeros(119)], 1)
    ahead = ego[-1, :3] + np.arange(5.0, 60.0)[:, None] * [np.cos(ego[-1, 3]), np.sin(ego[-1, 3]), 0]
    found = follower(ego, 4.6, size, road, ahead, 0.8 + 0.2 * seed, 2.0, pace)
    assert found is not None
    move = np.diff(found.pose[:, :2], axis=0)
    ahead_of_it = (move * np.stack([np.cos(found.pose[:-1, 3]), np.sin(found.pose[:-1, 3])], 1)).sum(1)
    assert ahead_of_it.min() > -1e-3
    assert gaps(ego, size, found.pose, size).min() > 1.5
    speed = np.hypot(found.pose[1:, 4], found.pose[1:, 5])
    np.testing.assert_allclose(speed, np.hypot(*move.T) / STEP, atol=0.3)


def test_no_follower_without_road_behind():
    ego = driven(0)
    road = np.stack([np.arange(-8.0, -0.5, 0.5), np.zeros(15), np.zeros(15)], 1)
    assert follower(ego, 4.6, (4.6, 1.9, 1.5), road, ego[-1:, :3] + [[9.0, 0, 0]], 1.5, 3.0) is None
