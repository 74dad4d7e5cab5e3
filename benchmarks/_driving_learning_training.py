"""Training with SAC on the same scenes, beside stable-baselines3 and rejax: speed, and the return at equal steps.

All have a policy and two critics of two layers of 128 on the flat observation, batches of 256, a gradient step per 16
decisions, and the same rates. Ours alone scales what it sees; rejax alone tunes the temperature. A row beside them has
layer normalisation in the critics, which is our default and neither peer has. Beside that with a small observation, and
with batches of 64: products, which every side has to pay, leave more to win there.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _driving_learning_steps import STEPS, cpu_s, multiply_adds, product_shapes, products, step_flop
from _peers import Peer, PeerError, peers_python
from _results import Row, Target
from _timing import timer

from gleanings.core.compiling import for_long_runs
from gleanings.driving.config import ObserveConfig
from gleanings.driving.learn import bc_sac
from gleanings.driving.learn.collect import collect
from gleanings.driving.learn.config import NetConfig, WorldConfig, sac_config
from gleanings.driving.learn.heads import TanhGaussian
from gleanings.driving.learn.networks import Actor
from gleanings.driving.learn.world import World

FOLDER = Path(__file__).parent
SOURCE = FOLDER.parent / "src"
OWN, SB3, REJAX = "gleanings", "stable-baselines3", "rejax"
NORMALISED = "gleanings, layer normalisation"
VARIABLES = {SB3: "GLEANINGS_SB3_PYTHON", REJAX: "GLEANINGS_REJAX_PYTHON"}
WORKERS = {SB3: FOLDER / "peers" / "sb3_peers.py", REJAX: FOLDER / "peers" / "rejax_peers.py"}
EVERY = 16  # decisions for one gradient step
_SEEN = WorldConfig().observe
SETTINGS = {
    "default": (_SEEN, 256),
    "small observation": (ObserveConfig(objects=4, road=4, lights=0, route=5, spacing_m=5.0), 256),
    "batch 64": (_SEEN, 64),
}
"""Observation and rows of a gradient step, by name."""
NET = NetConfig(encoder="flat", trunk=(128, 128), norm=False)
BOUND = "products alone"
_TIMEOUT_S = 400.0
_TURNS = {"default": 5, "small observation": 3, "batch 64": 3}


def measure_training(
    bank: Any, path: Path, pythons: dict[str, Path | None], quick: bool, report: Callable[[Row], None]
) -> None:
    """A row for each turn, side and number of environments: decisions a CPU second with their updates, and the reward.

    In turns, since the clock of a machine moves; what only stands beside the figures to reach runs once. Another row
    for what limits all sides: a step that is nothing but its products, at the rate measured here. Quick: one turn of
    the first setting alone, with batches of 32.
    """
    environments, iterations = (16, 2) if quick else (64, 8)
    for setting, (observe, rows_of_step) in list(SETTINGS.items())[: 1 if quick else None]:
        world, rows, batch = World(WorldConfig(observe=observe)), [], 32 if quick else rows_of_step
        common = {**reading(path, observe), "batch": batch}
        decisions = environments * world.config.horizon * iterations
        often, once = (environments,), ()
        if setting == "default" and not quick:
            often, once = (16, 64), (1,)

        def keep(side: str, row: Row, setting: str = setting, rows: list[Row] = rows) -> None:
            rows.append({"side": side, "setting": setting, **row})
            report(rows[-1])

        for turn in range(1 if quick else _TURNS[setting]):
            keep(OWN, {"turn": turn, **measure_own(NET, world, bank, environments, iterations, batch)})
            keep(REJAX, {"turn": turn, **_rejax(pythons.get(REJAX), common, environments, iterations)})
            for count in (*often, *(once if turn == 0 else ())):
                row = _sb3(pythons.get(SB3), common, count, decisions, (1,) if quick else (1, 2))
                keep(SB3, {"turn": turn, "environments": count, **row})
        keep(NORMALISED, measure_own(replace(NET, norm=True), world, bank, environments, iterations, batch))
        keep(BOUND, _bound(world, batch, rows))


def measure_own(net: NetConfig, world: World, bank: Any, environments: int, iterations: int, batch: int) -> Row:
    """Decisions a second with their updates; and of these the collection alone, whose rest is gradient steps."""
    decisions = environments * world.config.horizon
    config = sac_config(
        net=net,
        batch=batch,
        learning_rate=3e-4,  # as the peers'
        environments=environments,
        gradient_steps=decisions // EVERY,
        capacity=environments * (iterations + 1),
    )
    state = jax.jit(lambda key: bc_sac.init(config, world, key))(jax.random.key(0))
    options = for_long_runs()  # as in the training loop
    update = partial(bc_sac.update, config, world)
    run = jax.jit(lambda state, bank, key: update(state, bank, None, key), donate_argnums=0, compiler_options=options)
    times, rewards = [], []
    for turn in range(iterations + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        state, metrics = jax.block_until_ready(run(state, bank, jax.random.key(turn)))
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
        rewards.append(float(metrics["collect/reward"]))

    @partial(jax.jit, compiler_options=options)
    def alone(learner: bc_sac.State, bank: Any, key: Any) -> Any:
        return collect(world, bank, partial(bc_sac.act, config, learner), key, environments)

    learner = bc_sac.without_replay(state)
    collect_s = cpu_s(timer(lambda: alone(learner, bank, jax.random.key(0)))(4)[1:])
    step_s = (float(np.median(times[1:], axis=0)[1]) - collect_s) / config.gradient_steps
    parts = {"collect_us_a_decision": round(1e6 * collect_s / decisions, 1), "step_ms": round(1e3 * step_s, 3)}
    return {"environments": environments} | _speed(times[1:], decisions) | parts | _return(rewards[1:], decisions)


def _bound(world: World, batch: int, rows: list[Row]) -> Row:
    """Decisions a CPU second if a gradient step took no longer than its products and scenes cost what they cost us."""
    actor = jax.jit(lambda key: Actor(NET, TanhGaussian(), world.config.observe, key))(jax.random.key(0))
    shapes = product_shapes(actor, jnp.zeros((batch, world.observation_size)))
    flop = step_flop(shapes, "sac")
    plain = 2 * STEPS * sum(map(multiply_adds, shapes)) / cpu_s(timer(products(shapes))(10)[1:])
    own = [row for row in rows if row["side"] == OWN]
    collect_us, step_ms = (statistics.median(row[name] for row in own) for name in ("collect_us_a_decision", "step_ms"))
    rate = EVERY / (flop / plain + EVERY * collect_us / 1e6)
    speed = {"gflop_per_s_products": round(plain / 1e9, 1), "gflop_per_s_own": round(flop / step_ms / 1e6, 1)}
    facts = {"numbers": world.observation_size, "mflop_a_step": round(flop / 1e6, 1)} | speed
    ratios = {}
    for side in (SB3, REJAX):
        if found := _rates(rows, side):
            best = max(statistics.median(rates.values()) for rates in found.values())
            ratios[f"best_ratio_{side}"] = round(rate / best, 2)
    return {"decisions_per_cpu_s": round(rate)} | facts | ratios


def _speed(times: list[Any], decisions: int) -> Row:
    wall, cpu = np.median(np.asarray(times), axis=0)
    return {"decisions_per_cpu_s": round(decisions / cpu), "decisions_per_wall_s": round(decisions / wall)}


def _return(rewards: list[float], decisions: int) -> Row:
    """Of an episode, the mean over the last fifth of the iterations."""
    last = rewards[-max(len(rewards) // 5, 1) :]
    mean = World().config.horizon * float(np.mean(last))
    return {"episode_return": round(mean, 2), "after_decisions": decisions * len(rewards)}


def reading(path: Path, observe: ObserveConfig) -> Row:
    """Where a worker finds our source and the bank, and what it observes."""
    return {"source": str(SOURCE), "bank": str(path), "observe": asdict(observe)}


def _rejax(option: Path | None, common: Row, environments: int, iterations: int) -> Row:
    found = asked(REJAX, option, {**common, "environments": environments, "iterations": iterations})
    if "not run" in found:
        return found
    speed, result = _speed(found["times"], found["decisions"]), _return(found["rewards"], found["decisions"])
    return {"version": found["version"], "environments": environments} | speed | result


def _sb3(option: Path | None, common: Row, environments: int, decisions: int, threads: tuple[int, ...]) -> Row:
    """CPU time is that of the run after the brief ones that choose the number of threads."""
    sizes = {"decisions": decisions, "brief": decisions // 8, "warm": 4 * max(environments, EVERY)}
    found = asked(SB3, option, {**common, **sizes, "environments": environments, "threads": threads})
    if "not run" in found:
        return found
    result = {"episode_return": round(World().config.horizon * found["reward"], 2)}
    notes = {"version": found["version"], "threads": found["threads"]}
    return notes | _speed(found["times"][-1:], 1) | result | {"after_decisions": found["decisions"]}


def asked(side: str, option: Path | None, arguments: Row) -> Row:
    """What the worker answers, or 'not run' and why."""
    python = peers_python(option, VARIABLES[side])
    if python is None:
        name = "sb3" if side == SB3 else side
        return {"not run": f"no interpreter: --{name}-python or {VARIABLES[side]}"}
    try:
        with Peer(python, _TIMEOUT_S, WORKERS[side]) as peer:
            return peer.ask("train", **arguments)
    except PeerError as error:
        return {"not run": str(error).splitlines()[0][:200]}


def training_targets(rows: list[Row]) -> list[Target]:
    """Our rate over those of the peers, in decisions a CPU second, in each setting."""
    return [target for name in SETTINGS for target in _targets([row for row in rows if row["setting"] == name], name)]


def _targets(rows: list[Row], setting: str) -> list[Target]:
    own = next(iter(_rates(rows, OWN).values()), {})

    def over(side: str, *counts: int) -> float | None:
        """Least over numbers of environments, of the median over the turns."""
        found = {count: rates for count, rates in _rates(rows, side).items() if count in (counts or (count,))}
        ratios = [[own[turn] / rate for turn, rate in rates.items() if turn in own] for rates in found.values()]
        medians = [statistics.median(each) for each in ratios if each]
        return round(min(medians), 2) if medians else None

    what = f"training with SAC, {setting}, decisions a CPU second, own /"
    return [
        (f"{what} {SB3}, its best number of environments", ">=", 3.0, over(SB3)),
        *([(f"{what} {SB3}, one environment", ">=", 6.0, over(SB3, 1))] if setting == "default" else []),
        (f"{what} {REJAX} (5 % slack)", ">=", 0.95, over(REJAX)),
    ]


def _rates(rows: list[Row], side: str) -> dict[int, dict[int, int]]:
    """Decisions a CPU second of a side, by number of environments and turn."""
    found: dict[int, dict[int, int]] = defaultdict(dict)
    for row in rows:
        if row["side"] == side and "decisions_per_cpu_s" in row:
            found[row["environments"]][row["turn"]] = row["decisions_per_cpu_s"]
    return found
