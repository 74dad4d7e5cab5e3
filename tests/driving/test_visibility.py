"""What is hidden behind others: against points sampled along the lines of sight, and cases drawn by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving._scenes import straight, tiny_scene

from gleanings.driving.config import ObserveConfig, SimConfig
from gleanings.driving.observation import Observation, observe_ego
from gleanings.driving.scene import Scene
from gleanings.driving.sim import Simulator
from gleanings.driving.visibility import hidden

POINTS = ((0, 0), (1, 1), (-1, 1), (-1, -1), (1, -1))


@jax.jit
def seen_from_origin(x, y, yaw, length, width, blocks):
    zero = jnp.float32(0)
    return hidden(zero, zero, x, y, jnp.cos(yaw), jnp.sin(yaw), length, width, blocks)


def found(boxes: np.ndarray, blocks: np.ndarray | None = None) -> np.ndarray:
    """`hidden` from the origin; boxes: rows x, y, yaw, length, width."""
    columns = np.asarray(boxes, np.float32).T
    blocks = np.ones(len(boxes), bool) if blocks is None else blocks
    return np.asarray(seen_from_origin(*columns, blocks))


def inside(points: np.ndarray, box: np.ndarray, grown: float = 0.0) -> np.ndarray:
    """Whether points [..., 2] lie in a box that is larger by `grown` on every side."""
    x, y, yaw, length, width = box
    dx, dy = points[..., 0] - x, points[..., 1] - y
    lon, lat = np.cos(yaw) * dx + np.sin(yaw) * dy, np.cos(yaw) * dy - np.sin(yaw) * dx
    return (np.abs(lon) < length / 2 + grown) & (np.abs(lat) < width / 2 + grown)


def sampled(boxes: np.ndarray, blocks: np.ndarray, grown: float) -> np.ndarray:
    """The same by points 2 cm apart on each line; boxes in the way are larger by `grown`."""
    result = []
    for i, (x, y, yaw, length, width) in enumerate(boxes):
        lines = []
        for a, b in POINTS:
            lon, lat = a * length / 2, b * width / 2
            end = np.array([x + lon * np.cos(yaw) - lat * np.sin(yaw), y + lon * np.sin(yaw) + lat * np.cos(yaw)])
            points = np.linspace(0, 1, int(np.hypot(*end) / 0.02) + 2)[1:-1, None] * end
            others = [k for k in range(len(boxes)) if k != i and blocks[k] and not inside(np.zeros(2), boxes[k])]
            lines.append(any(inside(points, boxes[k], grown).any() for k in others))
        result.append(all(lines))
    return np.array(result)


def test_it_is_what_sampled_lines_say() -> None:
    rng, told, count = np.random.default_rng(0), 0, 0
    for _ in range(40):
        boxes = np.stack([*rng.uniform(-30, 30, (2, 10)), *(rng.uniform(a, b, 10) for a, b in BOUNDS)], 1)
        blocks = rng.uniform(size=10) < 0.9
        least, most = (sampled(boxes, blocks, grown) for grown in (-0.03, 0.03))
        clear = least == most
        np.testing.assert_array_equal(found(boxes, blocks)[clear], least[clear])
        told, count = told + clear.sum(), count + (clear & least).sum()
    assert told > 380
    assert count > 50


BOUNDS = ((-3, 3), (3, 12), (1.5, 3))
TRUCK, CAR, WALKER = (20.0, 0.0, 0.0, 12.0, 3.0), (40.0, 0.0, 0.0, 4.6, 1.9), (28.0, 0.6, 0.0, 0.7, 0.7)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([TRUCK, CAR, WALKER], [False, True, True]),
        ([TRUCK, (40.0, 4.0, 0.0, 4.6, 1.9)], [False, False]),  # one corner peeps out
        ([WALKER, CAR], [False, False]),  # too small to hide a car
        ([(10.0, -3.0, 0.0, 4.6, 1.9), (10.0, 3.0, 0.0, 4.6, 1.9), CAR], [False, False, False]),
        ([(0.0, 0.0, 0.0, 12.0, 3.0), CAR], [False, False]),  # who stands inside sees out
        ([(12.0, 0.0, np.pi / 2, 12.0, 3.0), (17.0, 0.0, 1.0, 4.6, 1.9)], [False, True]),
        (
            [(12.0, 1.3, np.pi / 2, 2.4, 2.0), (12.0, -1.3, np.pi / 2, 2.4, 2.0), (30.0, 0.0, 0.0, 4.6, 5.0)],
            [False] * 3,
        ),
        (
            [(12.0, 1.3, np.pi / 2, 2.7, 2.0), (12.0, -1.3, np.pi / 2, 2.7, 2.0), (30.0, 0.0, 0.0, 4.6, 5.0)],
            [False, False, True],
        ),
        ([CAR, CAR], [False, False]),  # lines to the near corners end where the other begins
    ],
)
def test_cases_by_hand(boxes: list, expected: list[bool]) -> None:
    assert found(np.array(boxes)).tolist() == expected


def see(scene: Scene, line_of_sight: bool) -> Observation:
    config = ObserveConfig(objects=3, frames=2, road=0, lights=0, route=0, line_of_sight=line_of_sight)
    sim = Simulator(SimConfig(metrics=(), history=1))
    return jax.jit(lambda scene: observe_ego(scene, sim.reset(scene, jax.random.key(0)), config))(scene)


def test_an_observation_leaves_out_what_is_hidden() -> None:
    scene = tiny_scene([straight(0, 0, 0), straight(15, 0, 0), straight(30, 0, 0), straight(30, 5, 0)], start=2)
    wide = scene.objects.width.copy()
    wide[1] = 3.0
    scene = scene._replace(objects=scene.objects._replace(width=wide))
    every, some = see(scene, False), see(scene, True)
    np.testing.assert_allclose(every.others[:, 0, :2], [[15, 0], [30, 0], [30, 5]], atol=1e-5)
    np.testing.assert_allclose(some.others[:, 0, :2], [[15, 0], [30, 5], [0, 0]], atol=1e-5)
    assert some.others_mask.tolist() == [[True, True], [True, True], [False, False]]
    high = scene._replace(log=scene.log._replace(z=scene.log.z + np.float32(6) * (np.arange(8) == 1)))
    assert see(high, True).others_mask[:, 0].tolist() == [True, True, False]  # a bridge hides nothing, and is not seen
