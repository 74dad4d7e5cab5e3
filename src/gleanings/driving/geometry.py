"""Boxes in the plane: corners, separating-axis gaps, distance, time to collision.

All pair functions return matrices, [N, N] or of some rows [M, N], from one fused elementwise expression: cosines are
taken once per object, and those of a difference of headings by products. Source: design page 3.5 (ours); separating
axes: Gottschalk et al. 1996.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from gleanings.driving.scene import Pose

T = TypeVar("T")
Rows = Int32[Array, " M"] | None  # indices among N; None: all
FAR = 1e9
"""Gap of pairs that cannot touch, in metres."""
TTC_CAP = 5.0
"""Longest time to collision that is told apart, in seconds."""
_AT_REST = 1e-6


class Boxes(NamedTuple):
    """Centres, cosine and sine of yaw, length and width of boxes; arrays of one shape. Metres."""

    x: Array
    y: Array
    cos: Array
    sin: Array
    length: Array
    width: Array


def boxes(pose: Pose, length: Float[Array, "*n"], width: Float[Array, "*n"]) -> Boxes:
    """Boxes [...] of objects at `pose` with sizes in metres."""
    cos, sin = jnp.cos(pose.yaw), jnp.sin(pose.yaw)
    # XLA takes sines for cheap and would take them again for each pair; a quotient it computes once an object.
    norm = jnp.sqrt(cos * cos + sin * sin)
    return Boxes(pose.x, pose.y, cos / norm, sin / norm, length, width)


def rows_of(values: T, rows: Rows) -> T:
    """The rows of arrays [N, ...]; None: all."""
    return values if rows is None else jax.tree.map(lambda value: value[rows], values)


def corners(
    x: Float[Array, "*n"],
    y: Float[Array, "*n"],
    yaw: Float[Array, "*n"],
    length: Float[Array, "*n"],
    width: Float[Array, "*n"],
) -> tuple[Float[Array, "*n 4"], Float[Array, "*n 4"]]:
    """x and y [..., 4] of the corners in metres: front left, rear left, rear right, front right."""
    return _points(x, y, yaw, length, width, ((1, 1), (-1, 1), (-1, -1), (1, -1)))


def side_points(
    x: Float[Array, "*n"],
    y: Float[Array, "*n"],
    yaw: Float[Array, "*n"],
    length: Float[Array, "*n"],
    width: Float[Array, "*n"],
) -> tuple[Float[Array, "*n 8"], Float[Array, "*n 8"]]:
    """x and y [..., 8] in metres: the four `corners`, then the middles of front, left, rear and right side."""
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1), (1, 0), (0, 1), (-1, 0), (0, -1))
    return _points(x, y, yaw, length, width, signs)


def _points(x: Array, y: Array, yaw: Array, length: Array, width: Array, signs: tuple) -> tuple[Array, Array]:
    ahead, left = jnp.asarray(signs, x.dtype).T
    lon, lat = ahead * length[..., None] / 2, left * width[..., None] / 2
    cos, sin = jnp.cos(yaw)[..., None], jnp.sin(yaw)[..., None]
    return x[..., None] + lon * cos - lat * sin, y[..., None] + lon * sin + lat * cos


def gap_matrix(
    pose: Pose,
    length: Float32[Array, " N"],
    width: Float32[Array, " N"],
    height: Float32[Array, " N"],
    alive: Bool[Array, " N"],
    rows: Rows = None,
) -> Float32[Array, "M N"]:
    """Largest separation of each pair over the four box axes, m: negative iff the boxes overlap in the plane.

    Pairs that are not both alive, that do not overlap in height, and (i, i) hold `FAR`. rows: the objects of the first
    axis. Source: ours, 3.5.
    """
    box = boxes(pose, length, width)
    return jnp.where(can_touch(pose.z, height, alive, rows), pair_gap(rows_of(box, rows), box), FAR)


def can_touch(
    z: Float[Array, " N"], height: Float[Array, " N"], alive: Bool[Array, " N"], rows: Rows = None
) -> Bool[Array, "M N"]:
    """Pairs that are both alive, are not one object and overlap in height; z of the centres and height in metres."""
    index = jnp.arange(len(z))
    own_z, own_height, own_alive, own_index = rows_of((z, height, alive, index), rows)
    level = jnp.abs(own_z[:, None] - z[None, :]) < (own_height[:, None] + height[None, :]) / 2
    return level & own_alive[:, None] & alive[None, :] & (own_index[:, None] != index[None, :])


def pair_gap(first: Boxes, second: Boxes) -> Float[Array, "N M"]:
    """Largest separation, m, over the four axes of box i of `first` [N] and box j of `second` [M]."""
    offsets, radii = _axes(first, second)
    gaps = [jnp.abs(p) - r for p, r in zip(offsets, radii, strict=True)]
    return jnp.maximum(jnp.maximum(gaps[0], gaps[1]), jnp.maximum(gaps[2], gaps[3]))


def end_gaps(first: Boxes, second: Boxes) -> tuple[Float[Array, "N M"], Float[Array, "N M"]]:
    """`pair_gap` of the front and of the rear line of box i (boxes of length 0) and box j, for boxes in contact, m.

    For others the value means nothing: the axis across i, which the lines share with their box, is not looked at.
    """
    (ahead, _, other_ahead, other_left), _ = _axes(first, second)
    a, b = Boxes(*(v[:, None] for v in first)), Boxes(*(v[None, :] for v in second))
    cos, sin = a.cos * b.cos + a.sin * b.sin, a.cos * b.sin - a.sin * b.cos
    c, s = jnp.abs(cos), jnp.abs(sin)

    def gap(end: Float[Array, "N 1"]) -> Float[Array, "N M"]:
        lengthwise = jnp.abs(ahead - end) - (b.length * c + b.width * s) / 2
        across = jnp.abs(other_ahead - end * cos) - (b.length + a.width * s) / 2
        along = jnp.abs(other_left + end * sin) - (b.width + a.width * c) / 2
        return jnp.maximum(lengthwise, jnp.maximum(across, along))

    return gap(a.length / 2), gap(-a.length / 2)


def _axes(first: Boxes, second: Boxes) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Offset of centre j from centre i along the axes (ahead and left of i, of j), and the sums of the radii there."""
    a, b = Boxes(*(v[:, None] for v in first)), Boxes(*(v[None, :] for v in second))
    c = jnp.abs(a.cos * b.cos + a.sin * b.sin)
    s = jnp.abs(a.cos * b.sin - a.sin * b.cos)
    radii = (
        (a.length + b.length * c + b.width * s) / 2,
        (a.width + b.length * s + b.width * c) / 2,
        (b.length + a.length * c + a.width * s) / 2,
        (b.width + a.length * s + a.width * c) / 2,
    )
    return _project(b.x - a.x, b.y - a.y, a, b), radii


