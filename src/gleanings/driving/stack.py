"""The arrays of a scene by name, their types and sizes; growing scenes to larger sizes and stacking them.

Letters as in `scene`, and: I, M entries and window of the edge grid, J, K those of the lane grid, R road points, Y, X
raster rows and columns.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving import scene as parts
from gleanings.driving.raw import Kind, Light
from gleanings.driving.scene import Scene, name_of


class Spec(NamedTuple):
    """Type of an array, letters or sizes of its axes, and the value that padding holds."""

    dtype: np.dtype
    axes: tuple[str, ...]
    pad: float


_FEWEST = {"T": (2, "steps"), "N": (1, "object slots"), "Q": (34, "path samples")}
_ROAD_KINDS = 8
_WINDOWS = (("grid", "M"), ("lane_grid", "K"))
_INF, _NAN = float("inf"), float("nan")
_PARTS: dict[str, type] = {
    "log": parts.Trajectory,
    "objects": parts.Objects,
    "edges": parts.Edges,
    "grid": parts.Grid,
    "lanes": parts.Lanes,
    "lane_grid": parts.Grid,
    "lights": parts.Lights,
    "paths": parts.Paths,
    "goals": parts.Goals,
    "ground": parts.Ground,
    "road": parts.Road,
    "raster": parts.Raster,
}
# part, then 'fields: type axes padding' of each group of its fields.
_TABLE = """
: origin:i4 3 0|dt:f4 - 0|start:i4 - 0|scene_id:u1 32 0|source:u1 128 0
log: x y z yaw vx vy:f4 T,N 0|valid:b1 T,N 0
objects: kind:i1 N 0|id first last:i4 N -1|length width height extent top_speed:f4 N 0
objects: is_sdc to_predict of_interest exists:b1 N 0
edges: ax ay dx dy inv_l2 nax nay nbx nby:f4 E 0|z:f4 E inf
grid: x0 y0:f4 - 0|nx ny:i4 - 0|start:i4 C 0|items:u2 I 0|slots:i4 M 0|far:i1 C 1
lanes: ax ay dx dy inv_l2:f4 P 0|z:f4 P inf|lane:i2 P -1|id:i4 L -1|limit:f4 L nan|successors:i2 L,4 -1
lane_grid: x0 y0:f4 - 0|nx ny:i4 - 0|start:i4 C 0|items:u2 J 0|slots:i4 K 0|far:i1 C 1
lights: state:u1 T,S 0|x y z yaw:f4 S 0|lane:i2 S -1|exists:b1 S 0|arc:f4 N,S inf
paths: x y z:f4 N,Q 0|limit:f4 N,Q nan|length:f4 N 0|closed:b1 N 0|logged:f4 N,T 0
goals: x y radius:f4 N 0|exists:b1 N 0
ground: low high:f4 C nan
road: x y z dx dy:f4 R 0|kind:i1 R 0
raster: x0 y0 error:f4 - 0|value:f4 Y,X 0
"""


def _layout() -> dict[str, Spec]:
    found: dict[str, Spec] = {}
    for line in _TABLE.strip().splitlines():
        part, groups = line.split(":", 1)
        for group in groups.split("|"):
            names, what = group.rsplit(":", 1)
            dtype, axes, pad = what.split()
            spec = Spec(np.dtype(dtype), () if axes == "-" else tuple(axes.split(",")), float(pad))
            found |= {f"{part}.{name}" if part else name: spec for name in names.split()}
    return {name: found[name] for name in _names()}


def _names() -> list[str]:
    return [
        f"{field}.{name}" if field in _PARTS else field
        for field in Scene._fields
        for name in (_PARTS[field]._fields if field in _PARTS else ("",))
    ]


LAYOUT: dict[str, Spec] = _layout()
_FIXED = {axis: int(axis) for spec in LAYOUT.values() for axis in spec.axes if axis.isdigit()}


def arrays_of(scene: Scene) -> dict[str, Any]:
    """The arrays of a scene by name, such as 'log.x', in the order of `LAYOUT`."""
    nested = (part if name in _PARTS else (part,) for name, part in zip(Scene._fields, scene, strict=True))
    return dict(zip(LAYOUT, chain.from_iterable(nested), strict=True))


def scene_of(arrays: dict[str, Any]) -> Scene:
    """The inverse of `arrays_of`."""
    return Scene(
        **{
            field: _PARTS[field](**{name: arrays[f"{field}.{name}"] for name in _PARTS[field]._fields})
            if field in _PARTS
            else arrays[field]
            for field in Scene._fields
        }
    )


def sizes_of(scene: Scene, batch: int = 0) -> dict[str, int]:
    """Size of each letter in a scene, or in scenes stacked along `batch` leading axes.

    DataError: a missing axis, another type, or two arrays that disagree on a letter.
    """
    shapes = tuple((array.dtype, array.shape[batch:]) for array in arrays_of(scene).values())
    return dict(_sizes(shapes))


@lru_cache(maxsize=1024)
def _sizes(shapes: tuple[tuple[np.dtype, tuple[int, ...]], ...]) -> dict[str, int]:
    """`sizes_of` for the types and shapes of arrays in the order of `LAYOUT`: most scenes share theirs."""
    sizes = _FIXED.copy()
    for (name, spec), (dtype, shape) in zip(LAYOUT.items(), shapes, strict=True):
        if len(shape) != len(spec.axes) or dtype != spec.dtype:
            raise DataError(f"{name} is {dtype}{list(shape)}; expected {spec.dtype} {','.join(spec.axes)}")
        for letter, size in zip(spec.axes, shape, strict=True):
            if size != sizes.setdefault(letter, size):
                raise DataError(f"{name} has {size} along {letter}, not {sizes[letter]}")
    return {letter: size for letter, size in sizes.items() if letter not in _FIXED}


def check_scene(scene: Scene) -> None:
    """Raise DataError where an index points outside its array, a code has no meaning, or a size is too small."""
    sizes = sizes_of(scene)
    for letter, (least, what) in _FEWEST.items():
        if sizes[letter] < least:
            raise DataError(f"{sizes[letter]} {what}; expected at least {least}")
    limits = [
        ("start", scene.start, 0, sizes["T"]),
        ("objects.kind", scene.objects.kind, 0, max(Kind) + 1),
        ("objects.first", scene.objects.first, -1, sizes["T"]),
        ("objects.last", scene.objects.last, -1, sizes["T"]),
        ("lights.state", scene.lights.state, 0, max(Light) + 1),
        ("road.kind", scene.road.kind, 0, _ROAD_KINDS),
        ("lanes.lane", scene.lanes.lane, -1, sizes["L"]),
        ("lanes.successors", scene.lanes.successors, -1, sizes["L"]),
        ("lights.lane", scene.lights.lane, -1, sizes["L"]),
    ]
    for name, grid, count, window, things in (
        ("grid", scene.grid, "I", "M", "E"),
        ("lane_grid", scene.lane_grid, "J", "K", "P"),
    ):
        cells = int(grid.nx) * int(grid.ny)
        limits += [
            (f"{name}.nx", grid.nx, 1, sizes["C"] + 1),
            (f"{name}.ny", grid.ny, 1, sizes["C"] + 1),
            (f"{name}.nx * ny", np.array(cells), 1, sizes["C"] + 1),
            (f"{name}.start", grid.start, 0, sizes[count] - sizes[window] + 1),
            (f"{name}.items", grid.items, 0, sizes[things]),
            (f"{name}.slots", grid.slots, 0, sizes[window]),
        ]
    for name, values, low, high in limits:
        if np.size(values) and not (np.min(values) >= low and np.max(values) < high):
            raise DataError(f"{name} holds {np.min(values)} to {np.max(values)}; expected {low} to {high - 1}")
    if not (np.isfinite(scene.dt) and scene.dt > 0):
        raise DataError(f"dt is {scene.dt}; expected seconds")


def grow(scene: Scene, sizes: dict[str, int]) -> Scene:
    """A scene of larger `sizes` by letter (others stay); nothing that is measured in it changes.

    ConfigError: a size is smaller than the scene's.
    """
    old = sizes_of(scene)
    new = old | sizes
    for count, window in (("I", "M"), ("J", "K")):  # a window read from any start must stay inside the entries
        new[count] = max(new[count], old[count] + new[window] - old[window])
    _check_growth(old, new)
    arrays = {
        name: array if array.shape == _shape(LAYOUT[name], new) else _padded([array], LAYOUT[name], new)[0]
        for name, array in ((name, np.asarray(array)) for name, array in arrays_of(scene).items())
    }
    return scene_of(arrays | _slots(new))


def stack_grown(scenes: Sequence[Scene], sizes: dict[str, int]) -> Scene:
    """Scenes grown to all of these sizes, with a leading axis B. ConfigError: a size is smaller than a scene's."""
    for scene in scenes:
        _check_growth(sizes_of(scene), sizes)
    flat = [arrays_of(scene) for scene in scenes]
    arrays = {name: _padded([one[name] for one in flat], spec, sizes) for name, spec in LAYOUT.items()}
    slots = {name: np.tile(row, (len(scenes), 1)) for name, row in _slots(sizes).items()}
    return scene_of(arrays | slots)


