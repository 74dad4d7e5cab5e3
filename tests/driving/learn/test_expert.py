"""The expert: what is to come changes nothing, what it sees it sees late, and its drive is that of its actions."""

import jax
import numpy as np
import pytest

from gleanings.driving.config import ObserveConfig, SimConfig
from gleanings.driving.learn._compose import SLOTS
from gleanings.driving.learn.config import DemoConfig
from gleanings.driving.learn.expert import HISTORY, Drive, Episode, _sight, drive, noise
from gleanings.driving.learn.hazards import BATCH, draft, solve
from gleanings.driving.observation import observe_ego
from gleanings.driving.scene import Pose
from gleanings.driving.sim import Simulator

KINDS = ("jaywalker", "lead_brake", "double_parked")


@pytest.fixture(scope="module")
def episodes() -> Episode:
    drafts = [draft(KINDS, 5, index, 0, DemoConfig()) for index in range(BATCH)]
    return jax.tree.map(lambda *fields: np.stack(fields), *[one.episode for one in drafts])


@pytest.fixture(scope="module")
def driven(episodes: Episode) -> Drive:
    return jax.device_get(drive(episodes))


def test_the_drive_is_its_actions(episodes: Episode, driven: Drive):
    """Arcs of constant curvature, integrated in float64 from the actions alone."""
    x, y, yaw, v = (episodes.start[:, k].astype(float) for k in range(4))
    for k in range(driven.u.shape[1]):
        u = driven.u[:, k].astype(float)
        rate = np.where(u[:, 0] > 0, 4 * u[:, 0], 8 * u[:, 0])
        bend = u[:, 1] * np.minimum(0.22, 10 / np.maximum(v, 1) ** 2)
        for half in (1, 2):
            bend_now = np.clip(bend, *(s * np.minimum(0.22, 10 / np.maximum(v, 1) ** 2) for s in (-1, 1)))
            ds = 0.1 * v + 0.005 * rate
            chord = ds * np.sinc(bend_now * ds / 2 / np.pi)
            x, y = x + chord * np.cos(yaw + bend_now * ds / 2), y + chord * np.sin(yaw + bend_now * ds / 2)
            yaw, v = yaw + bend_now * ds, v + 0.1 * rate
            row = 2 * k + half
            np.testing.assert_allclose(driven.x[:, row], x, atol=2e-2)
            np.testing.assert_allclose(driven.y[:, row], y, atol=2e-2)
            np.testing.assert_allclose(driven.speed[:, row], v, atol=2e-3)
    assert driven.speed.min() > -1e-3


@pytest.mark.parametrize("decision", [3, 12, 25])
def test_the_future_changes_nothing(episodes: Episode, driven: Drive, decision: int):
    """Trap 3: other poses of all others after a step leave every action up to it as it was, bit for bit."""
    after = HISTORY + 2 * decision + 1
    rng = np.random.default_rng(decision)
    others = {}
    for name in ("x", "y", "yaw", "vx", "vy"):
        value = np.array(getattr(episodes.others, name))
        value[:, after:] += rng.normal(0, 5, value[:, after:].shape).astype(np.float32)
        others[name] = value
    valid = np.array(episodes.others.valid)
    valid[:, after:] ^= rng.uniform(size=valid[:, after:].shape) < 0.3
    changed = drive(episodes._replace(others=episodes.others._replace(**others, valid=valid)))
    u = np.asarray(changed.u)
    assert np.array_equal(u[:, : decision + 1], driven.u[:, : decision + 1])
    assert not np.array_equal(u[:, decision + 1 :], driven.u[:, decision + 1 :])


def test_what_appears_is_seen_late(episodes: Episode):
    """A car that appears in the lane at decision 10 changes nothing before its delay is over, and then it does."""
    others = episodes.others
    alone = others._replace(valid=np.zeros_like(others.valid))
    arc = np.minimum(episodes.start[:, 4] + 45, 150).astype(int)
    rows = np.arange(BATCH)
    place = episodes.way.points[rows, arc]
    fields = {name: np.array(getattr(others, name)) for name in others._fields}
    for name, value in (("x", place[:, 0]), ("y", place[:, 1]), ("yaw", np.arctan2(place[:, 3], place[:, 2]))):
        fields[name][:, :, 0] = value[:, None]
    fields["vx"][:, :, 0], fields["vy"][:, :, 0] = 0, 0
    fields["valid"] = np.zeros_like(others.valid)
    fields["valid"][:, HISTORY + 20 :, 0] = True
    fields["length"][:, 0], fields["width"][:, 0], fields["drives"][:, 0] = 4.6, 1.9, True
    free = np.asarray(drive(episodes._replace(others=alone)).u)
    seen = np.asarray(drive(episodes._replace(others=type(others)(**fields))).u)
    first = np.array([int(np.argmax((a != b).any(1))) for a, b in zip(free, seen, strict=True)])
    differs = (free != seen).any((1, 2))
    assert differs.mean() > 0.7
    assert (first[differs] >= 10 + episodes.delay[differs]).all()
    assert (first[differs] == 10 + episodes.delay[differs]).any()


def test_the_policy_sees_what_the_expert_sees():
    """Trap 12: along the expert's drives both have the same objects in sight, as far as the policy looks."""
    kinds = ("occluded_pedestrian", "double_parked", "jaywalker")  # without followers, of which the expert knows none
    drafts = [draft(kinds, 11, index, 0, DemoConfig(follower_share=0.0)) for index in range(BATCH)]
    scenes, _ = solve(drafts)
    config = ObserveConfig(objects=SLOTS - 1, road=0, lights=0, route=0, line_of_sight=True)
    sim = Simulator(SimConfig(metrics=()))
    observed = jax.jit(lambda scene: observe_ego(scene, sim.reset(scene, jax.random.key(0)), config))
    looked = jax.jit(_sight)
    unseen = 0
    for one, scene in zip(drafts, scenes, strict=True):
        others, log = one.episode.others, scene.log
        for row in range(int(scene.start), len(log.x), 8):
            at = row + HISTORY - int(scene.start)
            x, y, yaw, vx, vy = (field[row, 0] for field in (log.x, log.y, log.yaw, log.vx, log.vy))
            sight = looked(one.episode, np.cos(others.yaw), np.sin(others.yaw), Pose(x, y, 0.0, yaw, vx, vy), at)
            dx, dy = others.x[at] - x, others.y[at] - y
            own = np.stack([np.cos(yaw) * dx + np.sin(yaw) * dy, np.cos(yaw) * dy - np.sin(yaw) * dx], -1)
            near = np.hypot(dx, dy) < config.radius_m
            unseen += int((others.valid[at] & near & ~np.asarray(sight)).sum())
            expected = own[np.asarray(sight) & near]
            seen = observed(scene._replace(start=np.int32(row)))
            found = np.asarray(seen.others)[np.asarray(seen.others_mask)[:, 0], 0, :2]
            np.testing.assert_allclose(found, expected[np.argsort(np.hypot(*expected.T))], atol=2e-2)
    assert unseen > 20


def test_noise_has_its_size_and_memory():
    rows = np.stack([noise(np.random.default_rng(k), 40) for k in range(300)])
    np.testing.assert_allclose(rows.std((0, 1)), [0.3, 0.03], rtol=0.1)
    follow = (rows[:, 1:] * rows[:, :-1]).mean((0, 1)) / (rows**2).mean((0, 1))
    np.testing.assert_allclose(follow, np.exp(-0.2), atol=0.05)
