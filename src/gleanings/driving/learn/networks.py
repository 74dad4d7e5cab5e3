"""Actor, critic and Q-network: an encoder, a trunk of hidden ReLU layers and a linear output.

Weights start He-normal, those of the outputs ten times smaller, biases at zero: an actor starts near its centre with a
spread of about 0.17, a critic near 0. Critics have layer normalisation in the trunk, and no bound on the output, since
returns are negative. Observations may have leading axes, whose gradients are
faster than those of `jax.vmap`. Source: ours.
"""

import itertools

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from gleanings.core.errors import ConfigError
from gleanings.driving.config import ObserveConfig
from gleanings.driving.learn.config import NetConfig
from gleanings.driving.learn.encoders import Encoder, Seen, make_encoder
from gleanings.driving.learn.heads import Head
from gleanings.driving.learn.layers import Dense, Norm, initialised

_LAST = 0.1  # gain of the output layers


class Trunk(eqx.Module):
    """Hidden ReLU layers, with layer normalisation if asked, and a linear output. ConfigError: no hidden layer."""

    layers: tuple[Dense, ...]
    norms: tuple[Norm, ...]
    out: Dense

    def __init__(self, sizes: tuple[int, ...], outputs: int, *, norm: bool = False) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ConfigError(f"trunk {sizes[1:]}: at least one hidden layer of 1 unit is needed")
        self.layers = tuple(Dense(inputs, width) for inputs, width in itertools.pairwise(sizes))
        self.norms = tuple(Norm(width) for width in sizes[1:]) if norm else ()
        self.out = Dense(sizes[-1], outputs, gain=_LAST)

    def __call__(
        self, x: Float[Array, "*batch D"], more: Float[Array, "*batch F"] | float = 0.0
    ) -> Float[Array, "*batch P"]:
        """Outputs; `more` is added before the first nonlinearity."""
        return self.rest(self.layers[0](x) + more)

    def rest(self, x: Float[Array, "*batch F"]) -> Float[Array, "*batch P"]:
        """Outputs for what comes out of the first layer."""
        for i in range(len(self.layers)):
            x = self.layers[i](x) if i else x
            x = jax.nn.relu(self.norms[i](x) if self.norms else x)
        return self.out(x)


class Actor(eqx.Module):
    """Observation [D] -> parameters [P] of its head."""

    encoder: Encoder
    trunk: Trunk
    head: Head

    def __init__(self, net: NetConfig, head: Head, observe: ObserveConfig, key: Key[Array, ""]) -> None:
        encoder = make_encoder(net, observe)
        trunk = Trunk((encoder.size, *net.trunk), head.size)
        (self.encoder, self.trunk), self.head = initialised((encoder, trunk), key), head

    def __call__(self, obs: Seen) -> Float[Array, "*batch P"]:
        """Parameters of the distribution of the action."""
        return self.trunk(self.encoder(obs))


class Critic(eqx.Module):
    """Observation [D] and action [2] -> value. Many actions of one observation share its encoding under `jax.vmap`."""

    encoder: Encoder
    action: Dense
    trunk: Trunk

    def __init__(self, net: NetConfig, observe: ObserveConfig, key: Key[Array, ""]) -> None:
        encoder = make_encoder(net, observe)
        trunk = Trunk((encoder.size, *net.trunk), 1, norm=net.norm)
        action = Dense(2, net.trunk[0], bias=False)
        self.encoder, self.action, self.trunk = initialised((encoder, action, trunk), key)

    def __call__(self, obs: Seen, u: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
        """Value of the action."""
        return self.valued(self.encoded(obs), u)

    def encoded(self, obs: Seen) -> Float[Array, "*batch F"]:
        """What the value of any action needs of the observation."""
        return self.trunk.layers[0](self.encoder(obs))

    def valued(self, encoded: Float[Array, "*batch F"], u: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
        """Value of the action, given what `encoded` makes of the observation."""
        return self.trunk.rest(encoded + self.action(u))[..., 0]


class QNetwork(eqx.Module):
    """Observation [D] -> value of each of A actions."""

    encoder: Encoder
    trunk: Trunk

    def __init__(self, net: NetConfig, observe: ObserveConfig, actions: int, key: Key[Array, ""]) -> None:
        encoder = make_encoder(net, observe)
        trunk = Trunk((encoder.size, *net.trunk), actions, norm=net.norm)
        self.encoder, self.trunk = initialised((encoder, trunk), key)

    def __call__(self, obs: Seen) -> Float[Array, "*batch A"]:
        """Values of all actions."""
        return self.trunk(self.encoder(obs))
