"""Exported scenes hold what went in: raw, compiled, and with a trajectory in place of the log."""

from pathlib import Path

import numpy as np
import pytest
from tests.driving import _files

from gleanings.core.errors import ConfigError
from gleanings.driving.compile import compile_scene
from gleanings.driving.config import CompileConfig
from gleanings.driving.export import export_npz
from gleanings.driving.raw import RawScene
from gleanings.driving.readers import commonroad, scenarionet
from gleanings.driving.scene import Trajectory


def raw(folder: Path) -> RawScene:
    (scene,) = scenarionet.read(_files.write_scenarionet(folder))
    return scene


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def test_a_raw_scene_keeps_everything(tmp_path: Path):
    scene = raw(tmp_path)
    found = load(export_npz(scene, None, tmp_path / "out.npz"))
    for i, track in enumerate(scene.tracks):
        state = {
            key: found[f"tracks/{i}/state/{key}"] for key in ("position", "heading", "velocity", "valid", "length")
        }
        np.testing.assert_array_equal(state["position"], track.position)
        np.testing.assert_array_equal(state["heading"], track.yaw)
        np.testing.assert_array_equal(state["velocity"], track.velocity)
        np.testing.assert_array_equal(state["length"], track.size[:, 0])
        assert state["valid"].all()
    assert [str(found[f"tracks/{i}/type"]) for i in range(3)] == ["VEHICLE", "VEHICLE", "PEDESTRIAN"]
    np.testing.assert_array_equal(found["map_features/1/polyline"], scene.features[1].points)
    assert found["dynamic_map_states/0/state/object_state"][:2].tolist() == ["LANE_STATE_GO", "LANE_STATE_UNKNOWN"]
    assert (str(found["metadata/sdc_id"]), int(found["metadata/current_time_index"])) == ("0", 10)
    np.testing.assert_array_equal(found["metadata/ts"], scene.times)
    assert found["metadata/tracks_to_predict"].tolist() == ["1"]


@pytest.mark.parametrize("steps", [5, 60, 90])
def test_a_trajectory_takes_the_place_of_the_log(tmp_path: Path, steps: int):
    scene = raw(tmp_path)
    columns = np.random.default_rng(0).normal(size=(6, steps, 3))
    valid = np.random.default_rng(1).random((steps, 3)) < 0.7
    found = load(export_npz(scene, Trajectory._make([*columns, valid]), tmp_path / "out.npz"))
    for i in range(3):
        want = np.where(valid[:, i, None], columns[:3, :, i].T, 0)
        np.testing.assert_array_equal(found[f"tracks/{i}/state/position"], want)
        np.testing.assert_array_equal(found[f"tracks/{i}/state/valid"], valid[:, i])
    assert int(found["metadata/current_time_index"]) == (10 if steps == 60 else 0)
    np.testing.assert_allclose(found["metadata/ts"], (0 if steps == 60 else 1.0) + 0.1 * np.arange(steps), atol=1e-5)
    assert len(found["dynamic_map_states/0/state/object_state"]) == steps


@pytest.mark.parametrize("flat", [False, True])
def test_a_compiled_scene_is_in_world_coordinates(tmp_path: Path, flat: bool):
    (scene,) = commonroad.read(_files.write_commonroad(tmp_path)) if flat else (raw(tmp_path),)
    found = load(export_npz(compile_scene(scene, CompileConfig()), None, tmp_path / "out.npz"))
    tracks = {str(found[key]): key.split("/")[1] for key in found if key.endswith("/object_id") and "tracks" in key}
    for name, i in tracks.items():
        valid = found[f"tracks/{i}/state/valid"]
        track = scene.tracks[int(name)]
        np.testing.assert_array_equal(valid, track.valid)
        np.testing.assert_allclose(found[f"tracks/{i}/state/position"][valid, :2], track.position[valid, :2], atol=1e-4)
    kinds = {str(found[key]) for key in found if key.startswith("map_features") and key.endswith("type")}
    assert kinds == {"LANE_SURFACE_STREET", "ROAD_EDGE_BOUNDARY"}
    lines = np.concatenate([found[key] for key in found if key.endswith("polyline")])
    given = np.concatenate([f.points for f in scene.features if f.kind in ("lane", "road_edge")])
    np.testing.assert_allclose([lines.min(0)[:2], lines.max(0)[:2]], [given.min(0)[:2], given.max(0)[:2]], atol=1e-3)


def test_what_does_not_fit_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"expected \[T, 3\]"):
        export_npz(raw(tmp_path), Trajectory(*np.zeros((7, 5, 4))), tmp_path / "out.npz")
