"""Small valid files of formats that are not WOMD's: two cars and a walker on a straight road of two lanes.

The road covers 0 <= x <= 120, -4 <= y <= 4 and traffic keeps to the right. Track 0 drives along +x at y = -2, track 1
comes towards it at y = 2, track 2 walks along +y beside the road. Steps of 0.1 s.
"""

import json
import math
import pickle
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

STEPS, OBSERVED, LENGTH = 60, 50, 120.0
YAW = (0.0, math.pi, math.pi / 2)
SPEED = (10.0, 8.0, 1.5)
TYPES = ("vehicle", "vehicle", "pedestrian")
SIZES = ((4.5, 1.9, 1.5), (12.0, 2.6, 3.0), (0.7, 0.7, 1.8))
LEFT, MIDDLE, RIGHT = ([(x, y) for x in np.linspace(0, LENGTH, 13).tolist()] for y in (4.0, 0.0, -4.0))
OUTLINE = [*RIGHT, *LEFT[::-1]]


def places(track: int, steps: int = STEPS) -> np.ndarray:
    """x, y of a track at each step, [T, 2]."""
    start = ((20.0, -2.0), (90.0, 2.0), (60.0, 5.0))[track]
    along = np.array([math.cos(YAW[track]), math.sin(YAW[track])])
    return start + 0.1 * SPEED[track] * np.arange(steps)[:, None] * along


def lane(y: float, forward: bool = True) -> list[tuple[float, float]]:
    points = [(x, y) for x in np.linspace(0, LENGTH, 13).tolist()]
    return points if forward else points[::-1]


def _xyz(points: Sequence[tuple[float, float]], z: float = 3.0) -> list[dict[str, float]]:
    return [{"x": x, "y": y, "z": z} for x, y in points]


def argoverse_columns() -> dict[str, list[Any]]:
    """One list a column of a scenario; the ego is AV, the other car the focal track."""
    rows = []
    for track, name in enumerate(("AV", "17", "18")):
        vx, vy = (SPEED[track] * f(YAW[track]) for f in (math.cos, math.sin))
        for step, (x, y) in enumerate(places(track).tolist()):
            category = (1, 3, 0)[track]
            rows.append((step < OBSERVED, name, TYPES[track], category, step, x, y, YAW[track], vx, vy, "abc"))
    names = "observed track_id object_type object_category timestep position_x position_y heading velocity_x velocity_y"
    return dict(zip([*names.split(), "scenario_id"], map(list, zip(*rows, strict=True)), strict=True))


