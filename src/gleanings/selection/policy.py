"""From a bandit log to a policy with a value on rows that were not used to choose it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gleanings.core.errors import ConfigError
from gleanings.selection.alarm import Alarm
from gleanings.selection.bandit import BanditLog
from gleanings.selection.bandit_rules import Auto, BanditCandidates, BanditRule, fold_of
from gleanings.selection.networks import mlp_heads
from gleanings.selection.ope import DM, DR, IPS, SNDR, SNIPS, Estimate, Estimator
from gleanings.selection.overlap import overlap
from gleanings.selection.pessimistic import PRACTICAL, BanditClass, Pessimism, heads
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
    model = candidates.fits[-1].predict(rows.context)[0]
    found = replace(chosen, value=_values(rows, policy, model))
    if rows.propensity is None:
        missing = Alarm("propensity", "none logged, so the value is the reward model's word; log them")
        return replace(found, alarms=(*found.alarms, missing), verdict=_spoilt(found))
    covered = overlap(rows.action, rows.propensity, policy)
    alarms = (*found.alarms, *covered.alarms())
    found = replace(found, alarms=alarms, overlap=covered)
    return replace(found, verdict=_spoilt(found)) if any(a.name in _SPOILS for a in alarms) else found


def parse_classes(given: Sequence[str], log: BanditLog) -> list[Any]:
    """Classes from words such as `constant`, `linear:5,10,all`, `mlp:16,64`, the smaller before the larger.

    Linear ones have weights for each action on the first context columns; numbers after mlp are widths. ConfigError:
    another word, more columns than there are, or sizes that do not increase.
    """
    columns, sizes, widths = log.context.shape[1], [], []
    for word in given:
        kind, _, arguments = word.partition(":")
        if kind == "mlp" and arguments:
            widths += [_width(argument, word) for argument in arguments.split(",")]
        elif widths:
            raise ConfigError(f"{word} after a network, which contains it; put smaller classes first")
        elif word == "constant":
            sizes.append(1)
        elif kind == "linear" and arguments:
            sizes += [1 + _columns(argument, columns, word) for argument in arguments.split(",")]
        else:
            raise ConfigError(
                f"unknown class {word!r}; use constant, linear: with numbers of columns, as linear:5,all, or mlp: with "
                "widths, as mlp:16,64"
            )
    linear = heads(tuple(sizes)) if sizes or not widths else []
    return [*linear, *(mlp_heads(widths) if widths else [])]


def _columns(argument: str, columns: int, word: str) -> int:
    if argument == "all":
        return columns
    if not argument.isdigit() or not 1 <= int(argument) <= columns:
        raise ConfigError(f"{word}: {argument!r} is not a number of columns from 1 to {columns}, or all")
    return int(argument)


def _width(argument: str, word: str) -> int:
    if not argument.isdigit() or int(argument) < 1:
        raise ConfigError(f"{word}: {argument!r} is not a width; use a whole number from 1")
    return int(argument)


def _values(rows: BanditLog, policy: np.ndarray, model: np.ndarray) -> dict[str, Estimate]:
    if rows.propensity is None:
        return {"DM": DM()(rows.reward, rows.action, np.ones(len(rows)), policy, model)}
    given = (rows.reward, rows.action, rows.propensity, policy, model)
    return {name: estimator(*given) for name, estimator in ESTIMATORS.items()}


def _spoilt(selection: Selection) -> str:
    return "uncertified" if selection.verdict == "certified" else selection.verdict
