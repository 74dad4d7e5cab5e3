"""Replay of a scene as one HTML page without a network: map, boxes, lights, log ghosts and a strip of each metric.

Only objects that exist are on the page: its arrays [steps, objects] leave out the empty slots.
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8

from gleanings.core.errors import ConfigError
from gleanings.driving.scene import Objects, Scene, Trajectory, name_of
from gleanings.driving.witness import EVENTS, witnesses

CONTROLLED, REACTIVE, REPLAYED, PARKED = 1, 2, 3, 4
_PARKED_BIT = 8  # state.PARKED, which cannot be imported without jax
_SAME = 2e-3  # metres within which a pose is that of the log
_CENTIMETRE = 0.01
_UNDEFINED = -32768  # stands for NaN in 16 bits


def save_replay(scene: Scene, rollout: Any, path: str | Path, *, title: str | None = None) -> Path:
    """Write a replay page of one scene; returns its path.

    rollout: a `Rollout` with a trajectory, a `Trajectory`, a list or a dict (name -> one of these) to choose from on
    the page, or None for the log alone. ConfigError: a rollout without trajectory, or of another scene.
    """
    if np.ndim(scene.dt):
        raise ConfigError("expected one scene, not a stack")
    parts = {name: _rollout(scene, one, name) for name, one in _named(rollout).items()}
    payload = {**_scene(scene), "rollouts": list(parts.values())}
    template = resources.files("gleanings.driving").joinpath("viewer.html").read_text(encoding="utf-8")
    data = json.dumps(payload, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    page = template.replace("{{ title }}", html.escape(title or f"Scene {name_of(scene)}")).replace("{{ data }}", data)
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def states_of(scene: Scene, rollout: Any) -> UInt8[np.ndarray, "T N"]:
    """How each object moves at each step of a rollout or trajectory.

    0 absent, 1 controlled, 2 reactive, 3 replayed (never away from its log), 4 parked.
    """
    trajectory = _numpy(_trajectory(rollout))
    valid = trajectory.valid.astype(bool)
    first = int(getattr(rollout, "first", 0))
    replayed = _follows_log(scene, trajectory, first)
    state = np.where(replayed, REPLAYED, REACTIVE)[None].repeat(len(valid), 0)
    flags = getattr(rollout, "flags", None)
    if flags is not None:
        state[1:][(np.asarray(flags) & _PARKED_BIT) != 0] = PARKED
    state[:, replayed & (np.asarray(scene.objects.extent) < 2.0)] = PARKED
    state[:, np.asarray(getattr(rollout, "controlled", np.zeros(valid.shape[1], bool)))] = CONTROLLED
    return np.where(valid, state, 0).astype(np.uint8)


def _named(rollout: Any) -> dict[str, Any]:
    if isinstance(rollout, Mapping):
        return dict(rollout)
    if isinstance(rollout, Sequence) and not isinstance(rollout, tuple):
        return {f"rollout {index}": one for index, one in enumerate(rollout)}
    return {"log" if rollout is None else "rollout": rollout}


def _trajectory(rollout: Any) -> Trajectory:
    found = rollout if isinstance(rollout, Trajectory) else rollout.trajectory
    if found is None:
        raise ConfigError("the rollout has no trajectory to show; run it with record='pose'")
    return found


def _numpy(trajectory: Trajectory) -> Trajectory:
    return Trajectory(*map(np.asarray, trajectory))


def _follows_log(scene: Scene, trajectory: Trajectory, first: int) -> Bool[np.ndarray, " N"]:
    log = _numpy(scene.log)
    steps = max(0, min(len(trajectory.x), len(log.x) - first))
    window = slice(first, first + steps)
    off = np.hypot(trajectory.x[:steps] - log.x[window], trajectory.y[:steps] - log.y[window])
    same = np.where(trajectory.valid[:steps] & log.valid[window], off < _SAME, ~trajectory.valid[:steps])
    return same.all(axis=0)


def _pack(values: Shaped[np.ndarray, "..."], scale: float = 1.0) -> list[Any]:
    """Base64 of little-endian numbers: bytes, multiples of `scale` in 16 bits where they fit, else float32."""
    if values.dtype == np.uint8 or values.dtype == bool:
        kind, data = "u8", values.astype(np.uint8)
    elif scale != 1.0 and np.nanmax(np.abs(values), initial=0.0) / scale < -_UNDEFINED - 1:
        kind, data = "i16", np.where(np.isnan(values), _UNDEFINED, np.rint(values / scale)).astype("<i2")
    else:
        kind, data, scale = "f32", values.astype("<f4"), 1.0
    return [kind, scale, base64.b64encode(np.ascontiguousarray(data).tobytes()).decode("ascii")]


def _slots(scene: Scene) -> Int[np.ndarray, " M"]:
    """Slots on the page, at least one."""
    exists = np.flatnonzero(np.asarray(scene.objects.exists))
    return exists if len(exists) else np.zeros(1, np.int64)


def _pose(trajectory: Trajectory, slots: Int[np.ndarray, " M"]) -> dict[str, list[Any]]:
    valid = trajectory.valid[:, slots]
    clean = [np.where(valid, field[:, slots], 0.0) for field in (trajectory.x, trajectory.y, trajectory.yaw)]
    scales = (_CENTIMETRE, _CENTIMETRE, 1e-4)
    return {name: _pack(field, scale) for name, field, scale in zip(("x", "y", "yaw"), clean, scales, strict=True)}


def _rollout(scene: Scene, rollout: Any, name: str) -> dict[str, Any]:
    shown, slots = scene.log if rollout is None else rollout, _slots(scene)
    trajectory = _numpy(_trajectory(shown))
    if trajectory.x.ndim != 2 or trajectory.x.shape[1] != np.shape(scene.objects.kind)[0]:
        count = np.shape(scene.objects.kind)[0]
        raise ConfigError(f"rollout {name!r} has shape {trajectory.x.shape}, the scene has {count} object slots")
    metrics = {key: _metric(metric, slots) for key, metric in (getattr(shown, "metrics", None) or {}).items()}
    speed = np.hypot(trajectory.vx, trajectory.vy)[1:, slots]
    return {
        "name": name,
        "first": int(getattr(shown, "first", 0)),
        "frames": len(trajectory.x),
        "pose": _pose(trajectory, slots),
        "state": _pack(states_of(scene, shown)[:, slots]),
        "metrics": {"speed_mps": _pack(speed, _CENTIMETRE), **metrics},
        "witnesses": _witnesses(scene, shown, slots) if metrics else None,
    }


def _witnesses(scene: Scene, rollout: Any, slots: Int[np.ndarray, " M"]) -> dict[str, list[Any]]:
    """Columns of the witnesses: frame, place of the object on the page, number of the event, x0, y0, x1, y1."""
    seen = witnesses(scene, rollout)
    keys = [[one.step + 1, np.searchsorted(slots, one.object), EVENTS.index(one.event)] for one in seen]
    places = np.asarray([one.place for one in seen], np.float64).reshape(-1, 4)
    return {
        "key": _pack(np.asarray(keys, np.float64).reshape(-1, 3)),
        "place": _pack(places, _CENTIMETRE),
    }


def _metric(metric: Any, slots: Int[np.ndarray, " M"]) -> list[Any]:
    value, mask = np.asarray(metric.value)[:, slots], np.asarray(metric.mask)[:, slots]
    if value.dtype == bool:
        return _pack(value & mask)
    # Bounded before it is rounded, so that one absurd value does not turn the whole strip into 32 bits.
    return _pack(np.clip(np.where(mask, value, np.nan), -300.0, 300.0), _CENTIMETRE)


def _scene(scene: Scene) -> dict[str, Any]:
    slots = _slots(scene)
    objects = Objects(*(np.asarray(field)[slots] for field in scene.objects))
    ego, log = np.flatnonzero(objects.is_sdc), _numpy(scene.log)
    return {
        "dt": float(scene.dt),
        "ego": int(ego[0]) if len(ego) else 0,
        "objects": {
            "kind": objects.kind.tolist(),
            "id": objects.id.tolist(),
            "length": objects.length.astype(np.float64).round(2).tolist(),
            "width": objects.width.astype(np.float64).round(2).tolist(),
        },
        "map": _map(scene),
        "log": {**_pose(log, slots), "valid": _pack(log.valid[:, slots])},
        "log_steps": len(log.x),
        "lights": _lights(scene),
    }


def _map(scene: Scene) -> dict[str, list[Any]]:
    road, parts = scene.road, {}
    for name, lines in (("edges", scene.edges), ("lanes", scene.lanes)):
        rows = np.stack([lines.ax, lines.ay, lines.dx, lines.dy], axis=1)[np.isfinite(lines.z)]
        parts[name] = _pack(rows.ravel(), _CENTIMETRE)
    for name, kind in (("lines", 3), ("crossings", 4)):
        dots = np.stack([road.x, road.y], axis=1)[np.asarray(road.kind) == kind]
        parts[name] = _pack(dots.ravel(), _CENTIMETRE)
    return parts


def _lights(scene: Scene) -> dict[str, Any] | None:
    lights = scene.lights
    there = np.asarray(lights.exists, bool)
    if not there.any():
        return None
    numbers = {key: np.asarray(getattr(lights, key), np.float64)[there].round(2).tolist() for key in ("x", "y", "yaw")}
    state = np.asarray(lights.state)[:, there]
    return {**numbers, "steps": len(state), "state": _pack(state)}
