"""Rules for bandit logs: pessimism over classes, SLOPE-style selection, hold-out, off-policy values, and Auto.

Deviations from arXiv 2112.12320, of which the abstract and the names of its three positive algorithms could be read:
their constants, and how SLOPE becomes a choice of policy, are ours.
"""

import abc
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from gleanings.core.errors import ConfigError
from gleanings.selection.alarm import Alarm
from gleanings.selection.bandit import BanditLog
from gleanings.selection.classes import AnyArray, Q
from gleanings.selection.ope import DR, Estimator
from gleanings.selection.pessimistic import PRACTICAL, BanditClass, LinearFit, Pessimism, at_actions
from gleanings.selection.selection import Label, Selection

_UNCOVERED, _UNCOVERED_SHARE = 5.0, 0.01
_MIN_ROWS = 50


class BanditCandidates:
    """Reward models of the classes, smallest first, fitted once for all rules on all rows of `log`."""

    def __init__(
        self, classes: Sequence[BanditClass], log: BanditLog, pessimism: Pessimism = PRACTICAL, seed: int = 0
    ) -> None:
        if not classes:
            raise ConfigError("no classes; at least one is needed")
        self.classes, self.log, self.pessimism, self.seed = list(classes), log, pessimism, seed

    @cached_property
    def fits(self) -> list[LinearFit]:
        """One fit a class."""
        return [c.fit(self.log, self.pessimism.ridge) for c in self.classes]

    @cached_property
    def betas(self) -> list[float]:
        """Factor of each class's widths."""
        n, count = len(self.log), len(self.classes)
        sigma = self.pessimism.sigma
        sigma = self.fits[-1].sigma(n) if sigma is None else sigma
        return [self.pessimism.beta(fit.dimension, n, count, sigma) for fit in self.fits]

    def lower(self, k: int, context: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B A"]:
        """Lower bounds of class k."""
        values, widths = self.fits[k].predict(context)
        return values - self.betas[k] * widths

    @cached_property
    def folds(self) -> Int[np.ndarray, " N"]:
        """A fold 0..4 for each row, whole groups together."""
        return fold_of(self.log, 5, self.seed)

    def held_out(self, folds: Int[np.ndarray, " N"]) -> Float[np.ndarray, "M N"]:
        """Squared error of every class at each row, fitted on the rows of the other folds; NaN for fold -1."""
        log, ridge = self.log, self.pessimism.ridge
        return np.stack([np.square(c.cross_fitted(log, folds, ridge) - log.reward) for c in self.classes])


class BanditRule(eqx.Module):
    """Chooses a class, or a policy made of several."""

    def select(self, candidates: BanditCandidates) -> Selection:
        """The choice; the smallest class and 'insufficient data' where the log decides nothing."""
        problem = _too_little(candidates.log)
        if problem:
            return selection_of(candidates, type(self).__name__, 0, "insufficient data", (Alarm("rows", problem),))
        return self._select(candidates)

    @abc.abstractmethod
    def _select(self, candidates: BanditCandidates) -> Selection:
        """The choice from a log that decides something."""


class ComplexityCoverage(BanditRule):
    """argmax_a max_k LCB_k(x, a): right where no class errs by approximation; classes need not be nested.

    Source: arXiv 2112.12320, complexity-coverage selection, with our constants.
    """

    def _select(self, candidates: BanditCandidates) -> Selection:
        def best(context: AnyArray) -> np.ndarray:
            return np.max([candidates.lower(k, np.asarray(context)) for k in range(len(candidates.classes))], 0)

        return selection_of(candidates, "ComplexityCoverage", None, "uncertified", q=best)


class Slope(BanditRule):
    """The best of the pessimistic policies by values that SLOPE takes from the classes: right where complexity is low.

    Source: Su, Srinath & Krishnamurthy 2020 for SLOPE; its use on policies is ours.
    """

    def _select(self, candidates: BanditCandidates) -> Selection:
        log, classes = candidates.log, range(len(candidates.classes))
        found = [fit.predict(log.context) for fit in candidates.fits]
        values = []
        for j in classes:
            action = candidates.lower(j, log.context).argmax(1)
            means = [at_actions(v, action).mean() for v, _ in found]
            widths = [candidates.betas[k] * at_actions(found[k][1], action).mean() for k in classes]
            widths = [w + 1 / math.sqrt(len(log)) for w in widths]
            values.append(means[slope(means, widths)])
        return selection_of(candidates, "Slope", int(np.argmax(values)), "uncertified", pessimistic=True)


class HoldOut(BanditRule):
    """The class with the smallest held-out squared error, refitted on all rows: right where the log covers policies.

    folds: of the cross-validation; 1 holds out a fifth once. ties: `one_se` takes the smallest class within one paired
    standard error of the best. pessimistic: play the lower bound instead of the mean.
    """

    folds: int = eqx.field(static=True, default=5)
    ties: Literal["one_se", "argmin"] = eqx.field(static=True, default="one_se")
    pessimistic: bool = eqx.field(static=True, default=False)

    def _select(self, candidates: BanditCandidates) -> Selection:
        index = self.index(candidates)
        return selection_of(candidates, "HoldOut", index, "certified", pessimistic=self.pessimistic)

    def index(self, candidates: BanditCandidates) -> int:
        """The class."""
        folds = fold_of(candidates.log, max(self.folds, 5), candidates.seed)
        if self.folds == 1:
            folds = np.where(folds == 0, 0, -1)
        losses = candidates.held_out(folds)
        losses = losses[:, folds >= 0]
        best = int(losses.mean(1).argmin())
        if self.ties == "argmin":
            return best
        excess = losses - losses[best]
        error = np.array([row.std() for row in excess]) / math.sqrt(excess.shape[1])
        return int(np.flatnonzero(excess.mean(1) <= error)[0])


class PolicyValue(BanditRule):
    """The class whose greedy policy has the highest off-policy value on rows that it was not fitted on."""

    estimator: Estimator = eqx.field(default_factory=DR)

    def _select(self, candidates: BanditCandidates) -> Selection:
        log, out = candidates.log, candidates.folds == 0
        fitted, judged = log.take(~out), log.take(out)
        if judged.propensity is None:
            raise ConfigError("PolicyValue needs the logged propensities; name their column, or use HoldOut")
        models = [c.fit(fitted, candidates.pessimism.ridge).values(judged.context) for c in candidates.classes]
        values = []
        for model in models:
            policy = np.eye(log.num_actions)[model.argmax(1)]
            given = (judged.reward, judged.action, judged.propensity, policy, models[-1])
            values.append(self.estimator(*given).value)
        return selection_of(candidates, "PolicyValue", int(np.nanargmax(values)), "uncertified")


class Largest(BanditRule):
    """The last class; pessimistic by default, as a log asks for."""

    pessimistic: bool = eqx.field(static=True, default=True)

    def _select(self, candidates: BanditCandidates) -> Selection:
        last = len(candidates.classes) - 1
        return selection_of(candidates, "Largest", last, "uncertified", pessimistic=self.pessimistic)


class Smallest(BanditRule):
    """The first class."""

    def _select(self, candidates: BanditCandidates) -> Selection:
        return selection_of(candidates, "Smallest", 0, "uncertified")


class Auto(BanditRule):
    """HoldOut where the log covers what its policy wants, ComplexityCoverage with an alarm where it does not.

    Covered: the width at the greedy action is above 5 mean logged widths in at most 1 % of contexts. Source: ours.
    """

    hold_out: HoldOut = eqx.field(default_factory=HoldOut)

    def _select(self, candidates: BanditCandidates) -> Selection:
        index = self.hold_out.index(candidates)
        share = uncovered_share(candidates, index)
        if share <= _UNCOVERED_SHARE:
            return selection_of(candidates, "Auto", index, "certified")
        careful = ComplexityCoverage()._select(candidates)
        message = (
            f"{candidates.classes[index].name} fits best, but its policy leaves what the log covers in {share:.1%} of "
            "contexts; the choice is pessimistic over all classes. Log more of the actions it wants"
        )
        return replace(careful, rule="Auto", alarms=(Alarm("coverage", message),))


def slope(values: Sequence[float], widths: Sequence[float]) -> int:
    """Index of the last class that agrees with all wider ones, by falling width; ties keep their order.

    Source: Su, Srinath & Krishnamurthy 2020.
    """
    order = sorted(range(len(values)), key=lambda k: -widths[k])
    accepted: list[int] = []
    for k in order:
        if all(abs(values[k] - values[j]) <= widths[k] + (math.sqrt(6) - 1) * widths[j] for j in accepted):
            accepted.append(k)
        else:
            break
    return accepted[-1]


def uncovered_share(candidates: BanditCandidates, k: int) -> float:
    """Share of contexts in which the greedy action of class k is more than 5 times as wide as the mean logged one."""
    fit, log = candidates.fits[k], candidates.log
    greedy, widths = fit.values(log.context).argmax(1), fit.widths(log.context)
    return float((at_actions(widths, greedy) > _UNCOVERED * at_actions(widths, log.action).mean()).mean())


def fold_of(log: BanditLog, folds: int, seed: int) -> Int[np.ndarray, " N"]:
    """Random fold of each row, whole groups together."""
    rng = np.random.default_rng(seed)
    group = np.arange(len(log)) if log.group is None else log.group
    names, index = np.unique(group, return_inverse=True)
    return (rng.permutation(len(names)) % folds)[index]


def selection_of(
    candidates: BanditCandidates,
    rule: str,
    index: int | None,
    verdict: Label,
    alarms: tuple[Alarm, ...] = (),
    pessimistic: bool = False,
    q: Q | None = None,
) -> Selection:
    """The selection of class `index`, or of a mixture whose value function is `q`."""
    name = "mixture" if index is None else candidates.classes[index].name

    def own(x: AnyArray) -> np.ndarray:
        k, context = index or 0, np.asarray(x)
        return candidates.lower(k, context) if pessimistic else candidates.fits[k].values(context)

    sizes = (len(candidates.classes), candidates.log.num_actions)
    return Selection(index, name, rule, verdict, *sizes, alarms, q=(own if q is None else q,))


def _too_little(log: BanditLog) -> str | None:
    if len(log) < _MIN_ROWS:
        return f"{len(log)} rows; at least {_MIN_ROWS} are needed"
    if not np.ptp(log.reward):
        return "the reward is the same in every row"
    return None
