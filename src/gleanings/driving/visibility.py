"""Which objects one object can see past the others. Source: ours."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_END = 1 - 1e-4  # what begins where a line ends, to rounding, is not crossed
_CORNERS = ((0, 0), (1, 1), (-1, 1), (-1, -1), (1, -1))


def hidden(
    from_x: Float[Array, ""],
    from_y: Float[Array, ""],
    x: Float[Array, " N"],
    y: Float[Array, " N"],
    cos: Float[Array, " N"],
    sin: Float[Array, " N"],
    length: Float[Array, " N"],
    width: Float[Array, " N"],
    blocks: Bool[Array, " N"],
) -> Bool[Array, " N"]:
    """Whether all five lines from a point to the centre and the corners of box i cross another box that `blocks`.

    Metres; cos and sin of the headings. A box that holds the point blocks nothing.
    """
    side = jnp.asarray(_CORNERS, x.dtype).T[:, :, None] / 2
    lon, lat = side[0] * length, side[1] * width  # [5, N]
    tx, ty = x + lon * cos - lat * sin, y + lon * sin + lat * cos
    ox, oy = from_x - x, from_y - y
    lon, lat = cos * ox + sin * oy, cos * oy - sin * ox  # of the point, in the frame of each box
    gx, gy = tx[..., None] - from_x, ty[..., None] - from_y  # [5, N, N]: line to target i, in the frame of box k
    enter_x, leave_x = _slab(lon, cos * gx + sin * gy, length / 2)
    enter_y, leave_y = _slab(lat, cos * gy - sin * gx, width / 2)
    enter, leave = jnp.maximum(enter_x, enter_y), jnp.minimum(leave_x, leave_y)
    # Floats instead of booleans: XLA's CPU code for `any` and `all` is several times slower.
    crossed = jnp.where((enter < leave) & (enter > 0) & (enter < _END), 1.0, 0.0)
    other = blocks & ~jnp.eye(len(x), dtype=bool)
    return jnp.where(other, crossed, 0.0).max(-1).min(0) > 0


def _slab(start: Array, way: Array, half: Array) -> tuple[Array, Array]:
    """Shares of a line, start + share * way, at which it enters and leaves [-half, half]."""
    still = jnp.abs(way) < 1e-6
    inverse = 1 / jnp.where(still, 1.0, way)
    middle, reach = -start * inverse, half * jnp.abs(inverse)
    inside = jnp.abs(start) < half
    return jnp.where(still, jnp.where(inside, -jnp.inf, jnp.inf), middle - reach), jnp.where(
        still, jnp.where(inside, jnp.inf, -jnp.inf), middle + reach
    )
