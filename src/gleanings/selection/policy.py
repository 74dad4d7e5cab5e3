"""From a bandit log to a policy with a value on rows that were not used to choose it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gleanings.core.errors import ConfigError
from gleanings.selection.alarm import Alarm
from gleanings.selection.bandit import BanditLog
from gleanings.selection.bandit_rules import (
    Auto,
    BanditCandidates,
    BanditRule,
    PolicyValue,
    doubted,
    evidence,
    excess_losses,
    fold_of,
    set_apart,
)
from gleanings.selection.candidates import fit_candidates
from gleanings.selection.classes import PrefixLinear
from gleanings.selection.encoding import MAX_LEVELS
from gleanings.selection.networks import Mlp, MlpHead
from gleanings.selection.ope import DM, DR, IPS, SNDR, SNIPS, Estimate, Estimator, standard_error
from gleanings.selection.overlap import overlap
from gleanings.selection.pessimistic import PRACTICAL, BanditClass, HeadLinear, Pessimism
from gleanings.selection.propensities import estimate_propensities
from gleanings.selection.selection import Label, Rule, Selection

ESTIMATORS: dict[str, Estimator] = {"DR": DR(), "SNDR": SNDR(), "IPS": IPS(), "SNIPS": SNIPS(), "DM": DM()}
AUTO = Auto()
_WEIGHTED = ("IPS", "SNIPS")
_SPOILS = ("never logged", "effective sample size", "largest weight", "mean weight", "propensity")
_MIN_REWARD_ROWS, _MAX_DUPLICATES, _NORMAL = 10.0, 0.05, 1.96


def select_policy(
    log: BanditLog,
    classes: Sequence[BanditClass],
    rule: BanditRule | Rule = AUTO,
    *,
    report_fraction: float = 0.2,
    pessimism: Pessimism = PRACTICAL,
    seed: int = 0,
) -> Selection:
    """Choose on part of the log, and value the choice on the other part, `report_fraction` of the rows.

    With an alarm about coverage or overlap the choice is uncertified; where nothing in the log speaks for it the
    verdict is 'insufficient data'. Propensities that are not logged are estimated, with an alarm, and the values that
    rest on them alone are left out. Rules for decision processes, such as ModBE, need classes of the context.
    ConfigError: a share outside (0, 1/2], or such a rule with other classes.
    """
    if not 0 < report_fraction <= 0.5:
        raise ConfigError(f"report_fraction {report_fraction}: must lie in (0, 0.5]")
    logged = log.propensity is not None
    if not logged and isinstance(rule, PolicyValue) and not rule.estimator.needs_model:
        raise ConfigError("PolicyValue by weights alone needs logged propensities; use DR, or another rule")
    unseen = set_apart(log, report_fraction, seed + 1)
    log = log if logged else _with_propensities(log, seed)
    kept, rows = log.take(~unseen), log.take(unseen)
    # Ridge draws predictions to zero, which has to mean the average reward where classes have a constant.
    constant = all(isinstance(c, HeadLinear | MlpHead) for c in classes)
    average = float(kept.reward.mean()) if constant else 0.0
    candidates = BanditCandidates(classes, replace(kept, reward=kept.reward - average), pessimism, seed)
    found = rule.select(candidates) if isinstance(rule, BanditRule) else _by_process(rule, candidates)
    if found.verdict == "insufficient data":
        return found.made_from(log)
    policy = found.act(rows.context)
    unproven = evidence(candidates, found.index) if isinstance(rule, BanditRule) else None
    assert rows.propensity is not None
    covered = overlap(rows.action, rows.propensity, policy, kept.action)
    about_values = [*covered.alarms(log.labels), *_log_alarms(log, logged)]
    alarms = (*found.alarms, *([unproven] if unproven else []), *about_values)
    # A policy that never plays a logged action has no value but the model's word.
    model = average + candidates.fits[-1].values(rows.context)
    value = _values(rows, policy, model, logged) if covered.ess > 0 else {}
    verdict: Label = found.verdict
    if verdict == "certified" and any(alarm.name in _SPOILS for alarm in alarms):
        verdict = "uncertified"
    return replace(
        found.made_from(log),
        verdict="insufficient data" if unproven else verdict,
        alarms=alarms,
        value=value,
        lift=_lift(value["DR"], rows) if value else None,
        overlap=covered,
        losses=_losses(candidates),
    )


def _by_process(rule: Rule, candidates: BanditCandidates) -> Selection:
    """The choice of a rule for decision processes, for which a bandit log has one stage."""
    log, nested = candidates.log, []
    for c in candidates.classes:
        if isinstance(c, MlpHead):
            nested.append(Mlp(c.width, c.steps))
        elif isinstance(c, HeadLinear):
            nested.append(PrefixLinear(c.map, c.dim, candidates.pessimism.ridge / len(log), c.name))
        else:
            raise ConfigError(f"{type(rule).__name__} on a bandit log needs classes of the context, not {c.name}")
    found = rule.select(fit_candidates(nested, None, log.as_transitions(), seed=candidates.seed))
    return found if found.verdict == "insufficient data" else doubted(candidates, found)


def _with_propensities(log: BanditLog, seed: int) -> BanditLog:
    folds = fold_of(log, 5, seed + 2)
    return replace(log, propensity=estimate_propensities(log.context, log.action, log.num_actions, folds))


def _log_alarms(log: BanditLog, logged: bool) -> list[Alarm]:
    """What makes every value from this log doubtful, whatever the choice."""
    found = []
    if not logged:
        message = "none logged, so they are estimated from the log, and IPS and SNIPS left out; log them"
        found.append(Alarm("propensity", message))
    squares = np.square(log.reward - log.reward.mean())
    carried = float(squares.sum() ** 2 / np.square(squares).sum())
    if carried < _MIN_REWARD_ROWS:
        found.append(Alarm("rare reward", f"the reward is carried by {carried:.1f} rows; log more of the rare outcome"))
    if log.group is None and (share := repeated_share(log)) > _MAX_DUPLICATES:
        message = f"{share:.0%} of rows are exact copies of others; name the column of the user with `group`"
        found.append(Alarm("duplicates", message))
    return found


def repeated_share(log: BanditLog) -> float:
    """Share of rows that copy another one; 0 where every column has few values, so that copies are to be expected."""
    if all(len(np.unique(column)) <= MAX_LEVELS for column in (log.reward, *log.context.T)):
        return 0.0
    direction = np.random.default_rng(0).normal(size=log.context.shape[1])
    return 1 - len(np.unique(log.context @ direction + np.e * log.reward + np.pi * log.action)) / len(log)


def _losses(candidates: BanditCandidates) -> dict[str, tuple[float, float]]:
    mean, error = excess_losses(candidates.losses, candidates.log.group)
    return {c.name: (float(m), float(e)) for c, m, e in zip(candidates.classes, mean, error, strict=True)}


def _lift(value: Estimate, rows: BanditLog) -> Estimate:
    """A value above the mean reward of the same rows."""
    terms = value.terms - rows.reward
    mean, se = float(terms.mean()), standard_error(terms, rows.group)
    return Estimate(mean, se, mean - _NORMAL * se, mean + _NORMAL * se, value.n, terms)


def _values(rows: BanditLog, policy: np.ndarray, model: np.ndarray, logged: bool) -> dict[str, Estimate]:
    assert rows.propensity is not None
    given = (rows.reward, rows.action, rows.propensity, policy, model)
    return {name: e(*given, group=rows.group) for name, e in ESTIMATORS.items() if logged or name not in _WEIGHTED}
