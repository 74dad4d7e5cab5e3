"""The classes fitted on training rows, lazily and once for all rules, and compared on validation rows."""

import functools
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gleanings.core.errors import ConfigError, GleaningsError, NumericsError
from gleanings.core.keys import root
from gleanings.selection import prefix
from gleanings.selection.classes import FunctionClass, LinearQ, PrefixLinear, Q, padded_length
from gleanings.selection.fqi import backup, default_sweeps, fqi, possible_values, values_of
from gleanings.selection.log import Split, Transitions
from gleanings.selection.prefix import Comparisons

Fit = Callable[[Any, Transitions, Array], Q | Sequence[Q]]


class Candidates:
    """Nested classes, smallest first, with their fits on the training rows of `data`.

    `fits(k)` is one q a stage. `compare(k)` sets class k against the larger ones, on the targets of k.
    """

    def __init__(self, classes: Sequence[FunctionClass], fit: Fit, data: Transitions, split: Split, key: Array) -> None:
        self.classes, self.data, self.split = list(classes), data, split
        self._fit, self._key = fit, key
        self._fits: dict[int, list[Q]] = {}
        self._rows: dict[int, Comparisons] = {}
        self.bounds = possible_values(data)

    def fits(self, k: int) -> list[Q]:
        """The fit of class k, one q a stage. GleaningsError: the base learner failed; names the class."""
        if k not in self._fits:
            self._fits[k] = self._fit_on(k, self.data.take(np.flatnonzero(self.split.train)))
        return self._fits[k]

    def refit(self, k: int) -> list[Q]:
        """Class k fitted on all rows, those for validation too."""
        return self._fit_on(k, self.data)

    def _fit_on(self, k: int, data: Transitions) -> list[Q]:
        name = self.classes[k].name
        try:
            found = self._fit(self.classes[k], data, jax.random.fold_in(self._key, k))
        except GleaningsError as error:
            raise type(error)(f"class {name}: {error}") from error
        except Exception as error:
            raise GleaningsError(f"class {name}: the base learner raised {type(error).__name__}: {error}") from error
        fits = list(found) if isinstance(found, Sequence) else [found]
        if len(fits) != self.data.num_stages:
            raise ConfigError(f"class {name}: {len(fits)} fits for {self.data.num_stages} stages")
        return fits

    def value_at_start(self, k: int) -> float:
        """Mean of max_a f(x, a) at the first steps: what class k says of itself."""
        rows = self.data.at(0) if self.data.initial is None else np.flatnonzero(self.data.initial)
        return float(values_of(self.fits(k)[0], self.data.observation[rows], self.data.num_actions).max(-1).mean())

    def compare(self, k: int) -> Comparisons:
        """Class k against every class; entries of classes that are not larger are NaN, but for its own."""
        if k not in self._rows:
            by_stage = [self._compare_at(k, stage) for stage in range(self.data.num_stages)]
            self._rows[k] = Comparisons(*(np.stack(x) for x in zip(*by_stage, strict=True)))
        return self._rows[k]

    def comparisons(self, count: int | None = None) -> Comparisons:
        """The first `count` classes, by default all of them; entries of the others are NaN."""
        classes = range(len(self.classes))
        rows = [self.compare(k) for k in classes[:count]]
        nothing = Comparisons(*(np.full_like(x, np.nan) for x in rows[0]))
        rows += [nothing] * (len(classes) - len(rows))
        stacked = Comparisons(*(np.stack(x, 1) for x in zip(*rows, strict=True)))
        return stacked._replace(rows=stacked.rows[:, 0])

    def at_actions(self, k: int, stage: int, rows: Int[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
        """Values [n] of class k at the logged actions of these rows of a stage, and its own targets [n] there."""
        data = self.data
        later = None if data.stage is not None and stage == data.num_stages - 1 else self.fits(k)[-1]
        if data.stage is not None and later is not None:
            later = self.fits(k)[stage + 1]
        y = backup(data, rows, later, lambda q, x, _: values_of(q, x, data.num_actions).max(-1), stage, self.bounds)
        return self._at_actions(self.fits(k)[stage], rows), y

    def _compare_at(self, k: int, stage: int) -> Comparisons:
        data, last = self.data, len(self.classes) - 1
        rows = data.at(stage)
        train, valid = self.split.train[rows], self.split.valid[rows]
        f = self.fits(k)[stage]
        small, y = self.at_actions(k, stage, rows)
        large = np.full((last + 1, len(rows)), np.nan, np.float32)
        large[k] = small
        # A class whose fit depends on its training is fitted to its own target again, to see what training adds.
        again = self.classes[k].n_params(data.num_actions) is None
        for j in range(k if again else k + 1, last + 1):
            large[j] = self._at_actions(self._regress(j, rows[train], y[train], stage, f), rows)
        squares, own = (large - y)[:, valid] ** 2, (small - y)[valid] ** 2
        excess = own - squares
        return Comparisons(
            small=own.mean(),
            large=squares.mean(-1),
            se=excess.std(-1) / np.sqrt(valid.sum()),
            gap=((small - large[-1])[valid] ** 2).mean(),
            effective_rows=np.asarray(prefix.effective_rows(*map(jnp.asarray, (small - y, y, np.ones_like(y))))),
            rows=np.asarray(valid.sum(), np.float32),
        )

    def _regress(self, j: int, rows: np.ndarray, y: np.ndarray, stage: int, f: Q) -> Q:
        """Class j fitted to y, starting from the smaller class's f where it can."""
        key = jax.random.fold_in(jax.random.fold_in(self._key, len(self.classes) + j), stage)
        observation, action = self.data.observation[rows], self.data.action[rows]
        warm = getattr(self.classes[j], "regress_from", None)
        regress = self.classes[j].regress if warm is None else partial(warm, f)
        return regress(observation, action, y, num_actions=self.data.num_actions, key=key)

    def _at_actions(self, q: Q, rows: np.ndarray) -> Float[np.ndarray, " n"]:
        values = values_of(q, self.data.observation[rows], self.data.num_actions)
        return np.take_along_axis(values, self.data.action[rows][:, None], -1)[:, 0]


class PrefixCandidates(Candidates):
    """The same for leading linear classes of one feature map with one ridge, all computed at once."""

    classes: list[PrefixLinear]

    def __init__(
        self, classes: Sequence[PrefixLinear], data: Transitions, split: Split, key: Array, sweeps: int | None = None
    ) -> None:
        super().__init__(classes, partial(fqi, sweeps=sweeps), data, split, key)
        self._sweeps = sweeps or default_sweeps(data.discount)

    def fits(self, k: int) -> list[Q]:
        """The fit of class k, one q a stage."""
        weights, chosen = np.asarray(self._solved[0].weights), self.classes[k]
        return [LinearQ(chosen.features, jnp.asarray(w[:, : chosen.dim])) for w in weights[:, k]]

    def compare(self, k: int) -> Comparisons:
        """Class k against every class."""
        found = self._solved[1]
        return Comparisons(*(np.asarray(y)[:, k] for y in found[:-1]), rows=np.asarray(found.rows))

    @cached_property
    def _solved(self) -> tuple[prefix.Fits, Comparisons]:
        largest = self.classes[-1]
        rows = _stacked(self.data, self.split, largest)
        masks = prefix.leading(tuple(c.dim for c in self.classes))
        sweeps = None if self.data.stage is not None else self._sweeps
        settings = (masks, largest.ridge, self.data.num_actions, sweeps, self.bounds)
        found = _solve(rows, *settings)
        if not _finite(found):
            with jax.enable_x64(True):
                precise = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, rows)
                found = _solve(precise, *settings)
            found = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), found)
        if not _finite(found):
            stage, number = _worst_condition(rows, self.data.num_actions, largest.ridge)
            where = f"class {largest.name}: the Gram matrix of stage {stage} is not positive definite"
            raise NumericsError(f"{where} (condition number {number:.1e}); use a larger ridge")
        return found


