"""Compiled scenes on disk: writing, opening, describing them. Loads no jax. Source: ours."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from gleanings.core.errors import DataError, printable
from gleanings.driving._container import CompiledFile, is_compiled, save_scenes
from gleanings.driving.scene import Scene
from gleanings.driving.shards import CompileReport, compile_files
from gleanings.driving.stack import sizes_of

__all__ = [
    "CompileReport",
    "CompiledFile",
    "compile_files",
    "describe",
    "is_compiled",
    "iterate",
    "load_compiled",
    "save_scenes",
]


def load_compiled(path: str | Path, limit: int | None = None) -> list[Scene]:
    """The scenes of a compiled file, at most `limit`, as read-only views of its memory map.

    DataError: not a compiled file, of another version, cut, or changed, with the name of the array.
    """
    file = CompiledFile(path)
    return [file[index] for index in range(len(file) if limit is None else min(limit, len(file)))]


def iterate(paths: Iterable[str | Path]) -> Iterator[Scene | DataError]:
    """The scenes of compiled files one by one; what cannot be read is an item too."""
    for path in paths:
        try:
            file = CompiledFile(path)
        except DataError as error:
            yield error
            continue
        for index in range(len(file)):
            try:
                yield file[index]
            except DataError as error:
                yield error


def describe(path: str | Path, limit: int = 10) -> str:
    """What a compiled file holds, as lines: the file, then at most `limit` of its scenes. Errors as `load_compiled`."""
    file = CompiledFile(path)
    lines = [f"{len(file)} compiled scenes, format {file.about['version']}, {file.path.stat().st_size / 1e6:.1f} MB"]
    lines.append(f"  source   {file.about.get('licence') or 'not stated'}")
    for index, name in enumerate(file.names[:limit]):
        scene = file[index]
        sizes, objects = sizes_of(scene), scene.objects
        lines += [
            f"scene {name}",
            f"  steps    {sizes['T']} of {float(scene.dt):.3g} s, simulation starts at {int(scene.start)}",
            f"  objects  {int(objects.exists.sum())} in {sizes['N']} slots, {int(objects.is_sdc.sum())} ego",
            f"  road     {int((scene.edges.inv_l2 > 0).sum())} edge segments, {int((scene.lanes.id >= 0).sum())} lanes",
            f"  lights   {int(scene.lights.exists.sum())}",
        ]
    lines = [printable(line) for line in lines]
    return "\n".join([*lines, "... more; --limit shows them"] if len(file) > limit else lines)
