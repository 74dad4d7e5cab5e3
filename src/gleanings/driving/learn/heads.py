"""Distributions over actions u in [-1, 1]^2, made of the outputs of a network: the family of heads.

All methods take the parameters [P] of one row; `jax.vmap` batches. Source: design page 3.6 (ours); the mixture is that
of the cloning agent of arXiv 2310.08710, the squashed Gaussian that of soft actor-critic (arXiv 1801.01290).
"""

import abc
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.config import HeadName

Value = Callable[[Any], Any]
_CLIP = 0.98  # labels nearer to the ends have no finite pre-image worth fitting
_LOWEST, _HIGHEST = -4.0, 0.5  # of log sigma


class Head(eqx.Module):
    """A distribution of u; static, without arrays."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """P, numbers that the network puts out."""

    @abc.abstractmethod
    def sample(self, params: Float[Array, " P"], key: Key[Array, ""]) -> tuple[Float[Array, "2"], Float[Array, ""]]:
        """u and its log density; in the tanh heads differentiable in `params`, given the component."""

    @abc.abstractmethod
    def log_prob(self, params: Float[Array, " P"], u: Float[Array, "2"], mask: Bool[Array, "2"]) -> Float[Array, ""]:
        """Log density of a label (of a bin: log probability); dimensions that `mask` leaves out are summed out."""

    @abc.abstractmethod
    def mode(self, params: Float[Array, " P"]) -> Float[Array, "2"]:
        """The action taken without noise."""

    @property
    @abc.abstractmethod
    def noise_shape(self) -> tuple[int, ...]:
        """Of the standard normal numbers that `actor_loss_at` takes for a row."""

    @abc.abstractmethod
    def actor_loss_at(
        self, params: Float[Array, " P"], q: Value, alpha: float | Float[Array, ""], noise: Float[Array, "..."]
    ) -> Float[Array, ""]:
        """`actor_loss` at given noise, which is drawn much faster for many rows at once."""

    def actor_loss(
        self, params: Float[Array, " P"], q: Value, alpha: float | Float[Array, ""], key: Key[Array, ""]
    ) -> Float[Array, ""]:
        """An unbiased estimate, as its gradient is, of E[alpha log pi(u) - q(u)]. q: u [2] -> []."""
        return self.actor_loss_at(params, q, alpha, jax.random.normal(key, self.noise_shape, params.dtype))

    @abc.abstractmethod
    def clipped(self, u: Float[Array, "*batch 2"]) -> Bool[Array, "*batch 2"]:
        """Where a label is moved before its density is taken."""


class TanhGaussian(Head):
    """u = tanh(x), x normal with a diagonal covariance. P = 4: means, then outputs o of the spreads.

    log sigma = -4 + 2.25 (tanh(o) + 1): smooth, since a hard clip has no gradient outside.
    """

    @property
    def size(self) -> int:
        """4."""
        return 4

    def sample(self, params: Float[Array, "4"], key: Key[Array, ""]) -> tuple[Float[Array, "2"], Float[Array, ""]]:
        """Reparameterised."""
        return self._at(params, jax.random.normal(key, (2,), params.dtype))

    def log_prob(self, params: Float[Array, "4"], u: Float[Array, "2"], mask: Bool[Array, "2"]) -> Float[Array, ""]:
        """Of a label, clipped to [-0.98, 0.98]."""
        return self.log_density(params, _unsquashed(u, mask), mask)

    def log_density(self, params: Float[Array, "4"], x: Float[Array, "2"], mask: Bool[Array, "2"]) -> Float[Array, ""]:
        """Log density at u = tanh(x), unclipped."""
        return jnp.where(mask, _normal(params[:2], params[2:], x) - _log_slope(x), 0.0).sum()

    def mode(self, params: Float[Array, "4"]) -> Float[Array, "2"]:
        """tanh of the means."""
        return jnp.tanh(params[:2])

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """(2,)."""
        return (2,)

    def actor_loss_at(
        self, params: Float[Array, "4"], q: Value, alpha: float | Float[Array, ""], noise: Float[Array, "2"]
    ) -> Float[Array, ""]:
        """At one reparameterised action."""
        u, log_prob = self._at(params, noise)
        return alpha * log_prob - q(u)

    def _at(self, params: Array, noise: Array) -> tuple[Array, Array]:
        x = _draw(params[:2], params[2:], noise)
        return jnp.tanh(x), self.log_density(params, x, jnp.ones(2, bool))

    def clipped(self, u: Float[Array, "*batch 2"]) -> Bool[Array, "*batch 2"]:
        """Beyond 0.98."""
        return jnp.abs(u) > _CLIP


class TanhMixture(Head):
    """u = tanh(x), x from a mixture of `components` (K) diagonal normals. P = 5 K: means, spreads, logits.

    ConfigError: no component.
    """

    components: int = eqx.field(static=True, default=6)

    def __check_init__(self) -> None:
        if self.components < 1:
            raise ConfigError(f"a mixture of {self.components} components: at least 1 is needed")

    @property
    def size(self) -> int:
        """5 K."""
        return 5 * self.components

    def sample(self, params: Float[Array, " P"], key: Key[Array, ""]) -> tuple[Float[Array, "2"], Float[Array, ""]]:
        """Reparameterised given the component; the choice of the component has no gradient."""
        mean, spread, logits = self._split(params)
        choose, draw = jax.random.split(key)
        k = jax.random.categorical(choose, logits)
        x = _draw(mean[k], spread[k], jax.random.normal(draw, (2,), params.dtype))
        return jnp.tanh(x), self.log_density(params, x, jnp.ones(2, bool))

    def log_prob(self, params: Float[Array, " P"], u: Float[Array, "2"], mask: Bool[Array, "2"]) -> Float[Array, ""]:
        """Of a label, clipped to [-0.98, 0.98]."""
        return self.log_density(params, _unsquashed(u, mask), mask)

    def log_density(self, params: Float[Array, " P"], x: Float[Array, "2"], mask: Bool[Array, "2"]) -> Float[Array, ""]:
        """Log density at u = tanh(x), unclipped."""
        mean, spread, logits = self._split(params)
        each = jnp.where(mask, _normal(mean, spread, x), 0.0).sum(-1)
        slope = jnp.where(mask, _log_slope(x), 0.0).sum()
        return jax.nn.logsumexp(jax.nn.log_softmax(logits) + each) - slope

    def mode(self, params: Float[Array, " P"]) -> Float[Array, "2"]:
        """tanh of the means of the component with the largest weight."""
        mean, _, logits = self._split(params)
        return jnp.tanh(mean[jnp.argmax(logits)])

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """(K, 2)."""
        return self.components, 2

    def actor_loss_at(
        self, params: Float[Array, " P"], q: Value, alpha: float | Float[Array, ""], noise: Float[Array, "K 2"]
    ) -> Float[Array, ""]:
        """Weighted sum over one reparameterised action of each component, so that the weights get their gradient."""
        mean, spread, logits = self._split(params)
        x = _draw(mean, spread, noise)
        log_prob = jax.vmap(lambda x: self.log_density(params, x, jnp.ones(2, bool)))(x)
        return jax.nn.softmax(logits) @ (alpha * log_prob - jax.vmap(q)(jnp.tanh(x)))

    def clipped(self, u: Float[Array, "*batch 2"]) -> Bool[Array, "*batch 2"]:
        """Beyond 0.98."""
        return jnp.abs(u) > _CLIP

    def _split(self, params: Float[Array, " P"]) -> tuple[Array, Array, Array]:
        k = self.components
        return params[: 2 * k].reshape(k, 2), params[2 * k : 4 * k].reshape(k, 2), params[4 * k :]


class Categorical(Head):
    """A probability for each of bins[0] x bins[1] actions; P is their product, the second axis fastest.

    Half of an axis is linear in [-1, 0], half in [0, 1]; the middle is exactly 0, as in `dynamics.Discrete`.
    ConfigError: two odd numbers from 3 on are needed.
    """

    bins: tuple[int, int] = eqx.field(static=True, default=(13, 21))

    def __check_init__(self) -> None:
        if len(self.bins) != 2 or min(self.bins) < 3 or not all(m % 2 for m in self.bins):
            raise ConfigError(f"Categorical bins {self.bins}: two odd numbers from 3 on are needed")

    @property
    def size(self) -> int:
        """Number of actions."""
        return math.prod(self.bins)

    def actions(self) -> Float[Array, "A 2"]:
        """u of every action, in the order of the parameters."""
        axes = [(jnp.arange(m) - m // 2) / (m // 2) for m in self.bins]
        return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)

    def index(self, u: Float[Array, "2"]) -> Int[Array, "2"]:
        """Bins nearest to u, along both axes."""
        half = jnp.asarray([m // 2 for m in self.bins], jnp.int32)
        return half + jnp.round(jnp.clip(u, -1.0, 1.0) * half).astype(jnp.int32)

    def sample(self, params: Float[Array, " P"], key: Key[Array, ""]) -> tuple[Float[Array, "2"], Float[Array, ""]]:
        """The middle of a bin and the log probability of the bin; the choice has no gradient."""
        chosen = jax.random.categorical(key, params)
        return self.actions()[chosen].astype(params.dtype), jax.nn.log_softmax(params)[chosen]

    def log_prob(self, params: Float[Array, " P"], u: Float[Array, "2"], mask: Bool[Array, "2"]) -> Float[Array, ""]:
        """Of the nearest bin."""
        rows, columns = (jnp.arange(m) for m in self.bins)
        i, j = self.index(jnp.where(mask, u, 0.0))
        among = ((rows == i) | ~mask[0])[:, None] & ((columns == j) | ~mask[1])
        return jax.nn.logsumexp(params, where=among.reshape(-1)) - jax.nn.logsumexp(params)

    def mode(self, params: Float[Array, " P"]) -> Float[Array, "2"]:
        """The likeliest action."""
        return self.actions()[jnp.argmax(params)].astype(params.dtype)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """(0,)."""
        return (0,)

    def actor_loss_at(
        self, params: Float[Array, " P"], q: Value, alpha: float | Float[Array, ""], noise: Float[Array, "0"]
    ) -> Float[Array, ""]:
        """The exact sum over all actions, without noise."""
        log_prob = jax.nn.log_softmax(params)
        return jnp.exp(log_prob) @ (alpha * log_prob - jax.vmap(q)(self.actions().astype(params.dtype)))

    def clipped(self, u: Float[Array, "*batch 2"]) -> Bool[Array, "*batch 2"]:
        """Beyond 1."""
        return jnp.abs(u) > 1.0


def make_head(name: HeadName, components: int = 6, bins: tuple[int, int] = (13, 21)) -> Head:
    """The head of a name in a config. ConfigError: another name, or as the head says."""
    if name == "gaussian":
        return TanhGaussian()
    if name == "mixture":
        return TanhMixture(components)
    if name == "categorical":
        return Categorical(bins)
    raise ConfigError(f"head {name!r}: use gaussian, mixture or categorical")


def _unsquashed(u: Float[Array, "2"], mask: Bool[Array, "2"]) -> Float[Array, "2"]:
    """x of a label, the one place where labels are clipped: density and slope see the same x."""
    return jnp.arctanh(jnp.clip(jnp.where(mask, u, 0.0), -_CLIP, _CLIP))


def _log_sigma(spread: Float[Array, "*K 2"]) -> Float[Array, "*K 2"]:
    return _LOWEST + (_HIGHEST - _LOWEST) / 2 * (jnp.tanh(spread) + 1)


def _draw(mean: Float[Array, "*K 2"], spread: Float[Array, "*K 2"], noise: Float[Array, "*K 2"]) -> Array:
    return mean + jnp.exp(_log_sigma(spread)) * noise


def _normal(mean: Float[Array, "*K 2"], spread: Float[Array, "*K 2"], x: Float[Array, "2"]) -> Float[Array, "*K 2"]:
    """Log density of x, for each dimension."""
    log_sigma = _log_sigma(spread)
    return -jnp.square((x - mean) * jnp.exp(-log_sigma)) / 2 - log_sigma - math.log(2 * math.pi) / 2


def _log_slope(x: Float[Array, "2"]) -> Float[Array, "2"]:
    """log(1 - tanh(x)^2)."""
    return 2 * (math.log(2.0) - x - jax.nn.softplus(-2 * x))
