"""SAC whose actor also imitates: one loss, replayed states for the values, demonstrated ones for the imitation.

Source: arXiv 2212.11419, section IV. Deviations: nothing ends an episode (design page 3.1), so that no target has a
done factor; weights, temperature, rates and sizes are ours, since the paper does not give them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Float32, Int32, Key, UInt32

from gleanings.core.errors import ConfigError
from gleanings.driving.learn._descent import averaged, descend, follow, make_optimiser
from gleanings.driving.learn.bc import Labelled, bc_loss
from gleanings.driving.learn.collect import collect
from gleanings.driving.learn.config import BCSACConfig
from gleanings.driving.learn.encoders import Seen
from gleanings.driving.learn.heads import Head, make_head
from gleanings.driving.learn.networks import Actor, Critic
from gleanings.driving.learn.replay import Replay, Rows, below, draw, make_replay, write
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Scene
from gleanings.driving.state import SimState

ActorFn = Callable[[Any], Array]  # observation [D] -> parameters [P] of a head
CriticFn = Callable[[Any, Array], Array]  # observation [D], u [2] -> value
CriticsFn = Callable[[Any, Array], Array]  # observation [D], u [2] -> values [J]
Encoded = tuple[Float[Array, "B ..."], ...]  # what each critic needs of the rows
Scalar = Float32[Array, "*seeds"]
Noise = Float32[Array, "B ..."]  # standard normal, as the head asks for it
Metrics = dict[str, Array]
_CRITICS = 2
_OF_ACTOR = ("actor", "average", "log_alpha", "actor_moments", "alpha_moments")


class Critics(eqx.Module):
    """J critics with weights of their own; called, their values [J] of an action."""

    each: tuple[CriticFn, ...]

    def __call__(self, obs: Seen, u: Float[Array, "2"]) -> Float[Array, " J"]:
        return jnp.stack([critic(obs, u) for critic in self.each])

    def rows(self, obs: Seen, u: Float[Array, "B 2"]) -> Float[Array, "J B"]:
        """Values of an action in each of many states."""
        return jnp.stack([critic(obs, u) for critic in self.each])

    def encoded(self, obs: Seen) -> Encoded:
        """What each critic needs of many states."""
        return tuple(critic.encoded(obs) for critic in self.each)  # pyright: ignore[reportFunctionMemberAccess]

    def valued(self, encoded: tuple[Float[Array, " F"], ...], u: Float[Array, "2"]) -> Float[Array, " J"]:
        """Values of an action in an encoded state."""
        pairs = zip(self.each, encoded, strict=True)
        return jnp.stack([critic.valued(seen, u) for critic, seen in pairs])  # pyright: ignore[reportFunctionMemberAccess]


class State(eqx.Module):
    """What training changes. average: the actor over the last steps, which drives once trained. imitation_weight: as
    configured; here, so that one program serves all. step: gradient steps so far."""

    actor: Actor
    average: Actor
    critics: Critics
    targets: Critics
    log_alpha: Scalar
    imitation_weight: Scalar
    actor_moments: optax.OptState
    critic_moments: optax.OptState
    alpha_moments: optax.OptState
    replay: Replay | None
    step: Int32[Array, "*seeds"]


class Chances(NamedTuple):
    """Random numbers of a gradient step: which rows and labels are drawn, and the noise of their actions."""

    rows: UInt32[Array, " B"]
    labels: UInt32[Array, " B"]
    target: Noise
    actor: Noise


class Driver(eqx.Module):
    """Drives as the actor does, by its mode or by samples."""

    actor: Actor
    sample: bool = eqx.field(static=True, default=False)

    def __call__(
        self, scene: Scene, state: SimState, obs: Float32[Array, " D"], key: Key[Array, ""]
    ) -> Float[Array, "2"]:
        """u in [-1, 1]^2."""
        params = self.actor(obs)
        return self.actor.head.sample(params, key)[0] if self.sample else self.actor.head.mode(params)


def soft_targets(
    actor: ActorFn,
    targets: CriticsFn,
    head: Head,
    rows: Rows,
    alpha: Scalar,
    discount: float,
    noise: Noise,
) -> Float32[Array, " B"]:
    """r + discount E_u'[min_j Qbar_j(s', u') - alpha log pi(u' | s')], u' as the head makes it; no state ends."""

    def cost(obs: Seen, noise: Array) -> Array:
        return head.actor_loss_at(actor(obs), _least(targets, obs), alpha, noise)

    return rows.reward - discount * jax.vmap(cost)(rows.next_obs, noise)


def critic_loss(critics: Critics, rows: Rows, target: Float32[Array, " B"]) -> tuple[Scalar, Float32[Array, " J"]]:
    """Mean over rows of sum_j (Q_j(s, u) - y)^2, and the mean of each Q_j."""
    q = critics.rows(rows.obs, rows.action)
    return jnp.square(q - target).sum(0).mean(), q.mean(1)


def rl_loss(
    actor: ActorFn,
    critics: CriticsFn,
    head: Head,
    obs: Seen,
    alpha: Scalar,
    noise: Noise,
    encoded: Encoded | None = None,
) -> tuple[Scalar, Scalar]:
    """Mean over rows of E_u[alpha log pi(u | s) - min_j Q_j(s, u)], and of E_u[log pi(u | s)].

    encoded: what the critics take in place of observations.
    """

    def terms(seen: Any, params: Array, noise: Array) -> tuple[Array, Array]:
        log_prob = head.actor_loss_at(params, lambda u: jnp.zeros(()), 1.0, noise)
        return head.actor_loss_at(params, _least(critics, seen), alpha, noise), lax.stop_gradient(log_prob)

    params = actor(obs)
    seen = obs if encoded is None else encoded
    loss, log_prob = jax.vmap(terms)(seen, params, noise)
    return loss.mean(), log_prob.mean()


def actor_loss(
    actor: Actor,
    critics: CriticsFn,
    obs: Seen,
    labels: Labelled | None,
    weights: tuple[float, float | Scalar],
    alpha: Scalar,
    noise: Noise,
    encoded: Encoded | None = None,
) -> tuple[Scalar, Metrics]:
    """weights[0] * `rl_loss` on replayed rows + weights[1] * `bc_loss` on demonstrated ones, and what they are made of.

    Without labels, or with a first weight of 0, the term is not computed.
    """
    loss, parts = jnp.zeros(()), {}
    if weights[0] != 0:
        rl, log_prob = rl_loss(actor, critics, actor.head, obs, alpha, noise, encoded)
        loss = weights[0] * rl
        parts |= {"actor/entropy": -log_prob, "actor/q": alpha * log_prob - rl}
    if labels is not None:
        nll, _ = bc_loss(actor, labels.obs, labels.action, labels.mask)
        loss = loss + weights[1] * nll
        parts |= {"actor/bc_nll": nll}
    return loss, parts


def alpha_loss(log_alpha: Scalar, entropy: Scalar, target_entropy: float) -> Scalar:
    """Its gradient lowers the temperature where the entropy exceeds its target."""
    return log_alpha * lax.stop_gradient(entropy - target_entropy)


def init(config: BCSACConfig, world: World, key: Key[Array, ""]) -> State:
    """Networks, targets equal to critics, and an empty replay. ConfigError: settings that cannot be meant."""
    actor_key, critic_key = jax.random.split(key)
    observe, optimiser = world.config.observe, make_optimiser(config)
    actor = Actor(config.net, make_head(config.head, config.components), observe, actor_key)
    critics = Critics(tuple(Critic(config.net, observe, key) for key in jax.random.split(critic_key, _CRITICS)))
    log_alpha = jnp.log(jnp.float32(config.temperature))
    return State(
        actor,
        jax.tree.map(jnp.array, actor),  # copies, so that a program may reuse the memory of both
        critics,
        jax.tree.map(jnp.array, critics),
        log_alpha,
        jnp.float32(config.imitation_weight),
        optimiser.init(eqx.filter(actor, eqx.is_array)),
        optimiser.init(eqx.filter(critics, eqx.is_array)),
        optimiser.init(log_alpha),
        make_replay(config.capacity, world.config.horizon, world.observation_size, config.environments),
        jnp.zeros((), jnp.int32),
    )


def update(
    config: BCSACConfig, world: World, state: State, bank: Scene, demos: Labelled | None, key: Key[Array, ""]
) -> tuple[State, Metrics]:
    """One iteration: episodes of `environments` scenes of the bank [C, ...] into the replay, then gradient steps.

    demos are not read where `imitation_weight` is 0. Metrics: `collect/...`, and means over the gradient steps.
    ConfigError: no demos where they are.
    """
    if config.imitation_weight > 0 and demos is None:
        raise ConfigError(f"imitation_weight={config.imitation_weight} needs demonstrations")
    labels = demos if config.imitation_weight > 0 else None
    collect_key, learn_key = jax.random.split(key)
    episodes, stats = collect(
        world, bank, lambda obs, key: act(config, state, obs, key), collect_key, config.environments
    )
    assert state.replay is not None
    replay = write(state.replay, episodes)

    learner, metrics = gradient_steps(config, without_replay(state), replay, labels, learn_key)
    return _with_replay(learner, replay), stats | {name: value.mean() for name, value in metrics.items()}


def gradient_steps(
    config: BCSACConfig, state: State, replay: Replay, demos: Labelled | None, key: Key[Array, ""]
) -> tuple[State, Metrics]:
    """All `gradient_step`s of an iteration, and the metrics of each. `state` comes without its replay.

    Their random numbers are made at once: step by step, a CPU would take longer for them than for the optimiser.
    """
    head = state.actor.head
    drawn = jax.vmap(lambda i: chances(config, head, jax.random.fold_in(key, i)))(jnp.arange(config.gradient_steps))
    return lax.scan(lambda state, one: gradient_step(config, state, replay, demos, one), state, drawn)


def chances(config: BCSACConfig, head: Head, key: Key[Array, ""]) -> Chances:
    """Random numbers of a gradient step."""
    row_key, label_key, target_key, actor_key = jax.random.split(key, 4)
    rows, labels = (jax.random.bits(key, (config.batch,), jnp.uint32) for key in (row_key, label_key))
    shape = (config.batch, *head.noise_shape)
    return Chances(rows, labels, jax.random.normal(target_key, shape), jax.random.normal(actor_key, shape))


def gradient_step(
    config: BCSACConfig, state: State, replay: Replay, demos: Labelled | None, drawn: Chances
) -> tuple[State, Metrics]:
    """One step of critics, targets, actor and, if it is tuned, temperature; `state.replay` is left alone.

    The actor learns from the critics as they were, whose encoding of the rows then serves both losses. In the first
    `critic_first` steps of all, actor, average and temperature stay as they are.
    """
    rows = draw(replay, drawn.rows)
    prepared = state.actor.encoder.prepared
    rows = rows._replace(obs=prepared(rows.obs), next_obs=prepared(rows.next_obs))
    labels = None if demos is None else _drawn(state.actor, demos, drawn.labels)
    alpha, optimiser, head = jnp.exp(state.log_alpha), make_optimiser(config), state.actor.head

    target = soft_targets(state.actor, state.targets, head, rows, alpha, config.discount, drawn.target)
    (loss, q), slope = eqx.filter_value_and_grad(critic_loss, has_aux=True)(state.critics, rows, target)
    critics, critic_moments = descend(optimiser, state.critics, slope, state.critic_moments)
    targets = follow(state.targets, critics, config.target_rate)

    weights, encoded = (config.rl_weight, state.imitation_weight), state.critics.encoded(rows.obs)
    (_, parts), slope = eqx.filter_value_and_grad(actor_loss, has_aux=True)(
        state.actor, state.critics.valued, rows.obs, labels, weights, alpha, drawn.actor, encoded
    )
    actor, actor_moments = descend(optimiser, state.actor, slope, state.actor_moments)

    log_alpha, alpha_moments = state.log_alpha, state.alpha_moments
    if config.target_entropy is not None:
        slope = jax.grad(alpha_loss)(log_alpha, parts["actor/entropy"], config.target_entropy)
        log_alpha, alpha_moments = descend(optimiser, log_alpha, slope, alpha_moments)
    moments = actor_moments, critic_moments, alpha_moments
    metrics = {"critic/loss": loss, "critic/q": q.mean(), "actor/temperature": alpha} | parts
    average = averaged(state.average, actor, state.step + 1)
    learnt = actor, average, critics, targets, log_alpha, state.imitation_weight
    after = State(*learnt, *moments, state.replay, state.step + 1)
    if config.critic_first > 0:
        waits = state.step < config.critic_first
        old, new = ([getattr(one, name) for name in _OF_ACTOR] for one in (state, after))
        kept = jax.tree.map(lambda old, new: jnp.where(waits, old, new), old, new)
        after = eqx.tree_at(lambda s: [getattr(s, name) for name in _OF_ACTOR], after, kept)
    return after, metrics


def act(
    config: BCSACConfig, state: State, obs: Float32[Array, " D"], key: Key[Array, ""] | None = None
) -> Float[Array, "2"]:
    """u in [-1, 1]^2 of the actor as it is: a sample, or without a key the mode."""
    head, params = state.actor.head, state.actor(obs)
    return head.mode(params) if key is None else head.sample(params, key)[0]


def _least(critics: CriticsFn, obs: Any) -> Callable[[Array], Array]:
    return lambda u: critics(obs, u).min()


class _Labels(eqx.Module):
    obs: Seen
    action: Float32[Array, "B 2"]
    mask: Array


def _drawn(actor: Actor, demos: Labelled, bits: Array) -> _Labels:
    rows = below(demos.obs.shape[0], bits)
    obs, action, mask = (jnp.asarray(field)[rows] for field in (demos.obs, demos.action, demos.mask))
    return _Labels(actor.encoder.prepared(obs), action, mask)


def without_replay(state: State) -> State:
    """What `gradient_step` carries."""
    return _with_replay(state, None)


def _with_replay(state: State, replay: Replay | None) -> State:
    return eqx.tree_at(lambda s: s.replay, state, replay, is_leaf=lambda x: x is None or isinstance(x, Replay))
