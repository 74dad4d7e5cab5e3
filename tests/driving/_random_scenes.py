"""Scenes for the tests of exactness: real files, generated ones of one size, and motions that leave their logs."""

from functools import cache
from pathlib import Path

import numpy as np

from gleanings.driving.config import CompileConfig
from gleanings.driving.families import FAMILIES, make_scenes
from gleanings.driving.load import load_scenes
from gleanings.driving.scene import Scene, Trajectory
from gleanings.driving.stack import grow, sizes_of

REAL = (
    "waymo-open-dataset/motion_data_one_example.tfrecord",
    "waymo-open-dataset/motion_data_one_scenario.tfrecord",
    "waymo-open-dataset/womd_scenario_input.tfrecord",
    "gpudrive/tfrecord-00000-of-01000_325.json",
    "gpudrive/tfrecord-00000-of-01000_4.json",
    "scenarionet/overpass_sd_waymo_v1.2_eb4b91b10ca94ff2.pkl",
    "av2/scenario_0a1e6f0a-1817-4a98-b02e-db8c9327d151.parquet",
    "commonroad/USA_US101-4_1_T-1.xml",
    "commonroad/USA_Lanker-1_1_T-1.xml",
    "ngsim-smarts/200_actors_i80_0400-0415.shf",
)
SMALL = REAL[3]
"""The quickest real scene with 91 steps, as generated ones have."""


@cache
def real_scene(folder: Path, name: str) -> Scene:
    """The compiled scene of a file below the folder `driving`."""
    return load_scenes(folder / "driving" / name)[0]


@cache
def family_scene(family: str, seed: int = 0, path_m: int | None = None) -> Scene:
    """A generated scene in its own size."""
    return make_scenes(family, seed, config=CompileConfig(path_m=path_m))[0]


def common_size(scenes: list[Scene]) -> list[Scene]:
    """The scenes, grown to one size, so that they share compiled programs."""
    sizes = [sizes_of(scene) for scene in scenes]
    largest = {letter: max(size[letter] for size in sizes) for letter in sizes[0]}
    for entries, window in ("IM", "JK"):  # a longer window needs more entries behind the last list
        largest[entries] = max(size[entries] + largest[window] - size[window] for size in sizes)
    return [grow(scene, largest) for scene in scenes]


@cache
def family_scenes(*names: str) -> list[Scene]:
    """A scene of each family (of all without names), in one size."""
    path_m = None if len(names) == 1 else 512  # which not all need
    return common_size([family_scene(name, path_m=path_m) for name in names or FAMILIES])


def drifting(scene: Scene, steps: int | None = None, seed: int = 0) -> Trajectory:
    """The log from the start on, which objects leave by a metre, a tenth of a rad and of a m/s within `steps` (all)."""
    first, n = int(scene.start), scene.log.x.shape[1]
    rows = Trajectory(*(np.asarray(field)[first : None if steps is None else first + steps + 1] for field in scene.log))
    share = np.linspace(0, 1, len(rows.x))[:, None]
    drift = share * np.random.default_rng(seed).normal(0, 1, (5, 1, n)) * np.array([1, 1, 0.1, 0.1, 0.1])[:, None, None]
    moved = {name: getattr(rows, name) + d for name, d in zip(("x", "y", "yaw", "vx", "vy"), drift, strict=True)}
    moved["yaw"] = np.pi - (np.pi - moved["yaw"]) % (2 * np.pi)
    return rows._replace(**{name: np.where(rows.valid, v, 0).astype(np.float32) for name, v in moved.items()})
