"""Training with SAC on a GPU: many seeds in one program, what limits a gradient step there, and the peers; wall time.

Network, rows, rates and decisions a gradient step as in `_driving_learning_training`. Small networks are bound by the
time to start kernels, so kernels are counted, and timed where each does next to nothing.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _driving_learning_training import EVERY, NET, OWN, REJAX, SB3, asked, measure_own, reading
from _results import Row, Target
from _timing import timer

from gleanings.driving.learn import bc_sac
from gleanings.driving.learn.collect import collect
from gleanings.driving.learn.config import BCSACConfig, WorldConfig, sac_config
from gleanings.driving.learn.world import World

SEEDS = (1, 8, 64)
CPU = "gleanings, on the CPU of this machine"
KERNELS = "a kernel that does next to nothing"
_CHAIN = 200
_RATE, _STEPS = "decisions_per_wall_s", 20


def measure_gpu(
    bank: Any, path: Path, pythons: dict[str, Path | None], quick: bool, report: Callable[[Row], None]
) -> None:
    """A row for the CPU of the same machine, one a number of seeds, for kernels, collection, and the peers."""
    if jax.default_backend() != "gpu":
        report({"unmeasured": "no GPU on this machine"})
        return
    world, iterations, batch = World(), 2 if quick else 8, 32 if quick else 256
    with jax.default_device(jax.devices("cpu")[0]):
        there = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), bank)
        report({"side": CPU, **measure_own(NET, world, there, 64, iterations, batch)})
    report(kernel_row(world, bank, batch))
    for seeds in SEEDS[: 2 if quick else None]:
        report({"side": OWN, **seeds_row(world, bank, seeds, iterations, batch)})
    common = {**reading(path, WorldConfig().observe), "batch": batch}
    for seeds in SEEDS[:2]:
        report({"side": REJAX, **_rejax(pythons.get(REJAX), {**common, "seeds": seeds}, iterations)})
    for device, environments in (("cpu", 64), ("cuda", 64), ("cuda", 1024)):
        sizes = {"device": device, "environments": environments}
        report({"side": SB3, **sizes, **_sb3(pythons.get(SB3), {**common, **sizes}, iterations)})
    report({"case": "collection", **collection_row(world, bank, 64 if quick else 1024)})


def seeds_row(world: World, bank: Any, seeds: int, iterations: int, batch: int) -> Row:
    """Iterations of 64 environments for all seeds in one vmap; and the collection alone."""
    environments = 64
    decisions = environments * world.config.horizon
    config = sac_config(
        net=NET,
        batch=batch,
        learning_rate=3e-4,
        environments=environments,
        gradient_steps=decisions // EVERY,
        capacity=environments * (iterations + 1),
    )
    states = jax.jit(jax.vmap(lambda key: bc_sac.init(config, world, key)))(_keys(0, seeds))

    @partial(jax.jit, donate_argnums=0, compiler_options=for_long_runs())  # as in the training loop
    def run(states: Any, bank: Any, keys: Any) -> Any:
        return jax.vmap(lambda state, key: bc_sac.update(config, world, state, bank, None, key))(states, keys)

    times = []
    for turn in range(iterations + 1):
        start = time.perf_counter()
        states, _ = jax.block_until_ready(run(states, bank, _keys(turn, seeds)))
        times.append(time.perf_counter() - start)

    @jax.jit
    def alone(states: Any, bank: Any, keys: Any) -> Any:
        def one(state: Any, key: Any) -> Any:
            return collect(world, bank, partial(bc_sac.act, config, state), key, environments)

        return jax.vmap(one)(states, keys)

    learners = bc_sac.without_replay(states)
    iteration_s, collect_s = statistics.median(times[1:]), _wall_s(lambda: alone(learners, bank, _keys(0, seeds)))
    return {
        "seeds": seeds,
        "iteration_ms": round(1e3 * iteration_s, 2),
        "collect_ms": round(1e3 * collect_s, 2),
        "step_ms": round(1e3 * (iteration_s - collect_s) / config.gradient_steps, 4),
        _RATE: round(seeds * decisions / iteration_s),
    }


def kernel_row(world: World, bank: Any, batch: int) -> Row:
    """Kernels of a gradient step as the profiler sees them, and the time of one with nothing to do."""
    config = sac_config(net=NET, batch=batch, environments=64, capacity=64, gradient_steps=_STEPS)
    state = jax.jit(lambda key: bc_sac.init(config, world, key))(jax.random.key(0))

    @jax.jit
    def fill(state: Any, bank: Any) -> Any:
        experience, _ = collect(world, bank, partial(bc_sac.act, config, state), jax.random.key(1), 64)
        return bc_sac.write(state.replay, experience)

    replay, learner = fill(state, bank), bc_sac.without_replay(state)
    steps = jax.jit(lambda state, replay: bc_sac.gradient_steps(config, state, replay, None, jax.random.key(2)))
    step_s = _wall_s(lambda: steps(learner, replay)) / _STEPS
    row = {"case": KERNELS, "us": round(1e6 * _launch_s(), 2), "step_ms": round(1e3 * step_s, 4)}
    count, busy_s = profiled(lambda: steps(learner, replay))
    if not count:
        return row | {"kernels_a_step": None, "why": "the profiler saw no kernel"}
    return row | {"kernels_a_step": round(count / _STEPS, 1), "busy_ms_a_step": round(1e3 * busy_s / _STEPS, 4)}


def _launch_s() -> float:
    """Of small products that cannot become one kernel, each on the result of the one before."""
    small = jnp.eye(16)

    @jax.jit
    def chain(x: Any) -> Any:
        for _ in range(_CHAIN):
            x = x @ small
        return x

    return _wall_s(lambda: chain(small)) / _CHAIN


def profiled(call: Callable[[], Any]) -> tuple[int, float]:
    """How many kernels a call starts on the GPU, and the seconds that they run."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        files = list(Path(folder).rglob("*.xplane.pb"))
        if not files:
            return 0, 0.0
        found = jax.profiler.ProfileData.from_file(str(files[0]))
        streams = [
            line
            for plane in found.planes
            if plane.name.startswith("/device:GPU")
            for line in plane.lines
            if line.name.startswith("Stream")
        ]
        events = [event.duration_ns for line in streams for event in line.events]
        return len(events), sum(events) / 1e9


