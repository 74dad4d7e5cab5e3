"""Learning scenes of generated families, cut once for all tests."""

from functools import cache

from gleanings.driving.families import make_scenes
from gleanings.driving.learn.cutting import windows
from gleanings.driving.scene import Scene


@cache
def family_windows(*families: str, most: int = 4) -> list[Scene]:
    """The first windows of a scene of each family, each followed by its mirror image."""
    return [cut for family in families for cut in windows(make_scenes(family)[0])[:most]]
