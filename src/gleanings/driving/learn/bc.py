"""Behaviour cloning: maximum likelihood of logged actions. Source: arXiv 2310.08710 and 2212.11419, their baselines.

Sizes, rates and the number of steps are ours. A dimension of a label that is masked has no term and no gradient.
"""

import functools
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Float32, Int32, Key

from gleanings.driving.config import ObserveConfig
from gleanings.driving.learn._descent import averaged, descend, make_optimiser
from gleanings.driving.learn.config import BCConfig
from gleanings.driving.learn.encoders import Seen
from gleanings.driving.learn.heads import make_head
from gleanings.driving.learn.networks import Actor

Metrics = dict[str, Array]


@runtime_checkable
class Labelled(Protocol):
    """What is learnt from, as `demos.Demonstrations`: obs [M, D], action [M, 2] f32; mask [M, 2] bool."""

    @property
    def obs(self) -> Any:
        """Observations [M, D]."""
        ...

    @property
    def action(self) -> Any:
        """Actions [M, 2] in [-1, 1]."""
        ...

    @property
    def mask(self) -> Any:
        """Which parts of them the log determines, bool [M, 2]."""
        ...


class State(eqx.Module):
    """Actor, its average over the last steps, which drives, state of the optimiser, and gradient steps made."""

    actor: Actor
    average: Actor
    optimiser: optax.OptState
    step: Int32[Array, ""]


def bc_loss(actor: Actor, obs: Seen, action: Float32[Array, "B 2"], mask: Array) -> tuple[Array, Array]:
    """Mean negative log-likelihood of the labels, and the heads' parameters [B, P]."""
    params = actor(obs)
    return -jax.vmap(actor.head.log_prob)(params, action, mask).mean(), params


def label_metrics(actor: Actor, params: Float[Array, "B P"], action: Float32[Array, "B 2"], mask: Array) -> Metrics:
    """actor/error: mean |mode - label|; actor/clipped: share of labels clipped; both over what is not masked."""
    count = jnp.maximum(mask.sum(), 1)
    error = jnp.where(mask, jnp.abs(jax.vmap(actor.head.mode)(params) - action), 0.0).sum() / count
    return {"actor/error": error, "actor/clipped": (mask & actor.head.clipped(action)).sum() / count}


@functools.partial(jax.jit, static_argnames=("config", "observe"))
def init(config: BCConfig, observe: ObserveConfig, key: Key[Array, ""]) -> State:
    """An untrained actor. ConfigError: as the networks and heads say."""
    actor = Actor(config.net, make_head(config.head, config.components), observe, key)
    moments = make_optimiser(config).init(eqx.filter(actor, eqx.is_array))
    return State(actor, jax.tree.map(jnp.array, actor), moments, jnp.zeros((), jnp.int32))


def update(config: BCConfig, state: State, demos: Labelled, key: Key[Array, ""]) -> tuple[State, Metrics]:
    """`gradient_steps` steps, each on `batch` rows drawn with replacement; metrics are means over the steps."""
    obs, action, mask = (jnp.asarray(part) for part in (demos.obs, demos.action, demos.mask))

    def step(state: State, rows: Array) -> tuple[State, Metrics]:
        return _descend(config, state, obs[rows], action[rows], mask[rows])

    rows = jax.random.randint(key, (config.gradient_steps, config.batch), 0, len(obs))
    state, metrics = jax.lax.scan(step, state, rows)
    return state, {name: value.mean() for name, value in metrics.items()}


def act(
    config: BCConfig, state: State, obs: Float32[Array, " D"], key: Key[Array, ""] | None = None
) -> Float[Array, "2"]:
    """Action of the averaged actor for one observation: a sample, or the mode without a key."""
    head, params = state.average.head, state.average(obs)
    return head.mode(params) if key is None else head.sample(params, key)[0]


def _descend(config: BCConfig, state: State, obs: Array, action: Array, mask: Array) -> tuple[State, Metrics]:
    (loss, params), gradient = eqx.filter_value_and_grad(bc_loss, has_aux=True)(state.actor, obs, action, mask)
    actor, optimiser = descend(make_optimiser(config), state.actor, gradient, state.optimiser)
    metrics = {"actor/bc_nll": loss} | label_metrics(state.actor, params, action, mask)
    step = state.step + 1
    return State(actor, averaged(state.average, actor, step), optimiser, step), metrics
