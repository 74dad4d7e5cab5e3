"""Who may go: lights, stop signs, and reservation of the zones that routes share. Source: ours."""

import numpy as np
from jaxtyping import Bool, Float, Int

from gleanings.driving.families._conflicts import Tables
from gleanings.driving.families.base import Plan
from gleanings.driving.raw import Light

_SPARE = 1.0  # seconds between two uses of a zone


class Rules:
    """Reservations of N objects, kept from step to step. length: m; walks: pedestrians, who never wait.

    `group` is the next group of zones on an object's way; one whose front has passed the place to wait holds the
    zones until its rear has left them. A grant is taken back as long as the object can stop at 2.5 m/s^2.
    """

    def __init__(
        self,
        plan: Plan,
        table: Tables,
        route: Int[np.ndarray, " N"],
        length: Float[np.ndarray, " N"],
        walks: Bool[np.ndarray, " N"],
    ) -> None:
        n = len(route)
        self.plan, self.table, self.route, self.half, self.walks = plan, table, route, length / 2, walks
        self.group = np.zeros(n, int)
        self.granted, self.stopped, self.waits = (np.zeros(n, bool) for _ in range(3))
        self.since = np.full(n, np.inf)
        self.sign = np.array([plan.routes[k].must_stop for k in route])
        self.rank = np.array([plan.routes[k].rank for k in route])
        lights = list(plan.lights)
        self.light = np.array([lights.index(plan.routes[k].light) if plan.routes[k].light else -1 for k in route])
        self.states = np.array([plan.lights[name] for name in lights], np.uint8)

    def held(self, step: int, s: np.ndarray, v: np.ndarray, there: np.ndarray) -> Float[np.ndarray, " N"]:
        """Distance of each front bumper from the place where it has to stand, plus the gap IDM keeps less 1 m."""
        depth, front = self.table.stop.shape[1], s + self.half
        while (past := there & (self.group < depth) & (front > (stop := self._stop()) + 0.5)).any():
            self.group = self.group + past
            self.granted, self.stopped = self.granted & ~past, self.stopped & ~past
            self.since = np.where(past, np.inf, self.since)
        room = np.where(self.group < depth, stop, np.inf) - s - self.half
        self.rank_now = self.rank + (self.group > 0)
        red = self._red(step, v, room)
        near = there & ~self.walks & (room < 12.0 + v**2 / 2.4)
        self.since = np.where(near, np.minimum(self.since, step), self.since)
        self.stopped |= near & (v < 0.3) & (room < 2.5)
        committed = self.granted & (room < v**2 / 5.0)
        self.granted = committed.copy()
        sign = self.sign & (self.group == 0) & ~self.stopped
        self.waits = near & ~committed & ~sign & ~red & (room < 3.5) & (v < 1.0)
        able = np.flatnonzero(near & ~committed & ~sign & ~red)
        for i in able[np.lexsort((room[able], self.since[able], -self.rank_now[able]))]:
            self.granted[i] = not self._blocked(int(i), s, v, there, red)
            self.waits[i] &= not self.granted[i]
        stands = near & ~self.granted | red
        return np.where(stands, np.maximum(room, 0.0) + 1.0, np.inf)

    def _stop(self) -> Float[np.ndarray, " N"]:
        """Where each object has to wait next; meaningless past its last group."""
        return self.table.stop[self.route, np.minimum(self.group, self.table.stop.shape[1] - 1)]

    def _red(self, step: int, v: np.ndarray, room: np.ndarray) -> Bool[np.ndarray, " N"]:
        """Objects that a light holds: amber where they can stop at 3 m/s^2, red where they can at all."""
        if not len(self.states):
            return np.zeros(len(v), bool)
        state = np.where((self.light >= 0) & (self.group == 0), self.states[self.light, step], Light.GO)
        soft, hard = v**2 / 6.0 <= room, (v**2 / 14.0 <= room + 0.9) & (room > -0.9)
        return ((state == Light.CAUTION) & soft | (state == Light.STOP) & hard) & (room < 80.0)

    def _blocked(self, i: int, s: np.ndarray, v: np.ndarray, there: np.ndarray, red: np.ndarray) -> bool:
        """Whether another object has, or goes first through, a zone that object i needs."""
        a, g, b = self.route[i], self.group[i], self.route
        b_in, b_out, b_group = (t[a, g, b] for t in (self.table.b_in, self.table.b_out, self.table.b_group))
        uses = np.isfinite(b_in) & there & (s - self.half < b_out + 0.5)
        uses[i] = False
        if not uses.any():
            return False
        way = np.maximum(self.table.a_out[a, g, b] + self.half[i] - s[i], 0.0)
        top = max(float(self.table.top[a].min()), 3.0)
        fast = np.minimum(np.sqrt(v[i] ** 2 + 2.6 * way), max(top, v[i]))
        clear = way / np.maximum((v[i] + fast) / 2, 0.5) + _SPARE
        arrives = np.maximum(b_in - s - self.half, 0.0) / np.maximum(v + np.where(self.walks, 0.0, 1.0), 0.5)
        taken = (self.group > b_group) | self.granted & (self.group == b_group)
        soon = (self.walks | (self.rank_now > self.rank_now[i]) & ~red) & (self.group <= b_group) & (arrives < clear)
        first = self.waits & (self.group == b_group) & (self.rank_now == self.rank_now[i])
        first &= (self.since < self.since[i]) | (self.since == self.since[i]) & (np.arange(len(s)) < i)
        return bool((uses & (taken | soon | first)).any())
