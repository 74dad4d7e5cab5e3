"""GPUDrive and Nocturne JSON: a world known in closed form, its variants and faults, and the real files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.driving import _files

from gleanings.core.errors import DataError
from gleanings.driving.raw import Kind, Light, RawScene
from gleanings.driving.readers.nocturne import read


def changed(folder: Path, change: Callable[[dict[str, Any]], object] = lambda content: None) -> RawScene:
    path = _files.write_nocturne(folder)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    (scene,) = read(path)
    return scene


def test_a_small_scene_comes_back(tmp_path: Path):
    scene = changed(tmp_path)
    for i, track in enumerate(scene.tracks):
        np.testing.assert_allclose(track.position[:, :2], _files.places(i))
        np.testing.assert_allclose(track.size[0], _files.SIZES[i])
        assert track.valid.all()
    assert [t.kind for t in scene.tracks] == [Kind.VEHICLE, Kind.VEHICLE, Kind.PEDESTRIAN]
    assert (scene.sdc, scene.predict, scene.interest, scene.start, scene.flat) == (0, (1,), (1,), 10, False)
    assert [f.kind for f in scene.features] == ["road_edge", "lane", "crosswalk", "stop_sign"]
    assert [f.closed for f in scene.features] == [False, False, True, False]
    np.testing.assert_allclose(np.diff(scene.times), 0.1)


def test_the_value_for_invalid_is_never_a_place(tmp_path: Path):
    def lose(content: dict[str, Any]) -> None:
        entry, bad = content["objects"][1], -10000.0
        entry["heading"][4] = bad
        entry["position"][4] = {"x": bad, "y": bad, "z": bad}
        entry["velocity"][4] = {"x": bad, "y": bad}
        entry["position"][7] = {"x": bad, "y": bad, "z": bad}  # though `valid` says otherwise
        entry["valid"][4] = False

    track = changed(tmp_path, lose).tracks[1]
    assert np.flatnonzero(~track.valid).tolist() == [4, 7]
    assert np.nanmin(track.position) > -1000


@pytest.mark.parametrize("named", [True, False])
def test_lights_are_keyed_by_lane_and_time(tmp_path: Path, named: bool):
    when, codes = [0, 1, 5, 59], [Light.STOP, Light.GO, Light.ARROW_STOP, Light.UNKNOWN]
    entry = {"state": [c.name.lower() if named else int(c) for c in codes], "time_index": when}
    entry |= {"x": [50.0] * 4, "y": [-2.0] * 4, "z": [3.0] * 4, "lane_id": [1] * 4}
    (light,) = changed(tmp_path, lambda content: content.update(tl_states={"1": entry})).lights
    want = np.zeros(60)
    want[when] = codes
    assert (light.state == want).all()
    assert (light.lane, light.stop.tolist()) == ("1", [50, -2, 3])


def test_lights_of_too_many_states_are_refused_before_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    empty = {"state": [], "x": [], "y": [], "z": []}
    monkeypatch.setattr("gleanings.driving.raw_check.MAX_STATES", 1000)
    monkeypatch.setattr("gleanings.driving.readers.nocturne.RawLight", None)
    with pytest.raises(DataError, match=r"60 steps of 20 lights; .* 1,000 states are read"):
        changed(tmp_path, lambda content: content.update(tl_states={str(i): empty for i in range(20)}))


def test_headings_in_degrees_and_scenes_without_z_are_seen(tmp_path: Path):
    def older(content: dict[str, Any]) -> None:
        for entry in content["objects"]:
            entry["heading"] = np.degrees(entry["heading"]).tolist()
            entry["position"] = [{"x": p["x"], "y": p["y"]} for p in entry["position"]]
        content["roads"] = []
        del content["metadata"]

    scene = changed(tmp_path, older)
    np.testing.assert_allclose([t.yaw[0] for t in scene.tracks], _files.YAW)
    assert (scene.repairs["headings_in_degrees"], scene.flat, scene.sdc) == (3, True, -1)


FAULTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "short": (lambda c: c["objects"][1]["position"].pop(), r"objects\[1\] has 59 positions"),
    "text for a number": (lambda c: c["objects"][0]["heading"].__setitem__(3, "x"), r"objects\[0\].heading"),
    "a list for a table": (lambda c: c.update(tl_states=[1]), "tl_states"),
    "no objects": (lambda c: c.update(objects=[]), "no objects"),
    "no roads": (lambda c: c.pop("roads"), "no 'roads'"),
    "no such ego": (lambda c: c["metadata"].update(sdc_track_index=80), "sdc names track 80"),
    "a number of 400 digits": (lambda c: c["objects"][0].update(length=10**400), "beyond 1e308"),
    "a road of nothing": (lambda c: c["roads"].append(None), r"roads\[4\]"),
    "a light without states": (lambda c: c.update(tl_states={"1": {"state": 4}}), "tl_states"),
    "nobody at the start": (lambda c: [o.update(valid=[False] * 60) for o in c["objects"]], "no object is valid"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_named_in_one_line(tmp_path: Path, case: str):
    change, message = FAULTS[case]
    with pytest.raises(DataError, match=message) as caught:
        changed(tmp_path, change)
    assert str(caught.value).isprintable()


TEXTS = {
    "deep": ("[" * 100_000, "nested deeper than 64"),
    "deep behind quotes": ('{"a\\"[": "[[\\\\", "b": ' + '{"a":' * 100_000, "nested deeper than 64"),
    "not JSON": ('{"objects": [', "not JSON"),
    "long number": ('{"objects": ' + "9" * 10_000 + "}", "not JSON"),
    "bytes": ("\ud800", "not JSON"),
    "UTF-16": ('"\0"', "zero bytes"),
    "a list": ("[]", "expected named values"),
    "nothing": ("", "not JSON"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_text_that_could_hurt_is_refused(tmp_path: Path, case: str):
    text, message = TEXTS[case]
    (path := tmp_path / "x.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match=message):
        list(read(path))


def test_brackets_in_strings_nest_nothing(tmp_path: Path):
    assert changed(tmp_path, lambda content: content.update(name='\\"' + "[{" * 1000, scenario_id="n")).name == "n"


def test_size_and_number_of_values_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gleanings.driving.readers._json._MAX_VALUES", 1000)
    with pytest.raises(DataError, match="more than 1,000 values"):
        changed(tmp_path)
    with (path := tmp_path / "big.json").open("wb") as file:
        file.truncate((512 << 20) + 1)
    with pytest.raises(DataError, match="Split the file"):
        list(read(path))


@pytest.mark.parametrize(("name", "objects", "sdc"), [("4", 81, 80), ("325", 62, 61)])
def test_a_real_scene_moves_as_its_velocities_say(shared_data: Path, name: str, objects: int, sdc: int):
    (scene,) = read(shared_data / "driving" / "gpudrive" / f"tfrecord-00000-of-01000_{name}.json")
    assert (len(scene.tracks), scene.sdc, len(scene.times), scene.start) == (objects, sdc, 91, 10)
    assert scene.repairs == {}
    places = np.concatenate([f.points for f in scene.features])[:, :2]
    for track in scene.tracks:
        inside = track.position[track.valid, :2]
        assert ((inside > places.min(0) - 50) & (inside < places.max(0) + 50)).all()
        both = track.valid[1:] & track.valid[:-1]
        error = np.diff(track.position[:, :2], axis=0)[both] / 0.1 - track.velocity[1:][both]
        assert np.median(np.hypot(*error.T), axis=0) < 0.5 if both.any() else True
