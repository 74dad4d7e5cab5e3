"""Rules for logs of a decision process: ModBE, and the baselines that it is measured against."""

import math
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gleanings.core.errors import ConfigError
from gleanings.core.keys import root
from gleanings.selection.alarm import Alarm
from gleanings.selection.candidates import Candidates, Fit, fit_candidates
from gleanings.selection.fqi import fqe, values_of
from gleanings.selection.log import Transitions
from gleanings.selection.modbe import DEFAULT, Choice, ModBEConfig, choose_by_gap, choose_by_hold_out, choose_by_modbe
from gleanings.selection.prefix import Comparisons
from gleanings.selection.selection import Cell, Certificate, Label, Rule, Selection, greedy, selection_of

_Z_LINEAR, _Z_NETWORKS = 2.5, 1.645


class ModBE(Rule):
    """The first class that no larger one improves on. Source: arXiv 2211.02016 (see `modbe`)."""

    config: ModBEConfig = eqx.field(static=True, default=DEFAULT)

    def select(self, candidates: Candidates) -> Selection:
        """The choice; certified unless the largest class was reached or the tests could not have failed."""
        config, n_params = _resolved(self.config, candidates)
        found, choice = self._compare(candidates, config, n_params)
        index = int(choice.chosen)
        verdict, alarms = _judge(candidates, found, choice)
        noise = optimisation_noise(candidates, found, int(np.argmin(choice.rejected)))
        if noise:
            verdict, alarms = "uncertified", (*alarms, noise)
        paired = np.isnan(np.asarray(n_params)) | (config.tolerance == "paired_t")
        certificate = certificate_of(candidates, found, choice, paired)
        selected = selection_of(candidates, "ModBE", index, verdict, (*alarms, *_crowded(candidates)), certificate)
        if not config.refit or selected.verdict == "insufficient data":
            return selected
        return replace(selected, q=tuple(candidates.refit(index)))

    def _compare(
        self, candidates: Candidates, config: ModBEConfig, n_params: Float[Array, " M"]
    ) -> tuple[Comparisons, Choice]:
        """Comparisons up to the first class accepted, or all of them where they are asked for."""
        last = len(candidates.classes)
        for count in range(1, last) if not (config.full_table or config.on_blind == "holdout_td") else ():
            found = candidates.comparisons(count)
            choice = jax.device_get(choose_by_modbe(found, n_params, config))
            if not bool(choice.rejected[count - 1]):
                return found, choice
        found = candidates.comparisons()
        return found, jax.device_get(choose_by_modbe(found, n_params, config))


def _resolved(config: ModBEConfig, candidates: Candidates) -> tuple[ModBEConfig, Float[Array, " M"]]:
    """The configuration with z filled in, and parameters by class, NaN where a paired test has to judge.

    ConfigError: the practical tolerance asked for by name where it means nothing.
    """
    rows = _train_rows(candidates)
    sizes = [c.n_params(candidates.data.num_actions) for c in candidates.classes]
    for size, c in zip(sizes[:-1], candidates.classes, strict=False):
        if config.tolerance == "practical" and (size is None or size > rows):
            count = "an unknown number of" if size is None else f"{size}"
            raise ConfigError(f"tolerance 'practical': class {c.name} has {count} parameters; use 'auto' or 'paired_t'")
    limit = rows / 2 if config.tolerance == "auto" else math.inf
    known = [math.nan if size is None or size > limit else float(size) for size in sizes]
    z = (_Z_NETWORKS if None in sizes else _Z_LINEAR) if config.z is None else config.z
    return replace(config, z=z), jnp.asarray(known, jnp.float32)


def _train_rows(candidates: Candidates) -> int:
    """Training rows of the stage that has the fewest."""
    data, train = candidates.data, candidates.split.train
    return min(int(train[data.at(stage)].sum()) for stage in range(data.num_stages))


def _judge(candidates: Candidates, found: Comparisons, choice: Choice) -> tuple[Label, tuple[Alarm, ...]]:
    accepted, last = int(np.argmin(choice.rejected)), len(candidates.classes) - 1
    name = candidates.classes[accepted].name
    if bool(choice.blind):
        rows = float(found.effective_rows[:, accepted].min())
        message = (
            f"the error of {name} is carried by {rows:.1f} rows, so no test could have failed; log more of the rare "
            "outcomes"
        )
        return "uncertified", (Alarm("blind", message),)
    if accepted == last and last > 0:
        return "uncertified", (Alarm("largest", "nothing larger tested the choice; add a larger class"),)
    if bool(choice.vacuous):
        message = f"a tolerance exceeds the whole error of {name}, so no test could have failed; log more rows"
        return "uncertified", (Alarm("vacuous", message),)
    return ("certified" if bool(choice.certified) else "uncertified"), ()


