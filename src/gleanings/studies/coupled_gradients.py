"""Study of coupled gradient estimators for discrete latent variables, arXiv 2106.08056.

Claims. C1: the estimators called unbiased are unbiased. C2: at two evaluations of f the coupled estimators (DisARM-IW,
-SB, -Tree) have a lower gradient variance than leave-one-out (RLOO-2). C3: ARS, ARS+ and ARSM have a higher one than
leave-one-out at equal evaluations. C4: the final bound of coupled estimators is no worse than that of RLOO-2.
N1 (ours): CoupledLOO with n = 4 and 8 evaluations has a lower variance than leave-one-out with n.

Protocol, differences from the paper and the decision rule are in the texts below; they were written before the code.
"""

import contextlib
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from gleanings.core.study import Study, StudyConfig
from gleanings.data.images import Images
from gleanings.studies._coupled_judge import judge
from gleanings.studies._coupled_moments import plain_compilation
from gleanings.studies._coupled_report import render, thumbnail
from gleanings.studies._coupled_setup import RIVALS, Scale, evaluations, load, scale_of, with_baselines
from gleanings.studies._coupled_toys import toys, unbiased
from gleanings.studies._coupled_vae import basket, context, train
from gleanings.studies._pieces import Pieces, compute

_FIRST_SEED = 100  # smaller seeds were seen in a pilot on digits and MNIST
_MANY = 32  # evaluations above which an estimator is measured at the last checkpoint only
_FEW = 4  # categories of the second basket, in which the rivals need few evaluations
_CONTROL_DRAWS = 20_000

CLAIM = """
Coupling the two samples of a leave-one-out gradient of E[f(z)], z categorical, lowers its variance and adds no bias.

Dong, Mnih and Tucker state in particular that

- C1: the estimators DisARM-IW, DisARM-SB and DisARM-Tree are unbiased;
- C2: at two evaluations of f they have a lower gradient variance than leave-one-out (RLOO);
- C3: ARS, ARS+ and ARSM do worse than leave-one-out at equal evaluations;
- C4: models trained with them reach a bound at least as good.

N1 is ours: `CoupledLOO`, which couples any number n of samples, has a lower variance than leave-one-out at n = 4 and 8.
"""

PAPER_FIGURE = """
The claims stand in the abstract of arXiv 2106.08056. It gives no number, and we could not verify those in the
paper's tables and figures, so none is quoted here.
"""

PROTOCOL = """
Model: a variational autoencoder with D categorical variables of K values; f(z) = log p(x|z) + log p(z) - log q(z|x);
pixels are drawn anew at every access. The encoder gets the estimator's gradient, decoder and prior the same draws.

- Toys: functions of a few variables whose exact gradient is known. C1 is `check_unbiased` for every unbiased estimator
  (20,000 draws; max |z| at most 4.5, mean z² below its five-sigma limit). Control: DisARM-IW without its sorting,
  built here, has to fail.
- Basket: one RLOO-2 trajectory a seed. After about 10, 33 and 100 % of its steps every estimator computes 400 gradients
  of the encoder's logits for the same 64 test images on the same parameters. Statistic: log of (total variance / total
  variance of RLOO at the same number of evaluations), one an image.
- Null arm: a second RLOO-2 with other keys. Oracle: LocalExpectation, exact in each variable given the others. Context:
  straight-through, Gumbel-softmax and ReinMax with their bias against the oracle.
- Intervals: two-level bootstrap over seeds and images (the same images in every seed), 2,000 draws, 95 %. Holm's
  correction over IW, SB and Tree. C4 is paired by seed (interval widened for few seeds).
- Seeds start at 100. Nothing is tuned, no seed is dropped; test images are used for measuring only.

Size quick: digits, D = K = 8, 64 hidden units, batch 64, Adam 1e-3, 3 seeds of 3,000 steps. Size full: the same with 10
seeds of 10,000 steps; with `--data`, D = K = 16, two layers of 200 units, batch 100, 1,000 steps, 4 seeds in the basket
and 10 for C4, and the rivals also at K = 4; on a GPU the launcher's nets, D = 32, batch 200, 20,000 steps.
"""

DEVIATIONS = """
- The paper's grid of models, its training length and its hyperparameters beyond the released launcher are not known to
  us; sizes here are what a small computer can do, so absolute bounds are not comparable with the paper's.
- Scikit-learn's digits, 8x8, stand in where no data set is given.
- DisARM-SB and DisARM-Tree take the categories in the order given; DisARM-IW sorts them, which it needs to be unbiased.
- Variance is that of the gradient in the encoder's logits, not in its weights.
- An estimator that needs more than 32 evaluations is measured at the last checkpoint only, the oracle there with a
  quarter of the draws.
"""

