"""The part of `_metric_oracle` that knows the map: lanes, road edge, stop lines and paths."""

import numpy as np

from gleanings.driving.scene import Scene, Trajectory

NEAR = 2e-3
VEHICLE = 1


def sizes(scene: Scene):
    o = scene.objects
    return (np.asarray(v, float) for v in (o.length, o.width, o.height))


def box(x, y, yaw, length, width):
    """Corners [4, 2]."""
    r = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    local = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [length / 2, width / 2]
    return local @ r.T + [x, y]


def lanes_near(scene: Scene, now: Trajectory, i: int):
    """near, aligned, aligned within 1 m, doubt, limit at the centre of object i."""
    lanes = scene.lanes
    base = now.z[i] - float(scene.objects.height[i]) / 2
    near = aligned = close = doubt = False
    best, limit = np.inf, np.nan
    for k in np.flatnonzero(np.isfinite(lanes.z)):
        if abs(lanes.z[k] - base) > 2.5:
            continue
        d = np.array([lanes.dx[k], lanes.dy[k]], float)
        q = np.array([now.x[i] - lanes.ax[k], now.y[i] - lanes.ay[k]], float)
        distance = np.linalg.norm(q - d * np.clip(q @ d / (d @ d), 0, 1))
        cos = d @ [np.cos(now.yaw[i]), np.sin(now.yaw[i])] / np.linalg.norm(d)
        doubt |= abs(distance - 2.5) < NEAR or (distance < 2.5 and abs(cos) < NEAR)
        if distance > 2.5:
            continue
        near = True
        if cos < 0:
            continue
        aligned = True
        doubt |= abs(distance - 1) < NEAR
        close |= distance <= 1
        here = float(scene.lanes.limit[lanes.lane[k]])
        if abs(distance - best) < NEAR and here != limit:
            doubt = True
        if distance < best:
            best, limit = distance, here
    return near, aligned, close, doubt, limit


def on_road(scene: Scene, now: Trajectory) -> dict:
    n, speed = len(now.x), np.hypot(now.vx, now.vy)
    length, width, height = sizes(scene)
    value, doubt = np.zeros(n), np.zeros(n, bool)
    known = bool(np.isfinite(scene.edges.z).any())
    against, near, unsure, limit = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool), np.full(n, np.nan)
    for i in np.flatnonzero(now.valid):
        corners = box(now.x[i], now.y[i], now.yaw[i], length[i], width[i])
        found = [signed_distance(scene, *corner, now.z[i] - height[i] / 2) for corner in corners] if known else []
        value[i] = max((v for v, _ in found), default=0.0)
        doubt[i] = any(d for _, d in found)
        near[i], aligned, _, unsure[i], limit[i] = lanes_near(scene, now, i)
        against[i] = not aligned and speed[i] > 0.5
    vehicle = np.asarray(scene.objects.kind) == VEHICLE
    return {
        "off_road": (value > 0, now.valid & known, doubt | (abs(value) < NEAR)),
        "off_road_m": (value, now.valid & known, doubt),
        "wrong_way": (against, now.valid & near & vehicle, unsure | (abs(speed - 0.5) < NEAR)),
        "speeding_mps": (speed - limit, now.valid & np.isfinite(limit), unsure),
    }


def signed_distance(scene: Scene, x: float, y: float, z: float) -> tuple[float, bool]:
    """Signed distance to the road edge and whether two answers of different sign are almost equally near."""
    e, grid = scene.edges, scene.grid
    if not (0 <= (x - grid.x0) / 2 < grid.nx and 0 <= (y - grid.y0) / 2 < grid.ny):
        return 30.0, False
    pick = np.flatnonzero(np.abs(np.asarray(e.z, float) - z) <= 2.5)
    if not len(pick):
        return -30.0, False
    ax, ay, dx, dy, nax, nay, nbx, nby = (
        np.asarray(v, float)[pick] for v in (e.ax, e.ay, e.dx, e.dy, e.nax, e.nay, e.nbx, e.nby)
    )
    share = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
    cx, cy = x - ax - share * dx, y - ay - share * dy
    distance = np.hypot(cx, cy)
    nx, ny = (
        np.where(share == 0, nax, np.where(share == 1, nbx, -dy)),
        np.where(share == 0, nay, np.where(share == 1, nby, dx)),
    )
    off = cx * nx + cy * ny < 0
    k = int(np.argmin(distance))
    tie = bool((off[distance < distance[k] + 1e-3] != off[k]).any()) and distance[k] > NEAR
    return float(np.clip(distance[k] if off[k] else -distance[k], -30, 30)), tie