def _crowded(candidates: Candidates) -> tuple[Alarm, ...]:
    """An alarm where a class has more parameters than there are rows to fit it."""
    rows, actions = _train_rows(candidates), candidates.data.num_actions
    crowded = [c.name for c in candidates.classes if (c.n_params(actions) or 0) > rows]
    message = f"{', '.join(crowded)}: more parameters than the {rows} training rows; only the ridge holds them"
    return (Alarm("parameters", message),) if crowded else ()


class HoldOutTD(Rule):
    """The smallest squared temporal-difference error on validation rows, which favours targets that vary little."""

    def select(self, candidates: Candidates) -> Selection:
        """The choice, never certified."""
        index = int(choose_by_hold_out(candidates.comparisons()))
        return _baseline(candidates, "HoldOutTD", index)


class RegressedBellman(Rule):
    """The class nearest to the largest class's fit of its own target.

    The largest class is at distance 0 from itself, so that it is chosen unless another one ties; a network is not,
    since training again changes it.
    """

    def select(self, candidates: Candidates) -> Selection:
        """The choice, never certified."""
        index = int(choose_by_gap(candidates.comparisons()))
        return _baseline(candidates, "RegressedBellman", index)


class FQE(Rule):
    """The class whose greedy policy has the highest value by fitted Q evaluation in the largest class."""

    sweeps: int | None = eqx.field(static=True, default=None)

    def select(self, candidates: Candidates) -> Selection:
        """The choice, never certified."""
        data = candidates.data
        train = data.take(np.flatnonzero(candidates.split.train))
        rows = data.at(0) if data.initial is None else np.flatnonzero(data.initial)
        values = []
        for k in range(len(candidates.classes)):
            policy = [greedy(q) for q in candidates.fits(k)]
            key = jax.random.fold_in(root(0), k)
            q = fqe(candidates.classes[-1], train, policy, key, sweeps=self.sweeps)[0]
            played = np.eye(data.num_actions)[policy[0](data.observation[rows])]
            values.append((values_of(q, data.observation[rows], data.num_actions) * played).sum(-1).mean())
        return _baseline(candidates, "FQE", int(np.argmax(values)))


class MeanMaxQ(Rule):
    """The class that promises most at the first steps."""

    def select(self, candidates: Candidates) -> Selection:
        """The choice, never certified."""
        values = [candidates.value_at_start(k) for k in range(len(candidates.classes))]
        return _baseline(candidates, "MeanMaxQ", int(np.argmax(values)))


class LargestClass(Rule):
    """The last class."""

    def select(self, candidates: Candidates) -> Selection:
        """The choice, never certified."""
        return _baseline(candidates, "LargestClass", len(candidates.classes) - 1)


class SmallestClass(Rule):
    """The first class."""

    def select(self, candidates: Candidates) -> Selection:
        """The choice, never certified."""
        return _baseline(candidates, "SmallestClass", 0)


class BVFT(Rule):
    """The class whose values are most nearly consistent when rows are grouped by the values of every pair of classes.

    For a pair (i, j) rows of a stage are grouped by both values in bins of width rho; the loss of i is the root mean
    square of its values less the group's mean of its targets, its score the worst j, and the choice has the least
    score + rho over `resolutions`, which are shares of the spread of all values. Rows are those for validation.
    Source: Xie & Jiang 2021 (arXiv 2008.04990), as recalled.
    """

    resolutions: tuple[float, ...] = eqx.field(static=True, default=(0.02, 0.05, 0.1, 0.2, 0.5))

    def select(self, candidates: Candidates) -> Selection:
        """The choice, never certified."""
        values, targets, stages = _predictions(candidates)
        spread = float(np.ptp(values)) or 1.0
        scores = np.full(len(values), np.inf)
        for rho in spread * np.asarray(self.resolutions):
            worst = [
                max(_projected_error(values[i], values[j], targets[i], stages, rho) for j in range(len(values)))
                for i in range(len(values))
            ]
            scores = np.minimum(scores, np.asarray(worst) + rho)
        return _baseline(candidates, "BVFT", int(scores.argmin()))


