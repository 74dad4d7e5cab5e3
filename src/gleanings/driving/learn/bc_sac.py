"""SAC whose actor also imitates: one loss, replayed states for the values, demonstrated ones for the imitation.

Source: arXiv 2212.11419, section IV. Deviations: nothing ends an episode (design page 3.1), so that no target has a
done factor; weights, temperature, rates and sizes are ours, since the paper does not give them.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float32, Int32, Key

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.collect import collect
from gleanings.driving.learn.config import BCSACConfig, DQNConfig
from gleanings.driving.learn.demos import Demonstrations
from gleanings.driving.learn.heads import Head, make_head
from gleanings.driving.learn.networks import Actor, Critic
from gleanings.driving.learn.replay import Replay, Rows, draw, make_replay, write
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Scene
from gleanings.driving.state import SimState

ActorFn = Callable[[Float32[Array, " D"]], Float32[Array, " P"]]
CriticFn = Callable[[Float32[Array, " D"], Float32[Array, "2"]], Float32[Array, ""]]
Scalar = Float32[Array, ""]


class Labels(NamedTuple):
    """Demonstrated decisions: observation, u in [-1, 1]^2, and which of its dimensions are known."""

    obs: Float32[Array, "B D"]
    action: Float32[Array, "B 2"]
    mask: Bool[Array, "B 2"]


class State(eqx.Module):
    """What training changes. step: gradient steps so far."""

    actor: Actor
    critics: tuple[Critic, Critic]
    targets: tuple[Critic, Critic]
    log_alpha: Array
    actor_moments: optax.OptState
    critic_moments: optax.OptState
    alpha_moments: optax.OptState
    replay: Replay | None
    step: Int32[Array, "*seeds"]


class Driver(eqx.Module):
    """Drives as the actor does, by its mode or by samples."""

    actor: Actor
    head: Head = eqx.field(static=True)
    sample: bool = eqx.field(static=True, default=False)

    def __call__(
        self, scene: Scene, state: SimState, obs: Float32[Array, " D"], key: Key[Array, ""]
    ) -> Float32[Array, "2"]:
        """u in [-1, 1]^2."""
        params = self.actor(obs)
        return self.head.sample(params, key)[0] if self.sample else self.head.mode(params)


def soft_targets(
    actor: ActorFn,
    targets: tuple[CriticFn, ...],
    head: Head,
    rows: Rows,
    alpha: Scalar,
    discount: float,
    key: Key[Array, ""],
) -> Float32[Array, " B"]:
    """r + discount E_u'[min_j Qbar_j(s', u') - alpha log pi(u' | s')], u' as the head draws it; no state is the last."""

    def cost(obs: Array, key: Array) -> Array:
        return head.actor_loss(actor(obs), _least(targets, obs), alpha, key)

    return rows.reward - discount * jax.vmap(cost)(rows.next_obs, jax.random.split(key, len(rows.reward)))


def critic_loss(
    critics: tuple[CriticFn, ...], rows: Rows, target: Float32[Array, " B"]
) -> tuple[Scalar, Float32[Array, " J"]]:
    """Mean over rows of sum_j (Q_j(s, u) - y)^2, and the mean of each Q_j."""
    q = jnp.stack([jax.vmap(critic)(rows.obs, rows.action) for critic in critics])
    return jnp.square(q - target).sum(0).mean(), q.mean(1)


def rl_loss(
    actor: ActorFn,
    critics: tuple[CriticFn, ...],
    head: Head,
    obs: Float32[Array, "B D"],
    alpha: Scalar,
    key: Key[Array, ""],
) -> tuple[Scalar, Scalar]:
    """Mean over rows of E_u[alpha log pi(u | s) - min_j Q_j(s, u)], and of E_u[log pi(u | s)]."""

    def terms(obs: Array, key: Array) -> tuple[Array, Array]:
        params = actor(obs)
        log_prob = head.actor_loss(params, lambda u: jnp.zeros(()), jnp.ones(()), key)
        return head.actor_loss(params, _least(critics, obs), alpha, key), lax.stop_gradient(log_prob)

    loss, log_prob = jax.vmap(terms)(obs, jax.random.split(key, len(obs)))
    return loss.mean(), log_prob.mean()


def imitation_loss(actor: ActorFn, head: Head, labels: Labels) -> Scalar:
    """Mean over demonstrated rows of - log pi(u | s), over the known dimensions."""
    return -jax.vmap(lambda obs, u, mask: head.log_prob(actor(obs), u, mask))(*labels).mean()


def actor_loss(
    actor: ActorFn,
    critics: tuple[CriticFn, ...],
    head: Head,
    obs: Float32[Array, "B D"],
    labels: Labels | None,
    weights: tuple[float | Scalar, float | Scalar],
    alpha: Scalar,
    key: Key[Array, ""],
) -> tuple[Scalar, dict[str, Scalar]]:
    """weights[0] * `rl_loss` on replayed rows + weights[1] * `imitation_loss` on demonstrated ones, and both parts.

    Without labels, or with an rl weight that is the number 0, the term is not computed.
    """
    loss, parts = jnp.zeros(()), {}
    if not (isinstance(weights[0], float) and weights[0] == 0):
        rl, log_prob = rl_loss(actor, critics, head, obs, alpha, key)
        loss = weights[0] * rl
        parts |= {"actor/entropy": -log_prob, "actor/q": alpha * log_prob - rl}
    if labels is not None:
        nll = imitation_loss(actor, head, labels)
        loss = loss + weights[1] * nll
        parts["actor/bc_nll"] = nll
    return loss, parts


def alpha_loss(log_alpha: Scalar, entropy: Scalar, target_entropy: float) -> Scalar:
    """Its gradient lowers the temperature where the entropy exceeds its target."""
    return log_alpha * lax.stop_gradient(entropy - target_entropy)


def init(config: BCSACConfig, world: World, key: Key[Array, ""]) -> State:
    """Networks, targets equal to critics, and an empty replay. ConfigError: settings that cannot be meant."""
    _check(config)
    actor_key, *critic_keys = jax.random.split(key, 3)
    observe = world.config.observe
    actor = Actor(config.net, head_of(config), observe, actor_key)
    first, second = (Critic(config.net, observe, key) for key in critic_keys)
    critics = (first, second)
    optimiser, log_alpha = _optimiser(config), jnp.log(jnp.float32(config.temperature))
    return State(
        actor,
        critics,
        jax.tree.map(lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, critics),
        log_alpha,
        *(optimiser.init(eqx.filter(part, eqx.is_inexact_array)) for part in (actor, critics, log_alpha)),
        make_replay(config.capacity, world.config.horizon, world.observation_size, config.environments),
        jnp.zeros((), jnp.int32),
    )


def update(
    config: BCSACConfig, world: World, state: State, bank: Scene, demos: Demonstrations | None, key: Key[Array, ""]
) -> tuple[State, dict[str, Scalar]]:
    """One iteration: episodes of `environments` scenes of the bank [C, ...] into the replay, then gradient steps.

    demos are not read where `imitation_weight` is 0. Metrics: `collect/...`, and means over the gradient steps.
    """
    if config.imitation_weight > 0 and demos is None:
        raise ConfigError(f"imitation_weight={config.imitation_weight} needs demonstrations")
    collect_key, learn_key = jax.random.split(key)
    head = head_of(config)
    episodes, stats = collect(
        world, bank, lambda obs, key: head.sample(state.actor(obs), key)[0], collect_key, config.environments
    )
    assert state.replay is not None
    replay = write(state.replay, episodes)
    labels = demos if config.imitation_weight > 0 else None
    arrays, static = eqx.partition(_with_replay(state, None), eqx.is_array)

    def step(arrays: State, key: Array) -> tuple[State, dict[str, Array]]:
        learner, metrics = gradient_step(config, eqx.combine(arrays, static), replay, labels, key)
        return eqx.filter(learner, eqx.is_array), metrics

    arrays, metrics = lax.scan(step, arrays, jax.random.split(learn_key, config.gradient_steps))
    metrics = {name: value.mean() for name, value in metrics.items()}
    return _with_replay(eqx.combine(arrays, static), replay), stats | metrics


def gradient_step(
    config: BCSACConfig, state: State, replay: Replay, demos: Demonstrations | None, key: Key[Array, ""]
) -> tuple[State, dict[str, Scalar]]:
    """One step of critics, targets, actor and, if it is tuned, temperature; `state.replay` is left alone."""
    row_key, demo_key, target_key, actor_key = jax.random.split(key, 4)
    rows = draw(replay, config.batch, row_key)
    labels = None if demos is None else _draw_labels(demos, config.batch, demo_key)
    head, alpha, optimiser = head_of(config), jnp.exp(state.log_alpha), _optimiser(config)

    target = soft_targets(state.actor, state.targets, head, rows, alpha, config.discount, target_key)
    (loss, q), gradient = eqx.filter_value_and_grad(critic_loss, has_aux=True)(state.critics, rows, target)
    critics, critic_moments = _apply(optimiser, state.critics, gradient, state.critic_moments)
    targets = optax.incremental_update(
        eqx.filter(critics, eqx.is_inexact_array),
        eqx.filter(state.targets, eqx.is_inexact_array),
        config.target_rate,
    )

    weights = (config.rl_weight, config.imitation_weight)
    (_, parts), gradient = eqx.filter_value_and_grad(actor_loss, has_aux=True)(
        state.actor, critics, head, rows.obs, labels, weights, alpha, actor_key
    )
    actor, actor_moments = _apply(optimiser, state.actor, gradient, state.actor_moments)

    log_alpha, alpha_moments = state.log_alpha, state.alpha_moments
    if config.target_entropy is not None:
        slope = jax.grad(alpha_loss)(log_alpha, parts["actor/entropy"], config.target_entropy)
        log_alpha, alpha_moments = _apply(optimiser, log_alpha, slope, alpha_moments)
    metrics = {"critic/loss": loss, "critic/q": q.mean(), "actor/alpha": alpha} | parts
    return State(
        actor,
        critics,
        eqx.combine(targets, critics),
        log_alpha,
        actor_moments,
        critic_moments,
        alpha_moments,
        state.replay,
        state.step + 1,
    ), metrics


def act(
    config: BCSACConfig, state: State, obs: Float32[Array, " D"], key: Key[Array, ""] | None = None
) -> Float32[Array, "2"]:
    """u in [-1, 1]^2: a sample, or without a key the mode."""
    head, params = head_of(config), state.actor(obs)
    return head.mode(params) if key is None else head.sample(params, key)[0]


def driver(config: BCSACConfig, state: State, sample: bool = False) -> Driver:
    """What drives scenes as the actor of a single state does."""
    return Driver(state.actor, head_of(config), sample)


def head_of(config: BCSACConfig) -> Head:
    """Distribution of the actions."""
    return make_head(config.head, config.components, DQNConfig.bins)


def _least(critics: tuple[CriticFn, ...], obs: Array) -> Callable[[Array], Array]:
    return lambda u: jnp.stack([critic(obs, u) for critic in critics]).min(0)


def _draw_labels(demos: Demonstrations, batch: int, key: Array) -> Labels:
    rows = jax.random.randint(key, (batch,), 0, demos.obs.shape[0])
    return Labels(*(jnp.asarray(field)[rows] for field in (demos.obs, demos.action, demos.mask)))


def _optimiser(config: BCSACConfig) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.adam(config.learning_rate))


def _apply(optimiser: optax.GradientTransformation, params: Array, gradient: Array, moments: optax.OptState):
    updates, moments = optimiser.update(gradient, moments)
    return eqx.apply_updates(params, updates), moments


def _with_replay(state: State, replay: Replay | None) -> State:
    return eqx.tree_at(lambda s: s.replay, state, replay, is_leaf=lambda x: x is None or isinstance(x, Replay))


def _check(config: BCSACConfig) -> None:
    if min(config.imitation_weight, config.rl_weight) < 0 or config.imitation_weight + config.rl_weight <= 0:
        weights = f"{config.imitation_weight} and {config.rl_weight}"
        raise ConfigError(f"imitation_weight and rl_weight are {weights}; they are at least 0 and not both 0")
    if not 0 <= config.discount < 1 or not 0 < config.target_rate <= 1 or config.temperature <= 0:
        raise ConfigError(
            f"discount={config.discount} lies in [0, 1), target_rate={config.target_rate} in (0, 1], "
            f"temperature={config.temperature} above 0"
        )
    if config.target_entropy is not None and config.rl_weight == 0:
        raise ConfigError("target_entropy needs rl_weight above 0")
