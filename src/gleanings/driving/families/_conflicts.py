"""Where routes share road: projections on each other, and zones that only one object may use. Source: ours."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial import KDTree

from gleanings.driving.families.base import Route
from gleanings.driving.families.layout import arc_of, heading_of
from gleanings.driving.raw import Kind

NONE, SAME, VIRTUAL, CROSS = range(4)
_HALF = {Kind.VEHICLE: 1.3, Kind.CYCLIST: 0.35, Kind.PEDESTRIAN: 0.35, Kind.OTHER: 0.5}  # half width kept free, m
_MARGIN = 0.3


@dataclass(frozen=True)
class Tables:
    """Tables over R routes, S metres along a route, G groups of zones along a route.

    length, closed: of each route. place [a, b, k]: arc on route a of the point at arc k of b; NaN: not near. turn:
    cosine of the angle between the two there. relation: NONE, SAME (one lane), VIRTUAL (ahead of a point where they
    become one), CROSS. top: m/s, speed that the limit and the bends allow. Group g of route a: stop [a, g] is the arc
    at which to wait (inf: no group), leave [a, g] the arc at which all its zones lie behind. Zone of a's group g with
    route b: from a_out [a, g, b] it is free on a, b uses it from b_in to b_out (NaN: no zone) as b's group b_group.
    """

    length: Float[np.ndarray, " R"]
    closed: Bool[np.ndarray, " R"]
    place: Float[np.ndarray, "R R S"]
    turn: Float[np.ndarray, "R R S"]
    relation: UInt8[np.ndarray, "R R S"]
    top: Float[np.ndarray, "R S"]
    stop: Float[np.ndarray, "R G"]
    leave: Float[np.ndarray, "R G"]
    a_out: Float[np.ndarray, "R G R"]
    b_in: Float[np.ndarray, "R G R"]
    b_out: Float[np.ndarray, "R G R"]
    b_group: Int[np.ndarray, "R G R"]


Zone = tuple[int, int, float, float, float, float]  # a, b, a_in, a_out, b_in, b_out


def tables(routes: list[Route], zipper: float, cluster: float) -> Tables:
    """The tables of these routes; `zipper` and `cluster` as in `Plan`."""
    n = len(routes)
    length = np.array([arc_of(route.line)[-1] for route in routes])
    samples = int(length.max()) + 2
    xyz, yaw = np.full((n, samples, 3), np.nan), np.zeros((n, samples))
    top = np.zeros((n, samples))
    for k, route in enumerate(routes):
        arc = arc_of(route.line)
        at = np.arange(samples)
        inside = at <= length[k]
        xyz[k, inside] = np.stack([np.interp(at[inside], arc, route.line[:, j]) for j in range(3)], axis=1)
        yaw[k] = np.interp(at, arc, heading_of(route.line))
        top[k] = np.interp(at, arc, _speeds(route))
    place, turn, relation, zones = _project(routes, xyz, yaw, length)
    if zipper:
        _extend(zones, place, relation, turn, zipper)
        zones = []
    return Tables(
        length,
        np.array([route.closed for route in routes]),
        place,
        turn,
        relation,
        top,
        *_groups(routes, zones, cluster),
    )


def _speeds(route: Route, lateral: float = 1.9, brake: float = 1.2) -> Float[np.ndarray, " P"]:
    """Speed on a route: limit, lateral acceleration in bends, and slowing down in time for them."""
    arc, yaw = arc_of(route.line), heading_of(route.line)
    bend = np.abs(np.gradient(yaw, arc))
    speed = np.minimum(route.limit, np.sqrt(lateral / np.maximum(bend, 1e-6)))
    # v(s)^2 <= v(r)^2 + 2 b (r - s) for every r >= s: a running minimum from the end.
    least = np.minimum.accumulate((speed**2 + 2 * brake * arc)[::-1])[::-1]
    return np.sqrt(least - 2 * brake * arc)


def _project(
    routes: list[Route], xyz: np.ndarray, yaw: np.ndarray, length: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Zone]]:
    n, samples = yaw.shape
    place, turn = np.full((n, n, samples), np.nan), np.ones((n, n, samples))
    relation = np.zeros((n, n, samples), np.uint8)
    half = np.array([_HALF[route.kind] for route in routes])
    runs: dict[tuple[int, int], list[tuple[float, float, float, float]]] = {}
    there = np.isfinite(xyz[..., 0])
    who, what = np.nonzero(there)
    points = xyz[there]
    for a in range(n):
        tree = KDTree(xyz[a, there[a], :2])
        reach = half[a] + half[who] + _MARGIN
        far, near = tree.query(points[:, :2], distance_upper_bound=float(reach.max()) + 0.5)
        rows = np.flatnonzero(np.isfinite(far))
        near, b, k = np.asarray(near)[rows], who[rows], what[rows]
        c = points[rows] - xyz[a, near]
        ahead = np.stack([np.cos(yaw[a, near]), np.sin(yaw[a, near])])
        along, side = (c[:, :2].T * ahead).sum(0), np.abs(c[:, 0] * -ahead[1] + c[:, 1] * ahead[0])
        good = (side < reach[rows]) & (np.abs(along) < 0.8) & (np.abs(c[:, 2]) < 2.5)
        b, k, side = b[good], k[good], side[good]
        place[a, b, k] = np.clip(near[good] + along[good], 0.0, length[a])
        turn[a, b, k] = np.cos(yaw[a, near[good]] - yaw[b, k])
        relation[a, b, k] = np.where(turn[a, b, k] > 0.7, SAME, CROSS)
        distance = np.full((n, samples), np.inf)
        distance[b, k] = side
        for other in range(n):
            if other != a and not (routes[a].closed or routes[other].closed):
                runs[a, other] = _runs(place[a, other], distance[other], turn[a, other])
    return place, turn, relation, _paired(runs)


def _runs(place: np.ndarray, distance: np.ndarray, turn: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Runs of a route b near a that do not start on a, as (from, to, middle on a, where they become one or NaN)."""
    near = np.flatnonzero(np.isfinite(place))
    found = []
    for run in np.split(near, np.flatnonzero(np.diff(near) > 2) + 1):
        if not len(run) or (distance[run[0]] < 0.35 and turn[run[0]] > 0.9):
            continue
        one = np.flatnonzero((distance[run] < 0.35) & (turn[run] > 0.97))
        run = run[: one[0] + 1] if len(one) else run
        meet = float(place[run[-1]]) if len(one) else np.nan
        found.append((float(run[0]), float(run[-1]), float(place[run].mean()), meet))
    return found


