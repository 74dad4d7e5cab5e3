"""Learning scenes out of logged ones: windows of time, every vehicle that travels as the ego, mirror images. Ours."""

from collections import Counter

import numpy as np
from jaxtyping import Int

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving.crop import CropConfig, crop_scene
from gleanings.driving.learn.config import DemoConfig
from gleanings.driving.learn.mirror import mirror_scene
from gleanings.driving.learn.split import log_id
from gleanings.driving.load import load_scenes
from gleanings.driving.raw import Kind
from gleanings.driving.routes import with_lane_route
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.stack import text_array

_CROP = CropConfig()
_DT_S = 0.1
_LEAST_VALID = 0.8  # of the steps of a window
_DEFAULT = DemoConfig()


def windows(scene: Scene, config: DemoConfig = _DEFAULT, skipped: Counter[str] | None = None) -> list[Scene]:
    """Learning scenes of a logged one: each vehicle that travels `min_travel_m` is the ego, every `stride_s`.

    The ego of a window is there at its start and in 80 % of its steps, and its path is its lane route from there on.
    Named `<log>/<slot>-<start>`, and `-mirror` for mirror images. skipped: counts what is left out, by reason: "short
    log" (no window fits), "no lane" (a window whose ego has no lane route), "gaps". ConfigError: steps not of 0.1 s.
    """
    _check_dt(scene)
    skipped = Counter() if skipped is None else skipped
    stride = max(round(config.stride_s / _DT_S), 1)
    starts = np.arange(_CROP.history, len(scene.log.x) - _CROP.steps, stride)
    found: list[Scene] = []
    slots = travellers(scene, config.min_travel_m)
    if not len(starts):
        skipped["short log"] += len(slots)
    for start in map(int, starts):
        for slot in map(int, slots):
            cut = _window(scene, slot, start, skipped)
            if cut is not None:
                found += [cut, _named(mirror_scene(cut), "-mirror")] if config.mirror else [cut]
    return found


def learning_scenes(
    source: str, *, limit: int | None = None, evaluation: bool = False, skipped: Counter[str] | None = None
) -> list[Scene]:
    """Windows of the logs in a file, a folder or a pattern, at most `limit` logs.

    evaluation: no mirror images, and of a log without a window the entire one. skipped: counts what is left out, by
    reason: as of `windows`, and "nothing that drives". ConfigError: none is found; DataError: a file that cannot be
    read.
    """
    skipped = Counter() if skipped is None else skipped
    found, config = [], DemoConfig(mirror=not evaluation)
    for scene in load_scenes(source, limit=limit):
        found += windows(scene, config, skipped) or (_entire(scene, skipped) if evaluation else [])
    if not found:
        raise ConfigError(f"{source} holds no scene to learn from ({_reasons(skipped) or 'no vehicle travels 30 m'})")
    return found


def left_out(skipped: Counter[str]) -> str:
    """A sentence for a reader; "" where nothing was left out."""
    return f"Windows left out: {_reasons(skipped)}." if skipped else ""


def _reasons(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in skipped.most_common())


def _entire(scene: Scene, skipped: Counter[str]) -> list[Scene]:
    try:
        return [entire(scene)]
    except DataError:
        skipped["nothing that drives"] += 1
        return []


def entire(scene: Scene, slot: int | None = None) -> Scene:
    """The learning scene of one object from the scene's start on, for as long as its log lasts: for evaluation.

    However short the log: behind its end nothing is valid. Of an object that is not there at the start, from where it
    enters. Its path is its lane route, or where it has none the path of its log. slot: None is the ego, or where that
    is never there the vehicle that goes farthest. Named `<log>/<slot>-<start>`. DataError: neither is in the scene, or
    the object is never there. ConfigError: steps not of 0.1 s.
    """
    _check_dt(scene)
    slot = _driven(scene) if slot is None else slot
    there = np.flatnonzero(scene.log.valid[:, slot])
    if not len(there):
        raise DataError(f"object in slot {slot} of scene {name_of(scene)!r} is never there: choose another")
    later = there[there >= int(scene.start)]
    start = int(later[0] if len(later) else there[0])
    rows = np.arange(len(scene.log.valid))
    routed = with_lane_route(scene, slot, log=rows >= start - _CROP.history, or_path=True)
    return _cut(scene, routed, slot, start)


def _driven(scene: Scene) -> int:
    """Slot of the ego, or else of the vehicle that goes farthest."""
    objects, valid = scene.objects, scene.log.valid.any(0)
    ego = np.flatnonzero(objects.is_sdc & valid)
    if len(ego):
        return int(ego[0])
    vehicles = objects.exists & (objects.kind == Kind.VEHICLE) & valid
    if not vehicles.any():
        raise DataError(f"scene {name_of(scene)!r} has no ego and no vehicle that is ever there: leave it out")
    return int(np.where(vehicles, objects.extent, -1.0).argmax())


def travellers(scene: Scene, metres: float) -> Int[np.ndarray, " K"]:
    """Slots of the vehicles whose logged way is at least so long."""
    log, both = scene.log, scene.log.valid[1:] & scene.log.valid[:-1]
    way = np.where(both, np.hypot(np.diff(log.x, axis=0), np.diff(log.y, axis=0)), 0.0).sum(0)
    return np.flatnonzero((way >= metres) & (scene.objects.kind == Kind.VEHICLE) & scene.objects.exists)


def _window(scene: Scene, slot: int, start: int, skipped: Counter[str]) -> Scene | None:
    rows = np.arange(len(scene.log.valid))
    inside = (rows >= start - _CROP.history) & (rows <= start + _CROP.steps)
    valid = scene.log.valid[:, slot]
    if not valid[start] or valid[inside].mean() < _LEAST_VALID:
        skipped["gaps"] += 1
        return None
    try:
        routed = with_lane_route(scene, slot, log=rows >= start - _CROP.history)
    except DataError:
        skipped["no lane"] += 1
        return None
    return _cut(scene, routed, slot, start)


def _check_dt(scene: Scene) -> None:
    if abs(float(scene.dt) - _DT_S) > 1e-3:
        raise ConfigError(f"scene {name_of(scene)!r} has steps of {float(scene.dt):.3g} s; windows need {_DT_S} s")


def _cut(scene: Scene, routed: Scene, slot: int, start: int) -> Scene:
    cut = crop_scene(routed, _CROP, slot=slot, start=start)
    return _named(cut._replace(scene_id=text_array(log_id(name_of(scene)), 32)), f"/{slot}-{start}")


def _named(scene: Scene, more: str) -> Scene:
    return scene._replace(scene_id=text_array(name_of(scene) + more, 32))
