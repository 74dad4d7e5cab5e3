"""What a study concludes: checks with their intervals, and one word."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gleanings.core.errors import ConfigError
from gleanings.core.stats import Interval

Label = Literal["reproduced", "partly", "not reproduced", "underpowered", "not attempted"]
LABELS: tuple[str, ...] = get_args(Label)


@dataclass(frozen=True)
class Check:
    """One part of a claim: what was claimed, what was measured, and whether it `holds` (None: undecided)."""

    name: str
    claim: str
    measured: str
    interval: Interval | None = None
    holds: bool | None = None

    @property
    def outcome(self) -> str:
        """`holds`, `fails` or `undecided`."""
        return {True: "holds", False: "fails", None: "undecided"}[self.holds]


@dataclass(frozen=True)
class Verdict:
    """The word for the whole claim, one sentence, and the checks behind it.

    The first check is the headline: the scoreboard and the README quote it. ConfigError: an unknown label.
    """

    label: Label
    summary: str
    checks: tuple[Check, ...] = ()

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise ConfigError(f"verdict {self.label!r}: expected one of {', '.join(LABELS)}")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Verdict":
        """Verdict from what `dataclasses.asdict` made of one. ConfigError: a key is missing or unknown."""
        try:
            checks = [{**check, "interval": _interval(check["interval"])} for check in data["checks"]]
            return cls(data["label"], data["summary"], tuple(Check(**check) for check in checks))
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not a verdict: {error}; run the study again") from error


def _interval(data: dict[str, Any] | None) -> Interval | None:
    """JSON has no NaN; it stands there as null."""
    if data is None:
        return None
    fields: dict[str, Any] = {key: math.nan if value is None else value for key, value in data.items()}
    return Interval(**fields)
