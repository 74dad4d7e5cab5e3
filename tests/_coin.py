"""A study of a coin, small enough to test the commands with; as a script it is the command with that study."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from gleanings import cli, studies
from gleanings.core.errors import DataError
from gleanings.core.report import Report
from gleanings.core.stats import Interval
from gleanings.core.study import Check, Evidence, Study, StudyConfig, Verdict

REGISTRY = {"coin": "_coin:COIN", "bent": "_coin:BENT"}


def _run(config: StudyConfig) -> Mapping[str, Any]:
    config.parts.expect(2)
    first = config.parts.get("first", lambda: [config.seed, time.time_ns()])
    second = config.parts.get("second", lambda: time.sleep(float(os.environ.get("COIN_SLEEP", "0"))) or 0.5)
    return {"first": first, "heads": second}


def _fail(config: StudyConfig) -> Mapping[str, Any]:
    raise DataError("the coin is bent", "coin.npz")


def _judge(evidence: Evidence) -> Verdict:
    heads = evidence.values["heads"]
    check = Check("heads", "half the throws", f"{heads}", Interval(heads, 0.4, 0.6, 0.95, 100), True)
    return Verdict("reproduced", "It is fair.", (check,))


def _render(evidence: Evidence, verdict: Verdict, report: Report) -> None:
    report.section("Throws", f"heads {evidence.values['heads']}")


_TEXTS = {key: f"the {key}" for key in ("claim", "paper_figure", "protocol", "deviations", "rule")}
COIN = Study("coin", "A coin", "0000.00000", **_TEXTS, bibtex="@book{coin}", run=_run, judge=_judge, render=_render,
             thumbnail=lambda evidence: "<svg></svg>")  # fmt: skip
BENT = Study("bent", "Bent", "0000.00001", **_TEXTS, bibtex="@book{bent}", run=_fail, judge=_judge, render=_render,
             thumbnail=lambda evidence: "")  # fmt: skip

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with Ctrl-C ignored
    sys.modules["_coin"] = sys.modules["__main__"]
    studies.STUDIES.clear()
    studies.STUDIES.update(REGISTRY)
    sys.exit(cli.main())
