"""Every metric of the design page again, in NumPy float64, by loops and by other formulas; imports no jax.

`measure` returns for each name (value, mask, doubt). Where `doubt` holds, a quantity lies so near to a threshold, or a
tie is so close, that float32 may rightly decide otherwise.
"""

import numpy as np

from gleanings.driving.scene import Scene, Trajectory

from ._metric_oracle_map import NEAR, Paths, box, lanes_near, on_road, red_lights, sizes

RIDES, PEDESTRIAN = (1, 3), 2
LIMITS = {0: (-8, 4, 3), 1: (-8, 4, 0.22), 2: (-4, 4, 3), 3: (-6, 3, 0.6)}


def measure(scene: Scene, trajectory: Trajectory, first: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(value, mask, doubt) by name: [T', N] for the steps of a trajectory [T'+1, N], [N] for whole ones."""
    rows = Trajectory(*(np.asarray(field, bool if name == "valid" else float) for name, field in _items(trajectory)))
    pairs, paths = _Pairs(scene), Paths(scene, first)
    pairs.step(_row(rows, 0), None)
    paths.step(_row(rows, 0))
    steps = []
    for k in range(1, len(rows.x)):
        before, now = _row(rows, k - 1), _row(rows, k)
        found = {**pairs.step(now, lambda i, now=now: lanes_near(scene, now, i)), **paths.step(now)}
        found |= on_road(scene, now) | _log(scene, now, first + k) | _limits(scene, before, now)
        steps.append(found | red_lights(scene, before, now, first + k))
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
        length, width, height = sizes(self.scene)
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
