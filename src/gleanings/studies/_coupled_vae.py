"""Trainings of the study of coupled gradients, and gradient variances on their parameters.

Each function returns JSON, so that it can run in any order and in any process.
"""

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from gleanings.core.keys import stream
from gleanings.core.loop import fit
from gleanings.data.images import Images, binarise
from gleanings.estimators import vae
from gleanings.studies._coupled_moments import Moments, jit, moments, rounded
from gleanings.studies._coupled_setup import BIASED, Scale, evaluations, greys, member

_ORACLE_PART = 4  # the oracle needs so many fewer draws, its variance being small


def train(name: str, scale: Scale, images: Images, seeds: Sequence[int], keep: int) -> dict[str, Any]:
    """Train one autoencoder a seed with the estimator `name`: curves, final bounds, parameters of the first `keep`.

    Seed s draws the same pixels and batches whatever the estimator and whatever the other seeds are.
    """
    config = _config(name, scale)
    data = jnp.asarray(greys(images.train, images.maximum))
    numbers = jnp.asarray(seeds)

    def update(carry: tuple, batch: None, key: Array) -> tuple[tuple, dict[str, Array]]:
        states, sums = carry

        def one(state: vae.State, seed: Array) -> tuple[vae.State, dict[str, Array]]:
            rows_key, update_key = jax.random.split(jax.random.fold_in(key, seed))
            rows = jax.random.randint(rows_key, (scale.batch,), 0, len(data))
            return vae.update(config, state, data[rows], update_key)

        fresh = states.step[0] % scale.log_every == 0
        states, metrics = jax.vmap(one)(states, numbers)
        sums = jnp.where(fresh, 0, sums) + jnp.stack([metrics["vae/elbo"], metrics["vae/max_probability"]])
        named = {f"{what}/{s}": x for what, row in zip(("elbo", "max_q"), sums, strict=True) for s, x in enumerate(row)}
        return (states, sums), named

    states = jit(jax.vmap(lambda seed: vae.init(config, stream(seed, "init"), data)))(numbers)
    carry = (states, np.zeros((2, len(seeds)), np.float32))
    curve, times, kept = [], [], []
    vectors = jax.jit(jax.vmap(lambda state: ravel_pytree(state.params)[0]))
    for event in fit(update, carry, steps=scale.steps, seed=0, log_every=scale.log_every, progress=False):
        times.append(time.perf_counter())
        states, sums = event.state
        curve.append(np.asarray(sums) / scale.log_every)
        if event.step in scale.checkpoints:
            kept.append(np.asarray(vectors(states))[:keep])
    bounds = _bounds(config, scale, states, images)
    elbo, max_probability = np.stack(curve, -1)
    steps = scale.log_every * (len(times) - 1)
    return {
        "seeds": list(seeds),
        "steps": [scale.log_every * (i + 1) for i in range(len(times))],
        "elbo": rounded(elbo),
        "max_probability": rounded(max_probability),
        "milliseconds_per_step": 1e3 * (times[-1] - times[0]) / steps / len(seeds),
        "test_elbo": rounded(bounds.elbo, 7),
        "test_importance_weighted": rounded(bounds.importance_weighted, 7),
        "parameters": _packed(np.stack(kept)) if keep else None,
    }


def basket(
    name: str, scale: Scale, parameters: dict[str, Any], images: Images, seeds: Sequence[int], last: bool = False
) -> dict[str, Any]:
    """Log of the total variance of one gradient estimate, [checkpoint, seed, image]; time of one estimate.

    `parameters` are those of a training. `last` measures the last checkpoint only.
    """
    run, stored = _basket(name, scale, parameters, images)
    cells = stored[-1:] if last else stored
    steps = scale.checkpoints[-1:] if last else scale.checkpoints
    timed, variances = [], []
    for step, row in zip(steps, cells, strict=True):
        for seed, vector in zip(seeds, row, strict=True):
            moment, seconds = _timed(run, stream(seed, f"basket {name}", step), vector)
            timed.append(seconds)
            variances.append(np.log(moment.variance))
    shape = (len(cells), len(seeds), -1)
    return {
        "evaluations": evaluations(name, scale.categories, scale.variables),
        "log_variance": rounded(np.stack(variances).reshape(shape)),
        "microseconds": 1e6 * min(timed) / (scale.draws * scale.images),
    }


