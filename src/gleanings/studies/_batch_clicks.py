"""The null on real clicks: six logs with a few dozen clicks each, from which no class but a constant can be told."""

from pathlib import Path
from typing import Any

import numpy as np

from gleanings.data.tables import read_table
from gleanings.selection.bandit import BanditLog
from gleanings.selection.bandit_rules import Auto, BanditCandidates, HoldOut
from gleanings.selection.class_words import parse_classes
from gleanings.selection.overlap import overlap
from gleanings.selection.policy import select_policy

LOGS = tuple((logger, campaign) for logger in ("random", "bts") for campaign in ("all", "men", "women"))
CLASSES = ("constant", "linear:3,all")
_CONTEXT = ("position", *(f"user_feature_{i}" for i in range(4)))
_COLUMNS = ("item_id", "click", "propensity_score", *_CONTEXT)
_WORDS = {"ess": "effective rows", "max_weight": "largest weight"}
_REQUIRED = {
    "all": {"ess": 340.0, "max_weight": 278.0},
    "men": {"ess": 656.0, "max_weight": 178.0},
    "women": {"ess": 2.1, "max_weight": 21739.0},
}
_TOLERANCE = 0.01
_RULES = {"HoldOut": HoldOut(), "Auto": Auto()}


def why_absent(folder: Path | None) -> str | None:
    """Why there are no logs to read, or None where there is one."""
    if folder is None:
        return "no `--data`; `gleanings fetch obd-sample` gets the logs and prints how to use them"
    if any(_file(folder, *log).is_file() for log in LOGS):
        return None
    return f"`--data` {folder.name} holds none of {', '.join('/'.join(log) for log in LOGS)}"


def read_clicks(folder: Path, logger: str, campaign: str) -> BanditLog:
    """One log, with the position and the hashed features of the user as one-hot context.

    DataError: a file is not there, or damaged. ConfigError: a column is not there.
    """
    columns = read_table(_file(folder, logger, campaign), _COLUMNS)
    columns["position"] = np.array([f"slot {position:g}" for position in columns["position"]])
    return BanditLog.from_table(
        columns, action="item_id", reward="click", propensity="propensity_score", context=_CONTEXT
    )


def clicks(folder: Path, logger: str, campaign: str, seed: int) -> dict[str, Any]:
    """What hold-out chooses on all rows, what its and Auto's choice is worth, and the overlap of the uniform policy."""
    log = read_clicks(folder, logger, campaign)
    classes = parse_classes(CLASSES, log)
    uniform = np.full((len(log), log.num_actions), 1 / log.num_actions)
    covered = overlap(log.action, np.asarray(log.propensity), uniform)
    found = {rule: select_policy(log, classes, of, seed=seed) for rule, of in _RULES.items()}
    value = found["Auto"].value.get("DR")
    return {
        "arms": log.num_actions,
        "clicks": float(log.reward.sum()),
        "choice": _RULES["HoldOut"].select(BanditCandidates(classes, log, seed=seed)).name,
        "verdicts": {rule: selection.verdict for rule, selection in found.items()},
        "alarms": sorted({alarm.name for selection in found.values() for alarm in selection.alarms}),
        "value": value and [value.value, value.low, value.high, value.n],
        "logged": float(log.reward.mean()),
        "ess": covered.ess,
        "max_weight": covered.max_weight,
    }


def requirements(found: dict[str, dict[str, Any]]) -> list[tuple[str, str, str, bool]]:
    """What is required of the logs that were read: log, what, measured, whether it holds."""
    rows = [
        (name, "one_se chooses constant", log["choice"], log["choice"] == "constant") for name, log in found.items()
    ]
    for campaign, targets in _REQUIRED.items():
        for key, target in targets.items() if f"bts-{campaign}" in found else ():
            value = found[f"bts-{campaign}"][key]
            what = f"uniform policy: {_WORDS[key]} {target:g} within {_TOLERANCE:.0%}"
            rows.append((f"bts-{campaign}", what, f"{value:.5g}", abs(value - target) <= _TOLERANCE * target))
    for name, log in found.items():
        if name.endswith("-women"):
            words = ", ".join(f"{rule} {verdict}" for rule, verdict in log["verdicts"].items())
            rows.append((name, "no value is certified", words, "certified" not in log["verdicts"].values()))
    return rows


def _file(folder: Path, logger: str, campaign: str) -> Path:
    return folder / logger / campaign / f"{campaign}.csv"
