"""Every leading linear class at once: one Gram matrix a stage and action, one Cholesky factor, one solve a target.

A class of size d has, for each action, the first d columns of one feature map. The leading block of an inverse lower
triangle is the inverse of the leading block, so with W the inverse factor of the largest class and z = W b the weights
of every class are W' z with z cut off at d. Source: ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int

from gleanings.selection.classes import AnyArray

_RELATIVE_NOISE = 1e-3
_BLOCK, _FEW_ACTIONS = 24, 4


class Rows(NamedTuple):
    """Logged rows by stage. Rows that stand in for none have the weights `train` and `valid` 0.

    `discount` multiplies the value of the next observation: 0 after the end.
    """

    features: Float[Array, "H n D"]
    action: Int[Array, "H n"]
    reward: Float[Array, "H n"]
    next_features: Float[Array, "H n D"]
    discount: Float[Array, "H n"]
    train: Float[Array, "H n"]
    valid: Float[Array, "H n"]


class Comparisons(NamedTuple):
    """Classes against larger ones on validation rows; k the small class, j the large, which fits the target of k.

    small [H, k]: squared error of f_k to its target. large [H, k, j]: that of the large class's fit. se [H, k, j]:
    standard error of their difference. gap [H, k]: mean squared distance of f_k to the largest class's fit.
    effective_rows [H, k]: see `effective_rows`. rows [H]: validation rows.
    """

    small: Float[AnyArray, "H M"]
    large: Float[AnyArray, "H M M"]
    se: Float[AnyArray, "H M M"]
    gap: Float[AnyArray, "H M"]
    effective_rows: Float[AnyArray, "H M"]
    rows: Float[AnyArray, " H"]


def leading(dims: tuple[int, ...]) -> Float[Array, "M D"]:
    """1 where a column belongs to a class."""
    return jnp.asarray((np.arange(dims[-1]) < np.asarray(dims)[:, None]).astype(np.float32))


def factors(rows: Rows, num_actions: int, ridge: float | Array) -> Float[Array, "H A D D"]:
    """Inverse Cholesky factors of sum phi phi' + ridge * n_train I over the training rows of a stage and action.

    NaN where that is not positive definite in the precision of the features.
    """

    def gram(stage: Rows) -> Array:
        chosen = _chosen(stage, num_actions)
        return jnp.einsum("na,ni,nj->aij", chosen, stage.features, stage.features, optimize="optimal")

    size = rows.features.shape[-1]
    penalties = ridge * rows.train.sum(-1)[:, None, None, None] * jnp.eye(size, dtype=rows.features.dtype)
    grams = jax.lax.map(gram, rows) + penalties
    # One matrix at a time: what XLA has for batches of them is several times slower than LAPACK.
    flat = jax.lax.map(lambda one: _inverse(jnp.linalg.cholesky(one)), grams.reshape(-1, size, size))
    return flat.reshape(grams.shape)


def _inverse(lower: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Inverse of a lower triangle, from those of its two diagonal blocks.

    Solving for the whole triangle at once wakes LAPACK's threads, which costs ten times what this does.
    """
    size = len(lower)
    if size <= _BLOCK:
        return solve_triangular(lower, jnp.eye(size, dtype=lower.dtype), lower=True)
    half = size // 2
    first, last = _inverse(lower[:half, :half]), _inverse(lower[half:, half:])
    corner = -last @ lower[half:, :half] @ first
    return jnp.block([[first, jnp.zeros_like(lower[:half, half:])], [corner, last]])


def regress(
    factor: Float[Array, "A D D"], stage: Rows, target: Float[Array, " n"], masks: Float[Array, "M D"]
) -> Float[Array, "M A D"]:
    """Weights of each masked class, fitted to `target` on the training rows."""
    chosen = _chosen(stage, factor.shape[0])
    b = jnp.einsum("na,ni->ai", chosen * target[:, None], stage.features)
    z = jnp.einsum("aij,aj->ai", factor, b)
    return jnp.einsum("aij,mi,ai->maj", factor, masks, z, optimize="optimal")


class Fits(NamedTuple):
    """Weights of every class, zero beyond its columns, and the targets that they were fitted to."""

    weights: Float[Array, "H M A D"]
    targets: Float[Array, "H M n"]