def context(scale: Scale, parameters: dict[str, Any], images: Images, seeds: Sequence[int]) -> dict[str, Any]:
    """The oracle and the biased members at the last checkpoint: log variance [seed, image], relative bias [seed].

    The bias is the norm of (mean - mean of the oracle) over that of the oracle's mean, all images together, with the
    part that stems from the finite number of draws removed.
    """
    oracle: list[Moments] = []
    result: dict[str, Any] = {}
    for name in ("local", *scale.biased):
        draws = scale.draws // _ORACLE_PART if name == "local" else scale.draws
        run, stored = _basket(name, replace(scale, draws=draws), parameters, images)
        keys = [stream(seed, f"context {name}", scale.steps) for seed in seeds]
        timed = [_timed(run, key, vector) for key, vector in zip(keys, stored[-1], strict=True)]
        found = [moment for moment, _ in timed]
        oracle = oracle or found
        pairs = zip(found, oracle, strict=True)
        result[name] = {
            "evaluations": evaluations(name, scale.categories, scale.variables),
            "log_variance": rounded(np.stack([np.log(moment.variance) for moment in found])),
            "relative_bias": [_relative_bias(*pair, scale.draws) if name in BIASED else 0.0 for pair in pairs],
            "microseconds": 1e6 * min(seconds for _, seconds in timed) / (draws * scale.images),
        }
    return result


def _config(name: str, scale: Scale) -> vae.Config:
    fields = (scale.variables, scale.categories, scale.hidden, scale.learning_rate, scale.prior_learning_rate)
    return vae.Config(member(name), *fields)


def _bounds(config: vae.Config, scale: Scale, states: vae.State, images: Images) -> vae.Bound:
    """Mean bounds over test images, one a seed; the same pixels and noise for every seed and estimator."""
    test = greys(images.test[: scale.bound_images], images.maximum)

    def one(state: vae.State) -> vae.Bound:
        bound = vae.bound(config, state, test, stream(0, "bound"), scale.bound_samples)
        return vae.Bound(bound.elbo.mean(), bound.importance_weighted.mean())

    return jit(lambda states: jax.lax.map(one, states))(states)


def _basket(name: str, scale: Scale, parameters: dict[str, Any], images: Images) -> tuple[Any, np.ndarray]:
    """The compiled moments as a function of (key, parameter vector), and the stored parameter vectors."""
    config = _config(name, scale)
    train = greys(images.train, images.maximum)
    shapes = jax.eval_shape(lambda: vae.init(config, jax.random.key(0), train)).params
    grey = greys(images.test[: scale.images], images.maximum)

    def problem(vector: Array, mean: Array, grey: Array) -> tuple[Any, Array]:
        params = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))[1](vector)
        pixels = binarise(grey, stream(0, "basket pixels"), 1)
        logits = vae.encode(params, mean, pixels)
        return lambda z: vae.log_weight(params, pixels, logits, z), logits

    run = moments(member(name), problem, scale.draws)
    stored, fixed = _unpacked(parameters), (train.mean(0), grey)
    compiled = run.lower(jax.random.key(0), stored[0, 0], *fixed).compile()
    return lambda key, vector: compiled(key, vector, *fixed), stored


def _timed(run: Callable[..., Moments], *arguments: Any) -> tuple[Moments, float]:
    start = time.perf_counter()
    moment = jax.device_get(run(*arguments))
    return moment, time.perf_counter() - start


def _relative_bias(estimate: Moments, oracle: Moments, draws: int) -> float:
    noise = oracle.variance / (draws // _ORACLE_PART)
    squares = ((estimate.mean - oracle.mean) ** 2).sum(-1) - estimate.variance / draws - noise
    norm = (oracle.mean**2).sum(-1) - noise
    return float(np.sqrt(max(squares.sum(), 0) / norm.sum()))


def _packed(array: np.ndarray) -> dict[str, Any]:
    array = np.ascontiguousarray(array, "<f4")
    return {"shape": list(array.shape), "float32": base64.b64encode(array.tobytes()).decode()}


def _unpacked(packed: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["float32"]), "<f4").reshape(packed["shape"])
