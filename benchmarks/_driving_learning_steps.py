"""A gradient step of SAC and BC-SAC beside plain matrix products of the same shapes."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _results import Row, Target
from _timing import Sample, interleave, timer
from jax.extend.core import ClosedJaxpr

from gleanings.core.compiling import for_long_runs
from gleanings.driving.learn import bc_sac
from gleanings.driving.learn.collect import collect
from gleanings.driving.learn.config import BCSACConfig, NetConfig, sac_config
from gleanings.driving.learn.demos import Demonstrations
from gleanings.driving.learn.replay import Replay, make_replay, write
from gleanings.driving.learn.world import World

STEPS = 20  # in one program
_PASSES = {"sac": 16, "bc-sac": 19}  # products of a layer in a step, in those of a forward pass (design page 7)
_FIRST = {"sac": 9, "bc-sac": 11}  # of a layer on the observation: no slope of its input, one pass for both losses
NETS = {"flat": NetConfig(encoder="flat"), "deep-set": NetConfig()}
CONFIG = BCSACConfig(capacity=64, environments=64)


def measure_steps(bank: Any, quick: bool, report: Callable[[Row], None]) -> None:
    """A row for each network and algorithm; quick: few rows, and the flat network alone."""
    batch, count = (32, 2) if quick else (256, 9)
    replay = _experience(bank)
    for name, net in list(NETS.items())[: 1 if quick else None]:
        configs = {"sac": sac_config(net=net, batch=batch), "bc-sac": BCSACConfig(net=net, batch=batch)}
        programs, shapes = {}, []
        for algorithm, config in configs.items():
            small = replace(config, capacity=CONFIG.capacity, environments=CONFIG.environments, gradient_steps=STEPS)
            programs[algorithm], shapes = _program(small, replay)
        flop = 2 * sum(multiply_adds(shape) for shape in shapes)
        samples = interleave({**programs, "products": timer(products(shapes))}, count)
        plain = STEPS * flop / cpu_s(samples["products"]) / 1e9
        for algorithm in configs:
            seconds = cpu_s(samples[algorithm]) / STEPS
            least = step_flop(shapes, algorithm) if name == "flat" else _PASSES[algorithm] * flop
            report(
                {
                    "case": f"{algorithm}, {name}",
                    "rows": batch,
                    "cpu_ms": round(1e3 * seconds, 3),
                    "mflop_forward": round(flop / 1e6, 2),
                    "gflop_per_s": round(least / seconds / 1e9, 1),
                    "gflop_per_s_products": round(plain, 1),
                    "ms_of_products_alone": round(1e3 * least / plain / 1e9, 3),
                }
            )


def multiply_adds(shape: tuple[int, int, int]) -> int:
    """Multiply-adds of a product of [m, k] and [k, n]."""
    return shape[0] * shape[1] * shape[2]


def step_flop(shapes: list[tuple[int, int, int]], algorithm: str) -> int:
    """Of all products of a gradient step, from those of a pass of a flat network."""
    first, *rest = map(multiply_adds, shapes)
    return 2 * (_FIRST[algorithm] * first + _PASSES[algorithm] * sum(rest))


def cpu_s(samples: list[Sample]) -> float:
    """Median of the CPU seconds of a call."""
    return statistics.median(cpu for _, cpu in samples)


def _experience(bank: Any) -> Replay:
    """Of a driver that coasts."""
    world = World()

    @jax.jit
    def fill(bank: Any, key: Any) -> Replay:
        empty = make_replay(CONFIG.capacity, world.config.horizon, world.observation_size, CONFIG.environments)
        return write(empty, collect(world, bank, lambda obs, key: jnp.zeros(2), key, CONFIG.environments)[0])

    return fill(bank, jax.random.key(1))


def _program(config: BCSACConfig, replay: Replay) -> tuple[Callable[[int], list[Sample]], list[tuple[int, int, int]]]:
    """Runs `STEPS` gradient steps on collected experience; and the shapes of the products in a pass of the actor."""
    world = World()
    state = jax.jit(lambda key: bc_sac.init(config, world, key))(jax.random.key(0))
    obs = np.asarray(replay.obs[:, 0], np.float32)
    labels = Demonstrations(obs, np.zeros((len(obs), 2), np.float32), np.ones((len(obs), 2), bool), *_indices(len(obs)))
    demos = jax.device_put(labels) if config.imitation_weight > 0 else None

    @partial(jax.jit, compiler_options=for_long_runs())  # as in the training loop
    def run(state: Any, replay: Any, demos: Any) -> Any:
        return bc_sac.gradient_steps(config, state, replay, demos, jax.random.key(2))

    learner = bc_sac.without_replay(state)
    rows = jnp.zeros((config.batch, world.observation_size))
    return timer(lambda: run(learner, replay, demos)), product_shapes(state.actor, rows)


def _indices(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(count, np.int32), np.zeros(count, np.int32)


def product_shapes(call: Callable, *arguments: Any) -> list[tuple[int, int, int]]:
    """(m, k, n) of each product of [m, k] and [k, n] in a call."""
    equations = _equations(jax.make_jaxpr(call)(*arguments).jaxpr)
    products = [equation.invars for equation in equations if equation.primitive.name == "dot_general"]
    return [(*one.aval.shape, two.aval.shape[1]) for one, two in products]


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Also those of what is called."""
    for equation in jaxpr.eqns:
        called = [value.jaxpr for value in equation.params.values() if isinstance(value, ClosedJaxpr)]
        for inner in called:
            yield from _equations(inner)
        if not called:
            yield equation


def products(shapes: list[tuple[int, int, int]]) -> Callable[[], Any]:
    """`STEPS` times the products alone, each on new numbers so that none is left out."""
    pairs = [(jnp.ones((m, k)), jnp.ones((k, n))) for m, k, n in shapes]

    @jax.jit
    def run(pairs: Any) -> Any:
        def step(sums: Any, _: None) -> tuple[Any, None]:
            fresh = [(one, two + total[0, 0] * 1e-9) for (one, two), total in zip(pairs, sums, strict=True)]
            return [one @ two for one, two in fresh], None

        return jax.lax.scan(step, [jnp.zeros((m, n)) for m, _, n in shapes], length=STEPS)[0]

    return lambda: run(pairs)


def step_targets(rows: list[Row]) -> list[Target]:
    """What imitation costs."""
    times = {row["case"]: row.get("cpu_ms") for row in rows}
    found = []
    for name in NETS:
        one, two = times.get(f"sac, {name}"), times.get(f"bc-sac, {name}")
        ratio = round(two / one, 3) if one and two else None
        found.append((f"time of a gradient step, BC-SAC / SAC, {name}", "<=", 1.4, ratio))
    return found
