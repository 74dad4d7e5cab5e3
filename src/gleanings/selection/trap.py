"""The variance trap: a staged problem whose exact regrets are known, in which small classes look good on held-out data.

State (1, x_1, ..., x_{D-1}); column 2 is z, the signal columns are +-1 or, by default, column 1 alone. Uniform actions,
r = s(x) (2 a - 1) + b z + N(0, noise^2) with s the sum of the signals times their strengths. The next state does not
depend on (x, a): signals and z are +-1, all else N(0, 1). In the log z is 0 at the first stage and later 0 with
probability 1 - q, so the larger classes pay for the variance of b z' in their targets, which the smallest does not see.
Source: ours.
"""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gleanings.selection.prefix import Rows

_Z = 2


@dataclass(frozen=True)
class Trap:
    """Parameters of the variance trap.

    q: probability that the log sees z = +-1 after the first stage. stages: H. columns: D, the size of the state.
    nuisance: b. signals: column -> strength c. noise: standard deviation of the reward.
    """

    q: float = 0.5
    stages: int = 3
    columns: int = 96
    nuisance: float = 1.0
    signals: tuple[tuple[int, float], ...] = ((1, 0.3),)
    noise: float = 0.5


DEFAULT = Trap()


def trap_rows(trap: Trap, size: int, n: Array | int, q: Array | float, key: Array) -> Rows:
    """Logged rows `[H, size, ...]` of which the first `n` stand for data, 80 % of them for training."""
    shape = (trap.stages, size)
    keys = jax.random.split(key, 5)
    later = (jnp.arange(trap.stages) > 0)[:, None]
    features = _states(trap, keys[0], shape, later & jax.random.bernoulli(keys[1], q, shape))
    action = jax.random.randint(keys[2], shape, 0, 2)
    noise = trap.noise * jax.random.normal(keys[3], shape)
    reward = _signal(trap, features) * (2 * action - 1) + trap.nuisance * features[..., _Z] + noise
    has_next = jnp.broadcast_to((jnp.arange(trap.stages) < trap.stages - 1)[:, None], shape)
    row = jnp.broadcast_to(jnp.arange(size), shape)
    num_train = jnp.floor(0.8 * n)
    return Rows(
        features=features,
        action=action,
        reward=reward,
        next_features=_states(trap, keys[4], shape, has_next),
        discount=has_next.astype(jnp.float32),
        train=(row < num_train).astype(jnp.float32),
        valid=((row >= num_train) & (row < n)).astype(jnp.float32),
    )


def trap_regret(trap: Trap, weights: Float[Array, "*batch H 2 D"]) -> Float[Array, " *batch"]:
    """Exact regret of the greedy policy: sum over stages of E 2 |s| P(the wrong action | signals, z).

    The columns that are neither signal nor z add a Gaussian of deviation |delta| on them to the difference of the two
    action values.
    """
    states = _signs(trap)
    mean, spread = _difference(trap, weights, states)
    smooth = jax.scipy.stats.norm.cdf(mean / jnp.where(spread > 0, spread, 1))
    plays_one = jnp.where(spread > 0, smooth, (mean > 0).astype(mean.dtype))
    signal = states[:, :-1] @ np.array([strength for _, strength in trap.signals], np.float32)
    wrong = jnp.where(signal > 0, 1 - plays_one, plays_one)
    return (2 * jnp.abs(signal) * wrong).mean(-1).sum(-1)


def trap_bellman_error(trap: Trap, weights: Float[Array, "*batch H 2 D"], q: Array | float) -> Float[Array, "*batch H"]:
    """Exact mean of (f_h - T_h f_{h+1})^2 over the log, whose z is +-1 with probability `q` after the first stage.

    The next state depends on nothing, so T_h f_{h+1} is the mean reward plus a constant, and the columns are
    uncorrelated, so the mean square of a linear function is the sum of its squared weights times their mean squares.
    """
    mean, spread = _difference(trap, weights, _signs(trap))
    safe = jnp.where(spread > 0, spread, 1)
    normal = jax.scipy.stats.norm
    gain = mean * normal.cdf(mean / safe) + spread * normal.pdf(mean / safe)
    best = weights[..., 0, 0] + jnp.where(spread > 0, gain, jnp.maximum(mean, 0)).mean(-1)
    following = jnp.concatenate([best[..., 1:], jnp.zeros_like(best[..., :1])], -1)
    reward = np.zeros((2, trap.columns), np.float32)
    for column, strength in trap.signals:
        reward[:, column] = -strength, strength
    reward[:, _Z] = trap.nuisance
    error = (weights - reward).at[..., 0].add(-following[..., None])
    squares = jnp.ones((trap.stages, trap.columns)).at[:, _Z].set(jnp.where(jnp.arange(trap.stages) > 0, q, 0.0))
    return (error**2 * squares[:, None]).sum(-1).mean(-1)


def _signs(trap: Trap) -> Float[np.ndarray, "S K"]:
    """All equally likely values of the signal columns and, last, of z."""
    return np.array(list(itertools.product(*[(-1.0, 1.0)] * (len(trap.signals) + 1))), np.float32)


def _difference(
    trap: Trap, weights: Float[Array, "*batch H 2 D"], states: Float[np.ndarray, "S K"]
) -> tuple[Float[Array, "*batch H S"], Float[Array, "*batch H 1"]]:
    """Mean in each state, and deviation, of f(x, 1) - f(x, 0) under the dynamics; z is 0 at the first stage."""
    delta = weights[..., 1, :] - weights[..., 0, :]
    columns = np.array([column for column, _ in trap.signals])
    other = np.setdiff1d(np.arange(1, trap.columns), [*columns, _Z])
    spread = jnp.sqrt((delta[..., other] ** 2).sum(-1))[..., None]
    first = (np.arange(trap.stages) == 0)[:, None]
    mean = delta[..., 0, None] + jnp.einsum("...c,sc->...s", delta[..., columns], states[:, :-1])
    return mean + delta[..., _Z, None] * jnp.where(first, 0, states[:, -1]), spread


def _signal(trap: Trap, features: Float[Array, "*batch D"]) -> Float[Array, " *batch"]:
    parts = (strength * features[..., column] for column, strength in trap.signals)
    return sum(parts, start=jnp.zeros_like(features[..., 0]))


def _states(trap: Trap, key: Array, shape: tuple[int, int], has_z: Array) -> Float[Array, "H n D"]:
    """Signals +-1, z = +-1 where `has_z` and else 0, the rest N(0, 1)."""
    normal_key, sign_key = jax.random.split(key)
    normal = jax.random.normal(normal_key, (*shape, trap.columns))
    columns = np.array([*(column for column, _ in trap.signals), _Z])
    signs = jax.random.rademacher(sign_key, (*shape, len(columns)), jnp.float32)
    signs = signs.at[..., -1].multiply(has_z)
    return normal.at[..., columns].set(signs).at[..., 0].set(1)
