"""Double DQN with prioritised replay on a grid of actions.

Source: arXiv 2310.08710, appendix, for the algorithm; arXiv 1511.05952 for the priorities. Deviations: nothing ends an
episode (design page 3.1), so that no target has a done factor; sizes, rates and schedules are ours.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int32, Key

from gleanings.driving.learn._descent import averaged, descend, follow, make_optimiser
from gleanings.driving.learn.collect import collect
from gleanings.driving.learn.config import DQNConfig
from gleanings.driving.learn.encoders import Seen
from gleanings.driving.learn.heads import Categorical
from gleanings.driving.learn.networks import QNetwork
from gleanings.driving.learn.replay import Replay, Rows, make_replay, put, take, write
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Scene
from gleanings.driving.state import SimState

ValuesFn = Callable[[Any], Array]  # observations [B, D] -> values [B, A]
Scalar = Float32[Array, ""]
Metrics = dict[str, Array]

_LEAST = 1e-3  # added to the size of an error before it becomes a priority


class State(eqx.Module):
    """What training changes. average: the network over the last steps, which drives once trained. priority: of each
    decision, raised to its exponent, 0 where there is none; largest: of all so far; step: gradient steps so far."""

    net: QNetwork
    average: QNetwork
    target: QNetwork
    moments: optax.OptState
    replay: Replay | None
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
    grid: Categorical = eqx.field(static=True)

    def __call__(
        self, scene: Scene, state: SimState, obs: Float32[Array, " D"], key: Key[Array, ""]
    ) -> Float[Array, "2"]:
        """u in [-1, 1]^2."""
        return self.grid.mode(self.net(obs))


def index_of(u: Float32[Array, "B 2"], grid: Categorical) -> Int32[Array, " B"]:
    """Number of the bin nearest to u."""
    at = jax.vmap(grid.index)(u)
    return at[:, 0] * grid.bins[1] + at[:, 1]


def double_targets(net: ValuesFn, target: ValuesFn, rows: Rows, discount: float) -> Float32[Array, " B"]:
    """r + discount Qbar(s', argmax_b Q(s', b)); no state is the last."""
    best = net(rows.next_obs).argmax(1)
    return rows.reward + discount * _picked(target(rows.next_obs), best)


def loss(
    net: ValuesFn,
    obs: Seen,
    index: Int32[Array, " B"],
    target: Float32[Array, " B"],
    weight: Float32[Array, " B"],
) -> tuple[Scalar, Float32[Array, " B"]]:
    """Mean over rows of weight * huber(Q(s, a) - y), quadratic up to errors of 1; and the errors."""
    error = _picked(net(obs), index) - target
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
    horizon = world.config.horizon
    net = QNetwork(config.net, world.config.observe, Categorical(config.bins).size, key)
    return State(
        net,
        jax.tree.map(jnp.array, net),  # copies, so that a program may reuse the memory of all
        jax.tree.map(jnp.array, net),
        make_optimiser(config).init(eqx.filter(net, eqx.is_array)),
        make_replay(config.capacity, horizon, world.observation_size, config.environments),
        jnp.zeros((config.capacity, horizon), jnp.float32),
        jnp.ones((), jnp.float32),
        jnp.zeros((), jnp.int32),
    )


def update(config: DQNConfig, world: World, state: State, bank: Scene, key: Key[Array, ""]) -> tuple[State, Metrics]:
    """One iteration: episodes of `environments` scenes of the bank [C, ...] into the replay, then gradient steps."""
    collect_key, learn_key = jax.random.split(key)
    share = exploration(config, state.step)
    episodes, stats = collect(
        world,
        bank,
        lambda obs, key: _explore(config, state.net, obs, share, key),
        collect_key,
        config.environments,
    )
    fresh = jnp.broadcast_to(state.largest, episodes.reward.shape)
    assert state.replay is not None
    priority = put(state.priority, fresh, state.replay.index)
    replay = write(state.replay, episodes)
    learner = eqx.tree_at(lambda s: (s.replay, s.priority), state, (None, priority))

    def step(state: State, i: Array) -> tuple[State, Metrics]:
        return gradient_step(config, state, replay, jax.random.fold_in(learn_key, i))

    learner, metrics = lax.scan(step, learner, jnp.arange(config.gradient_steps))
    state = eqx.tree_at(lambda s: s.replay, learner, replay, is_leaf=lambda x: x is None)
    metrics = {name: value.mean() for name, value in metrics.items()}
    return state, stats | metrics | {"collect/exploration": share}


def gradient_step(config: DQNConfig, state: State, replay: Replay, key: Key[Array, ""]) -> tuple[State, Metrics]:
    """One step of the network, its target and the priorities of the rows it saw."""
    first, last = config.correction
    total = config.iterations * config.gradient_steps
    correction = first + (last - first) * jnp.minimum(state.step / max(total - 1, 1), 1.0)
    drawn = draw_by_priority(state.priority, replay.count, config.batch, correction, key)
    rows = take(replay, drawn.episode, drawn.step)
    prepared = state.net.encoder.prepared  # without weights, so that both networks can share it
    rows = rows._replace(obs=prepared(rows.obs), next_obs=prepared(rows.next_obs))
    target = double_targets(state.net, state.target, rows, config.discount)
    index = index_of(rows.action, Categorical(config.bins))
    (value, error), slope = eqx.filter_value_and_grad(loss, has_aux=True)(
        state.net, rows.obs, index, target, drawn.weight
    )
    net, moments = descend(make_optimiser(config), state.net, slope, state.moments)
    fresh = (jnp.abs(error) + _LEAST) ** config.priority
    return State(
        net,
        averaged(state.average, net, state.step + 1),
        follow(state.target, net, config.target_rate),
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
) -> Float[Array, "2"]:
    """u in [-1, 1]^2 of the largest value of the network as it is; with a key it explores as in training."""
    if key is None:
        return Categorical(config.bins).mode(state.net(obs))
    return _explore(config, state.net, obs, exploration(config, state.step), key)


def driver(config: DQNConfig, state: State) -> Driver:
    """What drives scenes as the averaged network of a single state does."""
    return Driver(state.average, Categorical(config.bins))


def _explore(config: DQNConfig, net: QNetwork, obs: Array, share: Array, key: Array) -> Array:
    grid, (coin_key, action_key) = Categorical(config.bins), jax.random.split(key)
    values = net(obs)
    anything = jnp.zeros_like(values).at[jax.random.randint(action_key, (), 0, grid.size)].set(1.0)
    return grid.mode(jnp.where(jax.random.bernoulli(coin_key, share), anything, values))


def _picked(values: Float32[Array, "B A"], index: Int[Array, " B"]) -> Float32[Array, " B"]:
    return jnp.take_along_axis(values, index[:, None], 1)[:, 0]
