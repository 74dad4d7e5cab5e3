"""Scenes and drives that several tests share: compiled and driven once."""

from functools import cache

import jax

from gleanings.driving.crop import crop_scene
from gleanings.driving.families import make_scenes
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.config import WorldConfig
from gleanings.driving.learn.controls import controls
from gleanings.driving.learn.drives import Drives, drive
from gleanings.driving.learn.outcomes import Outcomes, outcomes_of
from gleanings.driving.learn.world import World
from gleanings.driving.routes import with_lane_route
from gleanings.driving.scene import Scene

COUNT, CHUNK = 10, 4
WORLD = World(WorldConfig())


@cache
def family_scenes() -> tuple[Scene, ...]:
    """Learning scenes out of the families."""
    return tuple(crop_scene(with_lane_route(scene)) for scene in make_scenes("all", seed=0, count=COUNT))


@cache
def family_bank() -> Scene:
    """They stacked."""
    return jax.device_put(make_bank(family_scenes()))


@cache
def driven(name: str) -> Drives:
    """A control in these scenes; callers set the chunk."""
    return drive(WORLD, family_bank(), controls()[name], jax.random.key(5))


@cache
def outcomes(name: str) -> Outcomes:
    """What came of it."""
    return outcomes_of(WORLD, family_bank(), driven(name))
