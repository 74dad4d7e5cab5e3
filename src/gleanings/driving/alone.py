"""One object of a scene by itself: what concerns only it then costs as little as one object does. Source: ours."""

from dataclasses import replace
from typing import Any

import jax

from gleanings.driving.scene import Scene, Trajectory
from gleanings.driving.state import SimState


def alone(scene: Scene, slot: Any) -> Scene:
    """The scene of the object in a slot alone."""
    log = Trajectory(*(field[:, slot][:, None] for field in scene.log))
    parts = (scene.objects, scene.paths, scene.lights.arc)
    objects, paths, arc = jax.tree.map(lambda field: field[slot][None], parts)
    return scene._replace(log=log, objects=objects, paths=paths, lights=scene.lights._replace(arc=arc))


def state_alone(state: SimState, slot: Any) -> SimState:
    """The state of the object in a slot alone; without what is of pairs and of the past."""
    names = ("x", "y", "z", "yaw", "vx", "vy", "accel", "yaw_rate", "arc", "flags", "excused", "met")
    return replace(state, ring=None, **{name: getattr(state, name)[slot][None] for name in names})
