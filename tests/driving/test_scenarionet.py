"""ScenarioNet pickles: a world known in closed form, its variants and faults, and the real file."""

import pickle
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.driving import _files

from gleanings.core.errors import DataError
from gleanings.driving.raw import Kind, Light, RawScene
from gleanings.driving.readers._unpickle import unpickle
from gleanings.driving.readers.scenarionet import read


def changed(folder: Path, change: Callable[[dict[str, Any]], object] = lambda content: None) -> RawScene:
    path = _files.write_scenarionet(folder)
    content = pickle.loads(path.read_bytes())
    change(content)
    path.write_bytes(pickle.dumps(content, 4))
    (scene,) = read(path)
    return scene


def test_a_small_scene_comes_back(tmp_path: Path):
    scene = changed(tmp_path)
    for i, track in enumerate(scene.tracks):
        np.testing.assert_allclose(track.position[:, :2], _files.places(i))
        np.testing.assert_allclose(track.size[0], _files.SIZES[i], rtol=1e-6)
    assert [t.kind for t in scene.tracks] == [Kind.VEHICLE, Kind.VEHICLE, Kind.PEDESTRIAN]
    assert (scene.sdc, scene.predict, scene.interest, scene.start, scene.flat) == (0, (1,), (1,), 10, False)
    edge, lane = scene.features
    assert (edge.kind, lane.kind, lane.name, lane.linked, lane.successors) == ("road_edge", "lane", "8", True, ())
    (light,) = scene.lights
    # None is unknown, never red.
    assert light.state.tolist() == [Light.GO, Light.UNKNOWN] * 30
    assert light.lane == "8"


def test_variants_of_other_converters_are_read(tmp_path: Path):
    def vary(content: dict[str, Any]) -> None:
        for track in content["tracks"].values():
            state = track["state"]
            state["position"], state["velocity"] = state["position"][:, :2].tolist(), None
            state["length"], state["width"] = state["length"][:, None], 1.5
            del state["height"]
        lane = content["map_features"]["8"]
        lane["polyline"] = lane["polyline"][:, :2]
        lane |= {"speed_limit_kmh": 36, "exit_lanes": [np.int64(5), "6"], "left_neighbor": [{"feature_id": 7}]}
        content["map_features"]["9"] = {"type": "LANE_SURFACE_UNSTRUCTURE", "polygon": lane["polyline"]}
        content["map_features"]["10"] = {"type": "STOP_SIGN", "position": [1.0, 2.0, 3.0]}
        lights = content["dynamic_map_states"]["8"]
        lights["stop_point"], lights["state"]["object_state"] = None, np.array(["TRAFFIC_LIGHT_RED"] * 60)
        content["metadata"] |= {"tracks_to_predict": ["1", "77"], "ts": None}

    scene = changed(tmp_path, vary)
    np.testing.assert_allclose(scene.tracks[0].velocity[5], [10, 0])
    np.testing.assert_allclose(scene.tracks[0].size[0], [4.5, 1.5, 1.6])
    lane = next(f for f in scene.features if f.kind == "lane")
    assert (lane.speed_limit, lane.successors, lane.neighbours) == (10, ("5", "6"), ("7",))
    assert (scene.flat, scene.predict, scene.lights[0].state.tolist()) == (True, (1,), [Light.STOP] * 60)
    assert scene.repairs["unknown_features_dropped"] == 1


FAULTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "steps": (lambda c: c.update(length=59, metadata={}), "has 60 positions; the scene has 59"),
    "endless": (lambda c: c.update(length=10**9), "expected 2 to"),
    "a text of steps": (lambda c: c.update(length="60"), "length is a str"),
    "no tracks": (lambda c: c.pop("tracks"), "no 'tracks'"),
    "no heading": (lambda c: c["tracks"]["0"]["state"].pop("heading"), "no 'heading'"),
    "lying columns": (lambda c: c["tracks"]["0"]["state"].update(velocity=np.zeros((60, 9))), "9 coordinates"),
    "text": (lambda c: c["tracks"]["0"]["state"].update(heading=np.array(["x"] * 60)), "expected numbers"),
    "a list in itself": (lambda c: c["map_features"]["1"].update(polyline=circle()), "map feature 1"),
    "lists that double": (lambda c: c["map_features"]["1"].update(polyline=doubled()), "no number"),
    "many links": (lambda c: c["map_features"]["8"].update(exit_lanes=["1"] * 5000), "exit_lanes holds 5,000"),
    "one row a million times": (lambda c: c["map_features"]["1"].update(polyline=[[0.0] * 9999] * 9999), "9999 coord"),
    "a light": (lambda c: c["dynamic_map_states"]["8"]["state"].update(object_state=[]), "0 states"),
    "an array for a table": (lambda c: c.update(metadata=np.zeros(3)), "metadata is a ndarray"),
    "an array for the lights": (lambda c: c.update(dynamic_map_states=np.zeros(3)), "dynamic_map_states is a ndarray"),
    "an array for a name": (lambda c: c.update(id=np.zeros(3)), "id is a ndarray"),
    "an array for a source": (lambda c: c["metadata"].update(dataset=np.zeros(3)), "dataset is a ndarray"),
    "many wanted": (lambda c: c["metadata"].update(tracks_to_predict=np.zeros(200_000, "u1")), "holds 200,000 values"),
    "a list": (lambda c: c["metadata"].update(objects_of_interest=[[]]), "objects_of_interest"),
    "ego": (lambda c: c["metadata"].update(current_time_index=60), "start 60"),
}


