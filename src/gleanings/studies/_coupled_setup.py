"""What the study of coupled gradients compares, its controls, and its three sizes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gleanings.core.study import Size
from gleanings.data.images import Images, digits, read_images
from gleanings.estimators import (
    ARM,
    ARMS,
    ARS,
    ARSM,
    AbstractEstimator,
    ARSMPlus,
    ARSPlus,
    CoupledLOO,
    DisARM,
    DisARMIW,
    DisARMSB,
    DisARMTree,
    GumbelSoftmax,
    LocalExpectation,
    Reinforce,
    ReinforceLOO,
    ReinMax,
    StraightThrough,
)


class AveragedPairs(AbstractEstimator):
    """Mean of independent two-evaluation estimates, the obvious way to spend more evaluations. Source: ours."""

    pair: AbstractEstimator
    num_evaluations: int = eqx.field(static=True)
    variable: Literal["categorical", "binary"] = eqx.field(static=True, default="categorical")
    is_unbiased: ClassVar[bool] = True
    needs_gradient_of_f: ClassVar[bool] = False

    def evaluations(self, logits: PyTree) -> int:
        """Two a pair."""
        return self.num_evaluations

    def __call__(self, f, logits: PyTree, key: Array) -> tuple[Float[Array, "*batch"], PyTree[Float[Array, "..."]]]:
        estimates = jax.vmap(lambda key: self.pair(f, logits, key))(jax.random.split(key, self.num_evaluations // 2))
        return jax.tree.map(lambda x: x.mean(0), estimates)


class UnsortedIW(AbstractEstimator):
    """DisARM-IW without the sorting of categories: biased, for the antithetic pair then misses some values.

    The check of unbiasedness has to find it out. Source: ours, as a control.
    """

    num_evaluations: ClassVar[int] = 2
    variable: ClassVar[str] = "categorical"
    is_unbiased: ClassVar[bool] = True
    needs_gradient_of_f: ClassVar[bool] = False

    def evaluations(self, logits: PyTree) -> int:
        """Two."""
        return 2

    def __call__(self, f, logits: PyTree, key: Array) -> tuple[Float[Array, "*batch"], PyTree[Float[Array, "..."]]]:
        q = jax.nn.softmax(logits)
        p = (q / (q @ np.tri(q.shape[-1], dtype=q.dtype)))[..., :-1]  # of q_k against its tail, sum_{j >= k} q_j
        u = jax.random.uniform(key, p.shape)
        passed = jnp.cumprod(jnp.stack([u >= p, 1 - u >= p]), -1)
        z = jax.nn.one_hot(passed.sum(-1), logits.shape[-1])
        both = jnp.min(passed, 0)
        parts = jnp.diff(both, axis=-1, prepend=1) < 0
        factor = jnp.where(both > 0, (1 - p) ** 2 / (1 - 2 * p), jnp.where(parts, jnp.maximum(p, 1 - p), 1))
        values = f(z)
        half_difference = (values[0] - values[1])[..., None] / 2
        return values.mean(0), (half_difference * factor.prod(-1))[..., None] * (z[0] - z[1])


MEMBERS: dict[str, tuple[str, AbstractEstimator]] = {
    "null": ("RLOO-2, other keys", ReinforceLOO(2)),
    "reinforce": ("REINFORCE", Reinforce()),
    "iw": ("DisARM-IW", DisARMIW()),
    "sb": ("DisARM-SB", DisARMSB()),
    "tree": ("DisARM-Tree", DisARMTree()),
    "coupled-4": ("CoupledLOO-4, tree", CoupledLOO(4)),
    "coupled-4-stick": ("CoupledLOO-4, stick", CoupledLOO(4, structure="stick")),
    "pairs-4": ("2 Tree pairs, averaged", AveragedPairs(pair=DisARMTree(), num_evaluations=4)),
    "coupled-8": ("CoupledLOO-8, tree", CoupledLOO(8)),
    "coupled-8-stick": ("CoupledLOO-8, stick", CoupledLOO(8, structure="stick")),
    "pairs-8": ("4 Tree pairs, averaged", AveragedPairs(pair=DisARMTree(), num_evaluations=8)),
    "ars": ("ARS", ARS()),
    "ars+": ("ARS+", ARSPlus()),
    "arsm": ("ARSM", ARSM()),
    "arsm+": ("ARSM+", ARSMPlus()),
    "local": ("LocalExpectation", LocalExpectation()),
    "straight-through": ("Straight-through", StraightThrough()),
    "gumbel": ("Gumbel-softmax", GumbelSoftmax()),
    "reinmax": ("ReinMax", ReinMax()),
    "disarm": ("DisARM", DisARM()),
    "arm": ("ARM", ARM()),
    "arms-4": ("ARMS-4", ARMS(4)),
    "arms-8": ("ARMS-8", ARMS(8)),
    "binary-coupled-4": ("CoupledLOO-4", CoupledLOO(4, variable="binary")),
    "binary-coupled-8": ("CoupledLOO-8", CoupledLOO(8, variable="binary")),
    "binary-pairs-4": ("2 DisARM pairs, averaged", AveragedPairs(pair=DisARM(), num_evaluations=4, variable="binary")),
    "binary-pairs-8": ("4 DisARM pairs, averaged", AveragedPairs(pair=DisARM(), num_evaluations=8, variable="binary")),
    "unsorted-iw": ("DisARM-IW, unsorted", UnsortedIW()),
}
PAPER = ("iw", "sb", "tree")
RIVALS = ("ars", "ars+", "arsm")
NEW = ("coupled-4", "coupled-4-stick", "coupled-8", "coupled-8-stick")
BIASED = ("straight-through", "gumbel", "reinmax")
BASKET = ("rloo-2", "null", *PAPER, "rloo-4", *NEW[:2], "pairs-4", "rloo-8", *NEW[2:], "pairs-8", *RIVALS)
UNBIASED = ("reinforce", "rloo-2", *PAPER, *NEW, "local", *RIVALS, "arsm+")
K8 = ("rloo-2", *PAPER, "rloo-4", "coupled-4", "rloo-8", "coupled-8")
BINARY = (
    "rloo-4",
    "arms-4",
    "binary-coupled-4",
    "binary-pairs-4",
    "rloo-8",
    "arms-8",
    "binary-coupled-8",
    "binary-pairs-8",
)


def member(name: str, binary: bool = False) -> AbstractEstimator:
    """The estimator called `name`; `rloo-N` is leave-one-out with N evaluations."""
    if name.startswith("rloo-"):
        return ReinforceLOO(int(name[5:]), variable="binary" if binary else "categorical")
    return MEMBERS[name][1]


def evaluations(name: str, categories: int, variables: int) -> int:
    """Evaluations of f that one gradient by `name` costs for D `variables` of K `categories`."""
    estimator = member(name)
    return estimator.evaluations(jnp.zeros((variables, categories)[: 1 if estimator.variable == "binary" else 2]))


def with_baselines(names: tuple[str, ...], categories: int, variables: int = 1) -> tuple[str, ...]:
    """`names` for D `variables` of K `categories`, and RLOO at each of their numbers of evaluations."""
    counts = {evaluations(name, categories, variables) for name in names}
    return tuple(dict.fromkeys([*names, *(f"rloo-{n}" for n in sorted(counts) if n > 1)]))


def label(name: str) -> str:
    """How reports call the estimator `name`."""
    return f"RLOO-{name[5:]}" if name.startswith("rloo-") else MEMBERS[name][0]


@dataclass(frozen=True)
class Scale:
    """What one size runs. The defaults are those of size quick.

    variables, categories, hidden, batch, learning_rate, prior_learning_rate: the autoencoder and its training.
    steps: updates a trajectory; log_every: updates between two points of its curve. seeds: trajectories in the
    basket; bound_seeds: trajectories for the final bound, at least as many. trained: estimators that train one;
    members: those measured in the basket; biased: those whose bias is measured there; unbiased: those of claim C1.
    images, draws: test images and gradient estimates a cell of the basket. toy_draws: estimates a toy.
    bound_images, bound_samples: test images and draws of z for the bound. rivals: also compare the rivals at K = 4.
    """

    variables: int = 8
    categories: int = 8
    hidden: tuple[int, ...] = (64,)
    batch: int = 64
    learning_rate: float = 1e-3
    prior_learning_rate: float | None = None
    steps: int = 3000
    log_every: int = 100
    seeds: int = 3
    bound_seeds: int = 3
    trained: tuple[str, ...] = ("rloo-2", "tree", "reinmax")
    members: tuple[str, ...] = BASKET
    biased: tuple[str, ...] = BIASED
    images: int = 64
    draws: int = 400
    toys: tuple[str, ...] = ("k3", "k8", "binary")
    toy_draws: int = 20_000
    unbiased: tuple[str, ...] = UNBIASED
    bound_images: int = 1000
    bound_samples: int = 100
    rivals: bool = False

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The steps, about 10, 33 and 100 % of all, at which the basket is measured."""
        return tuple(max(1, round(part * self.steps / self.log_every)) * self.log_every for part in (0.1, 1 / 3, 1))


