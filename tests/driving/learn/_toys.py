"""A world without a simulator, and finite decision processes with their solutions."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gleanings.driving.config import ObserveConfig
from gleanings.driving.learn.config import WorldConfig
from gleanings.driving.learn.heads import Categorical
from gleanings.driving.learn.replay import Rows
from gleanings.driving.learn.world import Decision, World
from gleanings.driving.scene import Scene

TINY = ObserveConfig(objects=1, frames=1, road=0, lights=0, route=1)
SPEED, OFFSET = 0, 4  # places in the features of the ego
GRID = Categorical((3, 3))


class Toy(World):
    """Keep an offset near 0: steering moves it by up to 1, the reward is minus what is left. Beyond 2.5: off the road.

    A scene is its number, which the observation shows as the speed.
    """

    def __init__(self, horizon=8, **settings):
        super().__init__(WorldConfig(observe=TINY, horizon=horizon, **settings))

    def begin(self, scene, key):
        """An offset in [-2, 2]."""
        offset = jax.random.uniform(key, (), minval=-2.0, maxval=2.0)
        return offset, self._seen(scene, offset)

    def decide(self, scene, state, u, key):
        """Progress is the sum of nothing: the first part of u."""
        offset = jnp.clip(state + u[1], -3.0, 3.0)
        off, far = jnp.abs(offset) > 2.5, jnp.float32(9)
        return offset, Decision(
            self._seen(scene, offset), -jnp.abs(offset), far, u[0], off & False, off & False, off, off & False
        )

    def _seen(self, scene, offset):
        return jnp.zeros(self.observation_size).at[SPEED].set(scene.start).at[OFFSET].set(offset)


def toy_bank(count=4):
    """Scenes that are but numbers."""
    return Scene(*[np.arange(count, dtype=np.float32)] * len(Scene._fields))


class Labels(NamedTuple):
    """Demonstrations."""

    obs: np.ndarray
    action: np.ndarray
    mask: np.ndarray


def toy_labels(count=64):
    """Steer against the offset; every fourth label knows no acceleration."""
    rng = np.random.default_rng(0)
    obs = np.zeros((count, Toy().observation_size), np.float32)
    obs[:, OFFSET] = rng.uniform(-2, 2, count)
    action = np.stack([rng.uniform(-1, 1, count), -np.clip(obs[:, OFFSET], -1, 1)], 1).astype(np.float32)
    mask = np.ones((count, 2), bool)
    mask[::4, 0] = False
    return Labels(obs, action, mask)


class Process(NamedTuple):
    """Deterministic: reward [S, A] and next state [S, A], for the 9 actions of `GRID`."""

    reward: np.ndarray
    following: np.ndarray

    def rows(self):
        """Every state with every action; an observation is one-hot."""
        states, actions = np.divmod(np.arange(self.reward.size), GRID.size)
        seen, u = np.eye(len(self.reward), dtype=np.float32), np.asarray(GRID.actions(), np.float32)
        reward, following = self.reward.astype(np.float32).ravel(), self.following.ravel()
        return Rows(*map(jax.device_put, (seen[states], u[actions], reward, seen[following])))

    def solve(self, discount, alpha):
        """Q [S, A] by soft value iteration in float64; alpha 0: value iteration."""
        q = np.zeros(self.reward.shape)
        for _ in range(3000):
            top = q.max(1)
            soft = alpha * np.log(np.exp((q - top[:, None]) / max(alpha, 1e-12)).sum(1)) if alpha else 0.0
            q = self.reward + discount * (top + soft)[self.following]
        return q


def random_process(states=6):
    """Rewards in [-3, 0]."""
    rng = np.random.default_rng(3)
    shape = (states, GRID.size)
    return Process(rng.uniform(-3, 0, shape), rng.integers(0, states, shape))


def crash_or_drive():
    """State 0: the first action crashes, the others drive on at a small cost; after a crash only its cost is left."""
    reward, following = np.full((2, GRID.size), -0.4), np.zeros((2, GRID.size), int)
    reward[0, 0], reward[1] = -3.0, -3.0
    following[0, 0], following[1] = 1, 1
    return Process(reward, following)


class Table(eqx.Module):
    """A number for each state and action; called with actions it is a critic, without a Q-network or an actor."""

    values: jax.Array

    def __call__(self, obs, u=None):
        row = obs @ self.values
        if u is None:
            return row
        return jnp.vectorize(_entry, signature="(a),(b)->()")(row, u)


def _entry(row, u):
    i, j = GRID.index(u)
    return row[i * GRID.bins[1] + j]
