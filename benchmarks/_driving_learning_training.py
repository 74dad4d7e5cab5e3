"""Training with SAC on the same scenes, beside stable-baselines3 and rejax: speed, and the return at equal steps.

All have a policy and two critics of two layers of 128 on the flat observation, batches of 256, a gradient step per 16
decisions, and the same rates. Ours alone has layer normalisation in the critics and scales what it sees; rejax alone
tunes the temperature.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _peers import Peer, PeerError, peers_python
from _results import Row, Target

from gleanings.driving.learn import bc_sac
from gleanings.driving.learn.config import NetConfig, sac_config
from gleanings.driving.learn.world import World

FOLDER = Path(__file__).parent
SOURCE = FOLDER.parent / "src"
OWN, SB3, REJAX = "gleanings", "stable-baselines3", "rejax"
VARIABLES = {SB3: "GLEANINGS_SB3_PYTHON", REJAX: "GLEANINGS_REJAX_PYTHON"}
WORKERS = {SB3: FOLDER / "peers" / "sb3_peers.py", REJAX: FOLDER / "peers" / "rejax_peers.py"}
EVERY = 16  # decisions for one gradient step
_TIMEOUT_S = 400.0


def measure_training(
    bank: Any, path: Path, pythons: dict[str, Path | None], quick: bool, report: Callable[[Row], None]
) -> None:
    """One row a side and number of environments: decisions a CPU second with their updates, and the reward at last."""
    environments, iterations, batch = (16, 2, 32) if quick else (64, 8, 256)
    report({"side": OWN, **_own(bank, environments, iterations, batch)})
    common = {"source": str(SOURCE), "bank": str(path), "batch": batch}
    report({"side": REJAX, **_rejax(pythons.get(REJAX), common, environments, iterations)})
    decisions = environments * World().config.horizon * iterations
    for count in (environments,) if quick else (1, 16, 64):
        row = _sb3(pythons.get(SB3), common, count, decisions, (1,) if quick else (1, 2))
        report({"side": SB3, "environments": count, **row})


def _own(bank: Any, environments: int, iterations: int, batch: int) -> Row:
    world, horizon = World(), World().config.horizon
    decisions = environments * horizon
    config = sac_config(
        net=NetConfig(encoder="flat", trunk=(128, 128)),
        batch=batch,
        environments=environments,
        gradient_steps=decisions // EVERY,
        capacity=environments * (iterations + 1),
    )
    state = jax.jit(lambda key: bc_sac.init(config, world, key))(jax.random.key(0))
    run = jax.jit(lambda state, bank, key: bc_sac.update(config, world, state, bank, None, key), donate_argnums=0)
    times, rewards = [], []
    for turn in range(iterations + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        state, metrics = jax.block_until_ready(run(state, bank, jax.random.key(turn)))
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
        rewards.append(float(metrics["collect/reward"]))
    return {"environments": environments} | _speed(times[1:], decisions) | _return(rewards[1:], decisions)


def _speed(times: list[Any], decisions: int) -> Row:
    wall, cpu = np.median(np.asarray(times), axis=0)
    return {"decisions_per_cpu_s": round(decisions / cpu), "decisions_per_wall_s": round(decisions / wall)}


def _return(rewards: list[float], decisions: int) -> Row:
    """Of an episode, the mean over the last fifth of the iterations."""
    last = rewards[-max(len(rewards) // 5, 1) :]
    mean = World().config.horizon * float(np.mean(last))
    return {"episode_return": round(mean, 2), "after_decisions": decisions * len(rewards)}


def _rejax(option: Path | None, common: Row, environments: int, iterations: int) -> Row:
    found = _asked(REJAX, option, {**common, "environments": environments, "iterations": iterations})
    if "not run" in found:
        return found
    speed, result = _speed(found["times"], found["decisions"]), _return(found["rewards"], found["decisions"])
    return {"version": found["version"], "environments": environments} | speed | result


def _sb3(option: Path | None, common: Row, environments: int, decisions: int, threads: tuple[int, ...]) -> Row:
    """CPU time is that of the run after the brief ones that choose the number of threads."""
    sizes = {"decisions": decisions, "brief": decisions // 8, "warm": 4 * max(environments, EVERY)}
    found = _asked(SB3, option, {**common, **sizes, "environments": environments, "threads": threads})
    if "not run" in found:
        return found
    result = {"episode_return": round(World().config.horizon * found["reward"], 2)}
    notes = {"version": found["version"], "threads": found["threads"]}
    return notes | _speed(found["times"][-1:], 1) | result | {"after_decisions": found["decisions"]}


def _asked(side: str, option: Path | None, arguments: Row) -> Row:
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
    """Our rate over those of the peers, in decisions a CPU second."""
    rates = {(row["side"], row.get("environments")): row.get("decisions_per_cpu_s") for row in rows}
    own = next((rate for (side, _), rate in rates.items() if side == OWN), None)
    others = [rate for (side, _), rate in rates.items() if side == SB3 and rate]
    rejax = next((rate for (side, _), rate in rates.items() if side == REJAX), None)

    def over(rate: float | None) -> float | None:
        return round(own / rate, 2) if own and rate else None

    what = "training with SAC, decisions a CPU second, own /"
    return [
        (f"{what} {SB3}, its best number of environments", ">=", 3.0, over(max(others, default=None))),
        (f"{what} {SB3}, one environment", ">=", 6.0, over(rates.get((SB3, 1)))),
        (f"{what} {REJAX} (5 % slack)", ">=", 0.95, over(rejax)),
    ]
