"""A policy out of the last checkpoint of a run. Source: ours."""

from pathlib import Path

import equinox as eqx
import jax
import numpy as np

from gleanings.core.config import from_dict
from gleanings.core.errors import ConfigError
from gleanings.core.rundir import RunDirectory
from gleanings.driving.learn.training import Training, export_seed, initial_states, member_of


def open_run(path: str | Path) -> tuple[RunDirectory, Training]:
    """A run of `training.train` to read, and what it trains. ConfigError: no such run."""
    run = RunDirectory.open(path)
    try:
        return run, from_dict(Training, run.config)
    except ConfigError as error:
        raise ConfigError(f"{path} is no run of `gleanings drive train` (config.json: {error})") from error


def export_run(path: str | Path, seed: int, out: str | Path) -> Path:
    """Write the policy of a seed after the last iteration into the folder `out`, the same as RUN/artifacts/policy-SEED.

    ConfigError: no such run, a seed that it did not train, a run that is not finished. CheckpointError: damage.
    """
    run, config = open_run(path)
    if seed not in config.seeds:
        raise ConfigError(f"{path} trained seeds {', '.join(map(str, config.seeds))}, not {seed}")
    last, steps = run.checkpoints.latest() or 0, config.learner.iterations
    if last < steps:
        raise ConfigError(
            f"{path} is saved after {last} of {steps} iterations: finish it with `gleanings drive train --resume --out "
            f"{path}` and the options it was started with"
        )
    shapes = eqx.filter_eval_shape(initial_states, config)
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype) if _is_shape(leaf) else leaf, shapes)
    restored = run.checkpoints.restore(like, steps)
    frozen = (restored.data_state or {}).get("frozen", {})
    return export_seed(config, restored.state, seed, Path(out), frozen.get(member_of(seed)))


def _is_shape(leaf: object) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
