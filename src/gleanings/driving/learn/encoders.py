"""From a flat observation to features: sets of objects, road points, lights, and the route. The family of encoders.

A batch is one matrix product per layer, as leading axes or under `jax.vmap`; gradients of leading axes are faster.
Inputs are scaled by constants: positions by 20 m, speeds by 10 m/s, distance from the route by 2 m, sizes by 5 and 2 m.
Source: arXiv 2212.11419 (attention over groups) and design page 3.11; sizes are ours. Without the route also the ego's
offset and heading relative to it are hidden.
"""

import abc
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from gleanings.core.errors import ConfigError
from gleanings.driving.config import ObserveConfig
from gleanings.driving.learn._relations import COUNT, bends, relations
from gleanings.driving.learn.config import NetConfig
from gleanings.driving.learn.layers import Dense, Norm
from gleanings.driving.observation import flatten, observation_size, unflatten

_EGO = (0.1, 0.1, 0.2, 0.5, 0.5, 1.0, 0.1)  # speeds, size, offset and heading relative to the route, speed limit
_MOVING = (0.05, 0.05, 1.0, 1.0, 0.1, 0.1)  # position, direction, velocity
_ROAD = (0.05, 0.05, 1.0, 1.0, 0.2)  # position, direction, height
_LIGHT = (0.05, 0.05, *6 * (1.0,))
_PATH = (0.05, 0.05, 0.1)
_KINDS, _ROAD_KINDS = 4, 8
_OF_ROUTE = (4, 5)  # features of the ego


class Group(NamedTuple):
    """Rows of scaled features, and which there are."""

    rows: Float[Array, "*batch R F"]
    mask: Bool[Array, "*batch R"]


class Inputs(NamedTuple):
    """A scaled observation: the ego's features and four groups of rows; masked rows are 0."""

    ego: Array
    others: Group
    road: Group
    lights: Group
    path: Group


Seen = Float32[Array, "*batch D"] | Inputs
"""Observations, or what `Encoder.prepared` makes of them."""


def inputs(obs: Float32[Array, "*batch D"], observe: ObserveConfig, use_route: bool = True) -> Inputs:
    """Scaled features of a flat observation. An object has one row with all its frames and which of them there are."""
    seen = unflatten(obs, observe)
    ego = seen.ego[..., :7] * jnp.asarray(_EGO)
    ego = ego if use_route else ego.at[..., jnp.asarray(_OF_ROUTE)].set(0.0)
    frames = jnp.where(seen.others_mask[..., None], seen.others[..., :6] * jnp.asarray(_MOVING), 0.0)
    now = seen.others[..., 0, :]
    others = [
        frames.reshape(*frames.shape[:-2], 6 * observe.frames),
        seen.others_mask.astype(jnp.float32),
        now[..., 6:8] * jnp.asarray((0.2, 0.5)),
        relations(seen, use_route),
        jax.nn.one_hot(now[..., 8].astype(jnp.int32), _KINDS),
    ]
    kind = jax.nn.one_hot(seen.road[..., 5].astype(jnp.int32), _ROAD_KINDS)
    road = [seen.road[..., :5] * jnp.asarray(_ROAD), kind]
    path_mask = seen.path_mask & use_route
    path = [seen.path * jnp.asarray(_PATH), bends(seen, observe.spacing_m)[..., None]]
    return Inputs(
        jnp.concatenate([ego, jax.nn.one_hot(seen.ego[..., 7].astype(jnp.int32), _KINDS)], -1),
        _group(jnp.concatenate(others, -1), seen.others_mask.any(-1)),
        _group(jnp.concatenate(road, -1), seen.road_mask),
        _group(seen.lights * jnp.asarray(_LIGHT), seen.lights_mask),
        _group(jnp.concatenate(path, -1), path_mask),
    )


def _group(rows: Float[Array, "*batch R F"], mask: Bool[Array, "*batch R"]) -> Group:
    return Group(jnp.where(mask[..., None], rows, 0.0), mask)


def _widths(observe: ObserveConfig) -> tuple[int, int, int, int, int]:
    """Features of the ego and of a row in each group, as `inputs` makes them."""
    others = 7 * observe.frames + 2 + _KINDS + COUNT
    return len(_EGO) + _KINDS, others, len(_ROAD) + _ROAD_KINDS, len(_LIGHT), len(_PATH) + 1


