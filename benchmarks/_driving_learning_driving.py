"""Driving without learning: collection with a policy, and the evaluation of one policy in many scenes."""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from _results import Row, Target
from _timing import Sample, interleave, timer

from gleanings.driving.learn import bc_sac
from gleanings.driving.learn.collect import collect
from gleanings.driving.learn.config import sac_config
from gleanings.driving.learn.drives import drive
from gleanings.driving.learn.world import World

_COLLECT, _EVALUATE = "collection", "evaluation"
_SCENES, _CALLS = 2000, 8  # of an evaluation, driven in as many calls
CONFIG = sac_config(capacity=64, environments=64)


def measure_driving(bank: Any, environments: int, count: int, report: Callable[[Row], None]) -> None:
    """The policy is an untrained actor with the default network; only in collection it samples."""
    world, config = World(), CONFIG
    state = jax.jit(lambda key: bc_sac.init(config, world, key))(jax.random.key(0))
    actor = jax.jit(
        lambda state, bank, key: collect(
            world, bank, lambda obs, key: bc_sac.act(config, state, obs, key), key, environments
        )
    )
    decisions = environments * world.config.horizon
    cpu, wall = _medians(lambda: actor(state, bank, jax.random.key(1)), count)
    report({"case": _COLLECT, "environments": environments, **_rates(decisions, cpu, wall)})

    driver, scenes = bc_sac.Driver(state.average), min(_SCENES // _CALLS, len(bank.start))
    some = jax.tree.map(lambda leaf: leaf[:scenes], bank)
    cpu, wall = _medians(lambda: np.asarray(drive(world, some, driver, jax.random.key(2)).reward), count)
    seconds = {"cpu_s_of_2000": round(cpu * _SCENES / scenes, 2), "wall_s_of_2000": round(wall * _SCENES / scenes, 2)}
    report({"case": _EVALUATE, "scenes_a_call": scenes, **seconds})


def _medians(call: Callable[[], Any], count: int) -> tuple[float, float]:
    samples: list[Sample] = interleave({"own": timer(call)}, count)["own"]
    return statistics.median(cpu for _, cpu in samples), statistics.median(wall for wall, _ in samples)


def _rates(decisions: int, cpu: float, wall: float) -> Row:
    return {"decisions_per_cpu_s": round(decisions / cpu), "decisions_per_wall_s": round(decisions / wall)}


def driving_targets(rows: list[Row]) -> list[Target]:
    """On the CPU: CPU time."""
    found = {row["case"]: row for row in rows}
    return [
        (
            "decisions a second and core, collection in hazards",
            ">=",
            25e3,
            found.get(_COLLECT, {}).get("decisions_per_cpu_s"),
        ),
        (
            "evaluation of 2,000 scenes x 40 decisions, CPU s",
            "<=",
            6.0,
            found.get(_EVALUATE, {}).get("cpu_s_of_2000"),
        ),
    ]
