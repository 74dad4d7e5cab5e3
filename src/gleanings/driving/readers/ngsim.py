"""NGSIM recordings as SQLite files of tables Vehicle and Trajectory (`.shf`), with a SUMO network beside them.

Headings count from north, so that yaw = heading + pi/2; there are no heights. Format: the tables of the public files.
"""

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from gleanings.core.errors import DataError
from gleanings.driving.raw import Kind, MapFeature, RawScene, RawTrack, empty_track
from gleanings.driving.raw_check import check_raw
from gleanings.driving.readers._sumo import read_net

WINDOW = 200
"""Most steps of one scene; a longer recording is cut into scenes of equal length."""
_START = 10  # steps
_COLUMNS = {
    "Vehicle": ("id", "type", "length", "width", "height", "is_ego_vehicle"),
    "Trajectory": ("vehicle_id", "sim_time", "position_x", "position_y", "heading_rad", "speed"),
}
_KINDS = {1: Kind.VEHICLE, 2: Kind.VEHICLE, 3: Kind.VEHICLE, 4: Kind.PEDESTRIAN}  # motorcycle, car, truck, on foot
_STEPS_S = (0.01, 1.0)
_MAX_TIME = 1e9  # seconds
_OFF_GRID = 0.2  # of a step
_MAX_VEHICLES, _MAX_TIMES, _MAX_ROWS, _MAX_STATES = 100_000, 200_000, 400_000, 1_000_000
_MAX_TICKS, _TICK = 20_000, 50_000  # instructions of SQLite's machine: 1e9 a file
Table = Float[np.ndarray, "_ _"]


def read(path: Path) -> Iterator[RawScene]:
    """Scenes of at most 200 steps each, one after the other; each starts at its step 10 (1 s).

    The ego is the vehicle marked as such, else the one that is there at the start and travels farthest. The map is the
    one `*.net.xml` in the folder; without it `repairs` says so. DataError: not such a file, missing columns, times
    that are no grid, or too many rows.
    """
    features, mended = _map(path)
    try:
        database = _connect(path)
    except sqlite3.Error as error:
        raise _fault(path, error) from error
    with closing(database):
        _check_columns(path, database)
        vehicles = _vehicles(path, database)
        times = _query(path, database, "SELECT DISTINCT sim_time FROM Trajectory ORDER BY sim_time", _MAX_TIMES)
        for index, window in enumerate(_windows(path, np.unique(times))):
            yield check_raw(_scene(path, database, vehicles, window, index, features, mended))


def _fault(path: Path, error: Exception) -> DataError:
    problem = "".join(c if c.isprintable() else " " for c in str(error))[:200]
    problem = "too much work: too many rows, or no index on sim_time" if problem == "interrupted" else problem
    return DataError(f"not a readable trajectory database ({problem})", path)


def _map(path: Path) -> tuple[tuple[MapFeature, ...], dict[str, int]]:
    nets = sorted(path.parent.glob("*.net.xml"))
    if len(nets) > 1:
        raise DataError(f"{len(nets)} files *.net.xml in one folder; keep the one of this recording", path)
    return (read_net(nets[0]), {}) if nets else ((), {"map_missing": 1})


def _connect(path: Path) -> sqlite3.Connection:
    """The database, read-only and as it is: no journal is looked for, nothing but plain tables can be read."""
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    database.text_factory = bytes
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 20)
    ticks = iter(range(_MAX_TICKS))
    database.set_progress_handler(lambda: int(next(ticks, None) is None), _TICK)
    database.set_authorizer(_allowed)
    return database


def _allowed(action: int, table: str | None, column: str | None, schema: str | None, inner: str | None) -> int:
    """Reading the tables we know; not views, functions, attached files or settings."""
    known = action == sqlite3.SQLITE_READ and table in (*_COLUMNS, "sqlite_master") and inner is None
    return sqlite3.SQLITE_OK if known or action == sqlite3.SQLITE_SELECT else sqlite3.SQLITE_DENY


