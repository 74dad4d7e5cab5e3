"""NGSIM databases and SUMO networks: a world known in closed form, its faults, and the real file."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.driving import _files

from gleanings.core.errors import DataError
from gleanings.driving.raw import Kind, RawScene
from gleanings.driving.readers import ngsim
from gleanings.driving.readers._sumo import read_net
from gleanings.driving.readers._xml import parse_xml


def one(path: Path) -> RawScene:
    (scene,) = ngsim.read(path)
    return scene


def change(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)
    return path


def test_tracks_are_those_of_the_file(tmp_path: Path):
    scene = one(_files.write_ngsim(tmp_path))
    assert (scene.start, scene.sdc, scene.flat, scene.repairs.get("size_by_kind")) == (10, 0, True, None)
    np.testing.assert_allclose(scene.times, 7.9 + 0.1 * np.arange(_files.STEPS))
    for i, track in enumerate(scene.tracks):
        assert track.kind == (Kind.VEHICLE, Kind.VEHICLE, Kind.PEDESTRIAN)[i]
        np.testing.assert_array_equal(track.position[:, :2], _files.places(i))
        np.testing.assert_allclose(np.cos(track.yaw - _files.YAW[i]), 1)
        np.testing.assert_allclose(np.diff(track.position[:, :2], axis=0), 0.1 * track.velocity[1:], atol=1e-9)
        np.testing.assert_allclose(track.size[0, :2], _files.SIZES[i][:2])


def test_the_ego_is_marked_or_travels_farthest_of_those_there_at_the_start(tmp_path: Path):
    path = _files.write_ngsim(tmp_path)
    change(path, "DELETE FROM Trajectory WHERE vehicle_id = 1 AND sim_time < 9.5")
    assert one(path).sdc == 1
    assert one(change(path, "UPDATE Vehicle SET is_ego_vehicle = 1 WHERE id = 3")).sdc == 2


def test_rows_off_the_grid_and_of_unknown_vehicles_are_counted(tmp_path: Path):
    path = _files.write_ngsim(tmp_path)
    change(path, "INSERT INTO Trajectory VALUES (1, 8.55, 0, 0, 0, 0, 0)", "DELETE FROM Vehicle WHERE id = 2")
    scene = one(change(path, "UPDATE Trajectory SET speed = NULL WHERE vehicle_id = 1 AND sim_time < 8.0"))
    assert scene.repairs == {"rows_off_grid_or_unknown": 1 + _files.STEPS, "velocity_filled": 1}
    assert [track.name for track in scene.tracks] == ["1", "3"]


def test_times_that_jitter_are_put_on_the_grid(tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = [(i, t + rng.uniform(-1e-3, 1e-3), *rest) for i, t, *rest in _files.ngsim_rows()[: _files.STEPS]]
    scene = one(_files.write_ngsim(tmp_path, rows))
    assert len(scene.times) == _files.STEPS
    assert scene.tracks[0].valid.all()


def test_a_long_recording_is_cut_into_equal_scenes(tmp_path: Path):
    path = _files.write_ngsim(tmp_path, _files.ngsim_rows(450))
    scenes = list(ngsim.read(path))
    assert [len(scene.times) for scene in scenes] == [150, 150, 150]
    joined = np.concatenate([scene.tracks[0].position[:, :2] for scene in scenes])
    np.testing.assert_array_equal(joined, _files.places(0, 450))
    np.testing.assert_allclose(np.concatenate([scene.times for scene in scenes]), 7.9 + 0.1 * np.arange(450))
    change(path, "UPDATE Trajectory SET sim_time = sim_time + 1e6 WHERE sim_time > 30")  # a pause
    assert sum(int(track.valid.sum()) for scene in ngsim.read(path) for track in scene.tracks) == 3 * 450


def test_lanes_and_edges_of_the_network(tmp_path: Path):
    scene = one(_files.write_ngsim(tmp_path))
    lanes = {f.name: f for f in scene.features if f.kind == "lane"}
    assert {name: lane.successors for name, lane in lanes.items()} == {
        "a_0": (":J_0_0",),
        ":J_0_0": ("b_0",),
        "b_0": (),
        "c_0": (),
    }
    assert lanes["a_0"].speed_limit == 13.89
    edges = [f.points for f in scene.features if f.kind == "road_edge"]
    # Lanes of 4 m at y = -2 and 2: what bounds the road is y = -4 along +x and y = 4 along -x.
    assert sum(float(np.abs(np.diff(e[:, 0])).sum()) for e in edges) == pytest.approx(2 * _files.LENGTH, abs=1.1)
    for edge in edges:
        heading = np.sign(edge[-1, 0] - edge[0, 0])
        np.testing.assert_allclose(edge[:, 1], -4 * heading)


def test_offset_lanes_keep_their_distance_round_a_bend(tmp_path: Path):
    angle = np.linspace(0, np.pi / 2, 40)
    shape = " ".join(f"{x:.9f},{y:.9f}" for x, y in 50 * np.stack([np.cos(angle), np.sin(angle)], -1))
    lanes = "".join(f'<lane id="e_{i}" index="{i}" speed="9" shape="{shape}"/>' for i in (0,))
    net = tmp_path / "x.net.xml"
    net.write_text(f'<net><edge id="e">{lanes}</edge></net>')
    right, left = (f.points for f in read_net(net) if f.kind == "road_edge")
    for edge, radius in ((right, 51.6), (left, 48.4)):
        np.testing.assert_allclose(np.hypot(edge[:, 0], edge[:, 1]), radius, atol=2e-2)
    assert np.arctan2(right[-1, 1], right[-1, 0]) > 1.5 > 0.1 > np.arctan2(left[-1, 1], left[-1, 0])


def test_paths_for_people_are_no_road(tmp_path: Path):
    net = tmp_path / "x.net.xml"
    net.write_text(
        '<net><edge id="e"><lane id="e_0" index="0" allow="pedestrian" shape="0,0 9,0"/><lane id="e_1" index="1"'
        ' shape="0,3 9,3"/><lane id="e_2" index="2" shape="0,6 9,6"/></edge><edge id="w" function="walkingarea">'
        '<lane id="w_0" index="0" shape="0,0 1,1"/></edge></net>'
    )
    features = read_net(net)
    assert {f.name: f.neighbours for f in features if f.kind == "lane"} == {"e_1": ("e_2",), "e_2": ("e_1",)}
    assert sorted(f.points[0, 1] for f in features if f.kind == "road_edge") == pytest.approx([1.4, 7.6])


def test_without_a_network_the_scene_has_no_features(tmp_path: Path):
    scene = one(_files.write_ngsim(tmp_path, net=None))
    assert scene.features == ()
    assert scene.repairs == {"map_missing": 1}


SCHEMAS = {
    "no table": (["CREATE TABLE Vehicle (id)"], "no table Trajectory"),
    "missing columns": (
        ["CREATE TABLE Vehicle (id, type, length)", "CREATE TABLE Trajectory (vehicle_id, sim_time)"],
        "table Vehicle has no column height, is_ego_vehicle, width",
    ),
    "a view that counts for ever": (
        [
            _files._SHF[0],
            "CREATE VIEW Trajectory AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x"
            " vehicle_id, x sim_time, x position_x, x position_y, x heading_rad, x speed FROM c",
        ],
        "no table Trajectory",
    ),
    "a column that is computed": (
        [_files._SHF[0], _files._SHF[1].replace("speed REAL DEFAULT 0.0", "speed AS (length(zeroblob(1e9)))")],
        "not authorized|at least 2",
    ),
}


@pytest.mark.parametrize("case", SCHEMAS)
def test_other_schemas_are_refused(tmp_path: Path, case: str):
    tables, message = SCHEMAS[case]
    with pytest.raises(DataError, match=message):
        one(_files.write_ngsim(tmp_path, tables=tables))


STATEMENTS = {
    "text for a time": ("UPDATE Trajectory SET sim_time = 'noon' WHERE vehicle_id = 1 AND sim_time < 7.95", "convert"),
    "no times": ("DELETE FROM Trajectory", "0 different times"),
    "infinite time": ("UPDATE Trajectory SET sim_time = 9e999 WHERE sim_time > 13.75", "a number of seconds"),
    "hours between steps": ("UPDATE Trajectory SET sim_time = sim_time * 36000", "expected a grid"),
    "a text for a place": ("UPDATE Trajectory SET position_x = 'here'", "not a readable trajectory database"),
    "a long text": ("UPDATE Trajectory SET position_x = zeroblob(2000000) WHERE vehicle_id = 1", "too big"),
    "a vehicle without id": ("UPDATE Vehicle SET type = 'x\x1b'", "not a readable trajectory database"),
}


@pytest.mark.parametrize("case", STATEMENTS)
def test_values_that_do_not_fit_are_refused(tmp_path: Path, case: str):
    statement, message = STATEMENTS[case]
    path = _files.write_ngsim(tmp_path)
    change(path, statement)
    with pytest.raises(DataError, match=message):
        one(path)


def test_work_and_rows_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = _files.write_ngsim(tmp_path)
    monkeypatch.setattr(ngsim, "_MAX_ROWS", 100)
    with pytest.raises(DataError, match="more than 100 rows"):
        one(path)
    monkeypatch.setattr(ngsim, "_MAX_TICKS", 1)
    monkeypatch.setattr(ngsim, "_TICK", 100)
    with pytest.raises(DataError, match="too much work"):
        one(path)


def test_the_database_is_left_alone(tmp_path: Path):
    path = _files.write_ngsim(tmp_path)
    content, names = path.read_bytes(), sorted(tmp_path.iterdir())
    path.chmod(0o400)
    one(path)
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == (content, names)


def test_two_networks_are_one_too_many(tmp_path: Path):
    path = _files.write_ngsim(tmp_path)
    (tmp_path / "other.net.xml").write_text(_files.SUMO_NET)
    with pytest.raises(DataError, match=r"2 files \*\.net\.xml"):
        one(path)


LAUGHS = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
XML = {
    "laughs": (f'<!DOCTYPE net [<!ENTITY l0 "ha">{LAUGHS}]><net>&l9;</net>', "DOCTYPE"),
    "laughs in UTF-16": (f'<!DOCTYPE net [<!ENTITY l0 "ha">{LAUGHS}]><net>&l9;</net>', "DOCTYPE"),
    "an outer file": ('<!DOCTYPE net SYSTEM "file:///etc/passwd"><net/>', "DOCTYPE"),
    "unknown entity": ("<net>&x;</net>", "undefined entity"),
    "deep": ("<a>" * 100_000, "nested deeper than 64"),
    "cut": ("<net><edge", "XML"),
    "no XML": ("", "XML"),
    "unknown encoding": ('<?xml version="1.0" encoding="klingon"?><net/>', "XML"),
}


@pytest.mark.parametrize("case", XML)
def test_xml_that_could_hurt_is_refused(tmp_path: Path, case: str):
    text, message = XML[case]
    path = tmp_path / "x.net.xml"
    path.write_bytes(text.encode("utf-16" if "UTF-16" in case else "utf-8"))
    with pytest.raises(DataError, match=message):
        parse_xml(path)


NETS = {
    "another root": "<osm/>",
    "a lane without a shape": '<net><edge id="e"><lane id="e_0" index="0"/></edge></net>',
    "a word for a number": '<net><edge id="e"><lane id="e_0" index="0" shape="a,b c,d"/></edge></net>',
    "points of different sizes": '<net><edge id="e"><lane id="e_0" index="0" shape="1 2,3"/></edge></net>',
    "an endless lane": '<net><edge id="e"><lane id="e_0" index="0" shape="0,0 inf,0"/></edge></net>',
    "no width": '<net><edge id="e"><lane id="e_0" index="0" width="0" shape="0,0 9,0"/></edge></net>',
    "a lane to the moon": '<net><edge id="e"><lane id="e_0" index="0" shape="0,0 384e6,0"/></edge></net>',
}


@pytest.mark.parametrize("case", NETS)
def test_networks_that_do_not_fit_are_refused(tmp_path: Path, case: str):
    path = tmp_path / "x.net.xml"
    path.write_text(NETS[case])
    with pytest.raises(DataError) as caught:
        read_net(path)
    assert caught.value.path == path


def test_the_real_recording_drives_on_its_lanes(shared_data: Path):
    scene = one(shared_data / "driving" / "ngsim-smarts" / "200_actors_i80_0400-0415.shf")
    assert (len(scene.times), scene.start, len(scene.tracks)) == (101, 10, 200)
    assert sum(int(track.valid.sum()) for track in scene.tracks) == 20_200
    moved = np.concatenate([np.diff(track.position[:, :2], axis=0) for track in scene.tracks])
    yaw = np.concatenate([track.yaw[1:] for track in scene.tracks])
    far = np.hypot(*moved.T) > 0.5
    turn = np.arctan2(moved[far, 1], moved[far, 0]) - yaw[far]
    assert np.quantile(np.cos(turn), 0.05) > np.cos(0.1)
    # Edges run along +x below the road and along -x above it.
    edges = [f.points for f in scene.features if f.kind == "road_edge"]
    assert {np.sign(e[-1, 0] - e[0, 0]) for e in edges if e[:, 1].mean() > 20} == {-1.0}
    assert {np.sign(e[-1, 0] - e[0, 0]) for e in edges if e[:, 1].max() < 2} == {1.0}