def staged_fits(factor: Float[Array, "H A D D"], rows: Rows, masks: Float[Array, "M D"]) -> Fits:
    """Fitted Q iteration of every class, backwards over the stages."""
    nothing = jnp.zeros((len(masks), *factor.shape[1:3]), factor.dtype)

    def back(later: Array, stage: tuple[Array, Rows]) -> tuple[Array, Fits]:
        factor, own = stage
        target = own.reward + own.discount * next_values(own, later)
        weights = _own_targets(factor, own, target, masks)
        return weights, Fits(weights, target)

    return jax.lax.scan(back, nothing, (factor, rows), reverse=True)[1]


def discounted_fits(
    factor: Float[Array, "1 A D D"],
    rows: Rows,
    masks: Float[Array, "M D"],
    sweeps: int,
    value_range: tuple[float | Array, float | Array],
) -> Fits:
    """Fitted Q iteration of every class, `sweeps` times over one set, targets clipped to `value_range`."""
    own = jax.tree.map(lambda x: x[0], rows)

    def target_of(weights: Array) -> Array:
        return jnp.clip(own.reward + own.discount * next_values(own, weights), *value_range)

    def sweep(weights: Array, _: None) -> tuple[Array, None]:
        return _own_targets(factor[0], own, target_of(weights), masks), None

    nothing = jnp.zeros((len(masks), *factor.shape[1:3]), factor.dtype)
    weights, _ = jax.lax.scan(sweep, nothing, length=sweeps)
    return Fits(weights[None], target_of(weights)[None])


def staged_values(factor: Float[Array, "H A D D"], rows: Rows, weights: Float[Array, "H M A D"]) -> Float[Array, " M"]:
    """Fitted Q evaluation of every class's greedy policy in the largest class: mean value at the first stage's rows."""
    everything = jnp.ones((1, factor.shape[-1]), factor.dtype)

    def back(later: tuple[Array, Array], stage: tuple[Array, Rows, Array]) -> tuple[tuple[Array, Array], None]:
        (value, policy), (factor, own, greedy) = later, stage
        target = own.reward + own.discount * _played(own.next_features, value, policy)
        fit = jax.vmap(lambda y: regress(factor, own, y, everything)[0])
        return (fit(target), greedy), None

    nothing = jnp.zeros_like(weights[0])
    (value, policy), _ = jax.lax.scan(back, (nothing, nothing), (factor, rows, weights), reverse=True)
    weight = rows.train[0] + rows.valid[0]
    return (_played(rows.features[0], value, policy) * weight).sum(-1) / weight.sum()


def discounted_values(
    factor: Float[Array, "1 A D D"],
    rows: Rows,
    weights: Float[Array, "1 M A D"],
    sweeps: int,
    value_range: tuple[float | Array, float | Array],
) -> Float[Array, " M"]:
    """The same for a discounted process, in sweeps: mean value at all rows."""
    own, everything = jax.tree.map(lambda x: x[0], rows), jnp.ones((1, factor.shape[-1]), factor.dtype)

    def sweep(value: Array, _: None) -> tuple[Array, None]:
        target = jnp.clip(own.reward + own.discount * _played(own.next_features, value, weights[0]), *value_range)
        return jax.vmap(lambda y: regress(factor[0], own, y, everything)[0])(target), None

    value, _ = jax.lax.scan(sweep, jnp.zeros_like(weights[0]), length=sweeps)
    weight = own.train + own.valid
    return (_played(own.features, value, weights[0]) * weight).sum(-1) / weight.sum()


def optimistic_values(rows: Rows, weights: Float[Array, "H M A D"]) -> Float[Array, " M"]:
    """Mean of max_a f(x, a) at the first stage's rows, which is what each class says of itself."""
    weight = rows.train[0] + rows.valid[0]
    return (jnp.einsum("nd,mad->mna", rows.features[0], weights[0]).max(-1) * weight).sum(-1) / weight.sum()


def _own_targets(factor: Array, own: Rows, target: Array, masks: Array) -> Array:
    """Weights of each class fitted to its own target."""
    return jax.vmap(lambda y, mask: regress(factor, own, y, mask[None])[0])(target, masks)


def _played(features: Array, value: Array, policy: Array) -> Array:
    """Values `[M, n]` under `value` of the greedy actions under `policy`."""
    action = jnp.einsum("nd,mad->mna", features, policy).argmax(-1)
    return jnp.take_along_axis(jnp.einsum("nd,mad->mna", features, value), action[..., None], -1)[..., 0]


def next_values(stage: Rows, weights: Float[Array, "M A D"]) -> Float[Array, "M n"]:
    """max_a f(x', a) of every class."""
    return jnp.einsum("nd,mad->mna", stage.next_features, weights).max(-1)