def _paired(runs: dict[tuple[int, int], list[tuple[float, float, float, float]]]) -> list[Zone]:
    """Zones: each run of b near a with the run of a near b that lies where it is."""
    zones: list[Zone] = []
    for (a, b), found in runs.items():
        for enter, out, middle, meet in found:
            back = min(runs[b, a], key=lambda run: max(run[0] - middle, middle - run[1], 0.0), default=None)
            if back is not None:
                zones.append((a, b, back[0], back[1] if np.isnan(meet) else meet, enter, out))
    return zones


def _extend(zones: list[Zone], place: np.ndarray, relation: np.ndarray, turn: np.ndarray, reach: float) -> None:
    """Ahead of a point where two routes become one, place them on each other by their distance from it."""
    for a, b, _, a_out, _, b_out in zones:
        k = np.arange(max(0, int(b_out - reach)), int(b_out))
        arc = a_out - (b_out - k)
        k = k[(arc > 0) & (relation[a, b, k] == NONE)]
        place[a, b, k] = a_out - (b_out - k)
        relation[a, b, k] = VIRTUAL
        turn[a, b, k] = 1.0


def _groups(routes: list[Route], zones: list[Zone], cluster: float) -> tuple[np.ndarray, ...]:
    """Groups of the zones along each route, and the tables `stop` to `b_group` of `Tables`."""
    n = len(routes)
    spans: list[list[list[float]]] = []
    for a in range(n):
        own = sorted((zone[2], zone[3], zone[1]) for zone in zones if zone[0] == a)
        groups: list[list[float]] = []
        for low, high, _ in own:
            if groups and low - groups[-1][1] < cluster:
                groups[-1][1] = max(groups[-1][1], high)
            else:
                groups.append([low, high])
        for stop in routes[a].stops:
            if not any(low - 25 < stop <= low for low, _ in groups):
                groups.append([stop + 0.5, stop + 1.0])
        spans.append(sorted(groups))
    depth = max(1, *(len(groups) for groups in spans))
    stop, leave = np.full((n, depth), np.inf), np.full((n, depth), np.inf)
    for a, groups in enumerate(spans):
        for g, (low, high) in enumerate(groups):
            lines = [line for line in routes[a].stops if low - 25 < line <= low]
            stop[a, g], leave[a, g] = (lines[-1] if lines else low - 2.0), high
    a_out, b_in, b_out = (np.full((n, depth, n), np.nan) for _ in range(3))
    b_group = np.full((n, depth, n), -1)
    for a, b, low, high, enter, out in zones:
        g = _group(spans[a], low)
        a_out[a, g, b] = np.fmax(a_out[a, g, b], high)
        b_in[a, g, b], b_out[a, g, b] = np.fmin(b_in[a, g, b], enter), np.fmax(b_out[a, g, b], out)
        b_group[a, g, b] = _group(spans[b], enter)
    return stop, leave, a_out, b_in, b_out, b_group


def _group(spans: list[list[float]], arc: float) -> int:
    """The group in which, or nearest to which, an arc lies."""
    return int(np.argmin([max(low - arc, arc - high, 0.0) for low, high in spans])) if spans else -1