ALL_TRAINED = ("rloo-2", *PAPER, "rloo-4", "coupled-4", "reinmax")
QUICK = Scale()
SMOKE = Scale(
    steps=20,
    log_every=2,
    seeds=1,
    bound_seeds=1,
    trained=("rloo-2",),
    members=("rloo-2", "tree"),
    biased=(),
    images=16,
    draws=20,
    toys=("k3",),
    toy_draws=2000,
    unbiased=("tree",),
    bound_images=64,
    bound_samples=5,
)
DIGITS = replace(QUICK, steps=10_000, log_every=200, seeds=10, bound_seeds=10, trained=ALL_TRAINED)
LARGE = replace(
    QUICK,
    variables=16,
    categories=16,
    hidden=(200, 200),
    batch=100,
    steps=1000,
    log_every=25,
    seeds=4,
    bound_seeds=10,
    trained=("rloo-2", *PAPER),
    rivals=True,
)
LAUNCHER = replace(
    LARGE,
    variables=32,
    hidden=(512, 256),
    batch=200,
    learning_rate=1e-4,
    prior_learning_rate=1e-2,
    steps=20_000,
    log_every=500,
    seeds=5,
    trained=ALL_TRAINED,
)


def scale_of(size: Size, data: Path | None) -> Scale:
    """The scale of a size: full is larger with data than with digits, and largest with data on a GPU."""
    if size != "full":
        return {"smoke": SMOKE, "quick": QUICK}[size]
    if data is None:
        return DIGITS
    return LAUNCHER if jax.default_backend() == "gpu" else LARGE


def load(size: Size, data: Path | None) -> Images:
    """The images of a run; smoke sees 64 of each split."""
    images = read_images(data) if data else digits()
    if size == "smoke":
        return replace(images, train=images.train[:64], valid=images.valid[:64], test=images.test[:64])
    return images


def greys(images: np.ndarray, maximum: int) -> Float[np.ndarray, "N P"]:
    """Grey levels in 0..1, one row an image."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(maximum)
