"""Rules for logs of a decision process: ModBE, and the baselines that it is measured against."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gleanings.core.errors import ConfigError
from gleanings.core.keys import root
from gleanings.selection.alarm import Alarm
from gleanings.selection.candidates import Candidates, Fit, fit_candidates
from gleanings.selection.fqi import fqe, values_of
from gleanings.selection.log import Transitions
from gleanings.selection.modbe import DEFAULT, Choice, ModBEConfig, choose_by_gap, choose_by_hold_out, choose_by_modbe
from gleanings.selection.prefix import Comparisons
from gleanings.selection.selection import Cell, Certificate, Label, Rule, Selection, greedy, selection_of


class ModBE(Rule):
    """The first class that no larger one improves on. Source: arXiv 2211.02016 (see `modbe`)."""

    config: ModBEConfig = eqx.field(static=True, default=DEFAULT)

    def select(self, candidates: Candidates) -> Selection:
        """The choice; certified unless the largest class was reached or the tests were blind."""
        sizes = [c.n_params(candidates.data.num_actions) for c in candidates.classes]
        if self.config.tolerance == "practical" and None in sizes:
            raise ConfigError("tolerance 'practical' needs the number of parameters; use 'paired_t' for networks")
        n_params = jnp.asarray([size or 0 for size in sizes], jnp.float32)
        found = candidates.comparisons()
        choice = choose_by_modbe(found, n_params, self.config)
        verdict, alarms = self._judge(candidates, found, choice)
        noise = optimisation_noise(candidates, found, int(np.argmin(choice.rejected)))
        if noise:
            verdict, alarms = "uncertified", (*alarms, noise)
        certificate = certificate_of(candidates, found, choice)
        return selection_of(candidates, "ModBE", int(choice.chosen), verdict, alarms, certificate)

    def _judge(self, candidates: Candidates, found: Comparisons, choice: Choice) -> tuple[Label, tuple[Alarm, ...]]:
        accepted, last = int(np.argmin(choice.rejected)), len(candidates.classes) - 1
        if bool(choice.blind):
            rows = float(found.effective_rows[:, accepted].min())
            message = (
                f"the error of {candidates.classes[accepted].name} is carried by {rows:.1f} rows, so no test could "
                "have failed; log more of the rare outcomes"
            )
            return "uncertified", (Alarm("blind", message),)
        if accepted == last and last > 0:
            return "uncertified", (Alarm("largest", "nothing larger tested the choice; add a larger class"),)
        return ("certified" if last > 0 else "uncertified"), ()


class HoldOutTD(Rule):
    """The smallest squared temporal-difference error on validation rows, which favours targets that vary little."""

    def select(self, candidates: Candidates) -> Selection:
        """The choice, never certified."""
        index = int(choose_by_hold_out(candidates.comparisons()))
        return selection_of(candidates, "HoldOutTD", index, "uncertified")


class RegressedBellman(Rule):
    """The class nearest to the largest class's fit of its own target.

    The largest class is at distance 0 from itself, so that it is chosen unless another one ties.
    """

    def select(self, candidates: Candidates) -> Selection:
        """The choice, never certified."""
        index = int(choose_by_gap(candidates.comparisons()))
        return selection_of(candidates, "RegressedBellman", index, "uncertified")


class FQE(Rule):
    """The class whose greedy policy has the highest value by fitted Q evaluation in the largest class."""

    sweeps: int = eqx.field(static=True, default=100)

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
        return selection_of(candidates, "FQE", int(np.argmax(values)), "uncertified")


class MeanMaxQ(Rule):
    """The class that promises most at the first steps."""

    def select(self, candidates: Candidates) -> Selection:
        """The choice, never certified."""
        values = [candidates.value_at_start(k) for k in range(len(candidates.classes))]
        return selection_of(candidates, "MeanMaxQ", int(np.argmax(values)), "uncertified")


class LargestClass(Rule):
    """The last class."""

    def select(self, candidates: Candidates) -> Selection:
        """The choice, never certified."""
        return selection_of(candidates, "LargestClass", len(candidates.classes) - 1, "uncertified")


class SmallestClass(Rule):
    """The first class."""

    def select(self, candidates: Candidates) -> Selection:
        """The choice, never certified."""
        return selection_of(candidates, "SmallestClass", 0, "uncertified")


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


def certificate_of(candidates: Candidates, found: Comparisons, choice: Choice) -> Certificate:
    """Every comparison with a larger class."""
    names, cells = [c.name for c in candidates.classes], []
    stages, classes = np.shape(found.small)
    for k in range(classes):
        for j in range(k + 1, classes):
            for h in range(stages):
                delta = float(found.small[h, k] - found.large[h, k, j])
                zeta, rows = float(choice.tolerance[h, k, j]), int(found.rows[h])
                needed = rows * zeta / delta if delta > 0 else float("nan")
                se, effective = float(found.se[h, k, j]), float(found.effective_rows[h, k])
                cells.append(Cell(names[k], names[j], h, delta, se, zeta, rows, effective, delta > zeta, needed))
    return Certificate(tuple(cells))