def _check_growth(old: dict[str, int], new: dict[str, int]) -> None:
    if new["Q"] != old["Q"]:
        raise ConfigError(
            f"paths of {old['Q']} samples cannot become {new['Q']}: compile with CompileConfig(path_m=...)"
        )
    if small := [f"{letter} {new[letter]} < {old[letter]}" for letter in old if new[letter] < old[letter]]:
        raise ConfigError(f"a scene cannot shrink: {', '.join(small)}")


def _shape(spec: Spec, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(_FIXED[axis] if axis in _FIXED else sizes[axis] for axis in spec.axes)


def _padded(arrays: Sequence[Any], spec: Spec, sizes: dict[str, int]) -> np.ndarray:
    """The arrays, padded, with a leading axis."""
    shape = (len(arrays), *_shape(spec, sizes))
    padded = np.full(shape, spec.pad if spec.dtype.kind == "f" else int(spec.pad), spec.dtype)
    for row, array in enumerate(arrays):
        padded[row, *map(slice, array.shape)] = array
    return padded


def _slots(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Windows of the two grids."""
    return {f"{name}.slots": np.arange(sizes[letter], dtype=np.int32) for name, letter in _WINDOWS}


def pad_scene(scene: Scene, like: Scene) -> Scene:
    """`scene` grown to the sizes of `like`. ConfigError: it is larger, or has another number of steps."""
    old, new = sizes_of(scene), sizes_of(like)
    if fixed := [letter for letter in "TYXQ" if old[letter] != new[letter]]:
        raise ConfigError(f"scenes differ in {', '.join(f'{x} ({old[x]} and {new[x]})' for x in fixed)}")
    return grow(scene, new)


def stack_scenes(scenes: Sequence[Scene]) -> Scene:
    """Scenes of one size as one with a leading axis B. ConfigError: no scene, or unequal sizes, with a list."""
    if not scenes:
        raise ConfigError("no scenes to stack")
    sizes = [sizes_of(scene) for scene in scenes]
    if any(other != sizes[0] for other in sizes):
        lines = [f"{letter} {sorted({size[letter] for size in sizes})}" for letter in sizes[0]]
        differ = [line for line in lines if "," in line]
        raise ConfigError(f"scenes of unequal sizes: {'; '.join(differ)}. Use group_scenes, or pad_scene")
    flat = [arrays_of(scene) for scene in scenes]
    return scene_of({name: np.stack([np.asarray(one[name]) for one in flat]) for name in LAYOUT})


def unstack(scenes: Scene) -> list[Scene]:
    """The scenes of a stacked one, as views."""
    flat = arrays_of(scenes)
    return [scene_of({name: array[index] for name, array in flat.items()}) for index in range(len(flat["dt"]))]


def group_scenes(scenes: Iterable[Scene], batch: int) -> Iterator[tuple[list[int], Scene]]:
    """Indices of at most `batch` scenes and those scenes stacked, in order of first appearance.

    Scenes share a group as in `groups_of`. ConfigError: batch < 1.
    """
    if batch < 1:
        raise ConfigError(f"batch = {batch}; expected at least 1")
    kept = list(scenes)
    for members, largest in groups_of(kept):
        for first in range(0, len(members), batch):
            chosen = members[first : first + batch]
            yield chosen, stack_scenes([grow(kept[index], largest) for index in chosen])


def groups_of(scenes: Sequence[Scene]) -> list[tuple[list[int], dict[str, int]]]:
    """Indices of the scenes of each group and the sizes they grow to, in order of first appearance.

    Scenes share a group if they agree in what time depends on: steps, object slots, path samples, lengths of the grid
    lists, raster. The rest is padded to the largest of the group.
    """
    sizes, groups = [sizes_of(scene) for scene in scenes], {}
    for index, size in enumerate(sizes):
        groups.setdefault(tuple(size[letter] for letter in "TNQMKYX"), []).append(index)
    return [
        (members, {letter: max(sizes[index][letter] for index in members) for letter in sizes[members[0]]})
        for members in groups.values()
    ]


def names_of(scenes: Scene) -> list[str]:
    """Names of stacked scenes."""
    return [name_of(scene) for scene in unstack(scenes)]


def text_array(text: str, size: int) -> Shaped[np.ndarray, " size"]:
    """`text` in ASCII as `size` bytes, cut or padded with 0."""
    data = text.encode("ascii", "replace")[:size]
    return np.frombuffer(data.ljust(size, b"\0"), np.uint8).copy()
