"""Scenes of the study of the simulator: generated families in one size, the user's files, and one of a reference size.

All family scenes have the same shapes, so that each program is compiled once for all of them.
"""

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gleanings.core.errors import DataError
from gleanings.driving.compile import compile_scene
from gleanings.driving.config import CompileConfig
from gleanings.driving.families import make_raw, make_scenes
from gleanings.driving.load import iter_scenes
from gleanings.driving.raw import MapFeature, RawScene, RawTrack
from gleanings.driving.readers.detect import SceneError
from gleanings.driving.scene import Scene
from gleanings.driving.stack import grow, sizes_of

FIRST_SEED = 5000  # smaller seeds were seen in pilots
REFERENCE_OBJECTS = 128
REFERENCE_POINTS = 20_000
# Sizes that hold the scenes of all families; a larger scene keeps its own and is compiled for apart.
_COMMON = {"E": 1024, "C": 131072, "I": 33024, "M": 256, "P": 1024, "L": 128, "J": 32768, "K": 64, "S": 16, "R": 8192}
_TILES = ("four_way_signal", "roundabout", "merge", "overpass", "t_junction", "weave")
_TILE_M = 400.0
_MOST_SCENES = 1000


@cache
def family_scenes(family: str, seed: int, count: int, objects: int) -> tuple[Scene, ...]:
    """The first `count` scenes of a family, with `objects` slots, in the sizes that all families share."""
    config = CompileConfig(max_objects=objects, objects=objects)
    return tuple(grown(scene) for scene in make_scenes(family, FIRST_SEED + seed, count, config=config))


def grown(scene: Scene) -> Scene:
    """The scene in the common sizes, or larger where it is larger; nothing that is measured in it changes."""
    own = sizes_of(scene)
    return grow(scene, {letter: max(size, own[letter]) for letter, size in _COMMON.items()})


def given_scenes(path: Path) -> list[Scene]:
    """The user's scenes that have an ego. DataError: a file that cannot be read, no such scene, or too many."""
    scenes: list[Scene] = []
    for item in iter_scenes(path):
        if isinstance(item, SceneError):
            raise item.error
        if not np.asarray(item.objects.is_sdc).any():
            continue
        if len(scenes) == _MOST_SCENES:
            raise DataError(f"more than {_MOST_SCENES:,} scenes; name fewer files", path)
        scenes.append(item)
    if not scenes:
        raise DataError("no scene with an ego, which parts B and C drive", path)
    return scenes


def reference_scene(*, unmerged: bool = False, points: int = REFERENCE_POINTS, seed: int = 0) -> Scene:
    """A generated scene of `REFERENCE_OBJECTS` objects and about `points` map points. `unmerged`: every segment of the
    road edges is kept, as the dense twin needs it."""
    raw = reference_raw(points=points, seed=seed)
    slots = REFERENCE_OBJECTS
    return compile_scene(raw, CompileConfig(max_objects=slots, objects=slots, simplify_m=0.0 if unmerged else 0.001))


def reference_raw(*, points: int = REFERENCE_POINTS, seed: int = 0) -> RawScene:
    """Scenes of several families side by side, their map resampled to about `points` points in all."""
    share = -(-REFERENCE_OBJECTS // len(_TILES))
    tiles = []
    for index, family in enumerate(_TILES):
        raw = make_raw(family, FIRST_SEED + seed, 0, objects=share + 8)
        tiles.append(_moved(raw, f"{index}-", np.array([_TILE_M * (index % 2), _TILE_M * (index // 2), 0.0])))
    first = tiles[0]
    every = [track for raw in tiles for track in raw.tracks]
    kept = [first.tracks[first.sdc], *(track for track in every if track is not first.tracks[first.sdc])]
    features = [feature for raw in tiles for feature in raw.features]
    length = sum(_length(feature.points) for feature in features)
    features = [_resampled(feature, length / points) for feature in features]
    return dataclasses.replace(
        first,
        name="reference",
        tracks=tuple(kept[:REFERENCE_OBJECTS]),
        features=tuple(features),
        lights=tuple(light for raw in tiles for light in raw.lights),
        sdc=0,
        predict=(),
        interest=(),
        goals=(),
        source="generated",
    )


def _moved(raw: RawScene, prefix: str, shift: Float[np.ndarray, "3"]) -> RawScene:
    """The scene at another place, the ids of its lanes under a prefix."""

    def feature(one: MapFeature) -> MapFeature:
        links = {key: tuple(prefix + name for name in getattr(one, key)) for key in ("successors", "neighbours")}
        return dataclasses.replace(one, points=one.points + shift, name=prefix + one.name, **links)

    def track(one: RawTrack) -> RawTrack:
        return dataclasses.replace(one, position=one.position + shift, name=prefix + one.name)

    lights = (dataclasses.replace(one, lane=prefix + one.lane, stop=one.stop + shift) for one in raw.lights)
    return dataclasses.replace(
        raw,
        tracks=tuple(map(track, raw.tracks)),
        features=tuple(map(feature, raw.features)),
        lights=tuple(lights),
    )


def _length(points: Float[np.ndarray, "P 3"]) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def _resampled(feature: MapFeature, spacing: float) -> MapFeature:
    """The polyline with points about `spacing` metres apart along it."""
    points = feature.points
    if len(points) < 2:
        return feature
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0.0, arc[-1], max(3, round(arc[-1] / spacing) + 1))
    return dataclasses.replace(feature, points=np.stack([np.interp(at, arc, column) for column in points.T], axis=1))


def map_points(raw: RawScene) -> int:
    """Points of the map of a raw scene."""
    return sum(len(feature.points) for feature in raw.features)


def steps_left(scene: Scene) -> int:
    """Steps from the start of a scene to the end of its log."""
    return scene.log.x.shape[0] - 1 - int(scene.start)