def _query(path: Path, database: sqlite3.Connection, query: str, limit: int, values: Sequence[float] = ()) -> Table:
    """Rows of numbers, NULL and infinity as NaN; DataError if there are more than `limit`."""
    rows, count = [], 0
    try:
        cursor = database.execute(f"{query} LIMIT {limit + 1}", values)
        width = len(cursor.description)
        while block := cursor.fetchmany(10_000):
            rows.append(np.array(block, np.float64).reshape(-1, width))
            count += len(block)
    except (sqlite3.Error, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise _fault(path, error) from error
    if count > limit:
        raise DataError(f"more than {limit:,} rows in answer to {query[:60]!r}; cut the recording", path)
    table = np.concatenate(rows) if rows else np.zeros((0, width))
    return np.where(np.isfinite(table), table, np.nan)


def _check_columns(path: Path, database: sqlite3.Connection) -> None:
    try:
        kinds = dict(database.execute("SELECT name, type FROM sqlite_master LIMIT 1000").fetchall())
        missing = [table for table in _COLUMNS if kinds.get(table.encode()) != b"table"]
        if missing:
            raise DataError(f"not a trajectory database: no table {', '.join(missing)}", path)
        there = {name: database.execute(f"SELECT * FROM {name} LIMIT 0").description for name in _COLUMNS}
    except sqlite3.Error as error:
        raise _fault(path, error) from error
    for table, columns in _COLUMNS.items():
        missing = sorted(set(columns) - {name.lower() for name, *_ in there[table]})
        if missing:
            raise DataError(f"table {table} has no column {', '.join(missing)}", path)


def _vehicles(path: Path, database: sqlite3.Connection) -> Table:
    table = _query(path, database, f"SELECT {', '.join(_COLUMNS['Vehicle'])} FROM Vehicle", _MAX_VEHICLES)
    ids = table[:, 0]
    if not np.isfinite(ids).all() or len(np.unique(ids)) < len(ids):
        raise DataError("table Vehicle: an 'id' is missing or stands there twice", path)
    return table[np.argsort(ids)]


def _windows(path: Path, times: Float[np.ndarray, " R"]) -> Iterator[tuple[float, float, int]]:
    """First time, length of a step and number of steps of each scene that has rows."""
    if len(times) < 2 or not (np.abs(times) < _MAX_TIME).all():
        raise DataError(f"{len(times)} different times; expected at least 2, and each a number of seconds", path)
    step = round(float(np.median(np.diff(times))), 6)
    if not _STEPS_S[0] <= step <= _STEPS_S[1]:
        raise DataError(f"times stand {step:g} s apart; expected a grid of {_STEPS_S[0]} to {_STEPS_S[1]} s", path)
    at = np.rint((times - times[0]) / step)
    steps = float(at[-1]) + 1
    width = math.ceil(steps / math.ceil(steps / WINDOW))
    for window in np.unique(at // width).tolist():
        last = at[at // width == window].max() - window * width
        if last >= 1:
            yield float(times[0]) + window * width * step, step, int(last) + 1


def _scene(
    path: Path,
    database: sqlite3.Connection,
    vehicles: Table,
    window: tuple[float, float, int],
    index: int,
    features: tuple[MapFeature, ...],
    mended: dict[str, int],
) -> RawScene:
    begin, step, count = window
    query = f"SELECT {', '.join(_COLUMNS['Trajectory'])} FROM Trajectory WHERE sim_time >= ? AND sim_time < ?"
    rows = _query(path, database, query, _MAX_ROWS, (begin - step / 2, begin + (count - 0.5) * step))
    when = (rows[:, 1] - begin) / step
    at = np.rint(when)
    who = np.searchsorted(vehicles[:, 0], rows[:, 0])
    known = np.append(vehicles[:, 0], np.nan)[who] == rows[:, 0]
    good = known & (np.abs(when - at) <= _OFF_GRID) & (at >= 0) & (at < count)
    rows, at, who = rows[good], at[good].astype(np.int64), who[good]
    repeated = len(at) - len(np.unique(who * count + at))
    repairs = mended | {"rows_off_grid_or_unknown": int((~good).sum()), "rows_repeated": repeated}
    if len(np.unique(who)) * count > _MAX_STATES:
        raise DataError(f"more than {_MAX_STATES:,} states in {count} steps; cut the recording", path)
    tracks, marked = _tracks(vehicles, rows, at, who, count)
    here = np.zeros(count, bool)
    here[at] = True
    start = min(_START, count - 2)
    if not here[start]:
        start = int(np.argmax(here))
    return RawScene(
        name=f"{path.stem}-{index}",
        times=begin + step * np.arange(count),
        start=start,
        tracks=tracks,
        features=features,
        sdc=_ego(tracks, marked, start),
        flat=True,
        source=f"ngsim:{path.name}",
        licence="NGSIM: open data of the US Department of Transportation",
        repairs={name: number for name, number in repairs.items() if number},
    )


def _tracks(
    vehicles: Table, rows: Table, at: Int[np.ndarray, " R"], who: Int[np.ndarray, " R"], count: int
) -> tuple[tuple[RawTrack, ...], list[int]]:
    """One track a vehicle that has rows, and the indices of those marked as ego."""
    order = np.argsort(who, kind="stable")
    present, begin = np.unique(who[order], return_index=True)
    tracks = []
    for vehicle, its in zip(vehicles[present], np.split(order, begin[1:]), strict=True):
        arrays, steps = empty_track(count), at[its]
        yaw = rows[its, 4] + np.pi / 2
        arrays["position"][steps, :2], arrays["yaw"][steps] = rows[its, 2:4], yaw
        arrays["velocity"][steps] = rows[its, 5:6] * np.stack([np.cos(yaw), np.sin(yaw)], -1)
        arrays["size"][:], arrays["valid"][steps] = vehicle[2:5], True
        tracks.append(RawTrack(f"{vehicle[0]:.0f}", _KINDS.get(vehicle[1], Kind.OTHER), **arrays))
    return tuple(tracks), np.flatnonzero(vehicles[present, 5] == 1).tolist()


def _ego(tracks: Sequence[RawTrack], marked: list[int], start: int) -> int:
    """Index of the marked track, else of the one that is there at the start and travels farthest, else -1."""
    if marked:
        return marked[0]
    way = [
        np.hypot(*np.diff(track.position[track.valid, :2], axis=0).T).sum()
        if track.valid[start] and track.kind == Kind.VEHICLE
        else -1.0
        for track in tracks
    ]
    return int(np.nanargmax(way)) if np.nanmax(way, initial=-1.0) >= 0 else -1
