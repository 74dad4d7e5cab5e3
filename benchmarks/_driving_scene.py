"""The scene on which `gleanings.driving` is timed: a real one of a file, or a generated one of the same size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gleanings.driving.compile import compile_scene
from gleanings.driving.config import CompileConfig
from gleanings.driving.raw import RawScene
from gleanings.driving.readers.detect import iter_raw
from gleanings.driving.scene import Scene
from gleanings.studies._driving_scenes import REFERENCE_OBJECTS, REFERENCE_POINTS, map_points, reference_raw


@dataclass(frozen=True)
class Reference:
    """raw: as read. scene: compiled. unmerged: with every segment of the road edges, for the dense twin. file: None
    where the scene is generated."""

    raw: RawScene
    scene: Scene
    unmerged: Scene
    file: Path | None

    def facts(self) -> dict[str, Any]:
        """What a figure needs to be read later."""
        segments = {name: int(np.isfinite(getattr(self, name).edges.z).sum()) for name in ("scene", "unmerged")}
        return {
            "source": self.raw.source if self.file else "a generated stand-in of the reference size",
            "objects": int(np.asarray(self.scene.objects.exists).sum()),
            "slots": len(self.scene.objects.kind),
            "map_points": map_points(self.raw),
            "edge_segments": segments["scene"],
            "edge_segments_unmerged": segments["unmerged"],
        }


def reference(file: Path | None, points: int = REFERENCE_POINTS) -> Reference:
    """The first scene of `file`, or the stand-in with about `points` map points, in 128 object slots."""
    raw = next(iter_raw(file)) if file else reference_raw(points=points)

    def compiled(metres: float) -> Scene:
        size = REFERENCE_OBJECTS
        return compile_scene(raw, CompileConfig(max_objects=size, objects=size, simplify_m=metres))

    return Reference(raw, compiled(0.001), compiled(0.0), file)
