"""Rollouts of one scene side by side and in step, as a piece of HTML for reports. Source: ours."""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from gleanings.core.errors import ConfigError
from gleanings.driving.scene import Scene, Trajectory
from gleanings.driving.viewer import _SAME, _lights, _map, _numpy, _pack, _pose, _slots

MOST_BYTES = 60_000


def clip_fragment(
    scene: Scene,
    rollouts: Mapping[str, Trajectory],
    *,
    first: int | None = None,
    every: int = 1,
    marks: Mapping[str, int] | None = None,
) -> str:
    """HTML without a network and without ids, so that a page may hold many: a panel a rollout, one clock for all.

    The view follows the ego, whose log is a ghost. What does not leave the log is stored once. first: state index of
    row 0 (None: `scene.start`). every: steps of the scene from row to row. marks: row from which on a rollout is drawn
    as failed; the clip opens at the first of them. ConfigError: no rollouts, one of another scene, or more than 60 KB
    (crop the scene, or show fewer).
    """
    start, slots, log = int(scene.start) if first is None else first, _slots(scene), _numpy(scene.log)
    shown = {name: _numpy(rollout) for name, rollout in rollouts.items()}
    if not shown or start < 0 or every < 1:
        raise ConfigError(f"a clip needs a rollout, first >= 0 and every >= 1; got {len(shown)}, {start}, {every}")
    for name, rollout in shown.items():
        if rollout.x.ndim != 2 or rollout.x.shape[1] != log.x.shape[1]:
            raise ConfigError(f"rollout {name!r} has shape {rollout.x.shape}, the scene {log.x.shape[1]} object slots")
    ego = np.flatnonzero(np.asarray(scene.objects.is_sdc)[slots])
    size = np.stack([scene.objects.length, scene.objects.width], 1)[slots].astype(np.float64).round(2)
    payload = {
        "dt": round(float(scene.dt), 6),
        "ego": int(ego[0]) if len(ego) else 0,
        "size": size.tolist(),
        "first": start,
        "every": every,
        "steps": len(log.x),
        "frames": max(len(rollout.x) for rollout in shown.values()),
        "map": _map(scene),
        "lights": _lights(scene),
        "log": {**_pose(log, slots), "valid": _bits(log.valid[:, slots])},
        "rollouts": [
            _rollout(name, rollout, log, slots, start + every * np.arange(len(rollout.x)), (marks or {}).get(name))
            for name, rollout in shown.items()
        ],
    }
    template = resources.files("gleanings.driving").joinpath("clip.html").read_text(encoding="utf-8")
    data = json.dumps(payload, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    fragment = template.replace("{{ data }}", data)
    if len(fragment.encode()) > MOST_BYTES:
        raise ConfigError(f"a clip of {len(fragment.encode()):,} bytes; at most {MOST_BYTES:,}: use crop_scene")
    return fragment


def _bits(values: Bool[np.ndarray, "F M"]) -> list[Any]:
    return _pack(np.packbits(values))


def _rollout(
    name: str,
    rollout: Trajectory,
    log: Trajectory,
    slots: Int[np.ndarray, " M"],
    rows: Int[np.ndarray, " F"],
    mark: int | None,
) -> dict[str, Any]:
    left = np.flatnonzero(_leaves(rollout, log, rows)[slots])
    return {
        "name": name,
        "mark": mark,
        "frames": len(rows),
        "slots": left.tolist(),
        "pose": {**_pose(rollout, slots[left]), "valid": _bits(rollout.valid[:, slots[left]])},
    }


def _leaves(rollout: Trajectory, log: Trajectory, rows: Int[np.ndarray, " F"]) -> Bool[np.ndarray, " N"]:
    """Objects that are not all the time where they were logged."""
    at, inside = np.minimum(rows, len(log.x) - 1), (rows < len(log.x))[:, None]
    there = log.valid[at] & inside
    off = np.hypot(rollout.x - log.x[at], rollout.y - log.y[at]) > _SAME
    turned = np.abs(np.angle(np.exp(1j * (rollout.yaw - log.yaw[at])))) > 1e-3
    return ((rollout.valid != there) | (there & (off | turned))).any(0)