def _project(dx: Array, dy: Array, a: Boxes, b: Boxes) -> tuple[Array, ...]:
    """(dx, dy) along the axes of a and of b."""
    return (
        dx * a.cos + dy * a.sin,
        dy * a.cos - dx * a.sin,
        dx * b.cos + dy * b.sin,
        dy * b.cos - dx * b.sin,
    )


def time_to_collision(
    pose: Pose,
    length: Float32[Array, " N"],
    width: Float32[Array, " N"],
    pairs: Bool[Array, "M N"],
    rows: Rows = None,
) -> Float32[Array, "M N"]:
    """Seconds until boxes i and j touch if both keep velocity and yaw; `TTC_CAP` where not before, or not in `pairs`.

    Exact for the separating axes: the boxes overlap while the intervals of all four axes do. rows: the objects of the
    first axis. Source: ours, 3.5.
    """
    box = boxes(pose, length, width)
    own, own_vx, own_vy = rows_of((box, pose.vx, pose.vy), rows)
    offsets, radii = _axes(own, box)
    a, b = Boxes(*(v[:, None] for v in own)), Boxes(*(v[None, :] for v in box))
    speeds = _project(pose.vx[None, :] - own_vx[:, None], pose.vy[None, :] - own_vy[:, None], a, b)
    enter, leave = jnp.asarray(-FAR, pose.x.dtype), jnp.asarray(FAR, pose.x.dtype)
    for p, u, r in zip(offsets, speeds, radii, strict=True):
        rest = jnp.abs(u) < _AT_REST
        inverse = 1 / jnp.where(rest, 1.0, u)
        middle, half = -p * inverse, r * jnp.abs(inverse)
        # An axis along which nothing moves separates for ever or never.
        apart = jnp.where(jnp.abs(p) < r, -FAR, FAR)
        enter = jnp.maximum(enter, jnp.where(rest, apart, middle - half))
        leave = jnp.minimum(leave, jnp.where(rest, FAR, middle + half))
    meets = pairs & (enter < leave) & (leave > 0)
    return jnp.where(meets, jnp.clip(enter, 0.0, TTC_CAP), TTC_CAP)


def box_distance(first: Boxes, second: Boxes) -> Float[Array, "N M"]:
    """Euclidean distance, m, between box i of `first` [N] and box j of `second` [M]; 0 where they overlap.

    The nearest points of two disjoint rectangles include a corner of one: the least of the eight distances from a
    corner to the other box. Source: ours.
    """
    nearest = jnp.minimum(_corners_to_boxes(first, second), _corners_to_boxes(second, first).T)
    return jnp.where(pair_gap(first, second) < 0, 0.0, nearest)


def _corners_to_boxes(corner_of: Boxes, box: Boxes) -> Float[Array, "N M"]:
    """Least distance of the corners of box i of `corner_of` to box j of `box`, m."""
    b = Boxes(*(v[None, :] for v in box))
    best = jnp.full((len(corner_of.x), len(box.x)), jnp.inf, corner_of.x.dtype)
    for ahead, left in ((1, 1), (-1, 1), (-1, -1), (1, -1)):
        lon, lat = ahead * corner_of.length / 2, left * corner_of.width / 2
        dx = (corner_of.x + lon * corner_of.cos - lat * corner_of.sin)[:, None] - b.x
        dy = (corner_of.y + lon * corner_of.sin + lat * corner_of.cos)[:, None] - b.y
        out_x = jnp.maximum(jnp.abs(dx * b.cos + dy * b.sin) - b.length / 2, 0.0)
        out_y = jnp.maximum(jnp.abs(dy * b.cos - dx * b.sin) - b.width / 2, 0.0)
        best = jnp.minimum(best, out_x**2 + out_y**2)
    return jnp.sqrt(best)
