"""Bandit logs whose right answer is known: each takes one source of error away, or leaves them all.

Values are given as means [B, A] of the arms, so that the regret of any policy is exact given the contexts.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from gleanings.selection.bandit import BanditLog
from gleanings.selection.pessimistic import BanditClass, JointLinear

_TEST_CONTEXTS = 2000
SIGMA = 0.5


class BanditProblem(NamedTuple):
    """A log, the classes to choose from, and contexts [B, C] with the true means [B, A] to judge a policy on."""

    log: BanditLog
    classes: list[BanditClass]
    context: Float[np.ndarray, "B C"]
    means: Float[np.ndarray, "B A"]

    def regret(self, policy: Float[np.ndarray, "B A"]) -> float:
        """Mean over the contexts of the best arm's value less the policy's."""
        return float((self.means.max(1) - (policy * self.means).sum(1)).mean())


def nested_bandit(n: int, greedy: bool, seed: int) -> BanditProblem:
    """Five arms with features phi(x, a) ~ N(0, I_48), of which the first 12 have weights ~ N(0, 1/12).

    Classes have the leading 3, 6, 12, 24, 48 features; the third is the smallest without approximation error. The
    logger is uniform, or plays the best arm with probability 0.9. Source: ours.
    """
    rng = np.random.default_rng(seed)
    arms, size = 5, 48
    theta = np.concatenate([rng.normal(size=12) / np.sqrt(12), np.zeros(size - 12)])

    def contexts(count: int) -> tuple[np.ndarray, np.ndarray]:
        phi = rng.normal(size=(count, arms, size))
        return phi.reshape(count, -1), phi @ theta

    def leading(d: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda context: context.reshape(len(context), arms, size)[..., :d]

    context, means = contexts(n)
    best = np.eye(arms)[means.argmax(1)]
    chances = 0.9 * best + 0.1 / arms if greedy else np.full((n, arms), 1 / arms)
    log = _logged(rng, context, means, chances)
    classes: list[BanditClass] = [JointLinear(f"leading[{d}]", leading(d)) for d in (3, 6, 12, 24, 48)]
    return BanditProblem(log, classes, *contexts(_TEST_CONTEXTS))


def cover_bandit(n: int, seed: int) -> BanditProblem:
    """Ten arms in R^3 with linear values; group 0 logs the best two and the worst four, group 1 the worst four.

    Classes: one weight for each arm and group, and linear in R^3; neither errs by approximation. Source: ours.
    """
    rng = np.random.default_rng(seed)
    arms = rng.normal(size=(10, 3))
    values = arms @ rng.normal(size=3)
    order = values.argsort()
    chances = np.zeros((2, 10))
    chances[0, np.r_[order[:4], order[-2:]]] = 1 / 6
    chances[1, order[:4]] = 1 / 4
    group = rng.integers(0, 2, n)

    def tabular(context: np.ndarray) -> np.ndarray:
        cell = np.eye(2)[context[:, 0].astype(int)]
        return np.einsum("bg,ac->bagc", cell, np.eye(10)).reshape(len(context), 10, 20)

    def linear(context: np.ndarray) -> np.ndarray:
        return np.broadcast_to(arms, (len(context), 10, 3))

    log = _logged(rng, group[:, None].astype(float), np.tile(values, (n, 1)), chances[group])
    classes: list[BanditClass] = [JointLinear("arm x group", tabular), JointLinear("linear", linear)]
    return BanditProblem(log, classes, np.array([[0.0], [1.0]]), np.tile(values, (2, 1)))


def mixing_bandit(n: int, seed: int) -> BanditProblem:
    """Six arms and two groups; each class covers the best arm in one group and is fooled by the worst in the other.

    Values are sorted uniforms, but the best is the second plus 0.3 and the worst 0; neither is ever logged. A class
    holds the value in the coordinate of the group. In the other class's group the best arm has one more coordinate,
    never logged, and the worst arm looks like the best plus 0.5 but for a coordinate that is never logged.
    Source: ours.
    """
    rng = np.random.default_rng(seed)
    values = np.sort(rng.random(6))
    values[5], values[0] = values[4] + 0.3, 0.0
    group = rng.integers(0, 2, n)

    def features(own: int) -> Callable[[np.ndarray], np.ndarray]:
        table = np.zeros((2, 6, 6))
        for g in range(2):
            table[g, :, g] = values
            if g != own:
                table[g, 5, 2 + g] = 1
                table[g, 0, g], table[g, 0, 4 + g] = values[5] + 0.5, -1
        return lambda context: table[context[:, 0].astype(int)]

    chances = np.tile(np.array([0, 0.25, 0.25, 0.25, 0.25, 0]), (n, 1))
    log = _logged(rng, group[:, None].astype(float), np.tile(values, (n, 1)), chances)
    classes: list[BanditClass] = [JointLinear(f"group {own}", features(own)) for own in range(2)]
    return BanditProblem(log, classes, np.array([[0.0], [1.0]]), np.tile(values, (2, 1)))


def rare_bandit(n: int, seed: int) -> BanditProblem:
    """Arms worth 0.5, 0, 0.8, logged with probability 0.96, 0.01, 0.03; the small class is misled about the second.

    Classes: (1, v) with v = (0, 1.15, 1), and one weight an arm with 48 columns of noise on the first. Source: ours.
    """
    rng = np.random.default_rng(seed)
    values = np.array([0.5, 0.0, 0.8])

    def small(context: np.ndarray) -> np.ndarray:
        table = np.stack([np.ones(3), np.array([0, 1.15, 1.0])], 1)
        return np.broadcast_to(table, (len(context), 3, 2))

    def large(context: np.ndarray) -> np.ndarray:
        phi = np.zeros((len(context), 3, 51))
        phi[:, :, :3] = np.eye(3)
        phi[:, 0, 3:] = context
        return phi

    log = _logged(rng, rng.normal(size=(n, 48)), np.tile(values, (n, 1)), np.tile([0.96, 0.01, 0.03], (n, 1)))
    classes: list[BanditClass] = [JointLinear("small", small), JointLinear("arms", large)]
    return BanditProblem(log, classes, rng.normal(size=(_TEST_CONTEXTS, 48)), np.tile(values, (_TEST_CONTEXTS, 1)))


def impossible_pair(n: int, seed: int) -> tuple[BanditProblem, BanditProblem]:
    """The same log of the first of two arms, worth 1/2, in two worlds: the second arm is worth 1, or 0.

    Classes: features 1 and 2, and one weight an arm; each is right in one world. Whatever a rule does, its regrets in
    the two worlds sum to 1/2. Source: ours.
    """
    rng = np.random.default_rng(seed)
    log = _logged(rng, np.zeros((n, 1)), np.tile([0.5, 0.0], (n, 1)), np.tile([1.0, 0.0], (n, 1)))

    def ladder(context: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.array([[1.0], [2.0]]), (len(context), 2, 1))

    def tabular(context: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.eye(2), (len(context), 2, 2))

    classes: list[BanditClass] = [JointLinear("1, 2", ladder), JointLinear("arms", tabular)]
    worlds = [np.array([[0.5, worth]]) for worth in (1.0, 0.0)]
    first, second = (BanditProblem(log, classes, np.zeros((1, 1)), means) for means in worlds)
    return first, second


def _logged(
    rng: np.random.Generator,
    context: Float[np.ndarray, "n C"],
    means: Float[np.ndarray, "n A"],
    chances: Float[np.ndarray, "n A"],
) -> BanditLog:
    """Actions drawn from `chances`, rewards with noise of deviation 1/2."""
    action = _draw(rng, chances)
    rows = np.arange(len(action))
    reward = means[rows, action] + SIGMA * rng.normal(size=len(action))
    labels = tuple(f"arm {a}" for a in range(means.shape[1]))
    return BanditLog(context, action, reward, chances[rows, action], labels)


def _draw(rng: np.random.Generator, chances: Float[np.ndarray, "n A"]) -> Int[np.ndarray, " n"]:
    edges = chances.cumsum(1)
    u = rng.random((len(chances), 1)) * edges[:, -1:]
    return (u >= edges).sum(1).astype(np.int32)
