"""From a raw scene to the arrays of a `Scene`: local frame, kept tracks, road edges, lanes, paths, padding. Ours."""

import numpy as np
from jaxtyping import Float

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving._map import goals_of, lights_of, local_lines, road_of, surface_points
from gleanings.driving._tracks import Tracks, keep_tracks, log_of, objects_of, origin_of, read_tracks
from gleanings.driving.config import CompileConfig
from gleanings.driving.edges import compile_edges
from gleanings.driving.grid import edge_grid, lane_grid, make_frame, no_grid
from gleanings.driving.ground import compile_ground
from gleanings.driving.lanes import LaneGraph, build_graph, lane_segments
from gleanings.driving.match import LaneIndex
from gleanings.driving.paths import build_paths
from gleanings.driving.raster import compile_raster, no_raster
from gleanings.driving.raw import RawScene
from gleanings.driving.scene import Ground, Scene
from gleanings.driving.stack import grow, sizes_of, text_array

_DEFAULT = CompileConfig()
_OBJECTS, _SEGMENTS, _WINDOWS = (32, 64, 128, 256), (1024, 2048, 4096, 8192, 16384), (32, 64, 96, 128, 256)
# Smallest sizes by letter; above them powers of two, so that scenes of one kind share their shapes.
_ROAD = (4096, 6144, 8192, 12288, 16384)  # steps of less than two: every observation looks at all of them
_LEAST = {"C": 16384, "I": 16384, "J": 16384, "P": 1024, "L": 128, "S": 16}
_MOST = {
    "E": (65535, "road edge segments"),
    "P": (65535, "lane segments"),
    "L": (32767, "lanes"),
    "S": (2048, "lights"),
}


def compile_scene(raw: RawScene, config: CompileConfig = _DEFAULT) -> Scene:
    """The scene as NumPy arrays, padded to common sizes.

    Local = world - origin in float64, then float32. Raises: DataError for a scene without a valid object at the start
    or too large for the arrays; ConfigError for sizes in `config` that cannot hold it.
    """
    return _compiled(raw, config, True)


def compile_to_crop(raw: RawScene, config: CompileConfig = _DEFAULT) -> Scene:
    """`compile_scene` without what `crop_scene` makes anew, so that nothing can be measured: grids, ground, raster."""
    return _compiled(raw, config, False)


def _compiled(raw: RawScene, config: CompileConfig, measured: bool) -> Scene:
    if len(raw.times) < 2:
        raise DataError(f"{len(raw.times)} steps in scene {raw.name!r}; expected at least 2", raw.source or None)
    _check_counts({"L": sum(feature.kind == "lane" for feature in raw.features), "S": len(raw.lights)})
    origin = origin_of(raw)
    lines = local_lines(raw, origin)
    kept = keep_tracks(raw, origin, _most_objects(config))
    tracks = read_tracks(raw, kept, origin, surface_points(raw, lines))
    graph = build_graph(raw.features, lines)
    index = LaneIndex(graph)
    paths = build_paths(tracks, index, float(np.median(np.diff(raw.times))), config.path_m)
    lanes = lane_segments(graph)
    edges = compile_edges(
        [(line, f.closed) for f, line in zip(raw.features, lines, strict=True) if f.kind == "road_edge"],
        simplify_m=config.simplify_m,
    )
    places = _places(tracks, graph)
    frame = make_frame(places[:, :2])
    grid = edge_grid(edges, frame, places) if measured else no_grid()
    heights = np.concatenate([places, *_edge_lines(raw, lines)])
    ground = compile_ground(heights, frame) if measured else Ground(*np.full((2, 1), np.nan, np.float32))
    scene = Scene(
        origin=origin,
        dt=np.float32(np.median(np.diff(raw.times))),
        start=np.int32(raw.start),
        scene_id=text_array(raw.name, 32),
        source=text_array(f"{raw.source} {raw.licence}".strip(), 128),
        log=log_of(tracks),
        objects=objects_of(raw, tracks),
        edges=edges,
        grid=grid,
        lanes=lanes,
        lane_grid=lane_grid(lanes, frame) if measured else grid,
        lights=lights_of(raw, origin, graph, paths),
        paths=paths,
        goals=goals_of(raw, origin, tracks),
        ground=ground,
        road=road_of(raw, lines),
        raster=compile_raster(edges, grid, frame, ground) if config.raster and measured else no_raster(),
    )
    return grow(scene, _buckets(scene, config))


def _edge_lines(raw: RawScene, lines: list[Float[np.ndarray, "_ 3"]]) -> list[Float[np.ndarray, "_ 3"]]:
    return [line for feature, line in zip(raw.features, lines, strict=True) if feature.kind == "road_edge"]


def _places(tracks: Tracks, graph: LaneGraph) -> Float[np.ndarray, "K 3"]:
    """Where boxes may stand: logged bases and lane points."""
    return np.concatenate([tracks.base[tracks.valid], graph.points])


def _most_objects(config: CompileConfig) -> int:
    if config.max_objects < 1 or (config.objects is not None and (config.objects < 32 or config.objects % 32)):
        raise ConfigError(
            f"max_objects = {config.max_objects}, objects = {config.objects}; "
            "expected at least 1 track, and a multiple of 32 slots"
        )
    return min(config.max_objects, config.objects or config.max_objects)


def _buckets(scene: Scene, config: CompileConfig) -> dict[str, int]:
    sizes = sizes_of(scene)
    _check_counts(sizes)
    if config.segments is not None and config.segments < sizes["E"]:
        raise ConfigError(f"segments = {config.segments}, but the scene has {sizes['E']}; leave it out")
    chosen = {letter: _power(sizes[letter], least) for letter, least in _LEAST.items()}
    chosen |= {letter: _bucket(sizes[letter], _WINDOWS) for letter in "MK"}
    chosen["N"] = config.objects or _bucket(sizes["N"], _OBJECTS)
    chosen["R"] = _bucket(sizes["R"], _ROAD)
    chosen["E"] = config.segments or _bucket(sizes["E"], _SEGMENTS)
    # Windows reach beyond the last list, so that the entries need room for the rest of a window.
    for count, window in (("I", "M"), ("J", "K")):
        chosen[count] = _power(sizes[count] + chosen[window] - sizes[window], _LEAST[count])
    return chosen


def _check_counts(sizes: dict[str, int]) -> None:
    for letter, (most, name) in _MOST.items():
        if sizes.get(letter, 0) > most:
            raise DataError(f"{sizes[letter]:,} {name}; a scene holds {most:,}. Cut the scene")


def _bucket(size: int, buckets: tuple[int, ...]) -> int:
    return next((bucket for bucket in buckets if size <= bucket), _power(size, buckets[-1]))


def _power(size: int, least: int) -> int:
    return max(least, 1 << max(size - 1, 0).bit_length())
