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


def gap(a, b, yaws) -> float:
    """Largest separation of two sets of corners along the axes of the two yaws."""
    best = -np.inf
    for yaw in yaws:
        for axis in ([np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]):
            pa, pb = a @ axis, b @ axis
            best = max(best, pb.min() - pa.max(), pa.min() - pb.max())
    return best


class _Spans:
    """Extents of the corners of i and j along the four axes of pair (i, j), all [4, N, N], and the speed of j from i.

    The corners of every box are projected on the axes of every box: no formula of radii, no relative frame.
    """

    def __init__(self, corners: np.ndarray, yaw: np.ndarray, velocity: np.ndarray) -> None:
        axes = np.stack([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]]).transpose(2, 0, 1)
        along = np.einsum("nad,mcd->namc", axes, corners)
        (self.la, self.lb), (self.ha, self.hb) = map(self._of_pairs, (along.min(-1), along.max(-1)))
        va, vb = self._of_pairs(np.einsum("nad,md->nam", axes, velocity))
        self.speed = vb - va

    @staticmethod
    def _of_pairs(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From the value of m along axis a of n, [n, a, m]: that of i and of j along the two axes of i, then of j."""
        n = len(value)
        own = value[np.arange(n), :, np.arange(n)].T
        i = np.concatenate([np.broadcast_to(own[:, :, None], (2, n, n)), value.transpose(1, 2, 0)])
        j = np.concatenate([value.transpose(1, 0, 2), np.broadcast_to(own[:, None, :], (2, n, n))])
        return i, j

    def gap(self) -> np.ndarray:
        """Largest separation [N, N]."""
        return np.maximum(self.lb - self.ha, self.la - self.hb).max(0)

    def ttc(self, grow: float) -> np.ndarray:
        """Time until i meets j [N, N], at most 5; boxes grown by `grow` metres."""
        still = abs(self.speed) < 1e-6
        apart = still & ((self.lb - self.ha >= grow) | (self.la - self.hb >= grow))
        u = np.where(still, 1, self.speed)
        times = np.sort([(self.ha + grow - self.lb) / u, (self.la - grow - self.hb) / u], 0)
        enter, leave = np.where(still, -np.inf, times[0]).max(0), np.where(still, np.inf, times[1]).min(0)
        meets = ~apart.any(0) & (enter < leave) & (leave > 0)
        return np.where(meets, np.clip(enter, 0, 5), 5.0)


class _Pairs:
    """Contact, blame and time to collision; remembers which pairs have met, are excused, were near to touching."""

    def __init__(self, scene: Scene) -> None:
        n = len(scene.objects.kind)
        self.scene = scene
        self.met, self.excused, self.unsure, self.touched = (np.zeros((n, n), bool) for _ in range(4))

    def step(self, now: Trajectory, lanes) -> dict:
        n, kind = len(now.x), self.scene.objects.kind
        length, width, height = _sizes(self.scene)
        corners = np.array([box(now.x[i], now.y[i], now.yaw[i], length[i], width[i]) for i in range(n)])
        pairs = _Spans(corners, now.yaw, np.stack([now.vx, now.vy], 1))
        gaps, speed = pairs.gap(), np.hypot(now.vx, now.vy)
        both = now.valid[:, None] & now.valid & ~np.eye(n, dtype=bool)
        level = both & (abs(now.z[:, None] - now.z) < (height[:, None] + height) / 2)
        touch = level & (gaps < 0)
        self.excused = np.where(both, np.where(self.met, self.excused, touch) & touch, self.excused)
        self.met |= both
        self.unsure |= level & (abs(gaps) < NEAR)
        counts, doubt = level & ~self.excused, (level & self.unsure).any(1)
        times = [np.where(counts, pairs.ttc(grow), 5.0) for grow in (0.0, 1e-4, -1e-4)]
        least, blur = times[0].min(1), np.max(times, 0) - np.min(times, 0) > 4e-4
        blame = np.zeros((2, n), bool)
        for i, j in np.argwhere(counts & touch & ~self.touched) if lanes else ():
            blame[:, i] |= self._blame(i, j, now, corners, speed, lanes)
        self.touched = touch
        nearest = np.where(counts, gaps, np.inf).min(1, initial=np.inf)
        slow = (abs(least - 0.95) < NEAR) | (abs(speed - 0.5) < NEAR)
        return {
            "collision": ((counts & touch).any(1), now.valid, doubt),
            "overlap_gap": (nearest, now.valid & np.isfinite(nearest), doubt),
            "at_fault": (blame[0], now.valid & np.isin(kind, RIDES), doubt | blame[1]),
            "ttc_s": (least, now.valid, doubt | blur.any(1)),
            "ttc_low": ((least < 0.95) & (speed > 0.5), now.valid, doubt | blur.any(1) | slow),
        }

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


def _lanes(scene: Scene, now: Trajectory, i: int):
    """near, aligned, aligned within 1 m, doubt, limit at the centre of object i."""
    lanes = scene.lanes
    base = now.z[i] - float(scene.objects.height[i]) / 2
    level = np.flatnonzero(np.isfinite(lanes.z) & (abs(np.asarray(lanes.z, float) - base) <= 2.5))
    ax, ay, dx, dy = (np.asarray(v, float)[level] for v in (lanes.ax, lanes.ay, lanes.dx, lanes.dy))
    qx, qy = now.x[i] - ax, now.y[i] - ay
    share = np.clip((qx * dx + qy * dy) / (dx * dx + dy * dy), 0, 1)
    distance = np.hypot(qx - share * dx, qy - share * dy)
    cos = (dx * np.cos(now.yaw[i]) + dy * np.sin(now.yaw[i])) / np.hypot(dx, dy)
    near = distance <= 2.5
    aligned = near & (cos >= 0)
    doubt = (abs(distance - 2.5) < NEAR) | (near & (abs(cos) < NEAR)) | (aligned & (abs(distance - 1) < NEAR))
    limit, unsure = np.nan, False
    if aligned.any():
        limits = np.asarray(scene.lanes.limit, float)[lanes.lane[level[aligned]]]
        limit = limits[np.argmin(distance[aligned])]
        rivals = limits[distance[aligned] < distance[aligned].min() + NEAR]
        unsure = not np.array_equal(rivals, np.full_like(rivals, limit), equal_nan=True)
    return near.any(), aligned.any(), (aligned & (distance <= 1)).any(), bool(doubt.any()) or unsure, limit


def _road(scene: Scene, now: Trajectory) -> dict:
    n, speed = len(now.x), np.hypot(now.vx, now.vy)
    length, width, height = _sizes(scene)
    value, doubt = np.zeros(n), np.zeros(n, bool)
    known = bool(np.isfinite(scene.edges.z).any())
    against, near, unsure, limit = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool), np.full(n, np.nan)
    for i in np.flatnonzero(now.valid).tolist():
        corners = box(now.x[i], now.y[i], now.yaw[i], length[i], width[i])
        if known:
            found, tie = signed_distance(scene, corners[:, 0], corners[:, 1], now.z[i] - height[i] / 2)
            value[i], doubt[i] = found.max(), tie.any()
        near[i], aligned, _, unsure[i], limit[i] = _lanes(scene, now, i)
        against[i] = not aligned and speed[i] > 0.5
    vehicle = np.asarray(scene.objects.kind) == VEHICLE
    return {
        "off_road": (value > 0, now.valid & known, doubt | (abs(value) < NEAR)),
        "off_road_m": (value, now.valid & known, doubt),
        "wrong_way": (against, now.valid & near & vehicle, unsure | (abs(speed - 0.5) < NEAR)),
        "speeding_mps": (speed - limit, now.valid & np.isfinite(limit), unsure),
    }


def signed_distance(scene: Scene, x: np.ndarray, y: np.ndarray, z: float) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance of points to the road edge and whether two answers of different sign are almost equally near."""
    e, grid = scene.edges, scene.grid
    inside = (x >= grid.x0) & (x < grid.x0 + 2.0 * grid.nx) & (y >= grid.y0) & (y < grid.y0 + 2.0 * grid.ny)
    pick = np.flatnonzero(np.abs(np.asarray(e.z, float) - z) <= 2.5)
    if not len(pick):
        return np.where(inside, -30.0, 30.0), np.zeros(x.shape, bool)
    fields = (e.ax, e.ay, e.dx, e.dy, e.nax, e.nay, e.nbx, e.nby)
    ax, ay, dx, dy, nax, nay, nbx, nby = (np.asarray(v, float)[pick] for v in fields)
    qx, qy = x[:, None] - ax, y[:, None] - ay
    share = np.clip((qx * dx + qy * dy) / (dx * dx + dy * dy), 0, 1)
    cx, cy = qx - share * dx, qy - share * dy
    distance = np.hypot(cx, cy)
    least = distance.min(1)
    # The sign is asked only of segments that may be the nearest.
    point, k = np.nonzero(distance < least[:, None] + 1e-3)
    at, cx, cy = share[point, k], cx[point, k], cy[point, k]
    nx, ny = (np.where(at == 0, a[k], np.where(at == 1, b[k], n[k])) for a, b, n in ((nax, nbx, -dy), (nay, nby, dx)))
    off = cx * nx + cy * ny < 0
    rank = np.lexsort((distance[point, k], point))
    first = rank[np.unique(point[rank], return_index=True)[1]]
    tie = np.zeros(x.shape, bool)
    np.logical_or.at(tie, point, off != off[first][point])
    value = np.clip(np.where(off[first], least, -least), -30, 30)
    return np.where(inside, value, 30.0), tie & inside & (least > NEAR)


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
        self.was = np.zeros(n, bool)
        self.unsure = np.zeros(n, bool)
        self.start, self.logged = np.zeros(n), np.zeros(n)
        self.first, log, self.row = first, scene.log, first
        self.arcs = np.full(log.valid.shape, np.nan)
        for i in range(n):
            self.arc = np.zeros(n)
            for k, t in enumerate(np.flatnonzero(log.valid[:, i])):
                x, y = float(log.x[t, i]), float(log.y[t, i])
                hint = self.arc[i] if k else self.enter(i, x, y, 0.0)[0]
                self.arc[i] = self.arcs[t, i] = self.project(i, x, y, hint)[0]
            later = np.flatnonzero(log.valid[first:, i])
            self.start[i] = self.arcs[first + later[0], i] if len(later) else np.nan_to_num(self.arcs[0, i])
            self.logged[i] = self.arc[i] - self.start[i]
        self.was[:] = False
        self.arc = np.zeros(n)
        self.last = Trajectory(*(np.zeros(n) for _ in Trajectory._fields))

    def enter(self, i: int, x: float, y: float, expected: float) -> tuple[float, bool]:
        """Arc near (x, y) and not far from the one expected, and whether another limb is about as good."""
        arcs, length = np.arange(self.scene.paths.x.shape[1]), max(float(self.scene.paths.length[i]), 1.0)
        apart = np.hypot(self.scene.paths.x[i] - x, self.scene.paths.y[i] - y) ** 2
        moved = arcs - expected
        if self.scene.paths.closed[i]:
            moved = (moved + length / 2) % length - length / 2
        cost = apart + 0.02 * moved**2
        best = int(cost.argmin())
        return expected + moved[best], bool((cost < cost[best] + 80)[abs(moved - moved[best]) > 24].any())

    def project(self, i: int, x: float, y: float, hint: float) -> tuple[float, float, bool]:
        """Arc, counted on over rounds, distance and doubt, within 15 m of `hint`."""
        px, py = (np.asarray(v[i], float) for v in (self.scene.paths.x, self.scene.paths.y))
        closed, length = bool(self.scene.paths.closed[i]), max(float(self.scene.paths.length[i]), 1.0)
        low = (hint - 15) % length if closed else hint - 15
        first = min(max(int(np.floor(low)), 0), len(px) - 32)
        end = first + 31
        px, py = px[first : end + 1], py[first : end + 1]
        dx, dy = np.diff(px), np.diff(py)
        share = np.clip(((x - px[:-1]) * dx + (y - py[:-1]) * dy) / np.maximum(dx * dx + dy * dy, 1e-9), 0, 1)
        away, arcs = np.hypot(x - px[:-1] - share * dx, y - py[:-1] - share * dy), np.arange(first, end) + share
        k = int(np.argmin(away))
        apart = abs(arcs - arcs[k])
        apart = np.minimum(apart % length, -apart % length) if closed else apart
        rival = bool(((away < away[k] + 2e-3) & (apart > 0.05)).any())
        arc = arcs[k] + length * round((hint - arcs[k]) / length) if closed else arcs[k]
        return arc, away[k], rival

    def step(self, now: Trajectory) -> dict:
        n, has = len(now.x), np.asarray(self.scene.paths.length) > 0
        distance = np.zeros(n)
        for i in np.flatnonzero(now.valid & has).tolist():
            went = np.array([now.x[i] - self.last.x[i], now.y[i] - self.last.y[i]])
            expected = self.arc[i] + went @ [np.cos(self.last.yaw[i]), np.sin(self.last.yaw[i])]
            row = min(self.row, len(self.arcs) - 1)
            near = self.arc[i] if np.isnan(self.arcs[row, i]) else self.arcs[row, i]
            hint, lost = (expected, False) if self.was[i] else self.enter(i, now.x[i], now.y[i], near)
            self.arc[i], distance[i], rival = self.project(i, now.x[i], now.y[i], hint)
            if self.scene.paths.closed[i]:  # the second round has other chords: the point is that of the first
                at = self.arc[i] % float(self.scene.paths.length[i])
                px, py = (np.interp(at, np.arange(len(v[i])), v[i]) for v in self.scene.paths[:2])
                distance[i] = np.hypot(now.x[i] - px, now.y[i] - py)
            self.unsure[i] |= rival or lost
        self.was, self.last, self.row = now.valid.copy(), now, self.row + 1
        mask = now.valid & has
        full = self.scene.paths.x.shape[1] - 1  # a path of this length is cut, not over
        on_path = mask & (np.asarray(self.scene.paths.closed) | (self.arc < full))
        gained = self.arc - self.start
        ratio = gained / np.maximum(self.logged, 1e-9)
        return {
            "off_route_m": (distance, on_path, self.unsure.copy()),
            "off_route": (distance > 4, on_path, self.unsure | (abs(distance - 4) < NEAR)),
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