def fit_candidates(
    classes: Sequence[Any],
    fit: Fit | None,
    data: Transitions,
    *,
    valid_fraction: float = 0.2,
    sweeps: int | None = None,
    key: Array | None = None,
    seed: int = 0,
) -> Candidates:
    """Candidates with a random split; `fit` is any offline learner, None for fitted Q iteration in `sweeps` sweeps.

    fit(model_class, transitions, key) returns one q, x [B, D] -> [B, A], a stage. Leading linear classes of one feature
    map are then solved all at once. ConfigError: no class, two of one name, or sizes that decrease.
    """
    names = [c.name for c in classes]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"classes {names}: at least one is needed, each with its own name")
    split, key = data.split(valid_fraction, seed), root(0) if key is None else key
    linear = [c for c in classes if isinstance(c, PrefixLinear)]
    if len(linear) == len(names) and any(b.dim <= a.dim for a, b in pairwise(linear)):
        raise ConfigError(f"classes {names}: nested classes must stand in the order of their sizes")
    if len(linear) < len(names) and (misplaced := _misplaced(classes)):
        raise ConfigError(f"classes {misplaced}: nested classes must stand in the order of their sizes")
    alike = all(eqx.tree_equal(c.features, linear[0].features) and c.ridge == linear[0].ridge for c in linear)
    if fit is None and len(linear) == len(names) and alike:
        return PrefixCandidates(linear, data, split, key, sweeps)
    return Candidates(classes, fit or partial(fqi, sweeps=sweeps), data, split, key)


