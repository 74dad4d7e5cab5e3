"""Small training runs for the fault tests to kill: `python driving_learner.py FOLDER ALGORITHM SEEDS`, or
`python driving_learner.py drive train ...`: the command with small learners."""

import sys
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from gleanings.driving.config import ObserveConfig
from gleanings.driving.learn.config import BCConfig, BCSACConfig, DQNConfig, NetConfig, WorldConfig

ITERATIONS = 4
SEEN = ObserveConfig(objects=1, frames=1, road=2, lights=0, route=2)
WORLD = WorldConfig(observe=SEEN, horizon=6, clearance_m=50.0, edge_m=3.0)
_NET = NetConfig(width=4, trunk=(8,))
_SIZES = {"net": _NET, "batch": 8, "environments": 2, "gradient_steps": 3, "capacity": 6, "iterations": ITERATIONS}
LEARNERS = {
    "bc-sac": BCSACConfig(**_SIZES, target_entropy=-2.0),
    "dqn": DQNConfig(**_SIZES, bins=(3, 3)),
}


@cache
def data():
    """Two learning scenes, one with nothing but its ego, and labels that need not mean anything."""
    from gleanings.driving.compile import compile_scene
    from gleanings.driving.crop import crop_scene
    from gleanings.driving.families import make_raw
    from gleanings.driving.learn.demos import Demonstrations
    from gleanings.driving.observation import observation_size
    from gleanings.driving.routes import with_lane_route

    rng, size = np.random.default_rng(0), observation_size(SEEN)
    raw, other = make_raw("straight"), make_raw("curve")
    alone = replace(other, tracks=(other.tracks[other.sdc],), sdc=0, predict=(), interest=(), goals=())
    scenes = [crop_scene(with_lane_route(compile_scene(one))) for one in (raw, alone)]
    obs, action = rng.normal(size=(16, size)).astype(np.float32), rng.uniform(-0.9, 0.9, (16, 2)).astype(np.float32)
    rows = np.arange(16, dtype=np.int32)
    return scenes, Demonstrations(obs, action, np.ones((16, 2), bool), rows, rows)


def run(folder, algorithm, seeds, pause_s=0.0):
    """The last event of a run that goes on where it was left."""
    from gleanings.driving.learn.training import train

    (scenes, demos), event = data(), None
    options = {"world": WORLD, "seeds": range(seeds), "save_every": 1, "progress": False, "resume": True}
    for event in train(LEARNERS[algorithm], scenes, demos, directory=folder, **options):  # noqa: B007
        time.sleep(pause_s)
    return event


def command(arguments):
    """Exit code of `gleanings` with the learners of this module."""
    from gleanings import cli
    from gleanings.driving.learn import commands

    kept = dict(commands._LEARNERS)
    small = {"bc": partial(BCConfig, net=_NET, batch=8, gradient_steps=2), "bc-sac": partial(BCSACConfig, **_SIZES)}
    commands._LEARNERS.update(small)
    try:
        return cli.main(arguments)
    finally:
        commands._LEARNERS.update(kept)


if __name__ == "__main__" and sys.argv[1] == "drive":
    sys.exit(command(sys.argv[1:]))
elif __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), pause_s=0.2)