def _predictions(candidates: Candidates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values and targets [M, n] of every class at the logged actions of the validation rows, and their stages [n]."""
    data, found = candidates.data, []
    for stage in range(data.num_stages):
        rows = data.at(stage)
        rows = rows[candidates.split.valid[rows]]
        pairs = [candidates.at_actions(k, stage, rows) for k in range(len(candidates.classes))]
        found.append((*(np.stack(x) for x in zip(*pairs, strict=True)), np.full(len(rows), stage)))
    values, targets, stages = (np.concatenate(x, -1) for x in zip(*found, strict=True))
    return values, targets, stages


def _projected_error(own: np.ndarray, other: np.ndarray, target: np.ndarray, stages: np.ndarray, rho: float) -> float:
    """Root mean square of `own` less the mean of `target` over rows with both values in the same bins."""
    cells = np.stack([stages, np.floor(own / rho), np.floor(other / rho)], 1)
    _, group = np.unique(cells, axis=0, return_inverse=True)
    means = np.bincount(group, target) / np.bincount(group)
    return float(np.sqrt(np.square(own - means[group]).mean()))


def modbe(
    classes: list,
    fit: Fit | None,
    data: Transitions,
    config: ModBEConfig = DEFAULT,
    *,
    key: jax.Array | None = None,
    seed: int = 0,
) -> Selection:
    """ModBE over nested classes, smallest first, with any base learner `fit` (None: fitted Q iteration)."""
    return ModBE(config).select(fit_candidates(classes, fit, data, key=key, seed=seed))


def _baseline(candidates: Candidates, rule: str, index: int) -> Selection:
    """The selection of a rule that gives no certificate; says so where no larger class improves on the smallest."""
    selected = selection_of(candidates, rule, index, "uncertified")
    if not selected.index or _evidence(candidates):
        return selected
    message = (
        f"no larger class improves on {candidates.classes[0].name} by more than its tolerance; nothing in the log "
        f"speaks for {selected.name}"
    )
    return replace(selected, verdict="insufficient data", alarms=(*selected.alarms, Alarm("no evidence", message)))


def _evidence(candidates: Candidates) -> bool:
    """Whether ModBE's tests reject the smallest class."""
    config, n_params = _resolved(DEFAULT, candidates)
    return bool(choose_by_modbe(candidates.comparisons(1), n_params, config).rejected[0])


def optimisation_noise(candidates: Candidates, found: Comparisons, accepted: int) -> Alarm | None:
    """Whether a class up to `accepted`, fitted to its own target again, changes its loss by more than two se."""
    said = []
    for k, chosen in enumerate(candidates.classes[: accepted + 1]):
        if chosen.n_params(candidates.data.num_actions) is None:
            change, se = found.small[:, k] - found.large[:, k, k], found.se[:, k, k]
            worst = int(np.argmax(np.abs(change) - 2 * se))
            if abs(change[worst]) > 2 * se[worst]:
                said.append(f"{chosen.name} by {-float(change[worst]):.3g} (se {float(se[worst]):.2g})")
    if not said:
        return None
    message = f"more training on its own targets changes the loss of {', '.join(said)}; "
    return Alarm("optimisation noise", message + "the tests measure training, not the class; train longer")


def certificate_of(
    candidates: Candidates, found: Comparisons, choice: Choice, paired: Bool[np.ndarray, " M"]
) -> Certificate:
    """Every comparison made with a larger class; a `paired` tolerance falls with the root of the rows."""
    names, cells = [c.name for c in candidates.classes], []
    stages, classes = np.shape(found.small)
    for k in range(classes):
        for j in range(k + 1, classes):
            for h in range(stages):
                if math.isnan(found.small[h, k]):
                    continue
                delta = float(found.small[h, k] - found.large[h, k, j])
                zeta, rows = float(choice.tolerance[h, k, j]), int(found.rows[h])
                needed = rows * (zeta / delta) ** (2 if paired[k] else 1) if delta > 0 else float("nan")
                se, effective = float(found.se[h, k, j]), float(found.effective_rows[h, k])
                cells.append(Cell(names[k], names[j], h, delta, se, zeta, rows, effective, delta > zeta, needed))
    return Certificate(tuple(cells))