RULE = """
Fixed before the run. The primary checkpoint is the last one.

- C1 holds if every check passes and the control fails its check. C1 failing is a bug, and there is no verdict.
- C2 holds if at least two of IW, SB and Tree have their interval below 0 with a Holm-adjusted p below 0.05.
- C3 holds if the intervals of ARS, ARS+ and ARSM all lie above 0, each against RLOO at its own number of evaluations
  (K, K, K(K-1)/2 + 1).
- C4 is contradicted if the interval of (mean of the trained coupled estimators) - RLOO-2, test ELBO, paired by seed,
  lies below 0. With fewer than 10 seeds it is shown but not judged.
- N1, on its own line: holds if the intervals of CoupledLOO-4 and -8, tree and stick, all lie below 0.

Reproduced: C1, C2, C3, and C4 not contradicted. Partly: C1 and one of C2, C3. Not reproduced: C1 only. Underpowered:
the interval of the null arm is wider than ±0.05.
"""

BIBTEX = """
@inproceedings{dong2021coupled,
  title     = {Coupled Gradient Estimators for Discrete Latent Variables},
  author    = {Dong, Zhe and Mnih, Andriy and Tucker, George},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2021},
  eprint    = {2106.08056},
  archivePrefix = {arXiv}
}
"""


def run(config: StudyConfig) -> dict[str, Any]:
    """Measure everything the rule needs; pieces that an earlier run has finished are taken over.

    Raises: DataError for unusable data; GleaningsError naming the piece that failed in a worker.
    """
    with plain_compilation() if config.size == "smoke" else contextlib.nullcontext():
        return _run(config)


def _run(config: StudyConfig) -> dict[str, Any]:
    scale, images = scale_of(config.size, config.data), load(config.size, config.data)
    seed = _FIRST_SEED + config.seed
    first, arms = _first_pieces(scale, images, seed), _arms(scale)
    config.parts.expect(len(first) + sum(len(names) for _, names, _ in arms.values()) + bool(scale.biased))
    found = compute(first, config)
    seeds = range(seed, seed + scale.seeds)
    second: Pieces = {}
    for arm, (small, names, only_last) in arms.items():
        parameters = found[f"train-rloo-2{arm}"]["parameters"]
        for name in names:
            last = only_last or evaluations(name, small.categories, small.variables) > _MANY
            second[f"basket-{name}{arm}"] = partial(basket, name, small, parameters, images, seeds, last)
    if scale.biased:
        parameters = found["train-rloo-2"]["parameters"]
        second["context"] = partial(context, scale, parameters, images, seeds)
    return _values(scale, images.name, found | compute(second, config))


def _arms(scale: Scale) -> dict[str, tuple[Scale, tuple[str, ...], bool]]:
    """Baskets by the suffix of their names: their scale, members, and whether only the last checkpoint counts."""
    arms = {"": (scale, with_baselines(scale.members, scale.categories), False)}
    if scale.rivals:
        small = replace(scale, categories=_FEW)
        arms["-k4"] = (small, with_baselines(RIVALS, _FEW), True)
    return arms


def _first_pieces(scale: Scale, images: Images, seed: int) -> Pieces:
    """The toys, the trainings and the checks: what does not need the result of another piece, long ones first."""
    pieces: Pieces = {f"toys-{problem}": partial(toys, problem, scale, seed) for problem in scale.toys}
    for name in scale.trained:
        count, keep = (scale.bound_seeds, scale.seeds) if name == "rloo-2" else (scale.bound_seeds, 0)
        pieces[f"train-{name}"] = partial(train, name, scale, images, range(seed, seed + count), keep)
    for arm, (small, _, _) in _arms(scale).items():
        if arm:
            seeds = range(seed, seed + scale.seeds)
            pieces[f"train-rloo-2{arm}"] = partial(train, "rloo-2", small, images, seeds, len(seeds))
    pieces["unbiased"] = partial(unbiased, scale.unbiased, scale.toy_draws, seed)
    binary = ("disarm", "arm", "arms-4") if "binary" in scale.toys else ()
    pieces["unbiased-controls"] = partial(unbiased, (*binary, "unsorted-iw"), _CONTROL_DRAWS, seed)
    return pieces


def _values(scale: Scale, dataset: str, found: dict[str, Any]) -> dict[str, Any]:
    """The evidence: all pieces but for the parameters."""
    checks = found["unbiased"] + found["unbiased-controls"]
    arms = {arm: list(names) for arm, (_, names, _) in _arms(scale).items()}
    return {
        "dataset": dataset,
        "scale": asdict(scale),
        "checkpoints": scale.checkpoints,
        "unbiased": [row for row in checks if row["member"] != "unsorted-iw"],
        "control": next(row for row in checks if row["member"] == "unsorted-iw"),
        "toys": {problem: found[f"toys-{problem}"] for problem in scale.toys},
        "training": {name: found[f"train-{name}"] | {"parameters": None} for name in scale.trained},
        "basket": {name: found[f"basket-{name}"] for name in arms[""]},
        "rivals": {name: found[f"basket-{name}-k4"] for name in arms.get("-k4", ())},
        "context": found.get("context", {}),
    }


STUDY = Study(
    name="coupled-gradients",
    title="Coupled gradient estimators for discrete latent variables",
    arxiv="2106.08056",
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
)
