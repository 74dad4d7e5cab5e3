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
from jaxtyping import Bool, Float, Int

from gleanings.core.errors import ConfigError
from gleanings.selection.alarm import Alarm
from gleanings.selection.bandit import BanditLog
from gleanings.selection.classes import Q
from gleanings.selection.ope import DR, Estimator, standard_error
from gleanings.selection.pessimistic import (
    PRACTICAL,
    BanditClass,
    Highest,
    LinearFit,
    LowerBound,
    Pessimism,
    at_actions,
)
from gleanings.selection.selection import Label, Selection

_UNCOVERED, _UNCOVERED_SHARE = 5.0, 0.01
_MIN_ROWS, _FOLDS = 50, 5
_COVERAGE = "coverage"
_SPOILS = (_COVERAGE, "never tried", "learned features", "one class")


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
        return [self.pessimism.beta(fit.dimension, n, count, self.sigma) for fit in self.fits]

    @cached_property
    def sigma(self) -> float:
        """Noise of the reward: given, or as the largest class sees it."""
        given = self.pessimism.sigma
        return self.fits[-1].sigma(len(self.log)) if given is None else given

    def bound(self, k: int) -> LowerBound:
        """Lower bounds of class k, a function of the context."""
        return LowerBound(self.fits[k].model, self.betas[k])

    def lower(self, k: int, context: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B A"]:
        """Lower bounds of class k at these contexts."""
        return self.bound(k)(context)

    @cached_property
    def losses(self) -> Float[np.ndarray, "M N"]:
        """Squared error of every class at each row, by cross-validation over `folds`."""
        return self.held_out(self.folds)

    @cached_property
    def folds(self) -> Int[np.ndarray, " N"]:
        """A fold 0..4 for each row, whole groups together."""
        return fold_of(self.log, _FOLDS, self.seed)

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
        best = Highest(tuple(candidates.bound(k) for k in range(len(candidates.classes))))
        return selection_of(candidates, "ComplexityCoverage", None, "uncertified", q=best)


class Slope(BanditRule):
    """The best of the pessimistic policies by values that SLOPE takes from the classes: right where complexity is low.

    sigma / sqrt(n) is added to each width for the mean over contexts, so that the unit of the reward does not matter.
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
            widths = [w + candidates.sigma / math.sqrt(len(log)) for w in widths]
            values.append(means[slope(means, widths)])
        return selection_of(candidates, "Slope", int(np.argmax(values)), "uncertified", pessimistic=True)


class HoldOut(BanditRule):
    """The class with the smallest held-out squared error, refitted on all rows: right where the log covers policies.

    folds: of the cross-validation; 1 holds out a fifth once. ties: `one_se` takes the smallest class within one paired
    standard error of the best. pessimistic: play the lower bound instead of the mean.
    """

    folds: int = eqx.field(static=True, default=_FOLDS)
    ties: Literal["one_se", "argmin"] = eqx.field(static=True, default="one_se")
    pessimistic: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        if self.folds < 1 or self.ties not in ("one_se", "argmin"):
            raise ConfigError(
                f"HoldOut with {self.folds} folds and ties {self.ties!r}: use 1 or more; one_se or argmin"
            )

    def _select(self, candidates: BanditCandidates) -> Selection:
        index = self.index(candidates)
        return selection_of(candidates, "HoldOut", index, "certified", pessimistic=self.pessimistic)

    def index(self, candidates: BanditCandidates) -> int:
        """The class."""
        losses, group = self._losses(candidates)
        if self.ties == "argmin":
            return int(losses.mean(1).argmin())
        mean, error = excess_losses(losses, group)
        return int(np.flatnonzero(mean <= error)[0])

    def _losses(self, candidates: BanditCandidates) -> tuple[Float[np.ndarray, "M n"], Int[np.ndarray, " n"] | None]:
        """Held-out losses and the groups of their rows."""
        group = candidates.log.group
        if self.folds == _FOLDS:
            return candidates.losses, group
        folds = fold_of(candidates.log, _FOLDS if self.folds == 1 else self.folds, candidates.seed)
        if self.folds == 1:
            folds = np.where(folds == 0, 0, -1)
        return candidates.held_out(folds)[:, folds >= 0], None if group is None else group[folds >= 0]


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
        if np.isnan(values).all():
            alarm = Alarm("no overlap", "no class's policy ever plays a logged action; log more of what they want")
            return selection_of(candidates, "PolicyValue", 0, "insufficient data", (alarm,))
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
        found = selection_of(candidates, "Auto", self.hold_out.index(candidates), "certified")
        uncovered = [alarm for alarm in found.alarms if alarm.name == _COVERAGE]
        if not uncovered:
            return found
        careful = ComplexityCoverage()._select(candidates)
        message = f"{uncovered[0].message}. It fits best; instead of it the choice is pessimistic over all classes"
        others = (alarm for alarm in found.alarms if alarm.name != _COVERAGE)
        return replace(careful, rule="Auto", alarms=(Alarm(_COVERAGE, message), *others), uncovered=found.uncovered)


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


def excess_losses(
    losses: Float[np.ndarray, "M n"], group: Int[np.ndarray, " n"] | None
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Mean loss of every class above the least one, and the standard error of that, paired by row."""
    best = losses[losses.mean(1).argmin()]
    # One class at a time: a log of a million rows has losses that should not be held twice.
    found = [(excess.mean(), standard_error(excess, group)) for excess in (row - best for row in losses)]
    mean, error = np.array(found).T
    return mean, error


def evidence(candidates: BanditCandidates, index: int | None) -> Alarm | None:
    """An alarm where held-out rows do not speak for the choice `index`.

    They speak for a class if the smallest one is more than one standard error above the best, and for a mixture of
    classes if some class predicts better than the mean reward by two.
    """
    if index == 0:
        return None
    smallest = candidates.classes[0].name
    if index is not None:
        mean, error = excess_losses(candidates.losses, candidates.log.group)
        shown, message = mean[0] > error[0], f"no class predicts rewards better than {smallest}; take that one"
    else:
        reward = candidates.log.reward
        best = candidates.losses[candidates.losses.mean(1).argmin()]
        gain = np.square(reward - reward.mean()) - best
        shown = gain.mean() > 2 * standard_error(gain, candidates.log.group)
        message = "no class predicts rewards better than their mean does; log more, or other contexts"
    return None if shown else Alarm("no evidence", message)


def uncovered_share(candidates: BanditCandidates, k: int, action: Int[np.ndarray, " N"]) -> float:
    """Share of the log's contexts in which class k is more than 5 times as wide at `action` as on average as logged."""
    widths = candidates.fits[k].widths(candidates.log.context)
    logged = at_actions(widths, candidates.log.action).mean()
    return float((at_actions(widths, action) > _UNCOVERED * logged).mean())


def fold_of(log: BanditLog, folds: int, seed: int) -> Int[np.ndarray, " N"]:
    """Random fold of each row, whole groups together."""
    places, groups = _places(log, seed)
    return (places % folds)[groups]


def set_apart(log: BanditLog, fraction: float, seed: int) -> Bool[np.ndarray, " N"]:
    """Random rows, or whole groups, which make up `fraction` of them. ConfigError: all or none of them would."""
    places, groups = _places(log, seed)
    count = round(fraction * len(places))
    if not 0 < count < len(places):
        raise ConfigError(f"{len(places)} groups of rows: nothing is left to choose or to value on; log more of them")
    return (places < count)[groups]


def _places(log: BanditLog, seed: int) -> tuple[Int[np.ndarray, " G"], Int[np.ndarray, " N"]]:
    """Place of each group in a random order, and the group of each row; a row is a group where none are given."""
    if seed < 0:
        raise ConfigError(f"seed {seed}: must not be negative")
    group = np.arange(len(log)) if log.group is None else log.group
    names, index = np.unique(group, return_inverse=True)
    return np.random.default_rng(seed).permutation(len(names)), index


def selection_of(
    candidates: BanditCandidates,
    rule: str,
    index: int | None,
    verdict: Label,
    alarms: tuple[Alarm, ...] = (),
    pessimistic: bool = False,
    q: Q | None = None,
) -> Selection:
    """The selection of class `index`, or of a mixture whose value function is `q`, with what speaks against it."""
    sizes, log = (len(candidates.classes), candidates.log.num_actions), candidates.log
    if index is None:
        assert q is not None
        return Selection(None, "mixture", rule, verdict, *sizes, alarms, q=(q,)).made_from(log)
    own = candidates.bound(index) if pessimistic else LowerBound(candidates.fits[index].model, 0.0)
    chosen = Selection(index, candidates.classes[index].name, rule, verdict, *sizes, alarms, q=(own,)).made_from(log)
    if verdict == "insufficient data":
        return chosen
    return doubted(candidates, chosen)


def doubted(candidates: BanditCandidates, chosen: Selection) -> Selection:
    """The choice of one class with alarms where the log cannot speak for its policy, which are no certificate's."""
    assert chosen.index is not None
    action = np.asarray(chosen.q[0](candidates.log.context)).argmax(1)
    share = uncovered_share(candidates, chosen.index, action)
    doubts = _doubts(candidates, chosen.index, share)
    spoilt = chosen.verdict == "certified" and any(doubt.name in _SPOILS for doubt in doubts)
    verdict: Label = "uncertified" if spoilt else chosen.verdict
    return replace(chosen, verdict=verdict, alarms=(*chosen.alarms, *doubts), uncovered=share)


def _doubts(candidates: BanditCandidates, index: int, share: float) -> list[Alarm]:
    """What the log cannot say about the policy of a class that is uncovered in `share` of contexts."""
    found, name, rows = [], candidates.classes[index].name, len(candidates.log)
    if len(candidates.classes) == 1:
        found.append(Alarm("one class", f"nothing was compared with {name}; add a smaller and a larger class"))
    if (dimension := candidates.fits[-1].dimension) > rows:
        message = f"{candidates.classes[-1].name} has {dimension} parameters for {rows} rows; only the ridge holds them"
        found.append(Alarm("parameters", message))
    if share > _UNCOVERED_SHARE:
        message = f"the policy of {name} leaves what the log covers in {share:.1%} of contexts; log more of its actions"
        found.append(Alarm(_COVERAGE, message))
    if never := np.setdiff1d(np.arange(candidates.log.num_actions), candidates.log.action).tolist():
        labels = ", ".join(candidates.log.labels[a] for a in never[:5])
        found.append(Alarm("never tried", f"nobody can know what {labels} would bring; the log holds no row of it"))
    if not candidates.classes[index].certifies:
        message = f"the features of {name} come from the same rewards, so that its bounds are too narrow to certify it"
        found.append(Alarm("learned features", message))
    return found


def _too_little(log: BanditLog) -> str | None:
    if len(log) < _MIN_ROWS:
        return f"{len(log)} rows; at least {_MIN_ROWS} are needed"
    if log.group is not None and (groups := len(np.unique(log.group))) < 2 * _FOLDS:
        return f"{groups} groups; at least {2 * _FOLDS} are needed"
    if not np.ptp(log.reward):
        return "the reward is the same in every row"
    return None
