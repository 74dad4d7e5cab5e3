"""Double DQN with prioritised replay on a grid of actions.

Source: arXiv 2310.08710, appendix, for the algorithm; arXiv 1511.05952 for the priorities. Deviations: nothing ends an
episode (design page 3.1), so that no target has a done factor; sizes, rates and schedules are ours.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float32, Int, Int32, Key

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.collect import collect
from gleanings.driving.learn.config import DQNConfig
from gleanings.driving.learn.networks import QNetwork
from gleanings.driving.learn.replay import Replay, Rows, make_replay, put, take, write
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Scene
from gleanings.driving.state import SimState

ValuesFn = Callable[[Float32[Array, " D"]], Float32[Array, " A"]]
Scalar = Float32[Array, ""]

_LEAST = 1e-3  # added to the size of an error before it becomes a priority


class State(eqx.Module):
    """What training changes. priority: of each decision, raised to its exponent, 0 where there is none; largest: of
    all so far; step: gradient steps so far."""

    net: QNetwork
    target: QNetwork
    moments: optax.OptState
    replay: Replay
    priority: Float32[Array, "*seeds P H"]
    largest: Float32[Array, "*seeds"]
    step: Int32[Array, "*seeds"]


class Drawn(NamedTuple):
    """Decisions drawn by priority: where they are, and the weights that undo it, at most 1."""

    episode: Int32[Array, " B"]
    step: Int32[Array, " B"]
    weight: Float32[Array, " B"]


class Driver(eqx.Module):
    """Drives by the action of the largest value."""

    net: QNetwork
    bins: tuple[int, int] = eqx.field(static=True)

    def __call__(
        self, scene: Scene, state: SimState, obs: Float32[Array, " D"], key: Key[Array, ""]
    ) -> Float32[Array, "2"]:
        """u in [-1, 1]^2."""
        return action_of(self.net(obs).argmax(), self.bins)


def action_of(index: Int[Array, "*batch"], bins: tuple[int, int]) -> Float32[Array, "*batch 2"]:
    """u at the middle of a bin, as `dynamics.Discrete` numbers them."""
    half = np.asarray(bins, np.int32) // 2
    at = jnp.stack(jnp.unravel_index(index, bins), -1)
    return ((at - half) / half).astype(jnp.float32)


def index_of(u: Float32[Array, "*batch 2"], bins: tuple[int, int]) -> Int32[Array, "*batch"]:
    """The bin nearest to u."""
    half = np.asarray(bins, np.int32) // 2
    at = jnp.round(jnp.clip(u, -1.0, 1.0) * half).astype(jnp.int32) + half
    return at[..., 0] * bins[1] + at[..., 1]


def double_targets(net: ValuesFn, target: ValuesFn, rows: Rows, discount: float) -> Float32[Array, " B"]:
    """r + discount Qbar(s', argmax_b Q(s', b)); no state is the last."""
    best = jax.vmap(net)(rows.next_obs).argmax(1)
    return rows.reward + discount * _picked(jax.vmap(target)(rows.next_obs), best)


def loss(
    net: ValuesFn,
    obs: Float32[Array, "B D"],
    index: Int32[Array, " B"],
    target: Float32[Array, " B"],
    weight: Float32[Array, " B"],
) -> tuple[Scalar, Float32[Array, " B"]]:
    """Mean over rows of weight * huber(Q(s, a) - y), quadratic up to errors of 1; and the errors."""
    error = _picked(jax.vmap(net)(obs), index) - target
    return (weight * optax.huber_loss(error)).mean(), error


def draw_by_priority(
    priority: Float32[Array, "P H"], count: Int32[Array, ""], batch: int, correction: Scalar, key: Key[Array, ""]
) -> Drawn:
    """One row from each of `batch` equal shares of the summed priorities; weights (n P)^-correction over their largest.

    The sums are taken over decisions and then over episodes, so that float32 is enough for a large ring.
    """
    edge = jnp.cumsum(priority.sum(1))
    at = (jnp.arange(batch) + jax.random.uniform(key, (batch,))) / batch * edge[-1]
    episode = jnp.minimum(jnp.searchsorted(edge, at, side="right"), count - 1).astype(jnp.int32)
    inner = jnp.cumsum(priority[episode], 1)
    rest = at - jnp.where(episode > 0, edge[episode - 1], 0.0)
    step = jnp.minimum((inner <= rest[:, None]).sum(1), priority.shape[1] - 1).astype(jnp.int32)
    share = priority[episode, step] / edge[-1] * (count * priority.shape[1])
    weight = share**-correction
    return Drawn(episode, step, weight / weight.max())


def init(config: DQNConfig, world: World, key: Key[Array, ""]) -> State:
    """Network, a target equal to it, and an empty replay. ConfigError: settings that cannot be meant."""
    _check(config)
    horizon = world.config.horizon
    net = QNetwork(config.net, world.config.observe, config.bins[0] * config.bins[1], key)
    return State(
        net,
        jax.tree.map(lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, net),
        _optimiser(config).init(eqx.filter(net, eqx.is_inexact_array)),
        make_replay(config.capacity, horizon, world.observation_size, config.environments),
        jnp.zeros((config.capacity, horizon), jnp.float32),
        jnp.ones((), jnp.float32),
        jnp.zeros((), jnp.int32),
    )


def update(
    config: DQNConfig, world: World, state: State, bank: Scene, key: Key[Array, ""]
) -> tuple[State, dict[str, Scalar]]:
    """One iteration: episodes of `environments` scenes of the bank [C, ...] into the replay, then gradient steps."""
    collect_key, learn_key = jax.random.split(key)
    share = exploration(config, state.step)
    episodes, stats = collect(
        world,
        bank,
        lambda obs, key: _explore(state.net, obs, share, config.bins, key),
        collect_key,
        config.environments,
    )
    fresh = jnp.broadcast_to(state.largest, episodes.reward.shape)
    priority = put(state.priority, fresh, state.replay.index)
    replay = write(state.replay, episodes)
    learner = eqx.tree_at(lambda s: (s.replay, s.priority), state, (None, priority))
    arrays, static = eqx.partition(learner, eqx.is_array)

    def step(arrays: State, key: Array) -> tuple[State, dict[str, Array]]:
        learner, metrics = gradient_step(config, eqx.combine(arrays, static), replay, key)
        return eqx.filter(learner, eqx.is_array), metrics

    arrays, metrics = lax.scan(step, arrays, jax.random.split(learn_key, config.gradient_steps))
    learner = eqx.combine(arrays, static)
    state = eqx.tree_at(lambda s: s.replay, learner, replay, is_leaf=lambda x: x is None)
    metrics = {name: value.mean() for name, value in metrics.items()}
    return state, stats | metrics | {"collect/exploration": share}


def gradient_step(
    config: DQNConfig, state: State, replay: Replay, key: Key[Array, ""]
) -> tuple[State, dict[str, Scalar]]:
    """One step of the network, its target and the priorities of the rows it saw."""
    first, last = config.correction
    total = config.iterations * config.gradient_steps
    correction = first + (last - first) * jnp.minimum(state.step / max(total - 1, 1), 1.0)
    drawn = draw_by_priority(state.priority, replay.count, config.batch, correction, key)
    rows = take(replay, drawn.episode, drawn.step)
    target = double_targets(state.net, state.target, rows, config.discount)
    index = index_of(rows.action, config.bins)
    (value, error), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(
        state.net, rows.obs, index, target, drawn.weight
    )
    updates, moments = _optimiser(config).update(gradient, state.moments)
    net = eqx.apply_updates(state.net, updates)
    behind = optax.incremental_update(
        eqx.filter(net, eqx.is_inexact_array), eqx.filter(state.target, eqx.is_inexact_array), config.target_rate
    )
    fresh = (jnp.abs(error) + _LEAST) ** config.priority
    return State(
        net,
        eqx.combine(behind, net),
        moments,
        state.replay,
        state.priority.at[drawn.episode, drawn.step].set(fresh),
        jnp.maximum(state.largest, fresh.max()),
        state.step + 1,
    ), {"critic/loss": value, "critic/q": (target + error).mean(), "critic/error": jnp.abs(error).mean()}


def exploration(config: DQNConfig, step: Int32[Array, ""]) -> Scalar:
    """Share of random actions after `step` gradient steps: falls linearly over the first half of training."""
    first, last = config.exploration
    half = max(config.iterations * config.gradient_steps / 2, 1.0)
    return first + (last - first) * jnp.minimum(step / half, 1.0)


def act(
    config: DQNConfig, state: State, obs: Float32[Array, " D"], key: Key[Array, ""] | None = None
) -> Float32[Array, "2"]:
    """u in [-1, 1]^2 of the largest value; with a key it explores as in training."""
    if key is None:
        return action_of(state.net(obs).argmax(), config.bins)
    return _explore(state.net, obs, exploration(config, state.step), config.bins, key)


def driver(config: DQNConfig, state: State) -> Driver:
    """What drives scenes as the network of a single state does."""
    return Driver(state.net, config.bins)


def _explore(net: ValuesFn, obs: Array, share: Array, bins: tuple[int, int], key: Array) -> Array:
    coin_key, action_key = jax.random.split(key)
    anything = jax.random.randint(action_key, (), 0, bins[0] * bins[1])
    return action_of(jnp.where(jax.random.bernoulli(coin_key, share), anything, net(obs).argmax()), bins)


def _picked(values: Float32[Array, "B A"], index: Int[Array, " B"]) -> Float32[Array, " B"]:
    return jnp.take_along_axis(values, index[:, None], 1)[:, 0]


def _optimiser(config: DQNConfig) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.adam(config.learning_rate))


def _check(config: DQNConfig) -> None:
    if min(config.bins) < 3 or not all(count % 2 for count in config.bins):
        raise ConfigError(f"bins={config.bins}: two odd numbers from 3 on are needed")
    if not 0 <= config.discount < 1 or not 0 < config.target_rate <= 1 or config.priority < 0:
        raise ConfigError(
            f"discount={config.discount} lies in [0, 1), target_rate={config.target_rate} in (0, 1], "
            f"priority={config.priority} is at least 0"
        )
