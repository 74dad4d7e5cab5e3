"""The dense twin: the simulator's definitions with no list of candidates, no merging and a plain argmin.

Every corner looks at every unmerged segment of the road edge, every agent looks along its whole path at every box.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from gleanings.driving.geometry import corners
from gleanings.driving.grid import GATE_M, REACH_M
from gleanings.driving.idm import IDM, Leader, point_at, red_line, travel
from gleanings.driving.scene import Scene
from gleanings.driving.sim import Simulator
from gleanings.driving.state import SimState
from gleanings.studies._driving_speed import simulator

LIGHT = ("collision", "log_divergence")


def dense_distance(scene: Scene, x: Array, y: Array, z: Array) -> Array:
    """Signed distance, m, of points [K] to the road edge at base height z; positive: off the road, within +-30."""
    edges = jax.tree.map(jnp.asarray, scene.edges)
    px, py = x[:, None] - edges.ax, y[:, None] - edges.ay
    share = jnp.clip((px * edges.dx + py * edges.dy) * edges.inv_l2, 0, 1)
    cx, cy = px - share * edges.dx, py - share * edges.dy
    square = jnp.where(jnp.abs(edges.z - z[:, None]) <= GATE_M, cx * cx + cy * cy, jnp.inf)
    item = jnp.argmin(square, axis=1)

    def at(values: Array) -> Array:
        return jnp.take_along_axis(values, item[:, None], axis=1)[:, 0]

    least, along, cx, cy = at(square), at(share), at(cx), at(cy)
    nx = jnp.where(along <= 0, edges.nax[item], jnp.where(along >= 1, edges.nbx[item], -edges.dy[item]))
    ny = jnp.where(along <= 0, edges.nay[item], jnp.where(along >= 1, edges.nby[item], edges.dx[item]))
    sign = jnp.where(cx * nx + cy * ny < 0, 1.0, -1.0)
    return jnp.where(jnp.isfinite(least), jnp.clip(sign * jnp.sqrt(least), -REACH_M, REACH_M), -REACH_M)


def dense_off_road(scene: Scene, state: SimState) -> Array:
    """Which objects [N] have a corner off the road."""
    objects = scene.objects
    x, y = corners(state.x, state.y, state.yaw, objects.length, objects.width)
    z = jnp.broadcast_to((state.z - objects.height / 2)[:, None], x.shape)
    value = dense_distance(scene, x.ravel(), y.ravel(), z.ravel()).reshape(x.shape)
    return (value.max(1) > 0) & state.alive


def dense_stepping(steps: int) -> Any:
    """So many steps with log divergence, contact and dense off-road; of the metrics only the sum is kept."""
    sim: Simulator = simulator(LIGHT)

    def call(scene: Scene) -> Any:
        key = jax.random.key(0)

        def one(carry: tuple[SimState, Array], _: None) -> tuple[tuple[SimState, Array], None]:
            state, total = carry
            state, out = sim.step(scene, state, None, key)
            total = total + sum(jnp.where(metric.mask, metric.value, 0).sum() for metric in out.metrics.values())
            return (state, total + dense_off_road(scene, state).sum()), None

        return lax.scan(one, (sim.reset(scene, key), jnp.zeros(())), None, length=steps)[0][1]

    return call


def dense_leader(scene: Scene, state: SimState) -> Leader:
    """The first box on each path from a look at every metre of it and every box: gap to the metre, and speed."""
    objects, paths = scene.objects, scene.paths
    cos, sin = jnp.cos(state.yaw), jnp.sin(state.yaw)
    reach = 0.5 * objects.width + 0.1

    def inside(x: Array, y: Array) -> Array:
        """Whether points [N, Q] are in the boxes [N] grown by each path's reach: [N, Q, N]."""
        dx, dy = x[..., None] - state.x, y[..., None] - state.y
        long = jnp.abs(dx * cos + dy * sin) - 0.5 * objects.length < reach[:, None, None]
        return long & (jnp.abs(dy * cos - dx * sin) - 0.5 * objects.width < reach[:, None, None])

    skipped = inside(state.x[:, None], state.y[:, None])[:, 0] | ~state.alive
    level = paths.z[..., None] + 0.5 * objects.height[:, None, None] - state.z
    level = jnp.abs(level) < 0.5 * (objects.height[:, None, None] + objects.height)
    hit = inside(paths.x, paths.y) & level & ~skipped[:, None]
    metre = jnp.arange(paths.x.shape[1], dtype=jnp.float32)
    ahead = (metre > state.arc[:, None]) & (metre <= state.arc[:, None] + 64)
    place = jnp.argmin(jnp.where(hit.any(2) & ahead, metre, jnp.inf), axis=1)
    found = (hit.any(2) & ahead).any(1)
    box = jnp.argmax(jnp.take_along_axis(hit, place[:, None, None], axis=1)[:, 0], axis=1)
    gap = metre[place] + reach - state.arc - 0.5 * objects.length
    speed = jnp.hypot(state.vx, state.vy)[box]
    return Leader(jnp.where(found, gap, 1e6), jnp.where(found, speed, 0.0))


def dense_idm(scene: Scene, state: SimState) -> tuple[Array, Array, Array]:
    """x, y and speed of all objects after a step of IDM with `dense_leader`."""
    model, here = IDM(), point_at(scene, state.arc[:, None])
    speed = jnp.maximum(state.vx * here.tx[:, 0] + state.vy * here.ty[:, 0], 0.0)
    leader, light = dense_leader(scene, state), red_line(scene, state, speed)
    leader = Leader(jnp.minimum(leader.gap, light.gap), jnp.where(leader.gap <= light.gap, leader.speed, light.speed))
    rate = model.rate(speed, jnp.maximum(scene.objects.top_speed, 2.0), leader)
    metres, after = travel(speed, rate, scene.dt)
    there = point_at(scene, (state.arc + metres)[:, None])
    return there.x[:, 0], there.y[:, 0], after
