"""Scenes that a worker steps in its own process: the world of `gleanings`, and a bank from a file."""

import sys
from typing import Any


def world_and_bank(source: str, bank: str) -> tuple[Any, Any]:
    """The default world, and the scenes [C, ...] of an npz file on the device. source: folder that has `gleanings`."""
    sys.path.insert(0, source)
    import jax
    import numpy as np

    from gleanings.driving.learn.world import World
    from gleanings.driving.stack import scene_of

    with np.load(bank) as arrays:
        return World(), jax.device_put(scene_of(dict(arrays)))
