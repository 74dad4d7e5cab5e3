"""What the checks return: frozen results that print as a table."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class UnbiasedCheck:
    """Whether the mean of an estimator agrees with the exact gradient.

    z is (mean - exact) / standard error, one a coordinate. `passed` needs max |z| <= 4.5 and the mean of z^2 below its
    5-sigma limit `mean_z2_limit`. `worst` names the coordinate of the largest |z|; `bias` is the norm of mean - exact
    over the norm of the exact gradient.
    """

    estimator: str
    num_evaluations: int
    draws: int
    max_abs_z: float
    mean_z2: float
    mean_z2_limit: float
    worst: str
    bias: float
    passed: bool

    def __str__(self) -> str:
        return table(
            ["estimator", "n", "draws", "max |z|", "mean z²", "limit", "relative bias", "unbiased"],
            [
                [
                    self.estimator,
                    str(self.num_evaluations),
                    f"{self.draws:,}",
                    f"{self.max_abs_z:.2f}",
                    f"{self.mean_z2:.2f}",
                    f"{self.mean_z2_limit:.2f}",
                    f"{self.bias:.2e}",
                    "passed" if self.passed else f"FAILED at {self.worst}",
                ]
            ],
        )


@dataclasses.dataclass(frozen=True)
class Variance:
    """Total variance (trace of the covariance) of one estimate, with its standard error."""

    estimator: str
    num_evaluations: int
    draws: int
    trace: float
    standard_error: float

    def __str__(self) -> str:
        cells = [self.estimator, str(self.num_evaluations), f"{self.draws:,}", f"{self.trace:.4g}"]
        return table(
            ["estimator", "n", "draws", "variance", "standard error"],
            [[*cells, f"{self.standard_error:.2g}"]],
        )


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """One estimator of a comparison.

    `rank` orders by variance among the estimators of the same `num_evaluations`; `ratio` is the variance over that of
    ReinforceLOO at the same number of evaluations (NaN for n = 1). `bias` and `max_abs_z` are NaN where the joint
    values are too many to enumerate. `microseconds` is wall time per gradient inside a batch, f included.
    """

    estimator: str
    num_evaluations: int
    rank: int
    variance: float
    standard_error: float
    ratio: float
    bias: float
    max_abs_z: float
    microseconds: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Estimators side by side on one problem, ranked only within one number of evaluations."""

    draws: int
    rows: tuple[ComparisonRow, ...]

    def __str__(self) -> str:
        columns = ["n", "rank", "estimator", "variance", "±se", "ratio to LOO", "bias", "max |z|", "µs"]
        return table(
            columns,
            [
                [str(row.num_evaluations), str(row.rank), row.estimator]
                + [_number(x) for x in (row.variance, row.standard_error, row.ratio, row.bias)]
                + [_number(row.max_abs_z), _number(row.microseconds)]
                for row in self.rows
            ],
        )


def _number(x: float) -> str:
    return "-" if x != x else f"{x:.3g}"


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Plain text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in [columns, *rows]]
    return "\n".join(line.rstrip() for line in lines)
