"""The report of the study of coupled gradients: figures, what they say, tables."""

from typing import Any

import numpy as np

from gleanings.core.report import Report
from gleanings.core.stats import Interval, bootstrap_ci, holm, paired_difference
from gleanings.core.study import Evidence, Verdict
from gleanings.studies._coupled_judge import as_ratio, interval_of, log_ratios, p_value, ratios_by_checkpoint, shown
from gleanings.studies._coupled_plots import (
    bias_against_variance,
    geometric_mean,
    overview,
    ratio_panels,
    training_curves,
    variance_against_evaluations,
)
from gleanings.studies._coupled_setup import PAPER, label
from gleanings.studies._coupled_text import on_basket, reading

_TOYS = {"k3": "4 variables, K = 3", "k8": "4 variables, K = 8", "binary": "8 binary variables"}
_OBJECTIVES = ("mlp", "sep")
_ROUNDING = 1e-6  # relative error of a mean in float32


def thumbnail(evidence: Evidence) -> str:
    """Ratios of the coupled estimators to RLOO at the last checkpoint."""
    return overview(evidence.values)


def render(evidence: Evidence, verdict: Verdict, report: Report) -> None:
    """Add the study's sections to `report`."""
    values = evidence.values
    report.section("Gradient variance against leave-one-out", on_basket(values))
    panels = ratio_panels(values)
    for start in range(0, len(panels), 2):
        report.figure(panels[start : start + 2])
    report.section("Variance against evaluations").figure(
        variance_against_evaluations(values),
        "Total variance of one gradient estimate at the last checkpoint, geometric mean over seeds and images. Only "
        "points on one vertical line cost the same.",
    )
    if values["context"]:
        report.section("Bias against variance").figure(
            bias_against_variance(values),
            "Norm of the bias over that of the gradient, both measured with the oracle, at the last checkpoint. The "
            "unbiased estimators stand at 0, by C1.",
        )
    report.section("Training").figure(
        training_curves(values),
        "Mean over seeds, with its 95 % interval; the first tenth of the steps is left out. Seconds are wall time.",
    )
    report.section("What the numbers say", reading(values))
    report.section("Tables")
    for table in (_ratio_table, _cost_table, _training_table, _rival_table, _toy_tables, _unbiased_table):
        table(values, report)


def _ratio_table(values: dict[str, Any], report: Report) -> None:
    steps, scale, adjusted = values["checkpoints"], values["scale"], _adjusted(values)
    rows = []
    for name, cell in _by_evaluations(values["basket"]):
        if not name.startswith("rloo-"):
            ratios = [interval and _cell(interval) for interval in ratios_by_checkpoint(values, name)]
            widened = _cell(as_ratio(interval_of(log_ratios(values, name), widened=True)))
            rows.append([cell["evaluations"], label(name), *ratios, widened])
    report.table(
        ["n", "estimator", *(f"step {step:,}" for step in steps), "widened"],
        rows,
        f"Variance over that of RLOO with the same n evaluations; 95 % intervals over {scale['seeds']} seeds and "
        f"{scale['images']} images, {scale['draws']} gradients each. `widened`: last step, corrected for few seeds. "
        + (f"Holm-adjusted p at the last step: {adjusted}." if adjusted else ""),
    )


def _cost_table(values: dict[str, Any], report: Report) -> None:
    rows = []
    for name, cell in _by_evaluations(values["basket"] | values["context"]):
        base = values["basket"].get(f"rloo-{cell['evaluations']}", {"microseconds": float("nan"), "log_variance": []})
        own, time = name == f"rloo-{cell['evaluations']}", cell["microseconds"] / base["microseconds"]
        product = time * geometric_mean(cell) / geometric_mean(base) if base["log_variance"] and not own else None
        bias = float(np.mean(cell["relative_bias"])) if "relative_bias" in cell and name != "local" else None
        row = [cell["evaluations"], label(name), geometric_mean(cell), bias, cell["microseconds"]]
        rows.append([*row, None if own else time, product])
    report.table(
        ["n", "estimator", "variance / nats²", "relative bias", "time / µs", "time ratio", "product"],
        rows,
        "Last checkpoint. Time is wall time of one gradient with its n evaluations of f, computed in large batches, "
        "the least over cells; `time ratio` is against RLOO-n, `product` the ratio of variance times that of time.",
    )


