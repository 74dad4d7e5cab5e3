"""The scenes that all sides of `driving_learning.py` drive in, and how fast they are made."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _results import Row, Target

from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.difficulty import difficulty_scores
from gleanings.driving.learn.hazards import make_hazards
from gleanings.driving.scene import Scene
from gleanings.driving.stack import arrays_of

SEED = 0
_SCORED = "make and score scenes"


def make_scenes(count: int) -> tuple[list[Scene], float]:
    """Hazards, and the CPU seconds that they took once everything was compiled."""
    make_hazards(seed=SEED + 1, count=min(count, 16))
    start = time.process_time()
    scenes, _ = make_hazards(seed=SEED, count=count)
    return scenes, time.process_time() - start


def write_bank(path: Path, scenes: list[Scene]) -> Any:
    """The bank on the device, and in an npz file for the peers."""
    bank = make_bank(scenes)
    np.savez(path, **arrays_of(bank))
    return jax.device_put(bank)


def measure_scenes(scenes: list[Scene], made_s: float, report: Callable[[Row], None]) -> None:
    """Scenes a CPU second: driven by the expert, filtered, and scored by four simulations of the planner."""
    difficulty_scores(scenes)
    start = time.process_time()
    difficulty_scores(scenes)
    scored_s = time.process_time() - start
    rates = {"made_per_cpu_s": len(scenes) / made_s, "scored_per_cpu_s": len(scenes) / scored_s}
    both = {"both_per_cpu_s": len(scenes) / (made_s + scored_s)}
    rounded = {name: round(rate, 1) for name, rate in (rates | both).items()}
    report({"case": _SCORED, "scenes": len(scenes), **rounded})


def scene_targets(rows: list[Row]) -> list[Target]:
    """Two processes on two cores make twice as many."""
    rate = next((row["both_per_cpu_s"] for row in rows if row["case"] == _SCORED), None)
    return [("scenes with expert, filter and score, a second on two cores", ">=", 150.0, rate and round(2 * rate, 1))]
