"""A policy trained on generated scenes drives every real scene, however short its log, and can be watched there."""

import base64
import json
import re
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from tests.driving._random_scenes import REAL, SMALL, real_scene

from gleanings.driving.learn import bc
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.config import BCConfig, DemoConfig, NetConfig
from gleanings.driving.learn.contract import make_contract
from gleanings.driving.learn.cutting import entire, travellers, windows
from gleanings.driving.learn.demos import make_demonstrations
from gleanings.driving.learn.drives import drive
from gleanings.driving.learn.episode_clips import episode_clips
from gleanings.driving.learn.hazards import make_hazards
from gleanings.driving.learn.outcomes import outcomes_of
from gleanings.driving.learn.policy import Policy, load_policy
from gleanings.driving.learn.training import train
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Scene

SHORT = REAL[8]
"""41 steps; its ego is a planning problem, logged at the start alone."""
KEY, WORLD = jax.random.key(0), World()
CONFIG = BCConfig(net=NetConfig(width=8, trunk=(16,)), batch=32, gradient_steps=20, iterations=2)


def trained(scenes: list[Scene], folder: Path) -> Policy:
    """A few iterations of behaviour cloning, written and read back."""
    demos, _ = make_demonstrations(scenes, WORLD)
    list(train(CONFIG, scenes, demos, directory=folder / "run", progress=False))
    return load_policy(folder / "run" / "artifacts" / "policy-0")


def shown(fragment: str) -> dict[str, np.ndarray]:
    """Poses of the ego at each frame of the first panel of a clip; where it never leaves its log they are those."""
    (data,) = re.findall(r"\{\"dt\".*\}", fragment)
    payload = json.loads(data)
    panel, ego = payload["rollouts"][0], payload["ego"]
    left = ego in panel["slots"]
    place, pose = (panel["slots"].index(ego), panel["pose"]) if left else (ego, payload["log"])
    rows = slice(None) if left else slice(payload["first"], None, payload["every"])
    found = {}
    for name in ("x", "y", "yaw"):
        kind, scale, text = pose[name]
        values = np.frombuffer(base64.b64decode(text), {"i16": "<i2", "f32": "<f4"}[kind]) * scale
        found[name] = values.reshape(panel["frames"] if left else payload["steps"], -1)[rows, place]
    return found


def assert_drives(policy: Policy, scenes: list[Scene]) -> None:
    """Finite outcomes, judged while the log lasts, and clips that show what was driven."""
    bank = make_bank(scenes)
    drives = drive(WORLD, bank, policy, KEY)
    found = outcomes_of(WORLD, bank, drives)
    every = WORLD.config.every
    for i, scene in enumerate(scenes):
        logged = np.flatnonzero(scene.log.valid.any(1))[-1] - int(scene.start)
        assert found.first_failure[i] * every < logged
        assert (drives.reward[i, -(-logged // every) :] == 0).all()
        assert all(np.isfinite(field[i]).all() for field in (*drives.pose, drives.reward, drives.clearance_m))
        assert (np.abs(drives.u[i]) <= 1).all()
    for i, fragment in enumerate(episode_clips(WORLD, scenes, {"policy": policy}, key=KEY)):
        for name, values in shown(fragment).items():
            np.testing.assert_allclose(values, getattr(drives.pose, name)[i], atol=0.02)


def test_real_scenes_are_driven_however_short_their_log(shared_data: Path):
    contract = make_contract("bc", CONFIG, WORLD.config)
    untrained = Policy(bc.init(CONFIG, WORLD.config.observe, KEY).actor, contract)
    assert_drives(untrained, [entire(real_scene(shared_data, name)) for name in (SMALL, SHORT)])


@pytest.mark.slow
def test_a_policy_drives_every_real_scene(shared_data: Path, tmp_path: Path):
    policy = trained(make_hazards(seed=0, count=32)[0], tmp_path)
    assert_drives(policy, [entire(real_scene(shared_data, name)) for name in REAL])


@pytest.mark.slow
def test_real_scenes_without_a_window_say_why(shared_data: Path):
    """One start a scene is tried."""
    for name in REAL:
        skipped = Counter[str]()
        found = windows(real_scene(shared_data, name), DemoConfig(mirror=False, stride_s=1000.0), skipped)
        print(name, len(found), dict(skipped))
        assert set(skipped) <= {"no lane", "gaps", "short log"}
        if name == SHORT:
            assert dict(skipped) == {"short log": 7}
        assert bool(found) == (name not in (SHORT, REAL[2]))
    assert len(travellers(real_scene(shared_data, REAL[2]), 30.0)) == 0
