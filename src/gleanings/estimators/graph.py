"""`expect_graph`: expectations over several discrete variables, possibly in layers, each with its own estimator."""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gleanings.core.errors import ConfigError
from gleanings.estimators._base import AbstractEstimator, AbstractLinearEstimator, checked_key, checked_values
from gleanings.estimators._logits import Logits
from gleanings.estimators.straight import AbstractStraightEstimator
from gleanings.estimators.transform import first_order, link

Settle = Callable[[Array], Array]


class Site:
    """Draws the discrete variables of one run of a model: `z = site("name", logits, estimator)`.

    Each site adds its n evaluations as a new leading axis of everything that follows: after two sites arrays are
    `[n2, n1, *batch, ...]`. The first site's logits carry the whole batch; later logits may leave out leading axes
    that they do not depend on.
    """

    def __init__(self, key: Array, common_random_numbers: bool) -> None:
        self._key = checked_key(key)
        self._common = common_random_numbers
        self._settle: dict[str, Settle] = {}
        self._axes: tuple[int, ...] = ()
        self._batch: tuple[int, ...] | None = None

    def __call__(self, name: str, logits: PyTree, estimator: AbstractEstimator) -> PyTree[Float[Array, "..."]]:
        """One-hot draws `[n, *earlier, *batch, D, K]` of `logits`; ConfigError for a name used twice.

        Independent variables belong into one site, as a pytree of logits: sites multiply the cost.
        """
        if name in self._settle:
            raise ConfigError(f"site name {name!r} is used twice: give every site a name of its own")
        key = jax.random.fold_in(self._key, zlib.crc32(name.encode()))
        logits = self._with_earlier_axes(logits, 1 if estimator.variable == "binary" else 2)
        depth = len(self._axes) if self._common else 0
        if isinstance(estimator, AbstractStraightEstimator):
            samples, settle = _draw_straight(estimator, logits, key, depth)
        elif isinstance(estimator, AbstractLinearEstimator):
            samples, settle = _draw_linear(estimator, logits, key, depth)
        else:
            raise ConfigError(f"site {name!r}: {type(estimator).__name__} cannot be used in a graph")
        self._axes = (jax.tree.leaves(samples)[0].shape[0], *self._axes)
        self._settle[name] = settle
        return samples

    def _with_earlier_axes(self, logits: PyTree, rank: int) -> PyTree:
        if self._batch is None:
            self._batch = jnp.shape(jax.tree.leaves(logits)[0])[:-rank]
        shape = (*self._axes, *self._batch)

        def broadcast(leaf: Array) -> Array:
            try:
                return jnp.broadcast_to(leaf, (*shape, *leaf.shape[-rank:]))
            except ValueError:
                raise ConfigError(
                    f"logits of shape {list(leaf.shape)} do not broadcast to the axes {list(shape)} "
                    "of the earlier sites and the batch"
                ) from None

        return jax.tree.map(broadcast, logits)

    def settle(self, cost: Array) -> Float[Array, "*batch"]:
        """Expected cost `[*batch]` with all gradients attached, from the cost `[n_S, ..., n_1, *batch]`."""
        cost = checked_values(cost, (*self._axes, *(self._batch or ())))
        for settle in reversed(self._settle.values()):
            cost = settle(cost)
        return cost


def expect_graph(
    model: Callable[[PyTree, PyTree, Site], Array], common_random_numbers: bool = False
) -> Callable[[PyTree, PyTree, Array], Float[Array, "*batch"]]:
    """Turn `model(params, x, site)` -> cost into the expected cost `[*batch]`, differentiable in `params`.

    The model draws with `site` and returns costs `[n_S, ..., n_1, *batch]`, all sites' axes leading. With
    `common_random_numbers` a site uses the same noise for every draw of the earlier sites: unbiased too, and usually
    of smaller variance. Raises ConfigError for a duplicate name or a wrong shape. Source: ours, after Schulman et al.
    2015, "Gradient estimation using stochastic computation graphs".
    """

    def objective(params: PyTree, x: PyTree, key: Array) -> Float[Array, "*batch"]:
        site = Site(key, common_random_numbers)
        return site.settle(model(params, x, site))

    return objective


def _draw_linear(estimator: AbstractLinearEstimator, logits: PyTree, key: Array, depth: int) -> tuple[PyTree, Settle]:
    """Draws, and the step that averages a cost over them; the noise is shared over the first `depth` axes."""
    draw_all: Callable[..., Any] = estimator.draw
    cotangent_of: Callable[..., Any] = estimator.cotangent
    value_of: Callable[..., Any] = lambda draw, cost: draw.logits.value(cost, draw.weights)  # noqa: E731
    for _ in range(depth):
        draw_all = jax.vmap(draw_all, (0, None))
        cotangent_of, value_of = jax.vmap(cotangent_of), jax.vmap(value_of)
    draw = draw_all(jax.lax.stop_gradient(logits), key)
    samples = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, depth, 0), draw.samples)

    def settle(cost: Array) -> Array:
        cost = jnp.moveaxis(cost, 0, depth)
        return link(value_of(draw, cost), cotangent_of(draw, cost), logits)

    return samples, settle


def _draw_straight(
    estimator: AbstractStraightEstimator, logits: PyTree, key: Array, depth: int
) -> tuple[PyTree, Settle]:
    """A sample whose derivative is the surrogate Jacobian, and the step that drops its axis."""
    clean = Logits.of(jax.lax.stop_gradient(logits), estimator.variable)
    live = Logits.of(logits, estimator.variable)
    sample_all: Callable[..., Any] = estimator.sample
    for _ in range(depth):
        sample_all = jax.vmap(sample_all, (0, None))
    samples, residuals = sample_all(clean, key)
    attached = [
        _attach(estimator, z, jax.lax.stop_gradient(residual), leaf)[None]
        for z, residual, leaf in zip(samples, residuals, live.leaves, strict=True)
    ]
    return clean.samples(attached), lambda cost: clean.value(cost, jnp.ones_like(cost))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attach(estimator: AbstractStraightEstimator, z: Array, residual: PyTree, logits: Array) -> Array:
    del estimator, residual, logits
    return z


@_attach.defjvp
def _attach_jvp(estimator: AbstractStraightEstimator, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    z, residual, logits = primals
    residual = jax.tree.map(lambda leaf: first_order(leaf, logits), residual)
    return z, estimator.jacobian_product(residual, tangents[2])
