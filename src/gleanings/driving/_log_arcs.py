"""Where the log of each object starts and ends along its path."""

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from gleanings.driving.scene import Scene


def log_arcs(scene: Scene, start: Int32[Array, ""]) -> tuple[Float32[Array, " N"], Float32[Array, " N"]]:
    """Arcs, m, of the first valid logged pose at or after step `start` and of the last one.

    Depends on the scene alone, so XLA moves it out of a rollout's loop.
    """
    valid, arcs = jnp.asarray(scene.log.valid).T, jnp.asarray(scene.paths.logged)
    later = valid & (jnp.arange(valid.shape[1]) >= start)
    begin = jnp.where(later.any(1), jnp.argmax(later, axis=1), 0)
    last = jnp.clip(scene.objects.last, 0)
    first, end = (jnp.take_along_axis(arcs, step[:, None], axis=1)[:, 0] for step in (begin, last))
    return first, end
