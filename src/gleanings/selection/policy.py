"""From a bandit log to a policy with a value on rows that were not used to choose it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gleanings.core.errors import ConfigError
from gleanings.selection.alarm import Alarm
from gleanings.selection.bandit import BanditLog
from gleanings.selection.bandit_rules import Auto, BanditCandidates, BanditRule, fold_of
from gleanings.selection.ope import DM, DR, IPS, SNDR, SNIPS, Estimate, Estimator
from gleanings.selection.overlap import overlap
from gleanings.selection.pessimistic import PRACTICAL, BanditClass, HeadLinear, Pessimism, heads
from gleanings.selection.selection import Selection

ESTIMATORS: dict[str, Estimator] = {"DR": DR(), "SNDR": SNDR(), "IPS": IPS(), "SNIPS": SNIPS(), "DM": DM()}
AUTO = Auto()
_SPOILS = ("never logged", "effective sample size", "largest weight", "mean weight", "propensity", "coverage")


def select_policy(
    log: BanditLog,
    classes: Sequence[BanditClass],
    rule: BanditRule = AUTO,
    *,
    report_fraction: float = 0.2,
    pessimism: Pessimism = PRACTICAL,
    seed: int = 0,
) -> Selection:
    """Choose on part of the log, and value the choice on the other part, `report_fraction` of the rows.

    With an alarm about coverage or overlap the choice is uncertified. Without propensities the only value is that of
    the reward model. ConfigError: a share outside (0, 1/2].
    """
    if not 0 < report_fraction <= 0.5:
        raise ConfigError(f"report_fraction {report_fraction}: must lie in (0, 0.5]")
    unseen = fold_of(log, round(1 / report_fraction), seed + 1) == 0
    candidates = BanditCandidates(classes, log.take(~unseen), pessimism, seed)
    chosen, rows = rule.select(candidates), log.take(unseen)
    policy = chosen.act(rows.context)
    model = candidates.fits[-1].values(rows.context)
    found = replace(chosen, value=_values(rows, policy, model))
    if rows.propensity is None:
        missing = Alarm("propensity", "none logged, so the value is the reward model's word; log them")
        return replace(found, alarms=(*found.alarms, missing), verdict=_spoilt(found))
    covered = overlap(rows.action, rows.propensity, policy)
    alarms = (*found.alarms, *covered.alarms())
    found = replace(found, alarms=alarms, overlap=covered)
    return replace(found, verdict=_spoilt(found)) if any(a.name in _SPOILS for a in alarms) else found


def parse_classes(given: Sequence[str], log: BanditLog) -> list[HeadLinear]:
    """Classes from words such as `constant`, `linear:5,10,all`: weights for each action on the first context columns.

    ConfigError: another word, or more columns than there are.
    """
    columns, sizes = log.context.shape[1], []
    for word in given:
        kind, _, arguments = word.partition(":")
        if word == "constant":
            sizes.append(1)
        elif kind == "linear" and arguments:
            sizes += [1 + _columns(argument, columns, word) for argument in arguments.split(",")]
        else:
            raise ConfigError(
                f"unknown class {word!r}; use constant, or linear: with numbers of columns, as linear:5,all"
            )
    return heads(tuple(sizes))


def _columns(argument: str, columns: int, word: str) -> int:
    if argument == "all":
        return columns
    if not argument.isdigit() or not 1 <= int(argument) <= columns:
        raise ConfigError(f"{word}: {argument!r} is not a number of columns from 1 to {columns}, or all")
    return int(argument)


def _values(rows: BanditLog, policy: np.ndarray, model: np.ndarray) -> dict[str, Estimate]:
    if rows.propensity is None:
        return {"DM": DM()(rows.reward, rows.action, np.ones(len(rows)), policy, model)}
    given = (rows.reward, rows.action, rows.propensity, policy, model)
    return {name: estimator(*given) for name, estimator in ESTIMATORS.items()}


def _spoilt(selection: Selection) -> str:
    return "uncertified" if selection.verdict == "certified" else selection.verdict
