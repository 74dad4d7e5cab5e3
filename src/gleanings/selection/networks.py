"""Networks as nested classes: a linear part and two hidden ReLU layers, so that constant < linear < mlp[16] < mlp[64].

A smaller network is a larger one with zeros, and `widen` makes it one without changing its outputs, so that a larger
class can go on where a smaller one stopped. Source: ours.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from gleanings.core.errors import ConfigError
from gleanings.core.keys import stream
from gleanings.selection.bandit import BanditLog
from gleanings.selection.classes import AnyArray, FeatureMap, FunctionClass, Identity, LinearQ, Q
from gleanings.selection.pessimistic import BanditClass, LinearFit, fit_heads

_BATCH, _HELD_OUT, _CHECK_EVERY, _LEAST_BUCKET = 256, 10, 10, 256
_RIDGE = 1e-3  # that of the linear classes


class Weights(NamedTuple):
    """What training changes: values = bias + linear x + out relu(second relu(first x + first_bias) + second_bias)."""

    bias: Float[Array, " A"]
    linear: Float[Array, "A D"]
    first: Float[Array, "W D"]
    first_bias: Float[Array, " W"]
    second: Float[Array, "W W"]
    second_bias: Float[Array, " W"]
    out: Float[Array, "A W"]


class Net(eqx.Module):
    """A fitted network; it sees (observation - mean) / scale."""

    mean: Float[Array, " D"]
    scale: Float[Array, " D"]
    weights: Weights

    @property
    def width(self) -> int:
        """W, units in each hidden layer."""
        return len(self.weights.first_bias)

    def __call__(self, observation: Float[AnyArray, "B D"]) -> Float[Array, "B A"]:
        return _predict(self, jnp.asarray(observation, jnp.float32))


class HiddenLayer(FeatureMap):
    """What the values of a network are linear in: 1, the scaled columns, and its last hidden layer."""

    net: Net

    def __call__(self, observation: Float[AnyArray, "B D"]) -> Float[Array, "B F"]:
        return _last_hidden(self.net, jnp.asarray(observation, jnp.float32))

    def size(self, columns: int) -> int:
        """1 + columns + width."""
        return 1 + columns + self.net.width


class Mlp(FunctionClass):
    """Networks with two hidden layers of `width` units, trained by Adam on batches of 256 rows.

    The linear part is first solved for by ridge regression on what the start leaves over, then everything is trained.
    steps: of one regression, a multiple of 10. sweep_steps: of each sweep of fitted Q iteration but the first, which
    goes on from the sweep before. rate: the first learning rate; it falls to zero along a cosine. A tenth of the rows,
    the same in every fit to as many, is held out, and the weights that fit it best are kept. ConfigError: a width
    below 1, or other numbers of steps.
    """

    width: int = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=1000)
    sweep_steps: int = eqx.field(static=True, default=50)
    rate: float = eqx.field(static=True, default=3e-3)

    def __check_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"network of width {self.width}: at least 1 unit is needed")
        if min(self.steps, self.sweep_steps) < 1 or self.steps % _CHECK_EVERY or self.sweep_steps % _CHECK_EVERY:
            raise ConfigError(f"{self.steps} and {self.sweep_steps} steps: use positive multiples of {_CHECK_EVERY}")

    @property
    def name(self) -> str:
        """Such as mlp[16]."""
        return f"mlp[{self.width}]"

    def n_params(self, num_actions: int) -> None:
        """None: the count says little about what training can reach."""
        return

    def regress(
        self,
        observation: Float[AnyArray, "N D"],
        action: Int[AnyArray, " N"],
        target: Float[AnyArray, " N"],
        *,
        num_actions: int,
        key: Array,
    ) -> Net:
        """A network trained from random hidden layers that do not reach the values yet."""
        mean, scale = _scales(observation)
        return self._train(
            Net(mean, scale, _nothing(num_actions, len(mean))), observation, action, target, key, self.steps
        )

    def regress_from(
        self,
        q: Q,
        observation: Float[AnyArray, "N D"],
        action: Int[AnyArray, " N"],
        target: Float[AnyArray, " N"],
        *,
        num_actions: int,
        key: Array,
    ) -> Net:
        """The same number of steps from `widen(q)`, or as `regress` where q is neither a network nor linear in x."""
        start = _net_of(q, observation)
        if start is None:
            return self.regress(observation, action, target, num_actions=num_actions, key=key)
        return self._train(start, observation, action, target, key, self.steps)

    def sweep_from(
        self,
        q: Q,
        observation: Float[AnyArray, "N D"],
        action: Int[AnyArray, " N"],
        target: Float[AnyArray, " N"],
        *,
        num_actions: int,
        key: Array,
    ) -> Net:
        """One sweep of fitted Q iteration: `sweep_steps` steps from the q of the sweep before."""
        short = Mlp(self.width, self.sweep_steps, self.sweep_steps, self.rate)
        return short.regress_from(q, observation, action, target, num_actions=num_actions, key=key)

    def _train(self, start: Net, observation: Any, action: Any, target: Any, key: Array, steps: int) -> Net:
        """Rows are padded to a power of two, so that logs of about one length compile once."""
        widen_key, train_key = jax.random.split(key)
        n = len(target)
        more = (1 << max(n - 1, _LEAST_BUCKET - 1).bit_length()) - n
        x = np.pad(np.asarray(observation, np.float32), ((0, more), (0, 0)))
        a, y = np.pad(np.asarray(action, np.int32), (0, more)), np.pad(np.asarray(target, np.float32), (0, more))
        draws = _draw(np.int32(n), train_key, len(y), steps)
        return _fit(widen(start, self.width, widen_key), x, a, y, np.int32(n), draws, np.float32(self.rate))


def mlp(widths: Sequence[int], steps: int = 1000, sweep_steps: int = 50, rate: float = 3e-3) -> list[Mlp]:
    """Nested networks of these widths, see `Mlp`. ConfigError: widths that do not increase."""
    return [Mlp(width, steps, sweep_steps, rate) for width in _increasing(widths)]


def widen(q: Net | LinearQ, width: int, key: Array) -> Net:
    """A network of this width with the outputs of q: new units have random weights in, and zero weights out.

    A linear q must use all columns of `Identity`. ConfigError: q is wider, or has other features. Source: ours.
    """
    if isinstance(q, LinearQ):
        if not isinstance(q.features, Identity):
            raise ConfigError(f"a linear fit on {type(q.features).__name__} features; only Identity can be widened")
        columns = q.weights.shape[1] - 1
        q = _linear_net(q, *(jnp.asarray(make(columns, np.float32)) for make in (np.zeros, np.ones)))
    if width < q.width:
        raise ConfigError(f"a network of width {q.width} cannot be widened to {width}")
    return q if width == q.width else _widened(q, width, key)


@functools.partial(jax.jit, static_argnames="width")
def _widened(q: Net, width: int, key: Array) -> Net:
    old, new = q.weights, width - q.width
    columns = old.first.shape[1]
    first_key, bias_key, second_key = jax.random.split(key, 3)
    first = math.sqrt(2 / max(columns, 1)) * jax.random.normal(first_key, (new, columns))
    second = math.sqrt(2 / width) * jax.random.normal(second_key, (new, width))
    weights = Weights(
        bias=old.bias,
        linear=old.linear,
        first=jnp.concatenate([old.first, first]),
        first_bias=jnp.concatenate([old.first_bias, jax.random.normal(bias_key, (new,))]),
        second=jnp.concatenate([jnp.pad(old.second, ((0, 0), (0, new))), second]),
        second_bias=jnp.pad(old.second_bias, (0, new)),
        out=jnp.pad(old.out, ((0, 0), (0, new))),
    )
    return Net(q.mean, q.scale, weights)


class MlpHead(BanditClass):
    """Ridge regression for each action on 1, the context and the last hidden layer of a network fitted to the reward.

    The features come from the same rewards, so the widths are too narrow, and such a bound never certifies.
    """

    width: int = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=1000)
    seed: int = eqx.field(static=True, default=0)

    @property
    def name(self) -> str:
        """Such as mlp[16]."""
        return f"mlp[{self.width}]"

    @property
    def certifies(self) -> bool:
        """False."""
        return False

    def fit(self, log: BanditLog, ridge: float) -> LinearFit:
        """Trains the network, then solves for each action on its features."""
        key, network = stream(self.seed, "mlp-head"), Mlp(self.width, self.steps)
        net = network.regress(log.context, log.action, log.reward, num_actions=log.num_actions, key=key)
        features = HiddenLayer(net)
        return fit_heads(features, features.size(log.context.shape[1]), log, ridge)


def mlp_heads(widths: Sequence[int]) -> list[MlpHead]:
    """Nested network classes for bandits. ConfigError: widths that do not increase."""
    return [MlpHead(width) for width in _increasing(widths)]


def _increasing(widths: Sequence[int]) -> list[int]:
    widths = [int(w) for w in widths]
    if not widths or widths[0] < 1 or any(b <= a for a, b in itertools.pairwise(widths)):
        raise ConfigError(f"widths {tuple(widths)}: those of nested networks must increase, from at least 1")
    return widths


def _nothing(actions: int, columns: int) -> Weights:
    """All values zero, and no hidden units."""

    def zeros(shape: int | tuple[int, ...]) -> Array:
        return jnp.asarray(np.zeros(shape, np.float32))  # which compiles nothing

    hidden = (zeros((0, columns)), zeros(0), zeros((0, 0)), zeros(0), zeros((actions, 0)))
    return Weights(zeros(actions), zeros((actions, columns)), *hidden)


def _scales(observation: Any) -> tuple[Array, Array]:
    """Mean and spread of each column, 1 for a column that does not vary."""
    x = np.asarray(observation, np.float32)
    spread = x.std(0)
    return jnp.asarray(x.mean(0)), jnp.asarray(np.where(spread > 0, spread, 1).astype(np.float32))


def _net_of(q: Q, observation: Any) -> Net | None:
    """q as a network, or None."""
    if isinstance(q, Net):
        return q
    if isinstance(q, LinearQ) and isinstance(q.features, Identity):
        return _linear_net(q, *_scales(observation))
    return None


def _linear_net(q: LinearQ, mean: Array, scale: Array) -> Net:
    """A linear q on the leading columns as a network without hidden units."""
    return _shifted(q.weights, mean, scale)


@jax.jit
def _shifted(weights: Array, mean: Array, scale: Array) -> Net:
    raw = jnp.pad(weights[:, 1:], ((0, 0), (0, len(mean) - weights.shape[1] + 1)))
    start = _nothing(*raw.shape)
    return Net(mean, scale, start._replace(bias=weights[:, 0] + raw @ mean, linear=raw * scale))


def _hidden(w: Weights, x: Array) -> Array:
    return jax.nn.relu(jax.nn.relu(x @ w.first.T + w.first_bias) @ w.second.T + w.second_bias)


def _values(w: Weights, x: Array) -> Array:
    return w.bias + x @ w.linear.T + _hidden(w, x) @ w.out.T


@jax.jit
def _last_hidden(net: Net, observation: Array) -> Array:
    x = (observation - net.mean) / net.scale
    return jnp.concatenate([jnp.ones_like(x[:, :1]), x, _hidden(net.weights, x)], 1)


@jax.jit
def _predict(net: Net, observation: Array) -> Array:
    return _values(net.weights, (observation - net.mean) / net.scale)


def _in_units(w: Weights, centre: Array, spread: Array) -> Weights:
    """Weights whose values are (values - centre) / spread."""
    return w._replace(bias=(w.bias - centre) / spread, linear=w.linear / spread, out=w.out / spread)


class _Draws(NamedTuple):
    """Rows of every batch, in chunks between checks; rows held out, and their weights, zero for padding."""

    batches: Int[Array, "C S R"]
    unseen: Int[Array, " K"]
    judges: Float[Array, " K"]


@functools.partial(jax.jit, static_argnames=("size", "steps"))
def _draw(n: Array, key: Array, size: int, steps: int) -> _Draws:
    """Hold out a tenth of the first n rows, and draw batches from the others.

    The tenth depends on n alone, so that a fit that another one starts from has not seen it.
    """
    held = jnp.maximum(n // _HELD_OUT, 1)
    order = jnp.argsort(jnp.where(jnp.arange(size) < n, jax.random.uniform(stream(0, "held-out"), (size,)), 2.0))
    unseen = order[: -(-size // _HELD_OUT)]
    shape = (steps // _CHECK_EVERY, _CHECK_EVERY, _BATCH)
    batches = order[jax.random.randint(key, shape, held, n)]
    return _Draws(batches, unseen, (jnp.arange(len(unseen)) < held) / held)


@jax.jit
def _fit(net: Net, x: Array, action: Array, y: Array, n: Array, draws: _Draws, rate: Array) -> Net:
    """Train on the first n rows, in units of the target's spread: first the linear part by itself, then everything."""
    x, real = (x - net.mean) / net.scale, (jnp.arange(len(y)) < n).astype(x.dtype)
    centre = (y * real).sum() / n
    spread = jnp.sqrt((real * (y - centre) ** 2).sum() / n)
    spread = jnp.where(spread > 0, spread, 1)
    z = (y - centre) / spread
    seen = real.at[draws.unseen].multiply(draws.judges == 0)
    w = _solve_linear(_in_units(net.weights, centre, spread), x, action, z, seen)
    w = _adam(w, x, action, z, draws, rate)
    return Net(net.mean, net.scale, _in_units(w, -centre / spread, 1 / spread))


