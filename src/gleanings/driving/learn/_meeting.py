"""Where other routes meet the ego's lane: crossing it, joining it, or beside it the other way. NumPy. Source: ours."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gleanings.driving.families.layout import arc_of, heading_of

Line = Float[np.ndarray, "_ 3"]
_STRIDE, _CROSS_M, _JOIN_M, _AHEAD_M = 2, 1.6, 0.7, 110.0


class Meeting(NamedTuple):
    """Another route, the arcs of the ego's line and of that route where they meet, and the cosine between them."""

    line: Line
    own: float
    other: float
    cos: float


def crossings(line: Line, ways: Sequence[Line], arc: float, most: float) -> list[Meeting]:
    """Routes that cross the line ahead of an arc, against the ego's first direction: its cosine with theirs is below
    `most`; those that have come along the same lane do not count."""
    start = _direction(line, arc)
    kept = []
    for meeting in _firsts(line, ways, arc, _CROSS_M):
        if meeting.cos > 0.7 or meeting.other < 25.0:
            continue
        if np.cos(_direction(meeting.line, max(meeting.other - 20.0, 1.0)) - start) < most:
            kept.append(meeting)
    return kept


def joining(line: Line, ways: Sequence[Line], arc: float, away: float, ahead: float = _AHEAD_M) -> list[Meeting]:
    """Routes that come onto the line ahead of an arc and are at least `away` m from it somewhere up to 80 m before."""
    kept = []
    for meeting in _firsts(line, ways, arc, _JOIN_M, ahead):
        if meeting.cos < 0.5 or meeting.other < 20.0 or meeting.own < arc + 15.0:
            continue
        along = arc_of(meeting.line)
        before = meeting.line[(along > meeting.other - 80.0) & (along < meeting.other - 5.0)][::4, :2]
        if len(before) and _squares(before, line[::_STRIDE, :2]).min(1).max() > away**2:
            kept.append(meeting)
    return kept


def opposite(line: Line, ways: Sequence[Line], arc: float) -> list[Meeting]:
    """Routes that lead the other way, 2.5 to 6 m to the left of the line at an arc."""
    k = int(np.argmax(arc_of(line) >= arc))
    yaw = _direction(line, arc)
    kept = []
    for way in ways:
        off = way[:, :2] - line[k, :2]
        at = int(np.hypot(*off.T).argmin())
        left = off[at, 1] * np.cos(yaw) - off[at, 0] * np.sin(yaw)
        if not 2.5 < left < 6.0:
            continue
        other = float(arc_of(way)[at])
        cos = float(np.cos(_direction(way, other) - yaw))
        if cos < -0.9:
            kept.append(Meeting(way, float(arc), other, cos))
    return kept


def _firsts(line: Line, ways: Sequence[Line], arc: float, reach: float, ahead: float = _AHEAD_M) -> Iterator[Meeting]:
    """Where each of the ways that do first comes within `reach` m of the line, from 5 to `ahead` m ahead of an arc."""
    along = arc_of(line)
    rows = np.flatnonzero((along > arc + 5.0) & (along < arc + ahead))[::_STRIDE]
    if not len(rows):
        return
    points = line[rows, :2]
    low, high = points.min(0) - reach, points.max(0) + reach
    for way in ways:
        others = way[::_STRIDE, :2]
        close = np.flatnonzero(((others > low) & (others < high)).all(1))
        if not len(close):
            continue
        away = _squares(points, others[close])
        near = away.min(1) < reach**2
        # A way that is here already came along the same lane.
        if near[0] or not near.any():
            continue
        k = int(near.argmax())
        other = int(close[away[k].argmin()]) * _STRIDE
        own, theirs = float(along[rows[k]]), float(arc_of(way)[other])
        yield Meeting(way, own, theirs, float(np.cos(_direction(way, theirs) - _direction(line, own))))


def _direction(line: Line, arc: float) -> float:
    return float(np.interp(arc, arc_of(line), heading_of(line)))


def _squares(points: Float[np.ndarray, "K 2"], line: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, "K P"]:
    """Squared distances."""
    (x, y), (u, v) = points.T[..., None], line.T
    return (x - u) ** 2 + (y - v) ** 2
