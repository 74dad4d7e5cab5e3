"""Argoverse 2 motion forecasting: a scenario as Parquet, with the map as JSON beside it.

110 steps of 0.1 s, of which the first 50 are observed. Positions are plane, objects have no sizes, and centrelines lie
at z = 0 whatever the height of the lane: such a scene is flat. Format: the columns and keys of the public files.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving.raw import BUS_SIZE, DEFAULT_SIZE, Kind, MapFeature, RawScene, RawTrack, empty_track
from gleanings.driving.raw_check import check_raw
from gleanings.driving.readers._av2_map import read_map

_TEXT = ("scenario_id", "track_id", "object_type")
_NUMBERS = ("object_category", "timestep", "position_x", "position_y", "heading", "velocity_x", "velocity_y")
_FOCAL, _SCORED = 3, 2
_STEP = 0.1  # seconds
_MAX_ROWS, _MAX_BYTES, _MAX_STEPS, _MAX_CELLS, _MAX_TEXT = 1_000_000, 256 << 20, 2000, 1_000_000, 200
# All others are OTHER. Motorcyclists are vehicles, as in WOMD.
_KINDS = {
    "vehicle": Kind.VEHICLE,
    "bus": Kind.VEHICLE,
    "motorcyclist": Kind.VEHICLE,
    "pedestrian": Kind.PEDESTRIAN,
    "cyclist": Kind.CYCLIST,
}
# Where the default of the kind would be wrong.
_SIZES = {"bus": BUS_SIZE, "motorcyclist": (2.2, 0.8, 1.6), "riderless_bicycle": DEFAULT_SIZE[Kind.CYCLIST]}

Texts = tuple[Int[np.ndarray, " R"], list[str]]


def read(path: Path) -> Iterator[RawScene]:
    """The scene of a file. It starts at the last observed step; the track AV is the ego; scored tracks are to predict.

    The map is `log_map_archive_<scenario id>.json` in the same folder; without it `repairs` says so and the scene has
    no features. ConfigError: no pyarrow. DataError: not such a file, or larger than 2,000 steps or 1e6 track-steps.
    """
    texts, numbers, observed = _read_columns(path)
    step, tracks, repairs = _tracks(path, texts, numbers)
    name = _single(texts["scenario_id"], path)
    features, mended = _map(path, name)
    scored = numbers["object_category"] >= _SCORED
    names = texts["track_id"][1]
    yield check_raw(
        RawScene(
            name=name,
            times=_STEP * np.arange(len(tracks[0].valid)),
            start=int(step[observed].max()) if observed.any() else 0,
            tracks=tracks,
            features=features,
            sdc=names.index("AV") if "AV" in names else -1,
            predict=_rows(texts["track_id"][0][scored]),
            interest=_rows(texts["track_id"][0][numbers["object_category"] == _FOCAL]),
            flat=True,
            source=f"argoverse2:{path.name}",
            licence="Argoverse 2: CC BY-NC-SA 4.0",
            repairs={key: count for key, count in (repairs | mended).items() if count},
        )
    )


def _rows(codes: Int[np.ndarray, " K"]) -> tuple[int, ...]:
    return tuple(np.unique(codes).tolist())


def _map(path: Path, name: str) -> tuple[tuple[MapFeature, ...], dict[str, int]]:
    beside = path.with_name("log_map_archive_unnamed.json")
    if "/" not in name and "\0" not in name:
        beside = path.with_name(f"log_map_archive_{name}.json")
    return read_map(beside) if beside.is_file() else ((), {"map_missing": 1})


def _read_columns(path: Path) -> tuple[dict[str, Texts], dict[str, Float[np.ndarray, " R"]], Bool[np.ndarray, " R"]]:
    """Columns of text as (codes, values), of numbers, and the flags `observed`."""
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(f"{path}: Argoverse 2 files need pyarrow: pip install pyarrow") from error
    try:
        # Text stays coded: decoded, a long value that a few bytes repeat would fill the memory.
        with parquet.ParquetFile(
            path, read_dictionary=list(_TEXT), thrift_string_size_limit=1 << 20, thrift_container_size_limit=1 << 16
        ) as file:
            _check_size(path, file.metadata, file.schema_arrow.names)
            table = file.read([*_TEXT, *_NUMBERS, "observed"], use_threads=False)
        rows = table.num_rows
        texts: dict[str, Texts] = {}
        for name in _TEXT:
            column = table[name].unify_dictionaries().combine_chunks()
            column = column if pyarrow.types.is_dictionary(column.type) else column.dictionary_encode()
            values = [str(value) for value in column.dictionary.to_pylist()]
            if (longest := max(map(len, values), default=0)) > _MAX_TEXT:
                raise DataError(f"column {name!r} holds a text of {longest:,} characters; at most {_MAX_TEXT}", path)
            codes = column.indices.cast(pyarrow.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
            if rows and not -1 <= codes.min() <= codes.max() < len(values):
                raise DataError(f"column {name!r} refers to texts that are not there; the file is damaged", path)
            texts[name] = (codes, values)
        numbers = {
            name: np.array(table[name].cast(pyarrow.float64(), safe=False).to_numpy(), np.float64) for name in _NUMBERS
        }
        observed = np.array(table["observed"].cast(pyarrow.bool_()).fill_null(False).to_numpy(), bool)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError, OverflowError) as error:
        raise DataError(f"not a readable Parquet file ({_line(error)})", path) from error
    columns = [*numbers.values(), observed, *(codes for codes, _ in texts.values())]
    if not rows or any(len(column) != rows for column in columns):
        raise DataError(f"columns of {sorted({len(column) for column in columns})} rows; expected one length > 0", path)
    return texts, numbers, observed


def _line(error: Exception) -> str:
    return "".join(c if c.isprintable() else " " for c in str(error))[:200]


def _check_size(path: Path, metadata: Any, names: list[str]) -> None:
    """Refuse before any column is read."""
    missing = [name for name in (*_TEXT, *_NUMBERS, "observed") if names.count(name) != 1]
    if missing:
        raise DataError(f"not an Argoverse 2 scenario: needs one column {', '.join(missing)}", path)
    groups = [metadata.row_group(i) for i in range(min(metadata.num_row_groups, 1000))]
    size = sum(group.total_byte_size for group in groups)
    if not (0 <= metadata.num_rows <= _MAX_ROWS and 0 <= size <= _MAX_BYTES and metadata.num_row_groups <= 1000):
        raise DataError(
            f"{metadata.num_rows:,} rows, {size:,} bytes; at most {_MAX_ROWS:,} rows and {_MAX_BYTES:,} bytes", path
        )


def _single(column: Texts, path: Path) -> str:
    codes, values = column
    if len(np.unique(codes)) != 1 or codes[0] < 0:
        raise DataError("rows of several scenarios, or of none; split the file by 'scenario_id'", path)
    return values[int(codes[0])]


def _tracks(
    path: Path, texts: dict[str, Texts], numbers: dict[str, Float[np.ndarray, " R"]]
) -> tuple[Int[np.ndarray, " R"], tuple[RawTrack, ...], dict[str, int]]:
    """Steps of the rows, one track a name, and what was mended."""
    step, (track, names), (kind, kinds) = numbers["timestep"], texts["track_id"], texts["object_type"]
    if not (np.isfinite(step) & (step >= 0) & (step < _MAX_STEPS) & (step == np.floor(step))).all():
        raise DataError(f"a 'timestep' is not a whole number from 0 to {_MAX_STEPS - 1}", path)
    if (track < 0).any() or (kind < 0).any():
        raise DataError("a row has no 'track_id' or 'object_type'", path)
    step = step.astype(np.int64)
    count, steps = len(names), int(step.max()) + 1
    if count * steps > _MAX_CELLS:
        raise DataError(f"{count:,} tracks of {steps:,} steps; at most {_MAX_CELLS:,} in all", path)
    arrays = [empty_track(steps) for _ in names]
    order = np.argsort(track, kind="stable")
    begin = np.searchsorted(track[order], np.arange(count + 1))
    tracks = []
    for i, into in enumerate(arrays):
        rows = order[begin[i] : begin[i + 1]]
        at = step[rows]
        into["position"][at, 0], into["position"][at, 1] = numbers["position_x"][rows], numbers["position_y"][rows]
        into["yaw"][at] = numbers["heading"][rows]
        into["velocity"][at] = np.stack([numbers["velocity_x"][rows], numbers["velocity_y"][rows]], -1)
        into["valid"][at] = True
        called = kinds[kind[rows[0]]] if len(rows) else "unknown"
        into["size"][:] = _SIZES.get(called, np.nan)
        tracks.append(RawTrack(names[i], _KINDS.get(called, Kind.OTHER), **into))
    repeated = len(step) - len(np.unique(track * steps + step))
    return step, tuple(tracks), {"rows_repeated": repeated}
