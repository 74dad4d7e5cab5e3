"""Who is in the scene, and where, row by row of the table of the design; logs by hand, with gaps and late entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving._scenes import straight, tiny_scene

from gleanings.driving.agents import ConstantVelocity, LogPlayback, Mixed, SimAgent
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Scene
from gleanings.driving.sim import Simulator
from gleanings.driving.state import ALIVE, DONE, ENTERED, INVALID_ACTION, LEFT_SCENE, PARKED

KEY = jax.random.key(0)
T = 21
LONGEST = T + 2
STEPWISE = ("metrics", "reward", "done", "terminated", "truncated", "actions", "flags")
PAIR = (100, 101)  # ids of those that act where a test has one object that acts and one that reacts


def roll(tracks, agents=None, start=0, steps=None, **config):
    """Rollout of a scene, or of one with these tracks, the first one the ego, without metrics unless asked for.

    All have one length, so that a program serves many tests; what exceeds `steps` (the end of the log) is cut off.
    """
    scene = tracks if isinstance(tracks, Scene) else tiny_scene(tracks, start=start)
    config = SimConfig(**({"metrics": ()} | config))
    sim = Simulator(config, dynamics=Bicycle(), agents=LogPlayback() if agents is None else agents)
    whole = jax.device_get(sim.rollout(scene, None, KEY, steps=LONGEST)._replace(state=None))
    steps = T - 1 - start if steps is None else steps
    rows = {name: jax.tree.map(lambda rows: rows[:steps], getattr(whole, name)) for name in STEPWISE}
    return whole._replace(trajectory=jax.tree.map(lambda rows: rows[: steps + 1], whole.trajectory), **rows)


def span(*steps: slice) -> list[int]:
    return [t for s in steps for t in range(*s.indices(T))]


def alive(rollout, slot: int) -> list[int]:
    return np.flatnonzero(rollout.trajectory.valid[:, slot]).tolist()


def test_playback_is_the_log_exactly():
    seen = [span(slice(3, 7), slice(9, 15)), span(slice(0, 2)), []]
    tracks = [straight(), *(straight(20, 5, 4, valid=s, yaw=0.2) for s in seen)]
    roll_ = roll(tracks)
    log = tiny_scene(tracks).log
    for slot in (1, 2, 3):
        for ours, theirs in zip(roll_.trajectory, log, strict=True):
            assert np.array_equal(ours[:, slot], theirs[:, slot])


def test_playback_starts_at_the_start_and_ends_with_the_log():
    tracks = [straight(), straight(20, 5, 4)]
    roll_ = roll(tracks, start=6, steps=T + 2)
    assert int(roll_.first) == 6
    assert alive(roll_, 1) == list(range(T - 6))
    assert np.array_equal(roll_.trajectory.x[: T - 6, 1], tiny_scene(tracks).log.x[6:, 1])
    assert np.flatnonzero(roll_.truncated).tolist() == list(range(T - 8, T + 2))


def both(track):
    """The ego and two objects of one log, of which 101 acts and 102 reacts."""
    return [straight(-50, -6), track, track]


def test_gaps_of_the_log_change_nothing_for_objects_that_live_on_their_own():
    late = straight(0, 3, 10, valid=span(slice(0, 4), slice(9, 12)))
    roll_ = roll(both(late), ConstantVelocity(), controlled=PAIR)
    for slot in (1, 2):
        assert alive(roll_, slot) == list(range(T))
        assert np.allclose(roll_.trajectory.x[:, slot], np.arange(T), atol=1e-4)


def test_log_end_can_remove():
    short = straight(0, 3, 10, valid=span(slice(0, 8)))
    roll_ = roll(both(short), ConstantVelocity(), controlled=PAIR, log_end="remove")
    assert alive(roll_, 0) == list(range(T))
    assert alive(roll_, 1) == alive(roll_, 2) == list(range(8))
    assert roll_.done[-1, :3].tolist() == [False, True, False]


def test_late_objects_enter_as_logged_and_then_live_on():
    late = straight(0, 3, 10, valid=span(slice(5, 9)))
    roll_ = roll(both(late), ConstantVelocity(), controlled=PAIR)
    for slot in (1, 2):
        assert alive(roll_, slot) == list(range(5, T))
        assert np.allclose(roll_.trajectory.x[5:, slot], np.arange(5, T), atol=1e-4)
        assert np.all(roll_.trajectory.x[:5, slot] == 0)
        assert roll_.flags[3, slot] == 0
        assert int(roll_.flags[4, slot]) == ALIVE | ENTERED


ONE_REPLAYS = Mixed((((101,), LogPlayback()), ((102, 103), ConstantVelocity())))


def test_waiting_objects_enter_where_a_metre_is_free():
    # A replayed car passes the place at (10, 0): the cyclist enters at the first later step with 1 m free.
    passing = straight(7.5, 0, 10)
    late = straight(10, 0, 0.0, valid=span(slice(2, T)), kind=Kind.CYCLIST)
    late.x[:] += 3 * np.arange(T) / T  # moves 3 m: not parked
    tracks = [straight(-50, -6), passing, late]
    roll_ = roll(tracks, ONE_REPLAYS, spawn="wait")
    gap = np.abs(passing.x - late.x) - (4.6 + 1.8) / 2
    free = next(t for t in range(2, T) if gap[t] >= 1)
    assert free > 5
    assert alive(roll_, 2) == list(range(free, T))
    assert np.isclose(roll_.trajectory.x[free, 2], late.x[free])
    # As its log has it, a coasting car drives the same way.
    assert alive(roll(tracks, ConstantVelocity(), controlled=PAIR), 2) == list(range(2, T))


def test_two_that_wait_for_one_place_do_not_both_enter():
    late = [straight(10, y, 3, valid=span(slice(4, T))) for y in (0, 1)]
    roll_ = roll([straight(-50, -6), straight(-50, 6), *late], ONE_REPLAYS, spawn="wait")
    assert alive(roll_, 2) == list(range(4, T))
    assert alive(roll_, 3) == []


def test_what_is_seen_for_a_moment_and_fast_is_not_parked():
    late = straight(0, 3, 10, valid=span(slice(5, 7)))  # 1 m in 0.1 s
    roll_ = roll(both(late), ConstantVelocity(), controlled=PAIR)
    assert np.allclose(roll_.trajectory.x[5:, 2], np.arange(5, T), atol=1e-4)
    assert not np.any(roll_.flags[:, 2] & PARKED)


def test_parked_objects_stand_at_their_last_pose_through_gaps_of_the_log():
    parked = straight(20, 5, 0, valid=span(slice(4, 6), slice(9, 11)))
    parked.x[:] += 0.1 * np.arange(T)
    before = straight(30, 5, 0, valid=span(slice(0, 2), slice(8, 9)))
    tracks = [straight(), straight(-9), parked, before]
    roll_ = roll(tracks, ConstantVelocity(), start=3, controlled=PAIR, log_end="remove")
    assert alive(roll_, 2) == list(range(1, T - 3))
    assert np.allclose(roll_.trajectory.x[1:, 2], 21.0)
    assert np.all(roll_.trajectory.vx[:, 2] == 0)
    assert alive(roll_, 3) == list(range(T - 3))
    assert np.all(roll_.flags[:, 3] == ALIVE | ENTERED | PARKED)
    assert alive(roll(tracks, LogPlayback(), start=3), 2) == [1, 2, 6, 7]


def test_reactive_objects_leave_at_the_end_of_their_path():
    scene = tiny_scene(both(straight(0, 5, 20)))
    scene.paths.length[2] = 15.0
    roll_ = roll(scene, ConstantVelocity(), controlled=PAIR)
    # 2 m a step: at 16 m, step 8, the end is reached; it is gone one step later and does not come back.
    assert alive(roll_, 2) == list(range(9))
    assert np.flatnonzero(roll_.flags[:, 2] & LEFT_SCENE).tolist() == list(range(8, T - 1))
    scene.paths.closed[2] = True
    assert alive(roll(scene, ConstantVelocity(), controlled=PAIR), 2) == list(range(T))


class Gone(SimAgent):
    """Drops its objects at step 3, and says NaN at step 1."""

    def init(self, scene, key):
        return jnp.int32(0)

    def act(self, scene, state, own, key):
        pose = state.pose._replace(x=jnp.where(state.t == 0, jnp.nan, state.x + 1))
        return pose, state.alive & (state.t < 2), own + 1


def test_an_agent_can_drop_objects_and_nothing_that_is_not_a_number_enters():
    scene = tiny_scene([straight(), straight(5, 5, 10)])
    roll_ = Simulator(SimConfig(metrics=()), dynamics=Bicycle(), agents=Gone()).rollout(scene, None, KEY)
    assert alive(roll_, 1) == [0, 1, 2]
    assert np.array_equal(roll_.trajectory.x[:3, 1], [5, 5, 6])
    assert int(roll_.flags[0, 1]) & INVALID_ACTION
    assert int(roll_.flags[2, 1]) == ENTERED | LEFT_SCENE
    assert int(roll_.state.agents) == T - 1


COLLISION = {"metrics": ("collision",), "terminate_on": ("collision",)}


def test_what_the_ego_does_when_done():
    # The ego runs into a standing car 6 m ahead: with 1 m a step, boxes touch after 2 steps.
    tracks = [straight(0, 0, 10), straight(6, 0, 0)]
    runs = {on: roll(tracks, on_done=on, **COLLISION) for on in ("continue", "stop", "remove")}
    for run in runs.values():
        assert np.array_equal(run.done[:, 0], np.arange(1, T) >= 2)
        assert np.array_equal(run.terminated, np.arange(1, T) >= 2)
        assert not run.done[:, 1].any()
        assert int(run.flags[-1, 0]) & DONE
    assert np.allclose(runs["continue"].trajectory.x[:, 0], np.arange(T), atol=1e-4)
    assert np.allclose(runs["stop"].trajectory.x[:, 0], np.minimum(np.arange(T), 2), atol=1e-4)
    assert np.all(runs["stop"].trajectory.vx[3:, 0] == 0)
    assert alive(runs["remove"], 0) == [0, 1, 2]


@pytest.mark.parametrize("excuse", [True, False])
def test_a_pair_that_touches_when_it_meets_is_excused_until_it_parts(excuse):
    # Two replayed cars overlap from the start, part at step 8, and overlap again from step 14 on.
    first, second = straight(0, 0, 0), straight(3, 0, 0)
    second.x[8:14] += 5
    late = straight(0.5, 0, 0, valid=span(slice(4, 6), slice(10, T)))
    tracks = [straight(-50, 6), first, second, late]
    hits = roll(tracks, excuse_overlap=excuse, **COLLISION).metrics["collision"].value
    t = np.arange(1, T)
    if excuse:
        assert np.array_equal(hits[:, 2], t >= 14)
        # The late car touches both when it comes; after its gap it still has not parted from the first one.
        assert np.array_equal(hits[:, 3], t >= 14)
    else:
        assert np.array_equal(hits[:, 2], (t < 8) | (t >= 14))


def test_a_pair_apart_when_it_meets_is_not_excused_after_a_gap_of_the_log():
    coming = straight(20, 0, 0, valid=span(slice(0, 3), slice(6, T)))
    coming.x[6:] = 2
    standing = straight(0, 0, 0)
    hits = roll([straight(-50, 6), standing, coming], **COLLISION).metrics["collision"].value
    assert np.array_equal(hits[:, 1], np.arange(1, T) >= 6)


def test_heights_follow_the_road_and_the_level_below():
    scene = tiny_scene([straight(0, 0, 10), straight(0, 5, 10)])
    cells = np.arange(len(scene.ground.low))
    column = cells % 300
    ramp = np.where(column >= 80, 0.5, 0.0).astype(np.float32)  # from x = 10 m on
    far = np.where(column >= 80, np.float32(6.0), np.nan).astype(np.float32)
    scene = scene._replace(ground=scene.ground._replace(low=ramp, high=far))
    for follow, height in ((True, 0.5), (False, 0.0)):
        z = roll(scene, follow_ground=follow).trajectory.z
        assert np.allclose(z[:, 0], 0.8 + np.where(np.arange(T) >= 10, height, 0))
        assert np.allclose(z[:, 1], 0.8)
