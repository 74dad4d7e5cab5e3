"""Scenes and drives that several tests share: compiled and driven once."""

from functools import cache

import jax

from gleanings.driving.crop import crop_scene
from gleanings.driving.families import make_scenes
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.baselines import controls
from gleanings.driving.learn.config import WorldConfig
from gleanings.driving.learn.drives import Drives, drive
from gleanings.driving.learn.outcomes import Outcomes, outcomes_of
from gleanings.driving.learn.world import World
from gleanings.driving.routes import with_lane_route
from gleanings.driving.scene import Scene

FAMILIES = ("straight", "curve", "cut_in", "jam", "crossing")
COUNT, CHUNK = len(FAMILIES), 2
WORLD = World(WorldConfig())


@cache
def family_scenes() -> tuple[Scene, ...]:
    """Learning scenes out of the families."""
    raw = [make_scenes(family, seed=0, count=1)[0] for family in FAMILIES]
    return tuple(crop_scene(with_lane_route(scene)) for scene in raw)


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
