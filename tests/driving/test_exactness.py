"""Exact against independent computation on whole scenes: metrics, signed distances, two formats of one scene."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from tests.driving import _metric_oracle as oracle
from tests.driving import _roads
from tests.driving._random_scenes import REAL, SMALL, common_size, drifting, family_scene, family_scenes, real_scene
from tests.driving._writers import write_example, write_scenario
from tests.driving.test_load import same

from gleanings.driving import road
from gleanings.driving.compile import compile_scene
from gleanings.driving.families import FAMILIES, make_raw
from gleanings.driving.metrics import measure
from gleanings.driving.raw import RawScene
from gleanings.driving.readers import womd_example, womd_scenario
from gleanings.driving.scene import Scene, Trajectory

GRID, DENSE = jax.jit(road.signed_distance), jax.jit(road.signed_distance_dense)
FLOAT_M, NEAR_M = 1.1e-3, 1e-4
# Where a lane or the start of a path is in doubt, so is whether these are defined at all.
LOOSE = ("progress_ratio", "speeding_mps", "wrong_way", "comfort")


class Compared(NamedTuple):
    """Of one metric: values compared, values in doubt, largest error of a float, booleans that differ."""

    sure: int
    doubtful: int
    error: float
    wrong: int


def compare(scene: Scene, trajectory: Trajectory) -> dict[str, Compared]:
    """All metrics beside those of the oracle, whose masks must be equal."""
    found = measure(scene, trajectory)
    result = {}
    for name, (value, mask, doubt) in oracle.measure(scene, trajectory, int(scene.start)).items():
        got, where = (np.asarray(part) for part in found[name])
        assert ((where == mask) | (doubt if name in LOOSE else False)).all(), name
        use = mask & where & ~doubt
        apart = np.abs(got.astype(float) - value)[use]
        wrong = int(apart.sum()) if value.dtype == bool else int((apart > FLOAT_M).sum())
        result[name] = Compared(int(use.sum()), int((mask & doubt).sum()), float(apart.max(initial=0)), wrong)
    return result


def assert_exact(scene: Scene, steps: int | None = None) -> None:
    """No value differs, and four of five are sure (where vehicles overlap by the dozen many touch nearly)."""
    compared = compare(scene, drifting(scene, steps))
    print("\n".join(f"{name:16} {row.sure:7} {row.doubtful:6} {row.error:.1e}" for name, row in compared.items()))
    assert {name: row for name, row in compared.items() if row.wrong} == {}
    assert 4 * sum(row.doubtful for row in compared.values()) < sum(row.sure for row in compared.values())


def test_metrics_are_those_of_the_oracle(shared_data: Path):
    for scene in common_size([*family_scenes("four_way_signal"), real_scene(shared_data, SMALL)]):
        assert_exact(scene, 12)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_metrics_are_those_of_the_oracle_at_every_step_of_families(family: str):
    assert_exact(family_scenes()[list(FAMILIES).index(family)])


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_metrics_are_those_of_the_oracle_at_every_step_of_real_scenes(shared_data: Path, name: str):
    assert_exact(real_scene(shared_data, name))


def points_near(scene: Scene, count: int) -> np.ndarray:
    """Points [count, 3] within 28 m of edges, lanes and logged objects, in their slabs of height."""
    log, places = scene.log, []
    base = log.z - scene.objects.height / 2
    places.append(np.stack([log.x[log.valid], log.y[log.valid], base[log.valid]], 1))
    for part in (scene.edges, scene.lanes):
        places.append(np.stack([part.ax + part.dx / 2, part.ay + part.dy / 2, part.z], 1)[np.isfinite(part.z)])
    return _roads.queries([(part, False) for part in places], count)


def assert_distances(scene: Scene, count: int, by_hand: int) -> None:
    """The grid beside the dense twin at `count` points, and beside NumPy in float64 at `by_hand` of them."""
    points = points_near(scene, count)
    value, twin = (np.asarray(method(scene, *points.T)[0], float) for method in (GRID, DENSE))
    worst = np.abs(np.abs(value) - np.abs(twin)).max()
    flipped = (np.sign(value) != np.sign(twin)) & (np.abs(twin) > NEAR_M)
    parts = [oracle.signed_distance(scene, *point[:, None]) for point in points[:by_hand].astype(float)]
    exact, tie = (np.concatenate(part) for part in zip(*parts, strict=True))
    sure = ~tie & (np.abs(exact) > NEAR_M)
    off = np.abs(np.abs(value[:by_hand]) - np.abs(exact)).max()
    against = sure & (np.sign(value[:by_hand]) != np.sign(exact))
    print(f"{count} points: {worst:.1e} m from the dense twin; {by_hand}: {off:.1e} m from float64, {tie.sum()} ties")
    assert worst <= NEAR_M
    assert off <= NEAR_M
    assert not flipped.any()
    assert not against.any()


def test_the_grid_is_brute_force(shared_data: Path):
    assert_distances(real_scene(shared_data, SMALL), 20_000, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_the_grid_is_brute_force_on_real_scenes(shared_data: Path, name: str):
    assert_distances(real_scene(shared_data, name), 100_000, 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_grid_is_brute_force_on_families(family: str):
    assert_distances(family_scene(family), 100_000, 10_000)


def storable(raw: RawScene) -> RawScene:
    """What both formats can hold: float32, ids that are numbers; samples know no limits and no neighbours."""

    def real(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32).astype(float)

    ids = {feature.name: str(k + 1) for k, feature in enumerate(raw.features)}
    features = []
    for feature in raw.features:
        ring = feature.closed and feature.kind in ("lane", "road_edge", "road_line")
        points = real(np.concatenate([feature.points, feature.points[:1]]) if ring else feature.points)
        links = tuple(ids[name] for name in feature.successors)
        bare = {"name": ids[feature.name], "speed_limit": float("nan"), "neighbours": (), "successors": links}
        features.append(replace(feature, points=points, closed=feature.closed and not ring, **bare))
    tracks = tuple(
        replace(
            track,
            name=str(k),
            **{name: real(getattr(track, name)) for name in ("position", "yaw", "velocity", "size")},
        )
        for k, track in enumerate(raw.tracks)
    )
    lights = tuple(replace(light, lane=ids[light.lane], stop=real(light.stop)) for light in raw.lights)
    return replace(raw, features=tuple(features), tracks=tracks, lights=lights)


@pytest.mark.parametrize(
    "family",
    [name if name == "merge" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def test_both_formats_of_a_generated_scene_compile_to_the_same_arrays(family: str):
    raw = storable(make_raw(family))
    example = womd_example.parse(write_example(raw, 64, 20_000, seed=1), Path("f"), 0)
    scenario = womd_scenario.parse(write_scenario(raw, seed=2), Path("f"), 0)
    assert same(compile_scene(example), compile_scene(scenario)) == ["source"]
