"""Study of ModBE, arXiv 2211.02016: choosing a function class for offline reinforcement learning from logs alone.

Claim: with nested classes, comparing squared errors on the targets of the smaller class finds a class whose regret
scales with the complexity of the smallest complete one; hold-out error does not.

Protocol, differences from the paper and the decision rule are in the texts below; they were written before the code.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from gleanings.core.study import Study, StudyConfig
from gleanings.selection.trap import Trap
from gleanings.studies._modbe_judge import cell_name, judge
from gleanings.studies._modbe_networks import merge, network_trials
from gleanings.studies._modbe_report import headline, render, thumbnail
from gleanings.studies._modbe_rows import rows_needed
from gleanings.studies._modbe_trials import DIMS, Cell, cartpole_trials, trials
from gleanings.studies._pieces import Pieces, compute

_FIRST_SEED = 1000  # smaller seeds were seen in pilots
_NETWORK_SEEDS = 5  # in one piece: few, so that a kill loses little
_ROWS = "rows-needed"
_STRENGTH = 0.3
_GRADED = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18)
_GRADED_COLUMNS = (1, 4, 9, 18, 36, 72)

CLAIM = """
Among nested function classes, comparing squared errors on the smaller class's own targets chooses a class as good as
the smallest complete one, without touching the world.

The abstract states this for any base learner, with regret that scales with the complexity of the smallest complete
class. Choosing by held-out temporal-difference error, or taking the largest class, has no such guarantee.
"""

PAPER_FIGURE = """
The claim stands in the abstract of arXiv 2211.02016. Only the abstract could be read; no figure of the paper is quoted.
"""

PROTOCOL = """
Variance trap: three stages, two actions, 96 columns; one column, w, tells which action is better by 2 x 0.3; another,
z, adds ±1 to every reward after the first stage whatever is done. In the log z is 0 with probability 1 - q, under the
dynamics never. Seven linear classes on the leading 1, 3, 6, 12, 24, 48, 96 columns; the second is complete. Held-out
error counts the variance of z in the targets of all classes but the constant one, so it prefers the constant, whose
regret is 0.9, as long as q < 0.865. Regrets are exact.

- Grid: q in 0.2, 0.5, 0.8, 0.9, 1 and n in 250, 500, 1000, 2000, 4000 rows a stage, a fifth of them for validation.
- Rules on the same logs: ModBE (practical tolerance), the same with paired t and with zero tolerance, hold-out TD,
  fitted Q evaluation, largest mean max Q, the largest and the smallest class, and the best class in hindsight.
- Controls: C1 one stage; C2 no trap (b = 0); C3 the signal in column 40, so that six larger columns count; C4 six
  signals of falling strength, with and without the trap; C5 three, five and seven classes.
- CartPole with noisy velocities (see the first section): ModBE as it is, with the guard against blind tests falling
  back to the largest class, and the other rules; mean steps survived, of 200, over 32 episodes a class.
- Networks of widths 2, 8, 32, 128 (a linear part and two hidden layers) on the same CartPole, 4000 rows: 80 sweeps of
  50 Adam steps, batches of 256; larger classes get 1000 steps, from the smaller fit or afresh. ModBE by paired t, z =
  1.645; fitted Q evaluation has 40 sweeps. And the same tests on a problem whose reward is linear in the state and
  whose next state depends on nothing: each of widths 2, 8, 32 is complete, so every rejection there is false.
- Rows needed, on C3 and C4: from how many rows each comparison rejects, predicted from 500 rows and measured on nine
  sizes up to 8000; 20 seeds. No part of the verdict.
- Seeds start at 1000; intervals are 95 % bootstrap intervals, paired by seed. No seed is dropped.

Size quick: q in 0.2, 0.8, 1, n in 500 and 4000, 25 seeds (with fewer, (d) could not hold), C1, C3, and no CartPole.
Size full: all of it, 60 seeds, 40 seeds of CartPole with 1000, 2000 and 4000 rows, and 20 seeds of networks.
"""

DEVIATIONS = """
- The problems, the tolerances and the guard are ours; the paper's could not be read.
- Classes are linear with ridge 1e-3 (CartPole 1e-4, 60 sweeps, values clipped to what is possible).
- Fitted Q evaluation judges every policy in the largest class on the rows it was fitted on, which favours that class.
"""

RULE = """
Fixed before the run, on the variance trap.

- (a) ModBE's regret is at most 0.02 above that of the best class, upper bound 0.04, at every q for n >= 500.
- (b) Hold-out TD loses to ModBE by at least 0.5 (lower bound) for q <= 0.5 at every n, and has at most 0.05 at q = 1
  and n = 4000.
- (c) The largest class loses to ModBE by at least 0.2 (lower bound) for n <= 1000.
- (d) ModBE chooses the smallest complete class: Wilson's lower bound at least 0.85 for n >= 1000.
- (e) C1, n = 1000: the mean absolute difference of ModBE and hold-out is at most 0.05 (upper bound).

