"""Many cropped scenes as one pytree of arrays, from which a program draws. Source: ours."""

from collections.abc import Mapping, Sequence

import jax

from gleanings.core.errors import ConfigError
from gleanings.driving.scene import Scene
from gleanings.driving.stack import sizes_of, stack_grown

COMMON: Mapping[str, int] = {"C": 32768, "I": 8192, "M": 128, "J": 4096, "K": 32, "P": 256, "L": 64}
"""Sizes that hold most generated scenes: banks of at least these share programs."""


def make_bank(scenes: Sequence[Scene], least: Mapping[str, int] | None = None) -> Scene:
    """The scenes of `crop.crop_scene` with a leading axis C, padded to the largest of each size; NumPy arrays.

    least: sizes by letter, doubled until all fit, so that banks share programs. ConfigError: no scenes, or scenes
    cropped with different settings.
    """
    if not scenes:
        raise ConfigError("a bank needs at least one scene")
    sizes = [sizes_of(scene) for scene in scenes]
    found = {letter: sorted({size[letter] for size in sizes}) for letter in "TNQERS"}
    if differ := [f"{letter} {values}" for letter, values in found.items() if len(values) > 1]:
        raise ConfigError(f"scenes cropped with different settings: {'; '.join(differ)}")
    largest = {letter: max(size[letter] for size in sizes) for letter in sizes[0]}
    for letter, size in (least or {}).items():
        while size < largest[letter]:
            size *= 2
        largest[letter] = size
    # Windows reach beyond the last list, so that the entries need room for the rest of the widest one.
    for count, window in (("I", "M"), ("J", "K")):
        largest[count] += largest[window]
    return stack_grown(scenes, largest)


def without_lanes(bank: Scene) -> Scene:
    """The bank for programs that read no lane, height or point of the road: one of each is left, so that their sizes
    make no other program."""
    parts = (bank.lanes, bank.lane_grid, bank.ground, bank.road)
    lanes, lane_grid, ground, road = jax.tree.map(lambda leaf: leaf[:, :1] if leaf.ndim > 1 else leaf, parts)
    return bank._replace(lanes=lanes, lane_grid=lane_grid, ground=ground, road=road)
