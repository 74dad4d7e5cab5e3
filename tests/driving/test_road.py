"""Signed distance and lane matching against float64 brute force, point in polygon and finite differences."""

import itertools
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving import _roads

from gleanings.core.errors import ConfigError
from gleanings.driving import road
from gleanings.driving.compile import compile_scene
from gleanings.driving.readers.detect import read_raw
from gleanings.driving.scene import Scene

GRID, DENSE = jax.jit(road.signed_distance), jax.jit(road.signed_distance_dense)
LANES = jax.jit(road.near_lanes)
FILES = (
    "waymo-open-dataset/motion_data_one_example.tfrecord",
    "waymo-open-dataset/motion_data_one_scenario.tfrecord",
    "scenarionet/overpass_sd_waymo_v1.2_eb4b91b10ca94ff2.pkl",
)


def same_as_dense(scene: Scene, points: np.ndarray) -> np.ndarray:
    """The values of the grid, after a comparison with the dense twin."""
    value, twin = (np.asarray(method(scene, *points.T)[0]) for method in (GRID, DENSE))
    np.testing.assert_allclose(np.abs(value), np.abs(twin), atol=1e-4)
    assert not (np.sign(value) != np.sign(twin))[np.abs(twin) > 1e-4].any()
    return value


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_grid_is_the_dense_twin_is_brute_force(seed):
    lines = _roads.wild(seed)
    points = _roads.queries(lines, 5000, seed)
    scene = _roads.road_scene(lines)
    value = same_as_dense(scene, points)
    exact = np.minimum(_roads.distance(lines, points.astype(np.float64)), 30)
    np.testing.assert_allclose(np.abs(value), exact, atol=1e-4)
    assert len(scene.grid.slots) > scene.grid.SHORT  # the second pass has been through


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 9))
def test_grid_is_the_dense_twin_at_many_points(seed):
    lines = _roads.wild(seed, 60)
    same_as_dense(_roads.road_scene(lines), _roads.queries(lines, 100_000, seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_grid_is_the_dense_twin_on_real_roads(shared_data: Path, name: str):
    scene = compile_scene(read_raw(shared_data / "driving" / name)[0])
    log, edges, lanes = scene.log, scene.edges, scene.lanes
    base = (log.z - scene.objects.height / 2)[log.valid]
    places = [np.stack([log.x[log.valid], log.y[log.valid], base], 1)]
    places += [np.stack([s.ax + s.dx / 2, s.ay + s.dy / 2, s.z], 1)[np.isfinite(s.z)] for s in (edges, lanes)]
    same_as_dense(scene, _roads.queries([(part, False) for part in places], 100_000))


def cut(corners: np.ndarray, places: tuple[int, ...]) -> list[_roads.Polyline]:
    """A closed chain as open parts that share their ends, the last first."""
    turned = np.roll(corners, -places[0], 0)
    bounds = [place - places[0] for place in places] + [len(corners)]
    whole = np.concatenate([turned, turned[:1]])
    return [(whole[a : b + 1], False) for a, b in itertools.pairwise(bounds)][::-1]


@pytest.mark.parametrize(
    ("corners", "lines"),
    [
        (_roads.star(), [(_roads.star(), True)]),
        (_roads.star(), cut(_roads.star(), (3, 8, 9))),  # joints at corners of both kinds
        (_roads.ring(), cut(_roads.ring(), (0, 50, 77))),
    ],
    ids=["star", "parts-of-a-star", "joined-arcs"],
)
def test_sign_is_that_of_point_in_polygon(corners: np.ndarray, lines: list[_roads.Polyline]):
    points = np.random.default_rng(0).uniform(-44, 44, (100_000, 3)).astype(np.float32) * np.float32([1, 1, 0])
    value = np.asarray(GRID(_roads.road_scene(lines), *points.T)[0])
    inside = _roads.in_polygon(corners, points)
    assert (value < 0)[np.abs(value) > 1e-4].tolist() == inside[np.abs(value) > 1e-4].tolist()
    holes = np.asarray(GRID(_roads.road_scene([(line[::-1], closed) for line, closed in lines]), *points.T)[0])
    np.testing.assert_allclose(holes, -value, atol=1e-4)


def test_only_edges_of_the_same_height_count():
    below = [np.array([[-60.0, side * 5, 0.0], [60.0, side * 5, 0.0]]) for side in (-1, 1)]
    above = [np.array([[side * 4, -60.0, 6.0], [side * 4, 60.0, 6.0]]) for side in (-1, 1)]
    lines = [(line[::-1] if left else line, False) for line, left in zip(below + above, (0, 1, 1, 0), strict=True)]
    scene = _roads.road_scene(lines)
    x, y, z = np.float32([[20, 3, 20, 3, 0], [0, 20, 0, 20, 0], [0, 6, 6, 0, 3]])
    value, known = GRID(scene, x, y, z)
    np.testing.assert_allclose(value, [-5, -1, 16, 15, -30], atol=1e-5)  # at 3.0 m neither road passes
    assert bool(known.all())


def test_beside_the_grid_and_without_edges():
    scene, nan = _roads.road_scene([(_roads.star(), True)]), float("nan")
    x, zero = np.float32([1e6, nan, 0.0, np.inf]), np.zeros(4, np.float32)
    np.testing.assert_array_equal(np.asarray(GRID(scene, x, zero, zero)[0])[[0, 1, 3]], 30)
    assert float(GRID(scene, zero, zero, zero - 9)[0][0]) == -30
    value, known = GRID(_roads.road_scene([]), x, zero, zero)
    assert np.isfinite(value).all()
    assert not np.asarray(known).any()


def oracle(lines: list[_roads.Polyline], points: np.ndarray) -> np.ndarray:
    distance = _roads.distance(lines, points)
    return np.where(_roads.in_polygon(lines[0][0], points), -distance, distance)


def test_gradient_is_finite_and_that_of_the_oracle():
    lines = [(_roads.star(), True)]
    scene = _roads.road_scene(lines)
    points = np.random.default_rng(1).uniform(-50, 50, (3000, 3)) * [1, 1, 0]
    points[:2] = [[40, 0, 0], [np.nan, 0, 0]]  # on a corner, and no place at all
    points = np.concatenate([points, lines[0][0]])
    gradient = jax.jit(jax.grad(lambda x, y, z: GRID(scene, x, y, z)[0].sum(), (0, 1)))
    found = np.stack(gradient(*jnp.asarray(points.T, jnp.float32)), 1)
    assert np.isfinite(found).all()
    step = 1e-4
    ahead, behind = (
        np.stack([oracle(lines, points + sign * step * np.eye(3)[axis]) for axis in (0, 1)], 1) for sign in (1, -1)
    )
    value = oracle(lines, points)
    slope, bend = (ahead - behind) / (2 * step), np.abs(ahead + behind - 2 * value[:, None]).max(1)
    plain = (np.abs(value) > 0.05) & (np.abs(value) < 29.9) & (bend < 1e-6)  # away from ties and from the edge
    assert plain.sum() > 1000
    np.testing.assert_allclose(found[plain], slope[plain], atol=2e-3)
    assert (found[np.abs(value) > 30.1] == 0).all()


@pytest.mark.slow
def test_batches_equal_single_scenes_in_any_shape():
    roads = [_roads.wild(seed, 8) for seed in (0, 1)]
    scenes = [_roads.road_scene(lines, segments=1024) for lines in roads]
    size = max(len(scene.grid.start) for scene in scenes)
    items, window = (max(len(getattr(scene.grid, name)) for scene in scenes) for name in ("items", "slots"))

    def grow(scene: Scene) -> Scene:
        grid = scene.grid
        start, far = (np.pad(column, (0, size - len(column))) for column in (grid.start, grid.far))
        more = np.pad(grid.items, (0, items + window - len(grid.items)))
        return scene._replace(grid=grid._replace(start=start, far=far, items=more, slots=np.arange(window)))

    grown = [grow(scene)._replace(lanes=None, lane_grid=None, ground=None, raster=None) for scene in scenes]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *grown)
    points = np.stack([_roads.queries(lines, 400) for lines in roads])
    x, y, z = np.moveaxis(points.reshape(2, 100, 4, 3), -1, 0)
    together = np.asarray(jax.jit(jax.vmap(road.signed_distance))(stacked, x, y, z)[0])
    for k, scene in enumerate(scenes):
        np.testing.assert_array_equal(together[k], GRID(scene, x[k], y[k], z[k])[0])
    one = GRID(scenes[0], x[0, 3, 2], y[0, 3, 2], z[0, 3, 2])
    assert one[0].shape == one[1].shape == ()
    assert float(one[0]) == together[0, 3, 2]
    slopes = jax.jit(jax.vmap(jax.grad(lambda x, s, y, z: road.signed_distance(s, x, y, z)[0].sum())))
    assert np.isfinite(slopes(x, stacked, y, z)).all()


def test_raster_keeps_its_bound():
    lines = [(_roads.star(), True)]
    scene = _roads.road_scene(lines, raster=True)
    points = np.random.default_rng(2).uniform(-60, 60, (5000, 3)).astype(np.float32) * np.float32([1, 1, 0])
    places = [jnp.asarray(column) for column in points.T]
    value, known = jax.jit(partial(road.signed_distance, how="raster"))(scene, *places)
    exact = np.clip(oracle(lines, points.astype(np.float64)), -30, 30)
    assert np.abs(value - exact).max() <= float(scene.raster.error) + 1e-3
    assert float(scene.raster.error) < 0.36  # half the diagonal of a square
    assert bool(known.all())
    with pytest.raises(ConfigError, match="no raster"):
        road.signed_distance(_roads.road_scene(lines), *places, how="raster")


def lanes_by_hand(lanes: list[np.ndarray], points: np.ndarray, yaw: np.ndarray) -> tuple[np.ndarray, ...]:
    near, best, row = np.zeros(len(points), bool), np.full(len(points), np.inf), np.full(len(points), -1)
    for k, line in enumerate(lanes):
        for a, b in itertools.pairwise(line):
            d = _roads.to_segment(points[:, :2], a[:2], b[:2])
            here = (d <= 2.5) & (np.abs((a[2] + b[2]) / 2 - points[:, 2]) <= 2.5)
            turn = np.angle(np.exp(1j * (np.arctan2(b[1] - a[1], b[0] - a[0]) - yaw)))
            better = here & (np.abs(turn) <= np.pi / 2) & (d < best)
            near |= here
            best, row = np.where(better, d, best), np.where(better, k, row)
    return near, row >= 0, best <= 1, row


def test_lanes_are_those_of_a_plain_loop():
    lanes = [line for line, _ in _roads.wild(4, 10)]
    lanes.append(_roads.ring(3, 60))  # a list longer than the first window
    scene = _roads.road_scene([(_roads.star(), True)], lanes)
    assert len(scene.lane_grid.slots) > scene.lane_grid.SHORT
    rng = np.random.default_rng(0)
    spots = np.concatenate(lanes)[rng.integers(sum(map(len, lanes)), size=1000)] + rng.normal(0, 1.2, (1000, 3))
    spots[:2] = [[1e5, 0, 0], [np.nan, 0, 0]]
    spots, yaw = spots.astype(np.float32), rng.uniform(-3, 3, 1000).astype(np.float32)
    match = LANES(scene, *spots.T, yaw)
    near, aligned, close, row = lanes_by_hand(lanes, spots.astype(np.float64), yaw.astype(np.float64))
    by_hand = (near, aligned, close, np.where(aligned, 10.0 + row, np.nan), row)
    for found, exact in zip(match, by_hand, strict=True):
        np.testing.assert_array_equal(found, exact)
