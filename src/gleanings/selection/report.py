"""The report of one choice: what was chosen, what it is worth on unseen rows, and what the log cannot carry."""

import numpy as np

from gleanings.core.report import Report, Series, figure_bars
from gleanings.core.stats import Interval
from gleanings.selection.bandit import BanditLog
from gleanings.selection.selection import Selection


def selection_report(found: Selection, log: BanditLog, source: str) -> Report:
    """Verdict, values by estimator, the policy arm by arm, comparisons, alarms with what to do."""
    report = Report(f"Choice: {found.name}", f"{source} · {len(log):,} rows · rule {found.rule}")
    report.section("Verdict", str(found).split("\n")[0])
    if found.alarms:
        report.section("Alarms").table(["alarm", "what was found"], [[a.name, a.message] for a in found.alarms])
    if found.value:
        values = {name: Interval(e.value, e.low, e.high, 0.95, e.n) for name, e in found.value.items()}
        logged = float(log.reward.mean())
        series = [
            Series(
                "value of the choice",
                list(values),
                [v.estimate for v in values.values()],
                [v.low for v in values.values()],
                [v.high for v in values.values()],
            )
        ]
        report.section("Value on unseen rows").figure(
            figure_bars(series, value_label="mean reward", reference=logged),
            f"By estimator, with its 95 % interval; the line is the logger's own mean reward, {logged:.4g}. The "
            "interval of DM leaves out the error of the reward model.",
        )
        report.table(["estimator", "value", "standard error"], [[k, v, found.value[k].se] for k, v in values.items()])
    _arms(found, log, report)
    if found.certificate.cells:
        columns = found.certificate.table()
        rows = list(zip(*(c.tolist() for c in columns.values()), strict=True))
        report.section("Comparisons").table(list(columns), rows, "Each class against each larger one.")
    return report


def _arms(found: Selection, log: BanditLog, report: Report) -> None:
    share = found.act(log.context.astype(np.float32)).mean(0)
    rows = []
    for a, label in enumerate(log.labels):
        chosen = log.action == a
        smallest = float(log.propensity[chosen].min()) if log.propensity is not None and chosen.any() else None
        mean = float(log.reward[chosen].mean()) if chosen.any() else None
        rows.append([label, int(chosen.sum()), mean, smallest, float(share[a])])
    report.section("Actions").table(
        ["action", "rows", "mean reward", "smallest propensity", "share under the choice"], rows
    )
