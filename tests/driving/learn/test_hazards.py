"""Hazards: the same whatever the batch, each with its event, solved by the expert, and not by standing still."""

from dataclasses import replace

import numpy as np
import pytest

from gleanings.core.errors import ConfigError
from gleanings.driving.learn import hazards
from gleanings.driving.learn._actors import along, gaps, travelled
from gleanings.driving.learn._scripts import SCRIPTS, script
from gleanings.driving.learn._sites import STEPS
from gleanings.driving.learn.config import DemoConfig, WorldConfig
from gleanings.driving.learn.hazards import DECISIONS, KINDS, Discards, _deck, draft, make_hazards, replay
from gleanings.driving.learn.world import World
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.stack import arrays_of, check_scene

FEW = ("lead_brake", "jaywalker", "double_parked", "crossing")
EVENTS = [kind if kind in FEW else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "nothing"]


@pytest.fixture(scope="module")
def made() -> list[Scene]:
    return make_hazards(FEW, seed=3, count=12)[0]


def braking(scenes: list[Scene]) -> np.ndarray:
    """Actions that brake with 4 m/s^2 to a stop and stand."""
    speed = np.array([np.hypot(s.log.vx[1, 0], s.log.vy[1, 0]) for s in scenes])
    rows = []
    for _ in range(DECISIONS):
        u = np.maximum(-0.5, -speed / 1.6)
        speed = speed + 1.6 * u
        rows.append(np.stack([u, np.zeros_like(u)], 1))
    return np.stack(rows, 1).astype(np.float32)


def test_scenes_are_learning_scenes(made: list[Scene]):
    assert [name_of(scene) for scene in made] == [f"{FEW[k % 4]}-3-{k}" for k in range(12)]
    for scene in made:
        check_scene(scene)
        assert scene.log.x.shape == (82, 16)
        assert int(scene.start) == 1
        assert scene.objects.is_sdc.tolist() == [True] + [False] * 15
        assert scene.log.valid[:, 0].all()
        move = np.hypot(np.diff(scene.log.x[:, 0]), np.diff(scene.log.y[:, 0]))
        speed = np.hypot(scene.log.vx[:, 0], scene.log.vy[:, 0])
        np.testing.assert_allclose(move * 10, (speed[1:] + speed[:-1]) / 2, atol=0.15)
        there = scene.objects.exists
        assert (scene.paths.length[there] > 0).all()
        assert (np.diff(scene.paths.logged[0]) > -0.05).all()


def test_same_index_same_scene(made: list[Scene]):
    again = make_hazards(FEW, seed=3, count=3)[0]
    for scene, other in zip(made, again, strict=False):
        for name, array in arrays_of(other).items():
            assert np.array_equal(array, arrays_of(scene)[name], equal_nan=array.dtype.kind == "f"), name
    other = make_hazards(FEW, seed=4, count=1)[0][0]
    assert not np.array_equal(other.log.x, made[0].log.x)


def test_standing_still_is_no_way_out(made: list[Scene]):
    """Trap 2: who brakes to a stop is hit by the follower. Followers have the last id of the scripted objects."""
    world = World(WorldConfig())
    failed = replay(world, made, braking(made))
    followed = np.array([_follower(scene) is not None for scene in made])
    moving = np.array([np.hypot(s.log.vx[1, 0], s.log.vy[1, 0]) > 3 for s in made])
    assert followed.sum() >= 4
    assert failed[followed & moving].mean() >= 0.9
    assert not replay(world, made).any()  # the expert's labels, anew


def _follower(scene: Scene) -> int | None:
    """Slot of an object that starts behind the ego on its heading and follows it."""
    log, yaw = scene.log, scene.log.yaw[1, 0]
    for slot in np.flatnonzero(scene.objects.id >= 1001):
        dx, dy = log.x[1, slot] - log.x[1, 0], log.y[1, slot] - log.y[1, 0]
        ahead, left = dx * np.cos(yaw) + dy * np.sin(yaw), dy * np.cos(yaw) - dx * np.sin(yaw)
        if ahead < -4 and abs(left) < 2.5 and np.cos(log.yaw[1, slot] - yaw) > 0.7:
            return int(slot)
    return None


@pytest.mark.parametrize("kind", EVENTS)
def test_the_event_is_there(kind: str):
    """Who drives on in its lane at its first speed meets a scripted object in a good share of severe draws."""
    hit = 0
    for index in range(12):
        one = draft((kind,), 1, index, 0, DemoConfig())
        draw = replace(one.draw, severity=0.9, rng=np.random.default_rng(index))
        actors = SCRIPTS[kind](draw) or one.actors
        ego = along(draw.site.line, draw.arc + travelled(np.full(STEPS, draw.speed)), Kind.VEHICLE, draw.size)
        assert ego is not None
        assert 1 <= len(actors) <= 3
        hit += any((gaps(ego.pose, ego.size, actor.pose, actor.size)[10:] < 0).any() for actor in actors)
    assert hit >= 3, f"{hit} of 12"


def test_deck_and_errors():
    deck = _deck(KINDS, 0.3)
    assert set(deck) == set(KINDS)
    assert deck.count("nothing") / len(deck) == pytest.approx(0.3, abs=0.03)
    assert "nothing" not in _deck(KINDS, 0.0)
    with pytest.raises(ConfigError, match="nothing_share is 1"):
        DemoConfig(nothing_share=1.0)
    with pytest.raises(ConfigError, match="lead_break"):
        make_hazards(["lead_break"], seed=0, count=1)
    with pytest.raises(ConfigError, match="seed -1"):
        make_hazards(seed=-1, count=1)
    discards = Discards()
    discards.drawn["merge"], discards.failed["merge"] = 60, 26
    with pytest.raises(ConfigError, match="43% of 60 hazards 'merge'"):
        discards.check(0.4)
    discards.check(0.5)


def test_a_scene_leaves_a_map_on_which_the_expert_keeps_failing_or_that_has_no_room(monkeypatch: pytest.MonkeyPatch):
    drafts = [draft(("merge",), 1, 0, attempt, DemoConfig()) for attempt in range(3)]
    sites = [one.draw.site for one in drafts]
    assert sites[0] is sites[1]
    assert not np.array_equal(sites[2].line, sites[0].line)
    monkeypatch.setattr(hazards, "script", lambda kind, draw: None if draw.site is sites[0] else script(kind, draw))
    moved = draft(("merge",), 1, 0, 0, DemoConfig())
    assert (moved.attempt, moved.draw.site, moved.draw.arc) == (2, sites[2], drafts[2].draw.arc)
    monkeypatch.setattr(hazards, "make_site", lambda *_: None)
    with pytest.raises(ConfigError, match="'merge', seed 1, index 0: none of"):
        make_hazards(["merge"], seed=1, count=1)


@pytest.mark.slow
def test_every_kind_in_both_worlds():
    """Over 60 scenes of all kinds: braking fails before a follower, seldom among others that react, and few drop."""
    scenes, discards = make_hazards(seed=11, count=64)
    assert discards.share() < 0.2
    ran = [replay(World(WorldConfig(others="idm")), scenes[k : k + 16], braking(scenes[k : k + 16])) for k in (0, 16)]
    followed = np.array([_follower(scene) is not None for scene in scenes])
    failed = np.concatenate(
        [replay(World(WorldConfig()), scenes[k : k + 16], braking(scenes[k : k + 16])) for k in range(0, 64, 16)]
    )
    assert followed.mean() > 0.35
    assert failed[followed].mean() >= 0.85
    assert np.mean(ran) < failed[:32].mean() / 2