def compare(factor: Float[Array, "H A D D"], rows: Rows, fits: Fits, masks: Float[Array, "M D"]) -> Comparisons:
    """Each class against each larger one at each stage."""
    return jax.lax.map(lambda stage: _compare_stage(stage[0], stage[1], stage[2], masks), (factor, rows, fits))


def _compare_stage(factor: Array, own: Rows, fits: Fits, masks: Array) -> Comparisons:
    """The comparisons of a stage, from one product of the rows with the weights of all pairs of classes."""
    classes, valid = len(masks), own.valid.sum()
    # Pairs (k, j) with j > k; the others are never read, and would double the work.
    k, j = np.triu_indices(classes, 1)
    chosen = _chosen(own, len(factor))
    b = jnp.einsum("kn,na,ni->kai", fits.targets, chosen, own.features, optimize="optimal")
    z = jnp.einsum("aij,kaj->kai", factor, b)
    pairs = jnp.einsum("aij,pi,pai->paj", factor, masks[j], z[k], optimize="optimal")
    values = _at_actions(own, jnp.concatenate([fits.weights, pairs]))
    small, large, targets = values[:, :classes], values[:, classes:], fits.targets.T

    def mean(x: Array) -> Array:
        return own.valid @ x / valid

    errors = small - targets
    squares = (large - targets[:, k]) ** 2
    excess = errors[:, k] ** 2 - squares
    error = jnp.sqrt(mean((excess - mean(excess)) ** 2) / valid)
    losses, nothing = mean(errors**2), jnp.zeros((classes, classes), values.dtype)
    gap = mean((small[:, :-1] - large[:, j == classes - 1]) ** 2)
    return Comparisons(
        small=losses,
        large=jnp.diag(losses).at[k, j].set(mean(squares)),
        se=nothing.at[k, j].set(error),
        gap=jnp.append(gap, 0.0),
        effective_rows=jax.vmap(lambda e, y: effective_rows(e, y, own.train + own.valid))(errors.T, fits.targets),
        rows=valid,
    )


def _at_actions(own: Rows, weights: Array) -> Array:
    """Values `[n, P]` at the logged actions under weights `[P, A, D]`."""
    if weights.shape[1] > _FEW_ACTIONS:  # all actions' values at once would take too much memory
        chosen = jax.nn.one_hot(own.action, weights.shape[1], dtype=weights.dtype).T
        start = jnp.zeros((len(own.action), len(weights)), weights.dtype)
        return jax.lax.scan(
            lambda sum_, one: (sum_ + one[0][:, None] * (own.features @ one[1].T), None),
            start,
            (chosen, jnp.moveaxis(weights, 1, 0)),
        )[0]
    values = own.features @ weights.reshape(-1, weights.shape[-1]).T
    return jnp.take_along_axis(values.reshape(-1, *weights.shape[:2]), own.action[:, None, None], 2)[..., 0]


@jax.jit
def effective_rows(
    error: Float[Array, " n"], target: Float[Array, " n"], weight: Float[Array, " n"]
) -> Float[Array, ""]:
    """(sum e~^2)^2 / sum e~^4 with e~ the centred error: how many rows carry it.

    About n p for an error made by an event of rate p, n / 3 for a Gaussian one; 0 if error and target do not vary; all
    rows if the error is below 1e-3 of the target's spread. Source: ours.
    """
    rows = weight.sum()
    centred = (error - (error * weight).sum() / rows) * (weight > 0)
    largest = jnp.abs(centred).max()
    scale = jnp.where(largest > 0, largest, 1)  # powers of tiny or huge errors would leave float32
    centred, target = centred / scale, target / scale
    second, fourth = (weight * centred**2).sum(), (weight * centred**4).sum()
    mean = (target * weight).sum() / rows
    spread = jnp.sqrt((weight * (target - mean) ** 2).sum() / rows)
    negligible = (spread > 0) & (jnp.sqrt(second / rows) <= _RELATIVE_NOISE * spread)
    return jnp.where(negligible, rows, jnp.where(fourth > 0, second**2 / jnp.where(fourth > 0, fourth, 1), 0))


def _chosen(stage: Rows, num_actions: int) -> Float[Array, "n A"]:
    """Training weight of each row at its action."""
    return jax.nn.one_hot(stage.action, num_actions, dtype=stage.features.dtype) * stage.train[:, None]