class Encoder(eqx.Module):
    """Flat observation -> features."""

    observe: eqx.AbstractVar[ObserveConfig]
    use_route: eqx.AbstractVar[bool]

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Features."""

    def prepared(self, obs: Float32[Array, "*batch D"]) -> Seen:
        """What needs no weights; taken in place of observations, so that several networks can share it."""
        return inputs(obs, self.observe, self.use_route)

    @abc.abstractmethod
    def __call__(self, obs: Seen) -> Float[Array, "*batch F"]:
        """Features of observations."""


class SetNet(eqx.Module):
    """Two layers for each row, then the masked maximum and mean; 0 for an empty set."""

    first: Dense
    second: Dense

    def __init__(self, inputs: int, width: int) -> None:
        self.first, self.second = Dense(inputs, width), Dense(width, width)

    def __call__(self, group: Group) -> Float[Array, "*batch F"]:
        hidden = jax.nn.relu(self.second(jax.nn.relu(self.first(group.rows))))
        kept = hidden * group.mask[..., None]  # not negative: 0 is the least a maximum can be
        mean = kept.sum(-2) / jnp.maximum(group.mask.sum(-1, keepdims=True), 1)
        return jnp.concatenate([_greatest(kept), mean], -1)


@jax.custom_vjp
def _greatest(rows: Float[Array, "*batch R F"]) -> Float[Array, "*batch F"]:
    """Maximum over rows that are not negative. Each row that attains it gets the whole slope; JAX would count them
    first, in two more passes; equal rows are zeros almost always, whose slope the ReLU before them drops."""
    return rows.max(-2, initial=0.0)


def _greatest_forward(rows: Array) -> tuple[Array, tuple[Array, Array]]:
    most = rows.max(-2, initial=0.0)
    return most, (rows, most)


def _greatest_backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array]:
    rows, most = saved
    return (jnp.where(rows == most[..., None, :], slope[..., None, :], 0.0),)


_greatest.defvjp(_greatest_forward, _greatest_backward)


class DeepSetEncoder(Encoder):
    """The ego by a layer, objects, road points and lights as sets, the route as it is."""

    ego: Dense
    sets: tuple[SetNet, SetNet, SetNet]
    observe: ObserveConfig = eqx.field(static=True)
    use_route: bool = eqx.field(static=True)

    def __init__(self, net: NetConfig, observe: ObserveConfig) -> None:
        widths = _widths(observe)
        self.observe, self.use_route = observe, net.use_route
        self.ego = Dense(widths[0], net.width)
        others, road, lights = (SetNet(width, net.width) for width in widths[1:4])
        self.sets = others, road, lights

    @property
    def size(self) -> int:
        """7 widths, and 5 numbers for each point of the route."""
        return 7 * self.ego.weight.shape[-1] + (_widths(self.observe)[4] + 1) * self.observe.route

    def __call__(self, obs: Seen) -> Float[Array, "*batch F"]:
        """Features of observations."""
        seen = obs if isinstance(obs, Inputs) else inputs(obs, self.observe, self.use_route)
        groups = (seen.others, seen.road, seen.lights)
        pooled = [net(group) for net, group in zip(self.sets, groups, strict=True)]
        route = [seen.path.rows.reshape(*seen.ego.shape[:-1], -1), seen.path.mask.astype(jnp.float32)]
        return jnp.concatenate([jax.nn.relu(self.ego(seen.ego)), *pooled, *route], -1)


class Attention(eqx.Module):
    """Multi-head attention of queries to those tokens that the mask keeps; 0 before the last layer where none is."""

    query: Dense
    key_value: Dense
    out: Dense
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int) -> None:
        gain = math.sqrt(0.5)
        self.query = Dense(width, width, gain=gain, bias=False)
        self.key_value = Dense(width, 2 * width, gain=gain, bias=False)
        self.out, self.heads = Dense(width, width, gain=gain), heads

    def __call__(
        self, queries: Float[Array, "*some L D"], tokens: Float[Array, "*batch S D"], mask: Bool[Array, "*batch S"]
    ) -> Float[Array, "*batch L D"]:
        """What each query reads; queries may lack the leading axes."""
        q = self.query(queries).reshape(*queries.shape[:-1], self.heads, -1)
        k, v = jnp.moveaxis(self.key_value(tokens).reshape(*tokens.shape[:-1], 2, self.heads, -1), -3, 0)
        scores = jnp.einsum("...lhe,...she->...hls", q, k) / math.sqrt(q.shape[-1])
        mask = mask[..., None, None, :]
        most = jax.lax.stop_gradient(jnp.where(mask, scores, -jnp.inf).max(-1, keepdims=True, initial=-1e9))
        weights = jnp.where(mask, jnp.exp(jnp.where(mask, scores - most, 0.0)), 0.0)
        weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-9)
        read = jnp.einsum("...hls,...she->...lhe", weights, v)
        return self.out(read.reshape(*read.shape[:-2], -1))


class _Block(eqx.Module):
    """Latents read the tokens, then each other, then pass two layers; each step adds to what it was given."""

    norms: tuple[Norm, ...]
    cross: Attention
    among: Attention
    first: Dense
    second: Dense

    def __init__(self, width: int, heads: int) -> None:
        self.norms = tuple(Norm(width) for _ in range(3))
        self.cross, self.among = Attention(width, heads), Attention(width, heads)
        self.first, self.second = Dense(width, 2 * width), Dense(2 * width, width)

    def __call__(
        self, latents: Float[Array, "*some L D"], tokens: Float[Array, "*batch S D"], mask: Bool[Array, "*batch S"]
    ) -> Float[Array, "*batch L D"]:
        latents = latents + self.cross(self.norms[0](latents), tokens, mask)
        own = self.norms[1](latents)
        latents = latents + self.among(own, own, jnp.ones(own.shape[:-1], bool))
        return latents + self.second(jax.nn.relu(self.first(self.norms[2](latents))))


class AttentionEncoder(Encoder):
    """Learned latents that attend to the ego, objects, road points, lights and route points; their mean.

    The latents are the rows of a weight, which start with variance 1.
    Each group has a layer of its own into tokens, whose bias is the embedding of the group. ConfigError: a width that
    the attention heads do not divide.
    """

    groups: tuple[Dense, ...]
    latents: Dense
    tokens: Norm
    blocks: tuple[_Block, ...]
    last: Norm
    observe: ObserveConfig = eqx.field(static=True)
    use_route: bool = eqx.field(static=True)

    def __init__(self, net: NetConfig, observe: ObserveConfig) -> None:
        if net.width % net.heads:
            raise ConfigError(f"width {net.width} of an attention encoder: a multiple of {net.heads} heads is needed")
        self.observe, self.use_route = observe, net.use_route
        self.groups = tuple(Dense(width, net.width) for width in _widths(observe))
        self.latents = Dense(net.latents, net.width, gain=math.sqrt(net.latents / 2), bias=False)
        self.tokens, self.last = Norm(net.width), Norm(net.width)
        self.blocks = tuple(_Block(net.width, net.heads) for _ in range(net.blocks))

    @property
    def size(self) -> int:
        """The width."""
        return self.last.scale.shape[-1]

    def __call__(self, obs: Seen) -> Float[Array, "*batch F"]:
        """Features of observations."""
        tokens, mask = self.tokens_of(obs)
        latents = self.latents.weight
        for block in self.blocks:
            latents = block(latents, tokens, mask)
        return self.last(latents).mean(-2)

    def tokens_of(self, obs: Seen) -> tuple[Float[Array, "*batch S W"], Bool[Array, "*batch S"]]:
        """Tokens and which there are; the ego, the first, always is."""
        seen = obs if isinstance(obs, Inputs) else inputs(obs, self.observe, self.use_route)
        ego = Group(seen.ego[..., None, :], jnp.ones((*seen.ego.shape[:-1], 1), bool))
        groups = [ego, seen.others, seen.road, seen.lights, seen.path]
        rows = [layer(group.rows) for layer, group in zip(self.groups, groups, strict=True)]
        return self.tokens(jnp.concatenate(rows, -2)), jnp.concatenate([group.mask for group in groups], -1)


class FlatEncoder(Encoder):
    """The scaled observation itself, kinds as numbers, with padding as it is: 0."""

    observe: ObserveConfig = eqx.field(static=True)
    use_route: bool = eqx.field(static=True)

    def __init__(self, net: NetConfig, observe: ObserveConfig) -> None:
        self.observe, self.use_route = observe, net.use_route

    @property
    def size(self) -> int:
        """D."""
        return observation_size(self.observe)

    def prepared(self, obs: Float32[Array, "*batch D"]) -> Float32[Array, "*batch D"]:
        """The observation: scaling it is one product."""
        return obs

    def __call__(self, obs: Seen) -> Float[Array, "*batch D"]:
        """Features of observations."""
        assert not isinstance(obs, Inputs)
        one = unflatten(np.ones(self.size, np.float32), self.observe)
        ego = [0.0 if i in _OF_ROUTE and not self.use_route else factor for i, factor in enumerate((*_EGO, 1.0))]
        factors = one._replace(
            ego=one.ego * np.asarray(ego, np.float32),
            others=one.others * np.asarray((*_MOVING, 0.2, 0.5, 1.0), np.float32),
            road=one.road * np.asarray((*_ROAD, 1.0, 1.0), np.float32),
            lights=one.lights * np.asarray(_LIGHT, np.float32),
            path=one.path * np.asarray(_PATH, np.float32) * self.use_route,
            path_mask=one.path_mask & self.use_route,
        )
        return obs * flatten(factors)  # one product with a constant row, rather than a pass over each group


def make_encoder(net: NetConfig, observe: ObserveConfig) -> Encoder:
    """The encoder that the config names. ConfigError: another name, or as the encoder says."""
    if net.encoder == "deep-set":
        return DeepSetEncoder(net, observe)
    if net.encoder == "attention":
        return AttentionEncoder(net, observe)
    if net.encoder == "flat":
        return FlatEncoder(net, observe)
    raise ConfigError(f"encoder {net.encoder!r}: use deep-set, attention or flat")