def circle() -> list[Any]:
    line: list[Any] = []
    line += [line, line]
    return line


def doubled() -> list[Any]:
    """2 ** 60 numbers for whoever counts them."""
    line: list[Any] = [0.0, 0.0]
    for _ in range(60):
        line = [line, line]
    return line


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_named_in_one_line(tmp_path: Path, case: str):
    change, message = FAULTS[case]
    with pytest.raises(DataError, match=message) as caught:
        changed(tmp_path, change)
    assert str(caught.value).isprintable()


def test_features_and_shared_links_are_counted_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def share(content: dict[str, Any]) -> None:
        lane = content["map_features"]["8"] | {"exit_lanes": [str(i) for i in range(100)]}
        content["map_features"] |= {str(i): lane for i in range(10, 30)}

    monkeypatch.setattr("gleanings.driving.raw_check.MAX_LINKS", 1000)
    with pytest.raises(DataError, match="more than 1,000 links between lanes"):
        changed(tmp_path, share)
    monkeypatch.setattr("gleanings.driving.readers.scenarionet.MAX_FEATURES", 10)
    with pytest.raises(DataError, match="22 map features; at most 10"):
        changed(tmp_path, share)


def test_the_real_overpass(shared_data: Path):
    (path,) = (shared_data / "driving" / "scenarionet").glob("overpass_*.pkl")
    (scene,) = read(path)
    assert (len(scene.tracks), len(scene.times), scene.start, scene.tracks[scene.sdc].name) == (45, 199, 0, "51")
    heights = np.concatenate([f.points[:, 2] for f in scene.features])
    assert np.ptp(heights) > 4
    assert len(scene.lights) == 14
    assert {int(s) for light in scene.lights for s in np.unique(light.state)} == {0, 1, 4, 6}
    lanes = {f.name: f for f in scene.features if f.kind == "lane"}
    gaps = [
        np.hypot(*(lanes[s].points[0] - f.points[-1])[:2]) for f in lanes.values() for s in f.successors if s in lanes
    ]
    assert np.mean(np.array(gaps) < 0.6) > 0.95


PLAIN: dict[str, Any] = {
    "numbers": [0, 1, 255, 256, 65535, 65536, -1, 2**40, -(2**70), 1.5, True, None, b"ab", "\u00fc" * 300],
    "nested": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {"a": {"b": [{}]}, 3: []}, {"x", "y"}, set()),
    "shared": [[1]] * 3,
    "defaults": defaultdict(int, a=1),
    "scalars": [np.float64(1.5), np.int32(-3), np.bool_(True)],
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_data_comes_back(tmp_path: Path, name: str, protocol: int):
    value = PLAIN[name] if protocol > 3 else {k: v for k, v in PLAIN.items() if k != "nested"}.get(name, [])
    (path := tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol))
    assert unpickle(path) == value


@pytest.mark.parametrize("kind", ["?", "u1", "<i8", ">i4", "<f2", "<f4", ">f8", "<U5", "S3"])
def test_arrays_come_back(tmp_path: Path, kind: str):
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    for value in (array, np.asfortranarray(array), array[0, 0, 0:0], np.zeros((0, 3), kind)):
        (path := tmp_path / "x.pkl").write_bytes(pickle.dumps([value, value], 4))
        first, second = unpickle(path)
        assert first is second
        assert (first.dtype, first.shape) == (value.dtype, value.shape)
        assert (first == value).all()