def argoverse_map() -> dict[str, Any]:
    """Two lanes, 1 along +x and 2 oncoming, a crosswalk, and the road as one clockwise area."""

    def segment(name: int, left: list[tuple[float, float]], right: list[tuple[float, float]], other: int) -> Any:
        centre = [((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in zip(left, right, strict=True)]
        return {
            "id": name,
            "is_intersection": False,
            "lane_type": "VEHICLE",
            "centerline": _xyz(centre, 0.0),
            "left_lane_boundary": _xyz(left),
            "right_lane_boundary": _xyz(right),
            "left_lane_mark_type": "DASHED_YELLOW",
            "right_lane_mark_type": "NONE",
            "left_neighbor_id": other,
            "right_neighbor_id": None,
            "predecessors": [],
            "successors": [99],
        }

    crossing = {"id": 5, "edge1": _xyz([(50, -4), (50, 4)]), "edge2": _xyz([(54, -4), (54, 4)])}
    return {
        "drivable_areas": {"7": {"id": 7, "area_boundary": _xyz([(x + 0.5, y) for x, y in OUTLINE[::-1]])}},
        "lane_segments": {"1": segment(1, MIDDLE, RIGHT, 2), "2": segment(2, MIDDLE[::-1], LEFT[::-1], 1)},
        "pedestrian_crossings": {"5": crossing},
    }


def write_argoverse(folder: Path, columns: Any = None, area: Any = None) -> Path:
    import pyarrow
    from pyarrow import parquet

    path = folder / "scenario_abc.parquet"
    parquet.write_table(pyarrow.table(columns or argoverse_columns()), path)
    (folder / "log_map_archive_abc.json").write_text(json.dumps(area or argoverse_map()))
    return path


SUMO_NET = f"""<?xml version="1.0" encoding="UTF-8"?>
<net version="1.9"><location netOffset="0.00,0.00"/>
<edge id=":J_0" function="internal"><lane id=":J_0_0" index="0" speed="9" width="4" shape="100,-2 104,-2"/></edge>
<edge id="a" from="A" to="J"><lane id="a_0" index="0" speed="13.89" width="4" shape="0,-2 50,-2 100,-2"/></edge>
<edge id="b" from="J" to="B"><lane id="b_0" index="0" speed="13.89" width="4" shape="104,-2 {LENGTH},-2"/></edge>
<edge id="c" from="B" to="A"><lane id="c_0" index="0" speed="20" width="4" shape="{LENGTH},2 0,2"/></edge>
<junction id="J" type="priority" x="102" y="-2" shape="100,-4 104,-4 104,0 100,0"/>
<connection from="a" to="b" fromLane="0" toLane="0" via=":J_0_0" dir="s" state="M"/>
<connection from=":J_0" to="b" fromLane="0" toLane="0" dir="s" state="M"/>
</net>
"""
_SHF = (
    "CREATE TABLE Vehicle (id INTEGER PRIMARY KEY, type INTEGER NOT NULL, length REAL, width REAL, height REAL,"
    " is_ego_vehicle INTEGER DEFAULT 0)",
    "CREATE TABLE Trajectory (vehicle_id INTEGER NOT NULL, sim_time REAL NOT NULL, position_x REAL NOT NULL,"
    " position_y REAL NOT NULL, heading_rad REAL NOT NULL, speed REAL DEFAULT 0.0, lane_id INTEGER DEFAULT 0,"
    " PRIMARY KEY (vehicle_id, sim_time)) WITHOUT ROWID",
)


def ngsim_rows(steps: int = STEPS, begin: float = 7.9) -> list[tuple[Any, ...]]:
    return [
        (track + 1, begin + 0.1 * step, x, y, YAW[track] - math.pi / 2, SPEED[track], 0)
        for track in range(3)
        for step, (x, y) in enumerate(places(track, steps).tolist())
    ]


def write_ngsim(folder: Path, rows: Any = None, net: str | None = SUMO_NET, tables: Sequence[str] = _SHF) -> Path:
    path = folder / "small.shf"
    with closing(sqlite3.connect(path)) as database, database:
        for statement in tables:
            database.execute(statement)
        if tables is _SHF:
            vehicles = [(i + 1, (2, 3, 4)[i], *SIZES[i][:2], None, 0) for i in range(3)]
            database.executemany("INSERT INTO Vehicle VALUES (?, ?, ?, ?, ?, ?)", vehicles)
            database.executemany("INSERT INTO Trajectory VALUES (?, ?, ?, ?, ?, ?, ?)", rows or ngsim_rows())
    if net is not None:
        (folder / "small.net.xml").write_text(net)
    return path


def write_nocturne(folder: Path) -> Path:
    objects = [
        {
            "position": _xyz(places(i).tolist()),
            "heading": [YAW[i]] * STEPS,
            "velocity": [{"x": SPEED[i] * math.cos(YAW[i]), "y": SPEED[i] * math.sin(YAW[i])}] * STEPS,
            "valid": [True] * STEPS,
            "length": SIZES[i][0],
            "width": SIZES[i][1],
            "height": SIZES[i][2],
            "goalPosition": _xyz(places(i).tolist())[-1],
            "type": TYPES[i],
            "id": i,
        }
        for i in range(3)
    ]
    shapes = {"road_edge": RIGHT, "lane": lane(-2.0), "crosswalk": OUTLINE[:4], "stop_sign": [(50.0, -5.0)]}
    roads = [{"geometry": _xyz(points), "type": kind, "id": i} for i, (kind, points) in enumerate(shapes.items())]
    metadata = {"sdc_track_index": 0, "objects_of_interest": [1], "tracks_to_predict": [{"track_index": 1}]}
    content = {"name": "n", "scenario_id": "n", "objects": objects, "roads": roads, "tl_states": {}}
    path = folder / "small.json"
    path.write_text(json.dumps(content | {"metadata": metadata}))
    return path


def write_scenarionet(folder: Path) -> Path:
    def state(i: int) -> dict[str, np.ndarray]:
        velocity = np.tile([SPEED[i] * math.cos(YAW[i]), SPEED[i] * math.sin(YAW[i])], (STEPS, 1))
        place = np.concatenate([places(i), np.full((STEPS, 1), 3.0)], 1)
        size = {n: np.full(STEPS, SIZES[i][k], np.float32) for k, n in enumerate(("length", "width", "height"))}
        valid, heading = np.ones(STEPS, bool), np.full(STEPS, YAW[i], np.float32)
        return size | {"position": place, "heading": heading, "velocity": velocity, "valid": valid}

    tracks = {str(i): {"type": TYPES[i].upper(), "state": state(i), "metadata": {}} for i in range(3)}
    line = np.array([(x, y, 3.0) for x, y in lane(-2.0)], np.float32)
    light = {"state": {"object_state": ["LANE_STATE_GO", None] * (STEPS // 2)}, "lane": 8, "stop_point": line[5]}
    content = {
        "id": "s",
        "version": "v1.2",
        "length": STEPS,
        "tracks": tracks,
        "dynamic_map_states": {"8": {"type": "TRAFFIC_LIGHT", "metadata": {}} | light},
        "map_features": {
            "1": {"type": "ROAD_EDGE_BOUNDARY", "polyline": line - np.array([0, 2, 0], np.float32)},
            "8": {"type": "LANE_SURFACE_STREET", "polyline": line, "exit_lanes": []},
        },
        "metadata": {
            "id": "s",
            "scenario_id": "s",
            "dataset": "waymo",
            "ts": 0.1 * np.arange(STEPS, dtype=np.float32),
            "sdc_id": "0",
            "sdc_track_index": 0,
            "current_time_index": 10,
            "track_length": STEPS,
            "objects_of_interest": ["1"],
            "tracks_to_predict": {"1": {"track_index": 1, "track_id": "1", "difficulty": 0}},
        },
    }
    path = folder / "small.pkl"
    path.write_bytes(pickle.dumps(content, 4))
    return path


def write_commonroad(folder: Path) -> Path:
    def bound(side: str, points: list[tuple[float, float]]) -> str:
        return f"<{side}>" + "".join(f"<point><x>{x}</x><y>{y}</y></point>" for x, y in points) + f"</{side}>"

    def state(i: int, step: int, tag: str) -> str:
        x, y = places(i)[step].tolist()
        values = {"orientation": YAW[i], "time": step, "velocity": SPEED[i]}
        exact = "".join(f"<{name}><exact>{value}</exact></{name}>" for name, value in values.items())
        return f"<{tag}><position><point><x>{x}</x><y>{y}</y></point></position>{exact}</{tag}>"

    obstacles = "".join(
        f'<obstacle id="{100 + i}"><role>dynamic</role><type>{("car", "bus", "pedestrian")[i]}</type><shape><rectangle>'
        f"<length>{SIZES[i][0]}</length><width>{SIZES[i][1]}</width></rectangle></shape>{state(i, 0, 'initialState')}"
        f"<trajectory>{''.join(state(i, step, 'state') for step in range(1, STEPS))}</trajectory></obstacle>"
        for i in range(3)
    )
    path = folder / "small.xml"
    path.write_text(
        '<?xml version="1.0" encoding="utf-8"?><commonRoad benchmarkID="TST_Small-1_1_T-1" commonRoadVersion="2018b"'
        f' timeStepSize="0.1"><lanelet id="1">{bound("leftBound", MIDDLE)}{bound("rightBound", RIGHT)}'
        '<adjacentLeft drivingDir="opposite" ref="2"/><speedLimit>13.9</speedLimit></lanelet>'
        f'<lanelet id="2">{bound("leftBound", MIDDLE[::-1])}{bound("rightBound", LEFT[::-1])}'
        f'<adjacentLeft drivingDir="opposite" ref="1"/></lanelet>{obstacles}<planningProblem id="9">'
        f"{state(0, 0, 'initialState')}<goalState><position><rectangle><length>5</length><width>2</width><center>"
        "<x>80</x><y>-2</y></center></rectangle></position><time><intervalStart>30</intervalStart><intervalEnd>60"
        "</intervalEnd></time></goalState></planningProblem></commonRoad>"
    )
    return path
