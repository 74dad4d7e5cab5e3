"""Argoverse 2 scenarios: a world known in closed form, its faults, and the real file."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from tests.driving import _files

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving.raw import BUS_SIZE, Kind, RawScene
from gleanings.driving.readers import argoverse
from gleanings.driving.readers.detect import read_raw


def one(path: Path) -> RawScene:
    (scene,) = argoverse.read(path)
    return scene


def test_tracks_are_those_of_the_file(tmp_path: Path):
    scene = one(_files.write_argoverse(tmp_path))
    assert (scene.name, scene.start, scene.sdc, scene.predict, scene.interest) == ("abc", 49, 0, (1,), (1,))
    assert scene.flat
    np.testing.assert_allclose(scene.times, 0.1 * np.arange(_files.STEPS))
    for i, track in enumerate(scene.tracks):
        assert track.kind == (Kind.VEHICLE, Kind.VEHICLE, Kind.PEDESTRIAN)[i]
        np.testing.assert_array_equal(track.position[:, :2], _files.places(i))
        np.testing.assert_allclose(np.diff(track.position[:, :2], axis=0), 0.1 * track.velocity[1:], atol=1e-9)
        assert np.isnan(track.position[:, 2]).all()


def test_the_road_lies_left_of_its_edges_and_is_open_where_the_map_is_cut(tmp_path: Path):
    area = _files.argoverse_map()
    # The area is cut at x = 0, the border of a tile; it ends within a tile at x = 120.5.
    for point in area["drivable_areas"]["7"]["area_boundary"]:
        point["x"] = max(point["x"], 0) if point["x"] > 1 else 0.0
    scene = one(_files.write_argoverse(tmp_path, area=area))
    (edge,) = (f.points for f in scene.features if f.kind == "road_edge")
    ends = sorted(edge[[0, -1], :2].tolist())
    assert ends == [[0.0, -4.0], [0.0, 4.0]]
    twice = np.sum(edge[:-1, 0] * edge[1:, 1] - edge[1:, 0] * edge[:-1, 1])
    assert twice / 2 == pytest.approx(120.5 * 8)  # closed by the cut; counter-clockwise


def test_lanes_know_their_neighbours_of_the_same_direction(tmp_path: Path):
    area = _files.argoverse_map()
    area["lane_segments"]["1"]["successors"] = [2, 99]
    area["lane_segments"]["3"] = area["lane_segments"]["1"] | {"id": 3, "left_neighbor_id": 1, "lane_type": "BIKE"}
    scene = one(_files.write_argoverse(tmp_path, area=area))
    lanes = {f.name: f for f in scene.features if f.kind == "lane"}
    assert {name: lane.neighbours for name, lane in lanes.items()} == {"1": (), "2": (), "3": ("1",)}
    assert lanes["1"].successors == ("2",)
    assert lanes["1"].linked
    np.testing.assert_array_equal(lanes["2"].points[:, :2], _files.lane(2.0, forward=False))


def test_a_lane_without_a_centreline_runs_half_way_between_its_bounds(tmp_path: Path):
    area = _files.argoverse_map()
    del area["lane_segments"]["1"]["centerline"]
    area["lane_segments"]["1"]["left_lane_boundary"] = area["lane_segments"]["1"]["left_lane_boundary"][::12]
    scene = one(_files.write_argoverse(tmp_path, area=area))
    (lane,) = (f.points for f in scene.features if f.name == "1")
    np.testing.assert_allclose(lane[:, :2], [(x, -2.0) for x in np.linspace(0, 120, len(lane))], atol=1e-9)


@pytest.mark.parametrize("turn", [1, -1])
def test_a_crosswalk_is_a_polygon_whichever_way_its_edges_run(tmp_path: Path, turn: int):
    area = _files.argoverse_map()
    crossing = area["pedestrian_crossings"]["5"]
    crossing["edge2"] = crossing["edge2"][::turn]
    scene = one(_files.write_argoverse(tmp_path, area=area))
    (crosswalk,) = (f for f in scene.features if f.kind == "crosswalk")
    x, y = crosswalk.points[:, 0], crosswalk.points[:, 1]
    assert crosswalk.closed
    assert abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2 == pytest.approx(32)


def test_kinds_and_sizes_follow_the_type(tmp_path: Path):
    columns = _files.argoverse_columns()
    columns["object_type"] = ["bus"] * 60 + ["motorcyclist"] * 60 + ["construction"] * 60
    scene = one(_files.write_argoverse(tmp_path, columns))
    assert [track.kind for track in scene.tracks] == [Kind.VEHICLE, Kind.VEHICLE, Kind.OTHER]
    assert [track.size[0, 0] for track in scene.tracks] == [BUS_SIZE[0], 2.2, 1.0]
    assert scene.repairs == {"size_by_kind": 1}


def test_rows_may_stand_in_any_order_and_steps_may_be_missing(tmp_path: Path):
    columns = _files.argoverse_columns()
    order = np.random.default_rng(0).permutation(180)[:170]
    scene = one(_files.write_argoverse(tmp_path, {name: [c[i] for i in order] for name, c in columns.items()}))
    assert sum(int(track.valid.sum()) for track in scene.tracks) == 170
    index = {"AV": 0, "17": 1, "18": 2}
    for track in scene.tracks:
        there = _files.places(index[track.name])[: len(scene.times)][track.valid]
        np.testing.assert_array_equal(track.position[track.valid, :2], there)


def test_without_a_map_the_scene_has_no_features(tmp_path: Path):
    path = _files.write_argoverse(tmp_path)
    (tmp_path / "log_map_archive_abc.json").unlink()
    scene = one(path)
    assert scene.features == ()
    assert scene.repairs["map_missing"] == 1


def changed(name: str, row: int, value: object) -> dict[str, list[object]]:
    columns = _files.argoverse_columns()
    columns[name][row] = value
    return columns


FAULTS = {
    "column missing": ({k: c for k, c in _files.argoverse_columns().items() if k != "heading"}, "column heading"),
    "two scenarios": (changed("scenario_id", 3, "other"), "several scenarios"),
    "step below 0": (changed("timestep", 3, -1), "'timestep' is not a whole number from 0 to 1999"),
    "step too late": (changed("timestep", 3, 10**9), "'timestep'"),
    "step missing": (changed("timestep", 3, None), "'timestep'"),
    "no name": (changed("track_id", 3, None), "a row has no 'track_id'"),
    "long name": (changed("track_id", 3, "x" * 10_000), "holds a text of 10,000 characters"),
    "text for a number": (_files.argoverse_columns() | {"heading": ["north"] * 180}, "not a readable Parquet file"),
    "no rows": ({name: c[:0] for name, c in _files.argoverse_columns().items()}, "."),
    "too many states": (
        {k: c[:1] * 1001 for k, c in _files.argoverse_columns().items()}
        | {"track_id": [f"{i}" for i in range(1001)], "timestep": [1999] * 1001},
        "1,001 tracks of 2,000 steps",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, case: str):
    columns, message = FAULTS[case]
    with pytest.raises(DataError, match=message):
        one(_files.write_argoverse(tmp_path, columns))


MAPS = {
    "not JSON": "{",
    "another format": '{"lanes": []}',
    "a list": "[]",
    "nested": "[" * 100_000,
    "a word for a number": json.dumps(_files.argoverse_map()).replace("3.0", '"high"'),
    "a dict of lists": json.dumps(_files.argoverse_map() | {"lane_segments": {"1": [1, 2]}}),
    "a huge number": json.dumps(_files.argoverse_map()).replace("3.0", "9" * 5000),
    "infinite": json.dumps(_files.argoverse_map()).replace("3.0", "Infinity"),
}


@pytest.mark.parametrize("case", MAPS)
def test_maps_that_do_not_fit_are_refused(tmp_path: Path, case: str):
    path = _files.write_argoverse(tmp_path)
    beside = tmp_path / "log_map_archive_abc.json"
    beside.write_text(MAPS[case])
    with pytest.raises(DataError) as caught:
        one(path)
    assert caught.value.path == beside


def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = _files.write_argoverse(inner, _files.argoverse_columns() | {"scenario_id": ["x/../../secret"] * 180})
    (inner / "log_map_archive_x").mkdir()
    (tmp_path / "secret.json").write_text("{}")
    assert one(path).repairs["map_missing"] == 1


def test_a_long_text_that_few_bytes_repeat_is_not_unfolded(tmp_path: Path):
    rows = 200_000
    columns: dict[str, object] = {name: c[:1] * rows for name, c in _files.argoverse_columns().items()}
    names = pyarrow.array(["x" * 50_000])
    columns["track_id"] = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(rows, np.int32)), names)
    path = _files.write_argoverse(tmp_path, columns)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"50,000 characters|bytes"):
        one(path)


def test_feather_and_missing_pyarrow_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    feather = tmp_path / "a.feather"
    feather.write_bytes(b"ARROW1\0\0")
    with pytest.raises(DataError, match="no poses of the ego"):
        read_raw(feather)
    path = _files.write_argoverse(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        one(path)


def test_the_real_scene_drives_on_its_road(shared_data: Path):
    (path,) = (shared_data / "driving" / "av2").glob("scenario_*.parquet")
    scene = one(path)
    assert (len(scene.times), scene.start, len(scene.tracks)) == (110, 49, 58)
    assert scene.tracks[scene.sdc].name == "AV"
    edges = [f.points[:, :2] for f in scene.features if f.kind == "road_edge"]
    start, step = np.concatenate([e[:-1] for e in edges]), np.concatenate([np.diff(e, axis=0) for e in edges])
    for i in {scene.sdc, *scene.predict}:
        track = scene.tracks[i]
        seen = track.position[track.valid][:, None, :2] - start
        seen = seen[track.position[track.valid][:, 1] > 1290]  # the map begins there
        along = np.clip((seen * step).sum(-1) / (step * step).sum(-1), 0, 1)
        away = seen - along[..., None] * step
        nearest = np.argmin((away * away).sum(-1), 1)
        rows = np.arange(len(seen))
        left = step[nearest, 0] * away[rows, nearest, 1] - step[nearest, 1] * away[rows, nearest, 0]
        assert (left > 0).mean() > 0.97
