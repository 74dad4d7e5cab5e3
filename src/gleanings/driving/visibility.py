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
    long, wide = length / 2, width / 2
    outside = (jnp.abs(lon) >= long) | (jnp.abs(lat) >= wide)
    gx, gy = _END * (tx[..., None] - from_x), _END * (ty[..., None] - from_y)  # [5, N, N]: line to i, box k
    way_x, way_y = cos * gx + sin * gy, cos * gy - sin * gx
    # A line and a box are apart along an axis of the box or across the line: separating axes.
    far_x = jnp.abs(lon + way_x / 2) - long - jnp.abs(way_x) / 2
    far_y = jnp.abs(lat + way_y / 2) - wide - jnp.abs(way_y) / 2
    across = jnp.abs(lon * way_y - lat * way_x) - long * jnp.abs(way_y) - wide * jnp.abs(way_x)
    apart = jnp.maximum(jnp.maximum(far_x, far_y), across)
    # Whole numbers: XLA's CPU code for extremes of booleans and of floats is several times slower.
    other = (blocks & outside & ~jnp.eye(len(x), dtype=bool)).astype(jnp.int32)
    return jnp.where(apart < 0, other, 0).max(-1).min(0) > 0
