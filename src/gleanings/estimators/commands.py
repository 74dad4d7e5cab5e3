"""`gleanings estimators compare` and `gleanings estimators train`."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gleanings.core.errors import ConfigError
from gleanings.core.keys import stream
from gleanings.core.loop import fit
from gleanings.core.metrics import read_metrics
from gleanings.core.report import Report, Series, figure_heatmap, figure_line
from gleanings.core.rundir import RunDirectory
from gleanings.core.stats import bootstrap_ci
from gleanings.data.images import Images, digits, read_images
from gleanings.estimators import check, vae
from gleanings.estimators._names import named
from gleanings.estimators.toys import Objective, toy

_CATEGORICAL = ("reinforce-loo-2", "disarm-iw", "disarm-sb", "disarm-tree", "reinforce-loo-4", "coupled-loo-4")
_CATEGORICAL += ("reinforce-loo-8", "coupled-loo-8", "reinmax", "local-expectation")
_BINARY = ("reinforce-loo-2", "disarm", "arm", "reinforce-loo-4", "arms-4", "coupled-loo-4")
_BOUND_IMAGES = 1000
_SAMPLE_ROWS, _SAMPLE_COLUMNS = 2, 8


def compare(
    variables: int = 4,
    categories: int = 8,
    objective: Objective = "mlp",
    draws: int = 20_000,
    estimators: tuple[str, ...] = (),
    binary: bool = False,
    seed: int = 0,
) -> None:
    """Compare estimators on a toy: evaluations, variance, ratio to leave-one-out, bias, time.

    Ranks hold only within one number of evaluations n. Bias and z need at most 65,536 joint values.

    Raises: ConfigError for an unknown estimator or sizes out of range.

    Args:
        variables: Number of discrete variables.
        categories: Categories of each; not used with --binary.
        objective: mlp couples all variables, sep is a sum over them.
        draws: Gradients drawn of each estimator.
        estimators: Names such as coupled-loo-4 or disarm-tree; a selection if none is given.
        binary: Binary variables instead of categorical ones.
        seed: Seed of the toy and of the draws.
    """
    members = [named(name, binary=binary) for name in estimators or (_BINARY if binary else _CATEGORICAL)]
    f, logits = toy(objective, variables, categories, seed, binary)
    kind = f"{variables} binary variables" if binary else f"{variables} variables of {categories} categories"
    print(f"toy {objective}, {kind}, {draws:,} draws, seed {seed}")
    print(check.compare(members, f, logits, stream(seed, "compare"), draws))


@dataclass(frozen=True)
class Training:
    """What `gleanings estimators train` runs; config.json of its run directory."""

    data: str
    estimator: str
    num_evaluations: int | None
    variables: int
    categories: int
    hidden: tuple[int, ...]
    batch_size: int
    learning_rate: float
    steps: int
    seed: int

    def model(self) -> vae.Config:
        """Configuration of the autoencoder; ConfigError for what does not fit."""
        estimator = named(self.estimator, self.num_evaluations)
        return vae.Config(estimator, self.variables, self.categories, self.hidden, self.learning_rate, None)


def train(
    data: str = "digits",
    estimator: str = "coupled-loo",
    num_evaluations: int | None = None,
    steps: int = 3000,
    out: Path | None = None,
    resume: bool = False,
    allow_change: bool = False,
    variables: int = 8,
    categories: int = 8,
    hidden: tuple[int, ...] = (64,),
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    save_every: int = 1000,
    log_every: int = 100,
) -> None:
    """Train a categorical autoencoder on images; metrics, checkpoints and a report go to a run directory.

    Ctrl-C saves and stops; --resume with the same --out continues, bit for bit.

    Raises: ConfigError for an option that cannot be used or an existing `out`; DataError for unusable data;
    NumericsError if training diverges.

    Args:
        data: `digits` (scikit-learn), an npz or IDX file, or a folder of IDX files.
        estimator: How the encoder's gradient is estimated, such as coupled-loo or reinforce-loo.
        num_evaluations: Evaluations a gradient, where the estimator leaves it open.
        steps: Updates in all.
        out: Folder of the run, runs/train-DATE if not given.
        resume: Continue the run in `out`.
        allow_change: Resume even though options have changed.
        variables: Latent variables.
        categories: Categories of each.
        hidden: Units of the encoder's hidden layers; the decoder has them in reverse.
        batch_size: Images an update.
        learning_rate: Adam's.
        seed: Seed of weights, batches and draws.
        save_every: Updates between checkpoints.
        log_every: Updates between rows of metrics.
    """
    name = data if data == "digits" else str(Path(data).absolute())
    shape = (variables, categories, hidden, batch_size, learning_rate)
    training = Training(name, estimator, num_evaluations, *shape, steps, seed)
    config = training.model()
    if batch_size < 1 or steps < 1 or learning_rate <= 0:
        raise ConfigError(f"batch_size {batch_size}, steps {steps}, learning_rate {learning_rate}: must be positive")
    if resume and out is None:
        raise ConfigError("resume needs the folder of the run: add --out RUN")
    images = digits() if data == "digits" else read_images(data)
    folder = out or Path("runs") / f"train-{datetime.datetime.now():%Y-%m-%d-%H%M%S}"
    update, draw, state = _learner(training, config, images)
    with RunDirectory.create(folder, training, resume=resume, allow_change=allow_change) as run:
        options: dict[str, Any] = {"run": run, "save_every": save_every, "log_every": log_every}
        for event in fit(update, state, steps=steps, seed=seed, draw=draw, **options):
            state = event.state
        path = _report(run, training, config, state, images)
    print(f"report: {path}")


COMMANDS: dict[str, Callable[..., None]] = {"compare": compare, "train": train}


def _learner(training: Training, config: vae.Config, images: Images) -> tuple[Any, Any, vae.State]:
    """The update, the draw of a batch, and the first state."""
    data = jnp.asarray(_greys(images.train, images.maximum))

    def update(state: vae.State, batch: Array, key: Array) -> tuple[vae.State, vae.Metrics]:
        return vae.update(config, state, batch, key)

    def draw(state: vae.State, key: Array) -> Array:
        return data[jax.random.randint(key, (training.batch_size,), 0, len(data))]

    return update, draw, jax.jit(vae.init, static_argnums=0)(config, stream(training.seed, "init"), data)


def _greys(images: np.ndarray, maximum: int) -> np.ndarray:
    return images.astype(np.float32) / np.float32(maximum)


def _report(run: RunDirectory, training: Training, config: vae.Config, state: vae.State, images: Images) -> Path:
    """Bounds on held-out images, printed and written together with the curve and samples."""
    splits = {split: getattr(images, split)[:_BOUND_IMAGES] for split in ("valid", "test")}
    held_out = _greys(np.concatenate(list(splits.values())), images.maximum)
    bound = jax.jit(vae.bound, static_argnums=0)(config, state, held_out, stream(training.seed, "bound"))
    rows, start = [], 0
    for split, chosen in splits.items():
        elbo, weighted = (bootstrap_ci(np.asarray(x)[start:][: len(chosen)]) for x in bound)
        print(f"{split}: ELBO {elbo}, importance-weighted bound {weighted} nats, {len(chosen)} images")
        rows.append([split, elbo, weighted])
        start += len(chosen)
    subtitle = f"{training.estimator} on {images.name}, {training.steps:,} steps, seed {training.seed}"
    report = Report("Categorical autoencoder", subtitle)
    report.section("Training").figure(_curve(run), "ELBO of single batches.")
    report.section("Held-out images").table(
        ["split", "ELBO / nats", "importance-weighted bound / nats"],
        rows,
        f"Mean over images with its 95 % interval; 100 draws of z an image, at most {_BOUND_IMAGES:,} images.",
    )
    report.section("Samples").figure(_samples(config, state, training, images), "Pixel means of draws from the model.")
    return report.save(run.path / "report.html")


def _curve(run: RunDirectory) -> str:
    rows = read_metrics(run.path / "metrics.jsonl").rows
    steps, elbo = [row["step"] for row in rows], [row["vae/elbo"] for row in rows]
    return figure_line([Series("training ELBO", steps, elbo)], x_label="step", y_label="ELBO, nats")


def _samples(config: vae.Config, state: vae.State, training: Training, images: Images) -> str:
    """A grid of sampled images."""
    height, width = images.train.shape[1:]
    key = stream(training.seed, "samples")
    pixels = jax.jit(vae.sample, static_argnums=(0, 3))(config, state, key, _SAMPLE_ROWS * _SAMPLE_COLUMNS)
    apart = [(0, 0), (0, 1), (0, 1)]  # an empty row and column between images
    tiles = np.pad(np.asarray(pixels).reshape(-1, height, width), apart, constant_values=np.nan)
    grid = tiles.reshape(_SAMPLE_ROWS, _SAMPLE_COLUMNS, height + 1, width + 1).transpose(0, 2, 1, 3)
    grid = grid.reshape(_SAMPLE_ROWS * (height + 1), _SAMPLE_COLUMNS * (width + 1))
    labels: dict[str, Any] = {"rows": [""] * grid.shape[0], "columns": [""] * grid.shape[1]}
    return figure_heatmap(grid, **labels, value_label="pixel mean", size=(740, 220))
