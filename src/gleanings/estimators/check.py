"""Is it unbiased, what is its variance, which member wins: measured on the user's own f and logits.

f here has no batch: logits are `[D, K]` (binary: `[D]`) or a pytree of such, and f takes `[n, *batch, D, K]` for the
batch of repeated draws that the checks lay out.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy import stats

from gleanings.core.errors import ConfigError, NumericsError
from gleanings.estimators._base import AbstractEstimator, Function, Variable, checked_key, evaluate
from gleanings.estimators._logits import Logits, num_outcomes
from gleanings.estimators._report import Comparison, ComparisonRow, UnbiasedCheck, Variance
from gleanings.estimators.score import ReinforceLOO

MAX_OUTCOMES = 65_536
_CHUNKS = 25  # groups of draws between which the standard error of a variance is read
_CHUNK_FLOATS = 2**23  # memory of one compiled batch: n * draws * D * K floats
_MAX_Z = 4.5


def exact_gradient(
    f: Function, logits: PyTree, variable: Variable = "categorical"
) -> tuple[Float[Array, ""], PyTree[Float[Array, "..."]]]:
    """E[f] and its gradient in the logits, by enumerating all K^D joint values in one call of f.

    Raises ConfigError for more than 65,536 joint values. Source: definition.
    """
    clean = Logits.of(logits, variable)
    size = num_outcomes(clean)
    if size > MAX_OUTCOMES:
        raise ConfigError(f"{size:,} joint values, limit {MAX_OUTCOMES:,}: use fewer variables or categories")
    if clean.batch:
        raise ConfigError(f"logits have batch shape {list(clean.batch)}: pass one example")
    samples = _all_outcomes(clean)
    f_values = evaluate(f, clean.samples(samples), (size,))
    log_p = sum((z * jax.nn.log_softmax(leaf)).sum((-2, -1)) for z, leaf in zip(samples, clean.leaves, strict=True))
    p = jnp.exp(jnp.asarray(log_p))
    value = (p * f_values).sum()
    centred = jnp.where(p > 0, p * (f_values - value), 0)
    gradients = [
        jnp.einsum("n,ndk->dk", centred, z - jax.nn.softmax(leaf))
        for z, leaf in zip(samples, clean.leaves, strict=True)
    ]
    return value, clean.cotangent(gradients, jnp.isfinite(value))


def _all_outcomes(logits: Logits) -> list[Array]:
    """Every joint value, one-hot `[size, D, K]` per leaf."""
    ranges = [range(leaf.shape[-1]) for leaf in logits.leaves for _ in range(leaf.shape[-2])]
    codes = np.array(list(itertools.product(*ranges)), np.int32).reshape(num_outcomes(logits), len(ranges))
    out, start = [], 0
    for leaf in logits.leaves:
        d, k = leaf.shape
        out.append(jax.nn.one_hot(codes[:, start : start + d], k, dtype=leaf.dtype))
        start += d
    return out


class _Moments(NamedTuple):
    mean: np.ndarray  # [coordinates]
    variance: np.ndarray  # [coordinates]
    traces: np.ndarray  # [chunks], unbiased estimates of the total variance
    draws: int
    seconds: float  # wall, per gradient


def check_unbiased(
    estimator: AbstractEstimator, f: Function, logits: PyTree, key: Array, draws: int = 20_000
) -> UnbiasedCheck:
    """Compare the mean of `draws` estimates with the exact gradient, coordinate by coordinate.

    Raises ConfigError for more than 65,536 joint values, NumericsError naming the leaf for non-finite estimates.
    Source: ours.
    """
    value, exact = exact_gradient(f, logits, estimator.variable)
    moments = _moments(estimator, f, logits, key, draws)
    target = _flatten(exact)
    difference = moments.mean - target
    # Below this the difference is rounding, not bias.
    scale = max(
        float(abs(value)),
        float(np.abs(target).max(initial=0)),
        float(np.sqrt(moments.variance.max(initial=0))),
    )
    rounding = 8 * np.finfo(np.float32).eps * scale
    error = np.sqrt(moments.variance / moments.draws + rounding**2)
    z = np.divide(difference, error, out=np.zeros_like(error), where=error > 0)
    freedom = max(1, sum(leaf.shape[-2] * (leaf.shape[-1] - 1) for leaf in _leaves(logits, estimator)))
    limit = float(stats.chi2.isf(stats.norm.sf(5), freedom) / freedom)
    mean_z2 = float((z**2).mean()) if z.size else 0.0
    max_z = float(np.abs(z).max(initial=0))
    norm = float(np.linalg.norm(target))
    return UnbiasedCheck(
        estimator=repr_of(estimator),
        num_evaluations=estimator.evaluations(logits),
        draws=moments.draws,
        max_abs_z=max_z,
        mean_z2=mean_z2,
        mean_z2_limit=limit,
        worst=_coordinate_name(logits, int(np.abs(z).argmax())) if z.size else "",
        bias=float(np.linalg.norm(difference)) / norm if norm else 0.0,
        passed=max_z <= _MAX_Z and mean_z2 <= limit,
    )


def variance_of(estimator: AbstractEstimator, f: Function, logits: PyTree, key: Array, draws: int = 20_000) -> Variance:
    """Total variance of one estimate over `draws` repetitions, with its standard error.

    Raises NumericsError naming the leaf for non-finite estimates. Source: ours.
    """
    moments = _moments(estimator, f, logits, key, draws)
    return Variance(
        repr_of(estimator),
        estimator.evaluations(logits),
        moments.draws,
        float(moments.traces.mean()),
        _standard_error(moments.traces),
    )


def compare(
    estimators: Sequence[AbstractEstimator], f: Function, logits: PyTree, key: Array, draws: int = 20_000
) -> Comparison:
    """Variance, bias and time of `estimators` on one problem, ranked within each number of evaluations.

    ReinforceLOO is measured at every n for the ratio. Raises as `variance_of`. Source: ours.
    """
    _checked_draws(draws)
    variables = {estimator.variable for estimator in estimators}
    if len(variables) != 1:
        raise ConfigError("compare needs at least one estimator, all for one kind of variable")
    variable = estimators[0].variable
    small = num_outcomes(Logits.of(logits, variable)) <= MAX_OUTCOMES
    exact = _flatten(exact_gradient(f, logits, variable)[1]) if small else None
    counts = sorted({estimator.evaluations(logits) for estimator in estimators})
    members = [*estimators, *(ReinforceLOO(n, variable=variable) for n in counts if n > 1)]
    keys = jax.random.split(checked_key(key), len(members))
    programs: dict[AbstractEstimator, _Program] = {}  # a baseline that is a member too is compiled once
    measured = []
    for member, k in zip(members, keys, strict=True):
        programs[member] = programs.get(member) or _Program.of(member, f, logits, k, draws)
        measured.append(programs[member].moments(logits, k))
    baselines = dict(zip([n for n in counts if n > 1], measured[len(estimators) :], strict=True))
    pairs = zip(estimators, measured, strict=False)
    rows = [_row(repr_of(member), member.evaluations(logits), moments, exact, baselines) for member, moments in pairs]
    rows.sort(key=lambda row: (row.num_evaluations, row.variance))
    ranked, seen = [], dict.fromkeys(counts, 0)
    for row in rows:
        seen[row.num_evaluations] += 1
        ranked.append(ComparisonRow(**{**row.__dict__, "rank": seen[row.num_evaluations]}))
    return Comparison(draws, tuple(ranked))


def _row(
    name: str, n: int, moments: _Moments, exact: np.ndarray | None, baselines: dict[int, _Moments]
) -> ComparisonRow:
    trace = float(moments.traces.mean())
    bias = max_z = float("nan")
    if exact is not None:
        difference = moments.mean - exact
        error = np.sqrt(moments.variance / moments.draws) + 1e-7 * np.abs(exact).max(initial=0)
        bias = float(np.linalg.norm(difference))
        max_z = float(np.max(np.abs(difference) / np.where(error > 0, error, 1), initial=0))
    reference = float(baselines[n].traces.mean()) if n in baselines else 0.0
    return ComparisonRow(
        estimator=name,
        num_evaluations=n,
        rank=0,
        variance=trace,
        standard_error=_standard_error(moments.traces),
        ratio=trace / reference if reference > 0 else float("nan"),
        bias=bias,
        max_abs_z=max_z,
        microseconds=1e6 * moments.seconds,
    )


def _standard_error(x: np.ndarray) -> float:
    return float(x.std(ddof=1) / np.sqrt(len(x)))


def _moments(estimator: AbstractEstimator, f: Function, logits: PyTree, key: Array, draws: int) -> _Moments:
    return _Program.of(estimator, f, logits, key, draws).moments(logits, key)


def _checked_draws(draws: int) -> None:
    if draws < 2 * _CHUNKS:
        raise ConfigError(f"draws = {draws}: at least {2 * _CHUNKS} are needed")


class _Program(NamedTuple):
    """Mean and summed squares of a chunk of gradients, by key, compiled."""

    run: Callable[[Array], tuple[Array, Array]]
    chunks: int
    per_chunk: int

    @classmethod
    def of(cls, estimator: AbstractEstimator, f: Function, logits: PyTree, key: Array, draws: int) -> "_Program":
        _checked_draws(draws)
        checked_key(key)
        size = sum(leaf.size for leaf in _leaves(logits, estimator))
        chunks = max(_CHUNKS, -(-draws * estimator.evaluations(logits) * size // _CHUNK_FLOATS))
        per_chunk = -(-draws // chunks)

        @jax.jit
        def run(key: Array) -> tuple[Array, Array]:
            repeated = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (per_chunk, *leaf.shape)), logits)
            _, cotangent = estimator(f, repeated, key)
            leaves = [leaf.reshape(per_chunk, -1) for leaf in jax.tree.leaves(cotangent)]
            flat = jnp.concatenate([leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in leaves], -1)
            mean = flat.mean(0)
            return mean, ((flat - mean) ** 2).sum(0)

        return cls(run.lower(key).compile(), chunks, per_chunk)

    def moments(self, logits: PyTree, key: Array) -> _Moments:
        keys = list(jax.random.split(key, self.chunks))  # taken apart here, for that is compiled too
        jax.block_until_ready(self.run(jax.random.clone(keys[0])))  # the first call allocates, and is not timed
        start = time.perf_counter()
        parts = jax.block_until_ready([self.run(k) for k in keys])
        m = self.chunks * self.per_chunk
        seconds = (time.perf_counter() - start) / m
        means = np.stack([np.asarray(mean, np.float64) for mean, _ in parts])
        within = np.stack([np.asarray(m2, np.float64) for _, m2 in parts])
        mean = means.mean(0)
        _require_finite(mean, logits)
        total = within.sum(0) + self.per_chunk * ((means - mean) ** 2).sum(0)
        return _Moments(mean, total / (m - 1), within.sum(-1) / (self.per_chunk - 1), m, seconds)


def _leaves(logits: PyTree, estimator: AbstractEstimator) -> list[Array]:
    return Logits.of(logits, estimator.variable).leaves


def _flatten(tree: PyTree) -> np.ndarray:
    leaves = [np.asarray(leaf, np.float64).reshape(-1) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


def _coordinate_name(logits: PyTree, index: int) -> str:
    for path, leaf in jax.tree_util.tree_flatten_with_path(logits)[0]:
        if index < leaf.size:
            where = ", ".join(map(str, np.unravel_index(index, leaf.shape)))
            return f"logits{jax.tree_util.keystr(path)}[{where}]"
        index -= leaf.size
    return ""


def _require_finite(mean: np.ndarray, logits: PyTree) -> None:
    bad = np.flatnonzero(~np.isfinite(mean))
    if bad.size:
        name = _coordinate_name(logits, int(bad[0]))
        raise NumericsError("the gradient estimate is not finite: look for NaN in the logits or in f", names=[name])


def repr_of(estimator: AbstractEstimator) -> str:
    """Short name with n where it is chosen and the options that differ from the defaults: `CoupledLOO(4, stick)`."""
    options = [
        str(getattr(estimator, field.name))
        for field in dataclasses.fields(estimator)
        if field.name == "num_evaluations" or getattr(estimator, field.name) != field.default
    ]
    return type(estimator).__name__ + (f"({', '.join(options)})" if options else "")
