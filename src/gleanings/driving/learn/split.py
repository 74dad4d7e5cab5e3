"""Which logs are trained on and which are kept for judging; all scenes that come of one log stay together. Ours."""

import re
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gleanings.core.errors import ConfigError
from gleanings.driving.scene import Scene, name_of

_FEW = 20
_LONGEST = 16  # characters of a log id, so that the part of a window fits in the 32 of `Scene.scene_id`
_WINDOW = re.compile(r"/\d+-\d+(-mirror)?$")


@dataclass(frozen=True)
class Split:
    """Scenes by use: train, validation (settings), calibration (difficulty), test (final figures only)."""

    train: tuple[Scene, ...]
    validation: tuple[Scene, ...]
    calibration: tuple[Scene, ...]
    test: tuple[Scene, ...]


def log_id(name: str) -> str:
    """The log that a scene comes from: its name without the part of a window; long ones are cut, with a checksum."""
    log = _WINDOW.sub("", name)
    return log if len(log) <= _LONGEST else f"{log[:7]}~{zlib.crc32(log.encode()):08x}"


def split_scenes(
    scenes: Sequence[Scene], *, seed: int, fractions: Sequence[float | int] = (0.7, 0.1, 0.1, 0.1)
) -> Split:
    """Scenes in the parts of `Split`, of these fractions, by a hash of their log: windows, mirror images and other egos
    of one log stay together, and what else is split does not matter.

    Warns where fewer than 20 logs are for training. ConfigError: fractions below 0 or whose sum is not 1.
    """
    if len(fractions) != 4 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or seed < 0:
        raise ConfigError(f"fractions {fractions}, seed {seed}: four numbers from 0 on whose sum is 1, and a seed >= 0")
    logs = [log_id(name_of(scene)) for scene in scenes]
    place = {log: np.random.default_rng([seed, zlib.crc32(log.encode())]).random() for log in set(logs)}
    bounds = np.cumsum(fractions[:3])
    part = {log: int(np.searchsorted(bounds, at, side="right")) for log, at in place.items()}
    if (train := list(part.values()).count(0)) < _FEW:
        warnings.warn(f"{train} logs to train on; with fewer than {_FEW} a policy learns those logs", stacklevel=2)
    rows = zip(scenes, logs, strict=True)
    parts: list[list[Scene]] = [[], [], [], []]
    for scene, log in rows:
        parts[part[log]].append(scene)
    return Split(*map(tuple, parts))