Reproduced: all. Partly: (a) and (b). Not reproduced: otherwise. Underpowered: an interval of (a) wider than ±0.1.
Controls C2 to C5, CartPole and networks stand in the report whatever they show, and do not count.
"""

BIBTEX = """
@inproceedings{lee2022oracle,
  title     = {Oracle Inequalities for Model Selection in Offline Reinforcement Learning},
  author    = {Lee, Jonathan N. and Tucker, George and Nachum, Ofir and Dai, Bo and Brunskill, Emma},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022},
  eprint    = {2211.02016},
  archivePrefix = {arXiv}
}
"""


@dataclass(frozen=True)
class Scale:
    """What a size covers."""

    q: tuple[float, ...]
    n: tuple[int, ...]
    seeds: int
    controls: tuple[str, ...]
    cartpole_n: tuple[int, ...] = ()
    cartpole_seeds: int = 0
    network_seeds: int = 0
    rows_seeds: int = 0


SCALES = {
    "smoke": Scale((0.2, 1.0), (250,), 2, ()),
    "quick": Scale((0.2, 0.8, 1.0), (500, 4000), 25, ("c1", "c3")),
    "full": Scale(
        (0.2, 0.5, 0.8, 0.9, 1.0),
        (250, 500, 1000, 2000, 4000),
        60,
        ("c1", "c2", "c3", "c4", "c5"),
        (1000, 2000, 4000),
        40,
        network_seeds=20,
        rows_seeds=20,
    ),
}


def controls() -> dict[str, list[Cell]]:
    """The cells outside the grid."""
    late = Trap(0.5, signals=((40, _STRENGTH),))
    strengths = tuple((c, _STRENGTH * s) for c, s in zip(_GRADED_COLUMNS, _GRADED, strict=True))
    return {
        "c1": [Cell(f"c1-n{n}", n, Trap(1.0, stages=1)) for n in (300, 1000)],
        "c2": [Cell("c2-n500", 500, Trap(0.5, nuisance=0.0))],
        "c3": [Cell(f"c3-n{n}", n, late) for n in (500, 2000)],
        "c4": [
            Cell("c4-n2000", 2000, Trap(0.5, signals=strengths)),
            Cell("c4-b0-n2000", 2000, Trap(0.5, nuisance=0.0, signals=strengths)),
        ],
        "c5": [Cell(f"c5-m{m}-n1000", 1000, Trap(0.5), DIMS[:m]) for m in (3, 5, 7)],
    }


def run(config: StudyConfig) -> dict[str, Any]:
    """Measure everything the rule needs; pieces that an earlier run has finished are taken over."""
    scale = SCALES[config.size]
    first = _FIRST_SEED + config.seed
    seeds = range(first, first + scale.seeds)
    pieces: Pieces = {}
    for n in scale.n[::-1]:
        cells = [Cell(cell_name(q, n), n, Trap(q)) for q in scale.q]
        pieces[f"grid-n{n}"] = partial(trials, cells, seeds)
    for name in scale.controls:
        pieces[name] = partial(trials, controls()[name], seeds)
    for n in scale.cartpole_n:
        pieces[f"cartpole-n{n}"] = partial(cartpole_trials, n, range(first, first + scale.cartpole_seeds))
    if scale.rows_seeds:
        problems = {cell.name: cell.trap for cell in (controls()["c3"][0], *controls()["c4"])}
        pieces[_ROWS] = partial(rows_needed, problems, range(first, first + scale.rows_seeds))
    for at in range(first, first + scale.network_seeds, _NETWORK_SEEDS):
        pieces[f"networks-{at}"] = partial(network_trials, range(at, at + _NETWORK_SEEDS))
    config.parts.expect(len(pieces))
    found = compute(pieces, config)
    needed = found.pop(_ROWS, {})
    networks = [found.pop(piece) for piece in list(found) if piece.startswith("networks-")]
    cells = {name: cell for piece, values in found.items() if "cartpole" not in piece for name, cell in values.items()}
    cartpole = {piece.removeprefix("cartpole-"): values for piece, values in found.items() if "cartpole" in piece}
    facts = {"q": list(scale.q), "n": list(scale.n), "seeds": scale.seeds, "cells": cells, "cartpole": cartpole}
    return facts | {"rows": needed, "networks": merge(networks) if networks else {}}


STUDY = Study(
    name="modbe",
    title="Choosing a function class from logs: ModBE",
    arxiv="2211.02016",
    claim=CLAIM,
    paper_figure=PAPER_FIGURE,
    protocol=PROTOCOL,
    deviations=DEVIATIONS,
    rule=RULE,
    bibtex=BIBTEX,
    run=run,
    judge=judge,
    render=render,
    thumbnail=thumbnail,
    headline=headline,
)
