"""Driving: real and generated scenes, an in-graph simulator of many agents, its metrics and its replays."""

import importlib
from typing import Any

# Public name -> module that holds it; imported on first use, so that reading and viewing scenes load no jax.
_HOME = {
    "CompileConfig": "config",
    "ObserveConfig": "config",
    "SimConfig": "config",
    "Kind": "raw",
    "Light": "raw",
    "MapFeature": "raw",
    "RawScene": "raw",
    "RawTrack": "raw",
    "Pose": "scene",
    "Scene": "scene",
    "Trajectory": "scene",
    "Action": "state",
    "Metric": "state",
    "Rollout": "state",
    "SimState": "state",
    "StepOutput": "state",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(_HOME)