def collection_row(world: World, bank: Any, environments: int) -> Row:
    """Episodes of an untrained actor that samples."""
    config = BCSACConfig(net=NET, environments=environments, capacity=environments)
    state = jax.jit(lambda key: bc_sac.without_replay(bc_sac.init(config, world, key)))(jax.random.key(0))

    @jax.jit
    def run(state: Any, bank: Any) -> Any:
        return collect(world, bank, partial(bc_sac.act, config, state), jax.random.key(1), environments)

    seconds = _wall_s(lambda: run(state, bank))
    return {"environments": environments, _RATE: round(environments * world.config.horizon / seconds)}


def _keys(turn: int, seeds: int) -> Any:
    return jax.random.split(jax.random.key(turn), seeds)


def _wall_s(call: Callable[[], Any]) -> float:
    """Median of a few calls after one that compiles."""
    return statistics.median(wall for wall, _ in timer(call)(6)[1:])


def _rejax(option: Path | None, common: Row, iterations: int) -> Row:
    found = asked(REJAX, option, {**common, "environments": 64, "iterations": iterations})
    row = {"seeds": common["seeds"]}
    if "not run" in found:
        return row | found
    wall_s = statistics.median(wall for wall, _ in found["times"])
    return row | {"version": found["version"], _RATE: round(common["seeds"] * found["decisions"] / wall_s)}


def _sb3(option: Path | None, common: Row, iterations: int) -> Row:
    environments, decisions = common["environments"], 64 * World().config.horizon * iterations
    sizes = {"decisions": decisions, "brief": decisions // 8, "warm": 4 * environments}
    found = asked(SB3, option, {**common, **sizes, "threads": (1, 2)})
    if "not run" in found:
        return found
    return {"version": found["version"], "threads": found["threads"], _RATE: round(1 / found["times"][-1][0])}


def gpu_targets(rows: list[Row]) -> list[Target]:
    """Seeds cost little, and what they train together beside two cores of the same machine and the peers there.

    Two cores do at most twice what one process does, whose few threads may use all cores there.
    """
    own = {row["seeds"]: row for row in rows if row.get("side") == OWN}
    rejax = {row["seeds"]: row for row in rows if row.get("side") == REJAX}
    cpu = next((row[_RATE] for row in rows if row.get("side") == CPU), None)
    sb3 = max((row[_RATE] for row in rows if row.get("side") == SB3 and _RATE in row), default=None)

    def over(seeds: int, rate: float | None) -> float | None:
        return round(own[seeds][_RATE] / rate, 2) if rate and seeds in own else None

    times = [own[seeds]["iteration_ms"] for seeds in SEEDS[:2] if seeds in own]
    ratio = round(times[1] / times[0], 2) if len(times) > 1 else None
    what = "decisions a GPU second, own /"
    return [
        ("8 seeds in one vmap / 1 seed, time, on a GPU", "<=", 2.0, ratio),
        (f"training 8 seeds, {what} two cores of its machine", ">=", 20.0, over(8, cpu and 2 * cpu)),
        (f"training 1 seed, {what} {SB3}, its best", ">=", 3.0, over(1, sb3)),
        *(
            (f"training with seeds: {n}, {what} {REJAX} (5 % slack)", ">=", 0.95, over(n, rejax.get(n, {}).get(_RATE)))
            for n in SEEDS[:2]
        ),
    ]
