"""Every metric of the design page again, in NumPy float64, by loops and by other formulas; imports no jax.

`measure` returns for each name (value, mask, doubt). Where `doubt` holds, a quantity lies so near to a threshold, or a
tie is so close, that float32 may rightly decide otherwise.
"""

import numpy as np

from gleanings.driving.scene import Scene, Trajectory

NEAR = 2e-3
RIDES, VEHICLE, PEDESTRIAN = (1, 3), 1, 2
LIMITS = {0: (-8, 4, 3), 1: (-8, 4, 0.22), 2: (-4, 4, 3), 3: (-6, 3, 0.6)}


def measure(scene: Scene, trajectory: Trajectory, first: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(value, mask, doubt) by name: [T', N] for the steps of a trajectory [T'+1, N], [N] for whole ones."""
    rows = Trajectory(*(np.asarray(field, bool if name == "valid" else float) for name, field in _items(trajectory)))
    pairs, paths = _Pairs(scene), _Paths(scene, first)
    pairs.step(_row(rows, 0), None)
    paths.step(_row(rows, 0))
    steps = []
    for k in range(1, len(rows.x)):
        before, now = _row(rows, k - 1), _row(rows, k)
        found = {**pairs.step(now, lambda i, now=now: _lanes(scene, now, i)), **paths.step(now)}
        found |= _road(scene, now) | _log(scene, now, first + k) | _limits(scene, before, now)
        steps.append(found | _red(scene, before, now, first + k))
    result = {name: tuple(np.stack([step[name][p] for step in steps]) for p in range(3)) for name in steps[0]}
    result |= _displacement(result["log_divergence"])
    result["comfort"] = _comfort(scene, rows)
    return {
        name: (np.where(mask, value, 0).astype(value.dtype), mask, doubt)
        for name, (value, mask, doubt) in result.items()
    }


def _items(rows):
    return zip(rows._fields, rows, strict=True)


def _row(rows: Trajectory, k: int) -> Trajectory:
    return Trajectory(*(field[k] for field in rows))


def _sizes(scene: Scene):
    o = scene.objects
    return (np.asarray(v, float) for v in (o.length, o.width, o.height))


def box(x, y, yaw, length, width):
    """Corners [4, 2]."""
    r = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    local = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [length / 2, width / 2]
    return local @ r.T + [x, y]


def spans(a, b, yaws):
    """Extents (low_a, high_a, low_b, high_b) of two sets of corners along the axes of the two yaws, four of each."""
    for yaw in yaws:
        for axis in ([np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]):
            pa, pb = a @ axis, b @ axis
            yield pa.min(), pa.max(), pb.min(), pb.max(), np.array(axis)


def gap(a, b, yaws) -> float:
    """Largest separation of the corners over the axes."""
    return max(max(lb - ha, la - hb) for la, ha, lb, hb, _ in spans(a, b, yaws))


def ttc(a, b, yaws, velocity, grow: float = 0.0) -> float:
    """Time until a meets b, which moves with `velocity` relative to it; boxes grown by `grow` metres."""
    enter, leave = -np.inf, np.inf
    for la, ha, lb, hb, axis in spans(a, b, yaws):
        u = velocity @ axis
        if abs(u) < 1e-6:
            if lb - ha >= grow or la - hb >= grow:
                return 5.0
            continue
        times = sorted([(ha + grow - lb) / u, (la - grow - hb) / u])
        enter, leave = max(enter, times[0]), min(leave, times[1])
    return min(max(enter, 0.0), 5.0) if enter < leave and leave > 0 else 5.0


class _Pairs:
    """Contact, blame and time to collision; remembers which pairs have met, are excused, were near to touching."""

    def __init__(self, scene: Scene) -> None:
        n = len(scene.objects.kind)
        self.scene = scene
        self.met, self.excused, self.unsure, self.touched = (np.zeros((n, n), bool) for _ in range(4))

    def step(self, now: Trajectory, lanes) -> dict:
        n, kind = len(now.x), self.scene.objects.kind
        length, width, height = _sizes(self.scene)
        corners = [box(now.x[i], now.y[i], now.yaw[i], length[i], width[i]) for i in range(n)]
        out = {name: [np.zeros(n, kind), now.valid.copy(), np.zeros(n, bool)] for name, kind in _PAIR.items()}
        out["overlap_gap"][0][:] = np.inf
        out["ttc_s"][0][:] = 5.0
        touch = np.zeros((n, n), bool)
        speed = np.hypot(now.vx, now.vy)
        for i in range(n):
            for j in range(n):
                both = i != j and now.valid[i] and now.valid[j]
                if not both:
                    self.excused[i, j] = self.excused[i, j] and i != j
                    continue
                level = abs(now.z[i] - now.z[j]) < (height[i] + height[j]) / 2
                yaws = (now.yaw[i], now.yaw[j])
                g = gap(corners[i], corners[j], yaws)
                touch[i, j] = level and g < 0
                if not self.met[i, j]:
                    self.excused[i, j] = touch[i, j]
                self.excused[i, j] &= touch[i, j]
                self.met[i, j] = True
                self.unsure[i, j] |= abs(g) < NEAR and level
                if not level:
                    continue
                doubt = self.unsure[i, j]
                for name in _PAIR:
                    out[name][2][i] |= doubt
                if self.excused[i, j] or lanes is None:
                    continue
                out["collision"][0][i] |= touch[i, j]
                out["overlap_gap"][0][i] = min(out["overlap_gap"][0][i], g)
                relative = np.array([now.vx[j] - now.vx[i], now.vy[j] - now.vy[i]])
                times = [ttc(corners[i], corners[j], yaws, relative, grow) for grow in (0.0, 1e-4, -1e-4)]
                out["ttc_s"][0][i] = min(out["ttc_s"][0][i], times[0])
                out["ttc_s"][2][i] |= max(times) - min(times) > 4e-4
                if touch[i, j] and not self.touched[i, j]:
                    blame, unsure = self._blame(i, j, now, corners, speed, lanes)
                    out["at_fault"][0][i] |= blame
                    out["at_fault"][2][i] |= unsure
        self.touched = touch
        out["overlap_gap"][1] &= np.isfinite(out["overlap_gap"][0])
        out["at_fault"][1] &= np.isin(kind, RIDES)
        least, doubt = out["ttc_s"][0], out["ttc_s"][2]
        low = (least < 0.95) & (speed > 0.5)
        out["ttc_low"] = [low, now.valid, doubt | (abs(least - 0.95) < NEAR) | (abs(speed - 0.5) < NEAR)]
        return {name: tuple(value) for name, value in out.items()}

    def _blame(self, i, j, now, corners, speed, lanes) -> tuple[bool, bool]:
        yaws = (now.yaw[i], now.yaw[j])
        front = gap(corners[i][[0, 3]], corners[j], yaws)
        rear = gap(corners[i][[1, 2]], corners[j], yaws)
        nearby, doubt = lanes(i)[2:4]
        unsure = doubt or min(abs(front), abs(rear), abs(speed[i] - 0.05), abs(speed[j] - 0.05)) < NEAR
        if speed[i] < 0.05:
            return False, unsure
        if speed[j] < 0.05 or front < 0:
            return True, unsure
        return not rear < 0 and not nearby, unsure


_PAIR = {"collision": bool, "overlap_gap": float, "at_fault": bool, "ttc_s": float, "ttc_low": bool}


def _lanes(scene: Scene, now: Trajectory, i: int):
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


def _road(scene: Scene, now: Trajectory) -> dict:
    n, speed = len(now.x), np.hypot(now.vx, now.vy)
    length, width, height = _sizes(scene)
    value, doubt = np.zeros(n), np.zeros(n, bool)
    known = bool(np.isfinite(scene.edges.z).any())
    against, near, unsure, limit = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool), np.full(n, np.nan)
    for i in np.flatnonzero(now.valid):
        corners = box(now.x[i], now.y[i], now.yaw[i], length[i], width[i])
        found = [signed_distance(scene, *corner, now.z[i] - height[i] / 2) for corner in corners] if known else []
        value[i] = max((v for v, _ in found), default=0.0)
        doubt[i] = any(d for _, d in found)
        near[i], aligned, _, unsure[i], limit[i] = _lanes(scene, now, i)
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


def _log(scene: Scene, now: Trajectory, t: int) -> dict:
    log, goals = scene.log, scene.goals
    inside = t < len(log.x)
    row = min(t, len(log.x) - 1)
    apart = np.sqrt((now.x - log.x[row]) ** 2 + (now.y - log.y[row]) ** 2)
    away = np.sqrt((now.x - goals.x) ** 2 + (now.y - goals.y) ** 2)
    sure = np.zeros(len(now.x), bool)
    return {
        "log_divergence": (apart, now.valid & np.asarray(log.valid)[row] & inside, sure),
        "goal_reached": (away <= goals.radius, now.valid & np.asarray(goals.exists), abs(away - goals.radius) < NEAR),
    }


def _limits(scene: Scene, before: Trajectory, now: Trajectory) -> dict:
    n, kind = len(now.x), np.asarray(scene.objects.kind)
    bad, doubt = np.zeros(n, bool), np.zeros(n, bool)
    for i in range(n):
        v0, v1 = (r.vx[i] * np.cos(r.yaw[i]) + r.vy[i] * np.sin(r.yaw[i]) for r in (before, now))
        low, high, bend = LIMITS[int(kind[i])]
        bend = min(bend, 10 / max(v0 * v0, 1))
        gain = (v1 - v0) / float(scene.dt)
        turn = abs((now.yaw[i] - before.yaw[i] + np.pi) % (2 * np.pi) - np.pi)
        chord = np.hypot(now.x[i] - before.x[i], now.y[i] - before.y[i])
        arc = chord if turn < 1e-9 else chord * (turn / 2) / np.sin(turn / 2)
        sharp = arc > 0.06 and turn / arc > bend + 1e-3
        bad[i] = gain < low - 1e-3 or gain > high + 1e-3 or sharp
        near = abs(arc - 0.06) < 1e-3 or abs(turn - (bend + 1e-3) * arc) < 1e-4
        doubt[i] = min(abs(gain - low + 1e-3), abs(gain - high - 1e-3)) < NEAR or (near and turn > 1e-6)
    return {"infeasible": (bad, now.valid & before.valid & (kind != PEDESTRIAN), doubt)}


def _red(scene: Scene, before: Trajectory, now: Trajectory, t: int) -> dict:
    n, lights = len(now.x), scene.lights
    crossed, doubt = np.zeros(n, bool), np.zeros(n, bool)
    length, _, height = _sizes(scene)
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


class _Paths:
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


def _displacement(divergence) -> dict:
    value, mask, doubt = divergence
    some = mask.any(0)
    mean = np.array([value[mask[:, i], i].mean() if some[i] else 0.0 for i in range(len(some))])
    last = np.array([value[np.flatnonzero(mask[:, i])[-1], i] if some[i] else 0.0 for i in range(len(some))])
    return {"ade_m": (mean, some, doubt.any(0)), "fde_m": (last, some, doubt.any(0))}


def _comfort(scene: Scene, rows: Trajectory):
    """Parabolas fitted to 11 samples by least squares, one at a time."""
    n, dt, kind = rows.x.shape[1], float(scene.dt), np.asarray(scene.objects.kind)
    good, mask, doubt = np.ones(n, bool), np.zeros(n, bool), np.zeros(n, bool)
    time = dt * (np.arange(11) - 5)
    design = np.linalg.pinv(np.vander(time, 3))
    fit = design.dot
    bounds = {"rate": (-0.95, 0.95), "spin": (-1.93, 1.93), "ahead": (-4.05, 2.4), "left": (-4.89, 4.89)}
    bounds |= {"jerk_ahead": (-4.13, 4.13), "jerk": (-1, 8.37)}
    for i in np.flatnonzero(np.isin(kind, RIDES)):
        found = {}
        for k in range(5, len(rows.x) - 5):
            window = slice(k - 5, k + 6)
            if not rows.valid[window, i].all():
                continue
            a = np.array([2 * fit(v[window, i] - v[k, i])[0] for v in (rows.x, rows.y)])
            c, s = np.cos(rows.yaw[k, i]), np.sin(rows.yaw[k, i])
            yaw = fit(np.unwrap(rows.yaw[window, i]))
            found[k] = {"rate": yaw[1], "spin": 2 * yaw[0], "ahead": a @ [c, s], "left": a @ [-s, c], "a": a}
        for k in list(found):
            window = range(k - 5, k + 6)
            if all(m in found for m in window):
                found[k]["jerk_ahead"] = fit([found[m]["ahead"] for m in window])[1]
                found[k]["jerk"] = np.hypot(*(fit([found[m]["a"][p] for m in window])[1] for p in (0, 1)))
        mask[i] = bool(found)
        for values in found.values():
            for name, (low, high) in bounds.items():
                if name in values:
                    good[i] &= low <= values[name] <= high
                    doubt[i] |= min(abs(values[name] - low), abs(values[name] - high)) < NEAR
    return good & mask, mask, doubt