def red_lights(scene: Scene, before: Trajectory, now: Trajectory, t: int) -> dict:
    n, lights = len(now.x), scene.lights
    crossed, doubt = np.zeros(n, bool), np.zeros(n, bool)
    length, _, height = sizes(scene)
    last = len(lights.state) - 1
    for s in np.flatnonzero(lights.exists):
        red = all(int(lights.state[min(k, last), s]) in (4, 1, 7) for k in (t - 1, t))
        direction = np.array([np.cos(float(lights.yaw[s])), np.sin(float(lights.yaw[s]))])
        normal = np.array([-direction[1], direction[0]])
        stop = np.array([lights.x[s], lights.y[s]], float)
        for i in np.flatnonzero(now.valid & before.valid & red):
            front = [
                np.array([r.x[i], r.y[i]]) + length[i] / 2 * np.array([np.cos(r.yaw[i]), np.sin(r.yaw[i])])
                for r in (before, now)
            ]
            along = [(f - stop) @ direction for f in front]
            angle = abs((now.yaw[i] - float(lights.yaw[s]) + np.pi) % (2 * np.pi) - np.pi)
            level = abs(now.z[i] - height[i] / 2 - float(lights.z[s])) <= 2.5
            if along[1] == along[0] or not level:
                continue
            meet = front[0] + (front[1] - front[0]) * (-along[0] / (along[1] - along[0]))
            side = abs((meet - stop) @ normal)
            crossed[i] |= along[0] < 0 <= along[1] and side <= 2 and angle <= np.pi / 3
            doubt[i] |= min(abs(along[0]), abs(along[1]), abs(side - 2), abs(angle - np.pi / 3)) < NEAR
    return {"red_light": (crossed, now.valid & bool(np.any(lights.exists)), doubt)}


class Paths:
    """Projection on the path, from where the last one left off."""

    def __init__(self, scene: Scene, first: int) -> None:
        self.scene, n = scene, len(scene.objects.kind)
        self.arc, self.was = np.full(n, np.nan), np.zeros(n, bool)
        self.unsure = np.zeros(n, bool)
        self.start, self.logged = np.zeros(n), np.zeros(n)
        log = scene.log
        for i in range(n):
            arc = np.nan
            for t in np.flatnonzero(log.valid[:, i]):
                arc, _, _ = self.project(i, float(log.x[t, i]), float(log.y[t, i]), arc)
                if t >= first and not self.was[i]:
                    self.start[i], self.was[i] = arc, True
            self.logged[i] = 0.0 if np.isnan(arc) else arc - self.start[i]
        self.was[:] = False

    def project(self, i: int, x: float, y: float, hint: float) -> tuple[float, float, bool]:
        """Arc, distance and doubt, within 15 m of `hint`; NaN: anywhere."""
        px, py = (np.asarray(v[i], float) for v in (self.scene.paths.x, self.scene.paths.y))
        first, end = (0, len(px) - 1) if np.isnan(hint) else (int(np.floor(hint - 15)), int(np.floor(hint - 15)) + 31)
        first = min(max(first, 0), len(px) - 32) if not np.isnan(hint) else 0
        end = min(first + 31, len(px) - 1) if not np.isnan(hint) else end
        found = []
        for k in range(first, end):
            dx, dy = px[k + 1] - px[k], py[k + 1] - py[k]
            share = np.clip(((x - px[k]) * dx + (y - py[k]) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
            found.append((np.hypot(x - px[k] - share * dx, y - py[k] - share * dy), k + share))
        distance, arc = min(found)
        rival = any(d < distance + 2e-3 and abs(a - arc) > 0.05 for d, a in found)
        return arc, distance, rival

    def step(self, now: Trajectory) -> dict:
        n, has = len(now.x), np.asarray(self.scene.paths.length) > 0
        distance = np.zeros(n)
        for i in np.flatnonzero(now.valid & has):
            hint = self.arc[i] if self.was[i] else np.nan
            self.arc[i], distance[i], rival = self.project(i, now.x[i], now.y[i], hint)
            self.unsure[i] |= rival
        self.was = now.valid.copy()
        gained, mask = np.nan_to_num(self.arc) - self.start, now.valid & has
        ratio = gained / np.maximum(self.logged, 1e-9)
        return {
            "off_route_m": (distance, mask, self.unsure.copy()),
            "off_route": (distance > 4, mask, self.unsure | (abs(distance - 4) < NEAR)),
            "progress_m": (gained, mask, self.unsure.copy()),
            "progress_ratio": (ratio, mask & (self.logged >= 5), self.unsure | (abs(self.logged - 5) < NEAR)),
        }
