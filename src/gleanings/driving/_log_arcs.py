"""Where the log of each object starts and ends along its path."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from gleanings.driving.path import project_on_path
from gleanings.driving.scene import Scene

project = jax.vmap(project_on_path)
"""`path.project_on_path` of N paths and N points."""


def log_arcs(scene: Scene, start: Int32[Array, ""]) -> tuple[Float32[Array, " N"], Float32[Array, " N"]]:
    """Arcs, m, of the first valid logged pose at or after step `start` and of the last one.

    Projected near the distance travelled in the log, so that loops are told apart without a scan; depends on the
    scene alone, so XLA moves it out of a rollout's loop.
    """
    log, paths = scene.log, scene.paths
    travelled = jnp.cumsum(log_moves(scene), axis=0)
    later = log.valid & (jnp.arange(log.x.shape[0])[:, None] >= start)
    begin = jnp.where(later.any(0), jnp.argmax(later, axis=0), 0)
    last = jnp.clip(scene.objects.last, 0)

    def arc_at(row: Int32[Array, " N"]) -> Array:
        x, y, hint = (jnp.take_along_axis(v, row[None], axis=0)[0] for v in (log.x, log.y, travelled))
        return project(paths.x, paths.y, paths.length, paths.closed, x, y, hint)[0]

    return arc_at(begin), arc_at(last)


def log_moves(scene: Scene) -> Float32[Array, "T N"]:
    """Plan distance, m, of each valid logged pose from the last valid one before it; 0 elsewhere."""
    log = scene.log
    steps = jnp.arange(log.x.shape[0])[:, None]
    held = jax.lax.cummax(jnp.where(log.valid, steps, -1), axis=0)
    before = jnp.clip(jnp.concatenate([held[:1], held[:-1]]), 0)
    dx, dy = (v - jnp.take_along_axis(v, before, axis=0) for v in (log.x, log.y))
    return jnp.where(log.valid & (steps > scene.objects.first), jnp.hypot(dx, dy), 0.0)
