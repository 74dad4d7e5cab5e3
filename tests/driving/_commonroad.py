"""Pieces of CommonRoad XML in both versions, for tests to put together."""

from pathlib import Path
from typing import Any


def bound(side: str, points: list[tuple[float, ...]], extra: str = "") -> str:
    """A bound of a lanelet; points of three coordinates have heights."""
    rows = ["".join(f"<{axis}>{value}</{axis}>" for axis, value in zip("xyz", point, strict=False)) for point in points]
    return f"<{side}>{''.join(f'<point>{row}</point>' for row in rows)}{extra}</{side}>"


def lanelet(name: Any, left: list[tuple[float, ...]], right: list[tuple[float, ...]], extra: str = "") -> str:
    """A lanelet; `extra` goes behind its bounds."""
    return f'<lanelet id="{name}">{bound("leftBound", left)}{bound("rightBound", right)}{extra}</lanelet>'


def state(tag: str, time: Any, x: Any, y: Any, yaw: Any = 0.0, speed: Any = 5.0) -> str:
    """A state with exact values."""
    values = {"orientation": yaw, "time": time, "velocity": speed}
    exact = "".join(f"<{key}><exact>{value}</exact></{key}>" for key, value in values.items())
    return f"<{tag}><position><point><x>{x}</x><y>{y}</y></point></position>{exact}</{tag}>"


def rectangle(length: Any, width: Any, extra: str = "") -> str:
    """A shape."""
    return f"<rectangle><length>{length}</length><width>{width}</width>{extra}</rectangle>"


def obstacle(version: str, name: int, role: str, kind: str, shape: str, states: list[str]) -> str:
    """An obstacle as the version writes it; its first state must be an `initialState`."""
    tag, inner = ("obstacle", f"<role>{role}</role>") if version == "2018b" else (f"{role}Obstacle", "")
    path = f"<trajectory>{''.join(states[1:])}</trajectory>" if len(states) > 1 else ""
    return f'<{tag} id="{name}">{inner}<type>{kind}</type><shape>{shape}</shape>{states[0]}{path}</{tag}>'


def goal(position: str, end: int = 40) -> str:
    """A goal state."""
    time = f"<time><intervalStart>0</intervalStart><intervalEnd>{end}</intervalEnd></time>"
    return f"<goalState><position>{position}</position>{time}</goalState>"


def write(folder: Path, version: str, *parts: str, step: Any = 0.1) -> Path:
    """A file of these parts."""
    path = folder / "scene.xml"
    head = f'<commonRoad benchmarkID="T-1" commonRoadVersion="{version}" timeStepSize="{step}">'
    path.write_text(f'<?xml version="1.0"?>{head}{"".join(parts)}</commonRoad>', encoding="utf-8")
    return path