def _solve_linear(w: Weights, x: Array, action: Array, z: Array, seen: Array) -> Weights:
    """Add the mean of the remaining error, then the ridge solution for the rest of it, to each action's linear part."""
    w = w._replace(bias=w.bias + (seen * (z - _at(w, x, action))).sum() / seen.sum())
    phi = jnp.concatenate([jnp.ones_like(x[:, :1]), x], 1)
    chosen = jax.nn.one_hot(action, len(w.bias), dtype=x.dtype) * seen[:, None]
    gram = jnp.einsum("na,ni,nj->aij", chosen, phi, phi, optimize="optimal")
    gram = gram + _RIDGE * seen.sum() * jnp.eye(phi.shape[1])
    right = jnp.einsum("na,ni->ai", chosen * (z - _at(w, x, action))[:, None], phi)
    change = jnp.linalg.solve(gram, right[..., None])[..., 0]
    return w._replace(bias=w.bias + change[:, 0], linear=w.linear + change[:, 1:])


def _adam(w: Weights, x: Array, action: Array, z: Array, draws: _Draws, rate: Array) -> Weights:
    """The weights, of those after every tenth step and those given, that fit the held-out rows best."""
    adam = optax.adam(optax.cosine_decay_schedule(1.0, math.prod(draws.batches.shape[:2])))

    def loss(w: Weights, rows: Array) -> Array:
        return jnp.square(_at(w, x[rows], action[rows]) - z[rows]).mean()

    def step(carry: tuple[Weights, Any], rows: Array) -> tuple[tuple[Weights, Any], None]:
        w, state = carry
        change, state = adam.update(jax.grad(loss)(w, rows), state)
        return (jax.tree.map(lambda p, c: p + rate * c, w, change), state), None

    def held_out(w: Weights) -> Array:
        rows = draws.unseen
        return (draws.judges * jnp.square(_at(w, x[rows], action[rows]) - z[rows])).sum()

    def check(carry: tuple[Any, Weights, Array], rows: Array) -> tuple[tuple[Any, Weights, Array], None]:
        now, best, least = carry
        now, _ = jax.lax.scan(step, now, rows)
        error = held_out(now[0])
        best = jax.tree.map(lambda new, old: jnp.where(error < least, new, old), now[0], best)
        return (now, best, jnp.minimum(error, least)), None

    return jax.lax.scan(check, ((w, adam.init(w)), w, held_out(w)), draws.batches)[0][1]


def _at(w: Weights, x: Array, action: Array) -> Array:
    """Values at these actions."""
    return jnp.take_along_axis(_values(w, x), action[:, None], -1)[:, 0]
