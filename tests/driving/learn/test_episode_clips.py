"""Clips of episodes against the drives they show, made by another program."""

import base64
import json
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.core.errors import ConfigError
from gleanings.driving.clips import MOST_BYTES
from gleanings.driving.learn import drives as drives_module
from gleanings.driving.learn.baselines import controls
from gleanings.driving.learn.config import BCConfig, WorldConfig
from gleanings.driving.learn.contract import make_contract
from gleanings.driving.learn.drives import Driver, drive
from gleanings.driving.learn.episode_clips import episode_clips, worst_failures

from ._drivers import CHUNK, WORLD, family_bank, family_scenes
from ._outcomes import outcomes_with

TRACES = []


@pytest.fixture(autouse=True)
def _chunks(monkeypatch):
    monkeypatch.setattr(drives_module, "_CPU_CHUNK", CHUNK)


class Same(Driver):
    """One action for all; notes when it is traced."""

    u: np.ndarray

    def __call__(self, scene, state, obs, key):
        TRACES.append(1)
        return jnp.asarray(self.u)


def read(fragment: str) -> dict:
    found = re.search(r'<script type="application/json">(.*?)</script>', fragment, re.DOTALL)
    assert found
    return json.loads(found[1])


def ego_path(clip: dict, panel: int) -> np.ndarray:
    """[F, 2] of the ego, in slot 0."""
    part = clip["rollouts"][panel]
    assert part["slots"][0] == 0
    columns = []
    for name in ("x", "y"):
        kind, scale, text = part["pose"][name]
        raw = np.frombuffer(base64.b64decode(text), {"i16": "<i2", "f32": "<f4"}[kind])
        columns.append(raw.reshape(-1, len(part["slots"]))[:, 0] * scale)
    return np.stack(columns, 1)


def test_a_clip_shows_the_drive_and_marks_its_first_failure():
    chosen = {"brakes": Same(np.float32([-0.5, 0])), "turns": Same(np.float32([0.1, 0.3]))}
    clips = episode_clips(WORLD, family_scenes(), chosen)
    found = [drive(WORLD, family_bank(), driver, jax.random.key(0)) for driver in chosen.values()]
    marked = 0
    for i, fragment in enumerate(clips):
        assert len(fragment.encode()) <= MOST_BYTES
        clip = read(fragment)
        assert (clip["every"], clip["frames"], [one["name"] for one in clip["rollouts"]]) == (2, 41, list(chosen))
        for panel in range(2):
            pose, failed = found[panel].pose, found[panel].collision[i] | found[panel].off_road[i]
            np.testing.assert_allclose(ego_path(clip, panel), np.stack([pose.x[i], pose.y[i]], 1), atol=0.02)
            assert clip["rollouts"][panel]["mark"] == (int(failed.argmax()) + 1 if failed.any() else None)
            marked += failed.any()
    assert marked >= len(clips)


def test_drivers_that_differ_in_numbers_share_a_program():
    drivers = {str(k): Same(np.float32([0.1 * k, 0])) for k in range(3)}
    clips = episode_clips(WORLD, family_scenes(), drivers)
    traced = len(TRACES)
    assert [len(read(one)["rollouts"]) for one in clips] == [3] * len(clips)
    episode_clips(WORLD, family_scenes(), {"other": Same(np.ones(2, np.float32))})
    assert len(TRACES) == traced


def test_the_worst_failures_are_those_of_the_hardest_scenes():
    failed = np.array([True, False, True, True, True])
    found = outcomes_with(failed, np.where(failed, 0, -1), np.zeros(5))
    difficulty = np.array([0.5, 9.0, 2.0, 0.5, 1.0])
    assert worst_failures(found, difficulty, 3).tolist() == [2, 4, 0]
    assert worst_failures(found, difficulty, 9).tolist() == [2, 4, 0, 3]
    with pytest.raises(ConfigError, match="3 difficulties of 5 scenes"):
        worst_failures(found, difficulty[:3], 3)


def test_what_cannot_be_shown_is_refused():
    class Blind(eqx.Module):
        contract = make_contract("bc", BCConfig(), WorldConfig(every=4))

    with pytest.raises(ConfigError, match="at least one driver"):
        episode_clips(WORLD, family_scenes()[:1], {})
    with pytest.raises(ConfigError, match="every is 4 in the policy, 2"):
        episode_clips(WORLD, family_scenes()[:1], {"blind": Blind()})
    assert episode_clips(WORLD, [], {"any": controls()["random"]}) == []