def _misplaced(classes: Sequence[Any]) -> str:
    """Names of a network and a smaller class behind it, if there are such."""
    for before, after in pairwise(classes):
        width = getattr(before, "width", None)
        if width and (isinstance(after, PrefixLinear) or getattr(after, "width", width + 1) <= width):
            return f"{before.name}, {after.name}"
    return ""


def _finite(found: tuple[prefix.Fits, Comparisons]) -> bool:
    return bool(np.isfinite(np.asarray(found[0].weights)).all())


def _worst_condition(rows: prefix.Rows, num_actions: int, ridge: float) -> tuple[int, float]:
    """Stage whose Gram matrix is worst, and its condition number."""
    worst = (0, 0.0)
    for stage, (features, action, train) in enumerate(zip(rows.features, rows.action, rows.train, strict=True)):
        phi, own = np.asarray(features, np.float64), np.asarray(train, np.float64)
        for a in range(num_actions):
            chosen = phi * (own * (np.asarray(action) == a))[:, None]
            number = float(np.linalg.cond(chosen.T @ phi + ridge * own.sum() * np.eye(phi.shape[1])))
            worst = max(worst, (stage, number), key=lambda found: found[1])
    return worst


def _stacked(data: Transitions, split: Split, largest: PrefixLinear) -> prefix.Rows:
    """Rows by stage, padded so that logs of about one length compile once."""
    stages = [data.at(stage) for stage in range(data.num_stages)]
    length = padded_length(max(map(len, stages)))

    def gather(values: Any, dtype: Any) -> Array:
        padded = [np.pad(values[rows], [(0, length - len(rows))] + [(0, 0)] * (values.ndim - 1)) for rows in stages]
        return jnp.asarray(np.stack(padded).astype(dtype))

    def features(observation: np.ndarray) -> np.ndarray:
        return np.asarray(largest.features(jnp.asarray(observation, jnp.float32)))[:, : largest.dim]

    return prefix.Rows(
        features=gather(features(data.observation), np.float32),
        action=gather(data.action, np.int32),
        reward=gather(data.reward, np.float32),
        next_features=gather(features(data.next_observation), np.float32),
        discount=gather(data.continues, np.float32),
        train=gather(split.train, np.float32),
        valid=gather(split.valid, np.float32),
    )


@functools.partial(jax.jit, static_argnames=("num_actions", "sweeps"))
def _solve(
    rows: prefix.Rows,
    masks: Array,
    ridge: float | Array,
    num_actions: int,
    sweeps: int | None,
    bounds: tuple[float | Array, float | Array] | None,
) -> tuple[prefix.Fits, Comparisons]:
    factor = prefix.factors(rows, num_actions, ridge)
    if sweeps is None or bounds is None:
        fits = prefix.staged_fits(factor, rows, masks)
    else:
        fits = prefix.discounted_fits(factor, rows, masks, sweeps, bounds)
    return fits, prefix.compare(factor, rows, fits, masks)
