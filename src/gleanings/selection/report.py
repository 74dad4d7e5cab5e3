"""The report of one choice: what was chosen, what it is worth on unseen rows, and what the log cannot carry."""

import itertools

import numpy as np

from gleanings.core.report import Report, Series, figure_bars, figure_heatmap
from gleanings.core.stats import Interval
from gleanings.selection.bandit import BanditLog
from gleanings.selection.log import Transitions
from gleanings.selection.selection import Certificate, Selection

_SHOWN = 3.0
_MEANING = {
    "certified": "Certified: the tests behind the choice could have failed and did not, and the log covers its policy.",
    "uncertified": "Uncertified: an alarm below touches the choice, or the rule gives no certificate.",
    "insufficient data": "Insufficient data: nothing in the log speaks for more than the smallest class.",
}
_BINS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, np.inf)


def selection_report(found: Selection, source: str = "the log") -> Report:
    """Verdict, alarms with what to do, values by estimator, losses of the classes, actions, weights, comparisons."""
    log = found.log
    rows = "" if log is None else f" · {len(log.reward):,} rows"
    report = Report(f"Choice: {found.name}", f"{source}{rows} · rule {found.rule}")
    report.section("Verdict", f"{str(found).splitlines()[0]}\n\n{_MEANING[found.verdict]}")
    if isinstance(log, Transitions) and log.dropped:
        report.section("Rows", log.dropped + ".")
    if found.alarms:
        report.section("Alarms").table(["alarm", "what was found"], [[a.name, a.message] for a in found.alarms])
    if found.value and isinstance(log, BanditLog):
        _value(found, log, report)
    if found.losses:
        _losses(found, report)
    if log is not None:
        _actions(found, log, report)
    if isinstance(log, BanditLog) and found.overlap is not None:
        _weights(found, log, report)
    if found.certificate.cells:
        _comparisons(found.certificate, report)
    return report


def _value(found: Selection, log: BanditLog, report: Report) -> None:
    values = {name: Interval(e.value, e.low, e.high, 0.95, e.n) for name, e in found.value.items()}
    logged = float(log.reward.mean())
    y, low, high = ([getattr(v, k) for v in values.values()] for k in ("estimate", "low", "high"))
    series = [Series("value of the choice", list(values), y, low, high)]
    report.section("Value on unseen rows").figure(
        figure_bars(series, value_label="mean reward", reference=logged),
        f"By estimator, with its 95 % interval; the line is the logger's own mean reward, {logged:.4g}. The "
        "interval of DM leaves out the error of the reward model.",
    )
    report.table(["estimator", "value", "standard error"], [[k, v, found.value[k].se] for k, v in values.items()])


def _losses(found: Selection, report: Report) -> None:
    names, pairs = list(found.losses), list(found.losses.values())
    y, low, high = [m for m, _ in pairs], [m - e for m, e in pairs], [m + e for m, e in pairs]
    report.section("How well each class predicts").figure(
        figure_bars([Series("excess", names, y, low, high)], value_label="squared error above the least"),
        "On held-out rows, paired by row, with one standard error; 0 is as good as the best.",
    )


def _actions(found: Selection, log: BanditLog | Transitions, report: Report) -> None:
    observation = log.context if isinstance(log, BanditLog) else log.observation[log.at(0)]
    propensity = log.propensity if isinstance(log, BanditLog) else None
    share, rows = found.act(observation.astype(np.float32)).mean(0), []
    labels = log.labels or tuple(map(str, range(log.num_actions)))
    for a, label in enumerate(labels):
        chosen = log.action == a
        smallest = float(propensity[chosen].min()) if propensity is not None and chosen.any() else None
        mean = float(log.reward[chosen].mean()) if chosen.any() else None
        rows.append([label, int(chosen.sum()), mean, smallest, float(share[a])])
    heads = ["action", "rows", "mean reward", "smallest propensity", "share under the choice"]
    keep = [i for i in range(len(heads)) if propensity is not None or i != 3]
    report.section("Actions").table([heads[i] for i in keep], [[row[i] for i in keep] for row in rows])


def _weights(found: Selection, log: BanditLog, report: Report) -> None:
    """How unequal the importance weights are over the whole log."""
    assert log.propensity is not None
    rho = found.act(log.context)[np.arange(len(log.action)), log.action] / log.propensity
    counts = [int((rho == 0).sum()), *np.histogram(rho[rho > 0], _BINS)[0].tolist()]
    edges = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(_BINS[:-1])]
    series = [Series("rows", ["0", *edges, f"above {_BINS[-2]:g}"], [count / len(rho) for count in counts])]
    report.section("Weights").figure(
        figure_bars(series, value_label="share of rows", style="bars"),
        "Probability of the logged action under the choice over its propensity. Few large ones make values unsure.",
    )
    assert found.overlap is not None
    facts = found.overlap._asdict()
    report.table(list(facts), [[", ".join(map(str, v)) if isinstance(v, tuple) else v for v in facts.values()]])


def _comparisons(certificate: Certificate, report: Report) -> None:
    columns = certificate.table()
    small, large = (list(dict.fromkeys(columns[name].tolist())) for name in ("small", "large"))
    ratio = np.full((len(small), len(large)), np.nan)
    for cell in certificate.cells:
        i, j = small.index(cell.small), large.index(cell.large)
        ratio[i, j] = np.nanmax([ratio[i, j], cell.delta / cell.tolerance if cell.tolerance > 0 else np.nan])
    report.section(
        "Comparisons", "Each class against larger ones, on the smaller class's targets; above 1 it is rejected."
    )
    if np.isfinite(ratio).any():
        heat = figure_heatmap(
            np.clip(ratio, -_SHOWN, _SHOWN), rows=small, columns=large, value_label="difference / tolerance", centre=1.0
        )
        report.figure(heat, "Small class (row) against large class (column), the largest over stages, cut off at ±3.")
    report.table(list(columns), list(zip(*(c.tolist() for c in columns.values()), strict=True)))
