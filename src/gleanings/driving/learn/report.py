"""Reports of a training run and of an evaluation: plots first, then the worst failures, then tables. Source: ours."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gleanings.core.report import Report, Series, figure_bars, figure_line
from gleanings.core.stats import Interval
from gleanings.driving.learn.assessment import LOG, Assessment
from gleanings.driving.learn.contract import caveat
from gleanings.driving.learn.demos import Audit
from gleanings.driving.learn.evaluate import PolicyEvaluation, kind_of
from gleanings.driving.learn.training import Training, algorithm_of

_HALF = (360, 270)
_FEWEST = 3  # scenes of a kind
_PLOTTED = 10  # scenes from which on a bucket is drawn
_WORLDS = {"log": "others from the log", "idm": "others by IDM"}
_CURVES = {
    "actor/bc_nll": ("imitation", "−log likelihood"),
    "critic/loss": ("critic", "loss"),
    "collect/failure": ("failure while collecting", "%"),
    "validation/failure": ("failure in validation", "%"),
    "validation/progress": ("progress in validation", "share of the log's"),
}
_METRICS = {
    "failure": ("failure", "%"),
    "failure_star": ("failure*", "%"),
    "progress_ratio": ("progress", "share of the log's"),
}


def training_report(
    config: Training,
    rows: Sequence[Mapping[str, float | int]],
    audits: Mapping[str, Audit],
    assessed: Assessment,
    clips: Mapping[str, str],
    notes: Sequence[str] = (),
) -> Report:
    """Of a run: rows are those of metrics.jsonl, audits those of the demonstrations by stratum."""
    name, seeds = algorithm_of(config.learner), len(config.seeds)
    what = f"{seeds} {'seed' if seeds == 1 else 'seeds'} · {config.learner.iterations} iterations"
    trained = f"trained with {_WORLDS[config.world.others]} · tested in {len(assessed.scenes)} scenes"
    report = Report(f"Learning to drive: {name}", f"{what} · {trained}")
    _first(report, assessed, notes)
    _pareto(report, assessed)
    _difficulty(report, assessed)
    _curves(report, config, rows)
    _failures(report, assessed, clips)
    _kinds(report, assessed)
    _actions(report, assessed)
    _audit(report, audits)
    _tables(report, assessed)
    return report


def evaluation_report(assessed: Assessment, clips: Mapping[str, str], source: str) -> Report:
    """Of policies in other scenes than those of their run."""
    first = next(iter(assessed.policies.values()))
    trained = f" · trained with {_WORLDS[first.trained]}" if first.trained else ""
    report = Report(f"Evaluation: {first.label}", f"{source} · {len(assessed.scenes)} scenes{trained}")
    _first(report, assessed, ())
    _pareto(report, assessed)
    _difficulty(report, assessed)
    _failures(report, assessed, clips)
    _kinds(report, assessed)
    _actions(report, assessed)
    _tables(report, assessed)
    return report


def _first(report: Report, assessed: Assessment, notes: Sequence[str]) -> None:
    broken = [f"{label}: {caveat(one.frozen_at)}" for label, one in assessed.policies.items() if caveat(one.frozen_at)]
    said = [*broken, *filter(None, [next(iter(assessed.policies.values())).lacking]), *notes]
    if said:
        report.section("Read this first", "\n".join(f"- {note}" for note in said))


def _pareto(report: Report, assessed: Assessment) -> None:
    world = assessed.worlds[0]
    text = "Best is the lower right. A dot a seed; the controls have learnt nothing, and expert replay knows the log."
    report.section("Failure against progress", text)
    for stratum, buckets in assessed.groups.items():
        bucket = next(iter(buckets.values()))

        def point(one: PolicyEvaluation, bucket: str = bucket) -> tuple[float, float]:
            return one.figure("progress_ratio", bucket).estimate, 100 * one.figure("failure", bucket).estimate

        policies = np.array([point(one) for one in assessed.policies.values()])
        label = next(iter(assessed.policies)) if len(policies) == 1 else "policies"
        series = [Series(label, policies[:, 0], policies[:, 1])]
        series += [
            Series(name, [x], [y], colour=5)
            for name, one in assessed.controls.items()
            for x, y in [point(one)]
            if math.isfinite(x)
        ]
        report.figure(
            figure_line(
                series,
                x_label="progress, share of the log's",
                y_label="scenes with a failure, %",
                style="labelled",
                title=", ".join(filter(None, [stratum, _WORLDS[world]])),
            )
        )


def _difficulty(report: Report, assessed: Assessment) -> None:
    one = next(iter(assessed.policies.values()))
    for stratum, group in assessed.groups.items():
        buckets = {
            name: bucket for name, bucket in group.items() if name == "all" or one.mask(bucket).sum() >= _PLOTTED
        }
        if len(buckets) < 3:  # all, the easier and the harder half
            continue
        report.section("Failure by difficulty" + (f": {stratum}" if stratum else ""))
        for metric, (name, unit) in _METRICS.items():
            figures = [_by_bucket(assessed, metric, name, unit, world, buckets) for world in assessed.worlds]
            report.figure(figures, _captions(assessed)[metric])


def _captions(assessed: Assessment) -> dict[str, str]:
    first = next(iter(assessed.policies.values()))
    shifted = [_WORLDS[world] for world in assessed.worlds if first.shifted(world)]
    note = f" Shifted world, not trained in: {', '.join(shifted)}." if shifted else ""
    return {
        "failure": "Contact or off the road at any step, with 95 % intervals over scenes (from 30 scenes on)." + note,
        "failure_star": "The same, or less than half the log's progress.",
        "progress_ratio": "Way along the route over the log's, where the log makes at least 5 m.",
    }


def _by_bucket(assessed: Assessment, metric: str, name: str, unit: str, world: str, buckets: Mapping[str, str]) -> str:
    scale = 100.0 if unit == "%" else 1.0
    series = []
    for label, one in assessed.policies.items():
        figures = [one.figure(metric, bucket, world) for bucket in buckets.values()]
        y, low, high = (_scaled([getattr(f, part) for f in figures], scale) for part in ("estimate", "low", "high"))
        series.append(Series(label, list(buckets), y, _or(low, y), _or(high, y)))
    return figure_bars(series, value_label=f"{name}, {unit}", title=_WORLDS[world], reference=0.0, size=_HALF)


def _scaled(values: Sequence[float], scale: float) -> list[float]:
    return [scale * value for value in values]


def _or(bounds: Sequence[float], values: Sequence[float]) -> list[float]:
    return [bound if math.isfinite(bound) else value for bound, value in zip(bounds, values, strict=True)]


def _curves(report: Report, config: Training, rows: Sequence[Mapping[str, float | int]]) -> None:
    figures = []
    for metric, (title, label) in _CURVES.items():
        scale = 100.0 if label == "%" else 1.0
        series = [Series(name, *_points(rows, key, scale)) for name, key in _keys(config, metric)]
        series = [one for one in series if len(one.x) > 1]
        if series and not (metric == "critic/loss" and figures):  # where nothing is imitated
            figures.append(figure_line(series, x_label="iteration", y_label=label, title=title, size=_HALF))
    if figures:
        report.section("Learning")
        for pair in _pairs(figures):
            report.figure(pair)


def _keys(config: Training, metric: str) -> list[tuple[str, str]]:
    if len(config.seeds) == 1:
        return [(f"seed {config.seeds[0]}", metric)]
    return [(f"seed {seed}", f"seed-{seed}/{metric}") for seed in config.seeds]


def _points(rows: Sequence[Mapping[str, float | int]], key: str, scale: float) -> tuple[list[float], list[float]]:
    found = {int(row["step"]): scale * row[key] for row in rows if math.isfinite(row.get(key, math.nan))}
    return [float(step) for step in sorted(found)], [found[step] for step in sorted(found)]


def _pairs(figures: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(figures), 2):
        yield figures[start : start + 2]


def _failures(report: Report, assessed: Assessment, clips: Mapping[str, str]) -> None:
    label = assessed.shown[0]
    one = assessed.policies[label]
    if not clips:
        what = "fails in no test scene" if one.frozen_at is None else "has no contact and stays on the road"
        report.section("Failures", f"{label} {what}.")
        return
    found = one.outcomes()
    text = f"Those of {label} in the most difficult scenes, {_WORLDS[assessed.worlds[0]]}. The empty box is the log; a "
    report.section("Worst failures", text + "red outline says that the policy has failed.")
    for scene, clip in clips.items():
        i = one.scenes.index(scene)
        kinds = {"collision": found.collision[i], "at fault": found.at_fault[i], "off the road": found.off_road[i]}
        what = ", ".join(name for name, happened in kinds.items() if happened)
        report.fragment(clip, f"`{scene}`: {what}; difficulty {assessed.difficulty[i]:.2f}")


def _kinds(report: Report, assessed: Assessment) -> None:
    first = next(iter(assessed.policies.values()))
    kinds = np.array([kind_of(name) for name in first.scenes])
    names = sorted({str(kind) for kind in kinds if (kinds == kind).sum() >= _FEWEST})
    if len(names) < 2:
        return
    failed = np.stack([one.outcomes().failed for one in assessed.policies.values()])
    rates = {f"{name.replace('_', ' ')} (n = {(kinds == name).sum()})":
             [100 * float(row[kinds == name].mean()) for row in failed] for name in names}  # fmt: skip
    order = sorted(rates, key=lambda name: -float(np.mean(rates[name])))
    series = [Series(label, order, [rates[name][k] for name in order]) for k, label in enumerate(assessed.policies)]
    tall = 90 + 26 * len(order)
    report.section("Failure by kind of scene").figure(
        figure_bars(series, value_label="scenes with a failure, %", horizontal=True, reference=0.0, size=(740, tall))
    )


def _actions(report: Report, assessed: Assessment) -> None:
    figures = []
    for part, (title, label) in enumerate((("acceleration", "u, −1: 8 m/s² braking, 1: 4 m/s²"), ("steering", "u"))):
        edges = np.linspace(-1, 1, 22)
        series = []
        for name, values in assessed.actions.items():
            share = np.histogram(values[part], edges)[0] / max(len(values[part]), 1)
            series.append(Series("log" if name == LOG else name, (edges[1:] + edges[:-1]) / 2, 100 * share))
        figures.append(figure_line(series, x_label=label, y_label="decisions, %", title=title, size=_HALF))
    mixed = f"; {' and '.join(dict.fromkeys(assessed.strata))} together" if len(set(assessed.strata)) > 1 else ""
    caption = f"Of all decisions in the test scenes{mixed}; steering where the car moves."
    report.section("Actions").figure(figures, caption)
    rows = []
    for name, one in assessed.policies.items():
        for world in assessed.worlds:
            own = assessed.styles[name][world]
            ade, most, comfort = (
                one.figure(metric, world=world).estimate for metric in ("ade_m", "saturated", "comfort")
            )
            shares = [round(100 * value, 1) for value in (own.off_route, most, comfort)]
            rows.append(
                [_label(name), world, round(own.acceleration, 3), round(own.steering, 3), round(ade, 2), *shares]
            )
    columns = ["policy", "others", "W1 acceleration", "W1 steering", "ADE m", "off route %", "|u| > .95 %", "comfort %"]
    report.table(columns, rows, "W1: distance of the distribution of u to the log's, as drawn above.")


def _audit(report: Report, audits: Mapping[str, Audit]) -> None:
    def row(name: str, one: Audit) -> list[object]:
        shares = [round(100 * value, 1) for value in (one.standing, one.clipped, one.negative)]
        residual, reward = round(1000 * one.residual_m[2], 1), round(one.reward, 3)
        return [name, one.scenes, one.kept, one.dropped_gap, one.dropped_residual, residual, *shares, reward]

    rows = [row(name, one) for name, one in audits.items()]
    report.section("Demonstrations").table(
        ["", "scenes", "kept", "gaps", "residuals", "99 % mm", "standing %", "clipped %", "r < 0 %", "mean r"],
        rows,
        "Decisions of the training logs: kept, or dropped for gaps of the log or because their label misses it by too "
        "much; 99 % miss it by less than so many mm; the steering of standing ones is not learnt; r is the reward that "
        "the log itself would get.",
    )


def _tables(report: Report, assessed: Assessment) -> None:
    report.section("All figures")
    metrics = ("failure", "failure_star", "at_fault", "off_road", "progress_ratio")
    columns = ["n", "failure %", "failure* %", "at fault %", "off road %", "progress"]

    def cells(one: PolicyEvaluation, bucket: str, world: str) -> list[object]:
        figures = [_cell(one.figure(metric, bucket, world), metric != "progress_ratio") for metric in metrics]
        return [int(one.mask(bucket).sum()), *figures]

    for stratum, buckets in assessed.groups.items():
        for world in assessed.worlds:
            rows = [
                [_label(label), name, *cells(one, bucket, world)]
                for label, one in assessed.policies.items()
                for name, bucket in buckets.items()
            ]
            report.table(["policy", "scenes", *columns], rows, _named(assessed, stratum, world))
        bucket, world = next(iter(buckets.values())), assessed.worlds[0]
        rows = [[_label(label), *cells(one, bucket, world)] for label, one in assessed.controls.items()]
        report.table(["control", *columns], rows, _named(assessed, stratum, world, False))


def _named(assessed: Assessment, stratum: str, world: str, trained: bool = True) -> str:
    """Stratum and world as a caption; whether policies were trained in it."""
    shifted = trained and next(iter(assessed.policies.values())).shifted(world)
    return ", ".join(filter(None, [stratum, _WORLDS[world]])) + (": a shifted world, not trained in" if shifted else "")


def _label(name: str) -> str:
    """In one line."""
    return name.replace(" ", "\u00a0")


def _cell(value: Interval, percent: bool) -> str:
    """Estimate and interval, in one line."""
    scale, digits = (100, 0) if percent else (1, 2)
    if not math.isfinite(value.estimate):
        return "–"
    text = f"{scale * value.estimate:.{digits}f}"
    if not math.isfinite(value.low):
        return text
    return f"{text}\u00a0[{scale * value.low:.{digits}f},\u00a0{scale * value.high:.{digits}f}]"
