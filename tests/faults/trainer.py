"""A small training run for the fault tests to kill: `python trainer.py RUN STEPS`."""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

SAVE_EVERY = 10


def start():
    return {"w": jnp.ones((16, 8)), "momentum": jnp.zeros((16, 8)), "key": jax.random.key(5)}


def update(state, batch, key):
    def loss(w):
        return jnp.mean((jnp.tanh(batch @ w) - jax.random.uniform(key, (8,))) ** 2)

    value, gradient = jax.value_and_grad(loss)(state["w"])
    momentum = 0.9 * state["momentum"] + gradient
    new = {"w": state["w"] - 0.1 * momentum, "momentum": momentum, "key": jax.random.fold_in(state["key"], 1)}
    return new, {"loss": value}


def draw(state, key):
    return jax.random.normal(key, (32, 16))


def train(run, steps, pause_s=0.0):
    from gleanings.core.loop import fit

    options = {"save_every": SAVE_EVERY, "log_every": 1, "progress": False}
    for event in fit(update, start(), steps=steps, seed=11, draw=draw, run=run, **options):  # noqa: B007
        time.sleep(pause_s)
    return event


if __name__ == "__main__":
    from gleanings.core.rundir import RunDirectory

    with RunDirectory.create(Path(sys.argv[1]), {"steps": int(sys.argv[2])}, resume=True) as directory:
        train(directory, int(sys.argv[2]), pause_s=0.001)