def _training_table(values: dict[str, Any], report: Report) -> None:
    rows = []
    base = np.asarray(values["training"]["rloo-2"]["test_elbo"], float)
    many = len(base) > 1
    for name, row in values["training"].items():
        bounds = [np.asarray(row[key], float) for key in ("test_elbo", "test_importance_weighted")]
        cells = [_cell(bootstrap_ci(x, small_sample=True)) if many else f"{x[0]:.2f}" for x in bounds]
        paired = _cell(paired_difference(bounds[0], base, small_sample=True)) if many and name != "rloo-2" else None
        rows.append([label(name), *cells, paired, row["milliseconds_per_step"]])
    scale = values["scale"]
    report.table(
        ["estimator", "test ELBO", f"bound, {scale['bound_samples']} samples", "ELBO − RLOO-2", "ms / step"],
        rows,
        f"After {scale['steps']:,} steps: mean over {len(base)} seeds in nats, 95 % intervals corrected for few seeds.",
    )


def _rival_table(values: dict[str, Any], report: Report) -> None:
    rows = [
        [cell["evaluations"], label(name), _cell(as_ratio(interval_of(log_ratios(values, name, arm="rivals"))))]
        for name, cell in _by_evaluations(values["rivals"])
        if not name.startswith("rloo-")
    ]
    if rows:
        report.table(["n", "estimator", "ratio"], rows, "The rivals once more, in a model with K = 4; last checkpoint.")


def _toy_tables(values: dict[str, Any], report: Report) -> None:
    for problem, found in values["toys"].items():
        by_name = {(row["objective"], row["member"]): row for row in found}
        rows = []
        for name, first in _by_evaluations({row["member"]: row for row in found}):
            n, cells, errors = first["evaluations"], [], []
            for objective in _OBJECTIVES:
                row = by_name[objective, name]
                cells += [row["variance"], _toy_ratio(row, by_name.get((objective, f"rloo-{n}")))]
                errors.append(row["bias"] / max(row["noise"], _ROUNDING))
            rows.append([n, label(name), *cells, max(errors)])
        report.table(
            ["n", "estimator", "variance, mlp", "/ RLOO-n", "variance, sep", "/ RLOO-n", "error / noise"],
            rows,
            f"Toys with {_TOYS[problem]}: variance, and its ratio to that of RLOO at equal n with a 95 % interval, "
            f"from {values['scale']['toy_draws']:,} gradients. `error / noise`: distance of their mean from the exact "
            "gradient over that to be expected without bias, so about 1 without bias.",
        )


def _toy_ratio(row: dict[str, Any], base: dict[str, Any] | None) -> str | None:
    """Ratio of two independent variances, with the interval of the delta method on its logarithm."""
    if base is None or base is row:
        return None
    ratio = row["variance"] / base["variance"]
    error = float(np.exp(1.96 * np.hypot(*(one["standard_error"] / one["variance"] for one in (row, base)))))
    return _cell(Interval(ratio, ratio / error, ratio * error, 0.95, 1))


def _unbiased_table(values: dict[str, Any], report: Report) -> None:
    rows = []
    for row in (*values["unbiased"], values["control"]):
        failed = "caught" if row is values["control"] else "FAILED"
        numbers = [row[key] for key in ("max_abs_z", "mean_z2", "mean_z2_limit", "bias", "draws")]
        rows.append([label(row["member"]), *numbers, "passed" if row["passed"] else failed])
    report.table(
        ["estimator", "largest |z|", "mean z²", "limit", "relative bias", "draws", "outcome"],
        rows,
        "C1: the mean gradient against the exact one, coordinate by coordinate, on the toy mlp (K = 3 or binary; the "
        "control, last, K = 8). At most 4.5 for |z| and the limit for mean z² pass.",
    )


def _adjusted(values: dict[str, Any]) -> str:
    if not set(PAPER) <= set(values["basket"]):
        return ""
    adjusted = holm([p_value(log_ratios(values, name)) for name in PAPER])
    return ", ".join(f"{label(name)} {p:.3f}" for name, p in zip(PAPER, adjusted, strict=True))


def _cell(interval: Interval) -> str:
    """The interval on one line of a table."""
    return shown(interval).replace(" ", "\N{NO-BREAK SPACE}")


def _by_evaluations(cells: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return sorted(cells.items(), key=lambda item: item[1]["evaluations"])
