"""Scenes that a worker steps in its own process: the world of `gleanings`, and a bank from a file."""

import sys
from typing import Any


def world_and_bank(source: str, bank: str, observe: dict[str, Any]) -> tuple[Any, Any]:
    """A world that shows what `ObserveConfig(**observe)` says, and the scenes [C, ...] of an npz file on the device.

    source: folder that has `gleanings`.
    """
    sys.path.insert(0, source)
    import jax
    import numpy as np

    from gleanings.driving.config import ObserveConfig
    from gleanings.driving.learn.config import WorldConfig
    from gleanings.driving.learn.world import World
    from gleanings.driving.stack import scene_of

    with np.load(bank) as arrays:
        return World(WorldConfig(observe=ObserveConfig(**observe))), jax.device_put(scene_of(dict(arrays)))
