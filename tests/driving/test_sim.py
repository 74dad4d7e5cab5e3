"""The simulator as a program: resuming, batching, tracing once, small states, bad actions, experts that track logs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving._scenes import straight, tiny_scene, turning

from gleanings.core.errors import ConfigError
from gleanings.driving import advance as advancing
from gleanings.driving import geometry
from gleanings.driving.agents import ConstantVelocity, LogPlayback
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle, DeltaLocal, Discrete, StateTarget
from gleanings.driving.metrics import step_metrics
from gleanings.driving.policies import expert, null
from gleanings.driving.reward import LinearReward
from gleanings.driving.sim import Simulator
from gleanings.driving.state import ALIVE, CLIPPED_ACTION, ENTERED, INVALID_ACTION, Action

KEY = jax.random.key(3)
T = 21
TRACKS = [turning(), straight(20, 5, 6), straight(40, -5, 9, valid=slice(4, 15)), straight(-9, 2, 0)]
SCENE = tiny_scene(TRACKS)
COLLIDE = ("collision", "log_divergence")


def make(dynamics=None, agents=None, **config) -> Simulator:
    config = SimConfig(**({"metrics": ()} | config))
    return Simulator(config, dynamics=dynamics or Bicycle(), agents=agents or ConstantVelocity())


class Wobble(eqx.Module):
    """Random actions, a few of them beyond the bounds; of scale 0: none."""

    scale: jax.Array

    def __call__(self, scene, state, key):
        return self.scale * jax.random.normal(key, (scene.objects.kind.shape[0], 2)) * jnp.asarray([2.0, 0.1])


WOBBLE, COAST = Wobble(jnp.float32(1)), Wobble(jnp.float32(0))
STEPS, LONG = 20, 81


@pytest.fixture(scope="module")
def sim() -> Simulator:
    """The simulator whose programs most tests here share; all objects act."""
    return make(metrics=COLLIDE, controlled="all")


def same(a, b) -> bool:
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(plain(a), plain(b), strict=True))


def plain(tree) -> list[np.ndarray]:
    """Leaves as arrays, keys as their bits."""
    typed = jax.dtypes.prng_key
    leaves = jax.tree.leaves(tree)
    return [np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, typed) else x) for x in leaves]


def test_a_rollout_resumed_from_a_file_is_bit_identical(sim, tmp_path):
    whole = sim.rollout(SCENE, WOBBLE, KEY, steps=STEPS)
    first = sim.rollout(SCENE, WOBBLE, KEY, steps=10, state=sim.reset(SCENE, KEY))
    np.savez(tmp_path / "state.npz", *plain(first.state))
    kept = np.load(tmp_path / "state.npz")
    leaves, tree = jax.tree.flatten(first.state)
    fresh = [jnp.asarray(kept[name]) for name in kept.files]
    typed = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    state = jax.tree.unflatten(
        tree, [jax.random.wrap_key_data(x) if k else x for x, k in zip(fresh, typed, strict=True)]
    )
    second = sim.rollout(SCENE, WOBBLE, KEY, steps=10, state=state)
    assert same(whole.state, second.state)
    for name in ("metrics", "reward", "done", "truncated", "actions", "flags"):
        halves = jax.tree.map(lambda a, b: np.concatenate([a, b]), getattr(first, name), getattr(second, name))
        assert same(getattr(whole, name), halves)
    assert int(second.first) == 10
    assert second.truncated.tolist() == [False] * 9 + [True]


def test_steps_one_by_one_are_the_rollout(sim):
    roll = sim.rollout(SCENE, COAST, KEY, steps=STEPS)
    step, state = jax.jit(sim.step), sim.reset(SCENE, KEY)
    null_action = sim.null_action(SCENE)
    for t in range(T - 1):
        state, out = step(SCENE, state, null_action, KEY)
        assert np.allclose(state.x, roll.trajectory.x[t + 1], atol=1e-5)
        assert bool(out.truncated) == (t == T - 2)
    assert np.array_equal(state.flags, roll.state.flags)


def test_a_batch_is_its_singles(sim):
    scenes = [SCENE, tiny_scene([turning(5.0, amplitude=0.1), straight(9, 0, 0), straight(30, 4, 3)])]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *scenes)
    keys = jax.random.split(KEY, 2)
    batch = jax.jit(jax.vmap(lambda scene, key: sim.rollout(scene, WOBBLE, key, steps=STEPS)))(stacked, keys)
    for i, scene in enumerate(scenes):
        single = sim.rollout(scene, WOBBLE, keys[i], steps=STEPS)
        found = batch.trajectory, batch.metrics, batch.flags
        row = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], found)
        for a, b in zip(plain(row), plain((single.trajectory, single.metrics, single.flags)), strict=True):
            assert np.allclose(a, b, atol=1e-4)


def test_scenes_of_one_size_are_traced_once():
    traces = []

    def counting(scene, state, key):
        traces.append(1)
        return jnp.zeros((scene.objects.kind.shape[0], 2))

    sim = make()
    for i in range(10):
        sim.rollout(tiny_scene([turning(5.0 + i), straight(20, i - 5, i)]), counting, jax.random.key(i))
    assert len(traces) == 1


def test_the_state_of_128_objects_is_small():
    scene = tiny_scene(TRACKS, slots=128)
    state = jax.eval_shape(make(metrics=COLLIDE, agents=LogPlayback()).reset, scene, KEY)
    leaves = jax.tree.leaves(state)
    assert sum(leaf.size * getattr(leaf.dtype, "itemsize", 8) for leaf in leaves) <= 10 * 1024


def test_permuted_objects_give_permuted_results(sim):
    order = [2, 0, 3, 1]
    runs = []
    for tracks, sdc in ((TRACKS, 0), ([TRACKS[i] for i in order], 1)):
        run = sim.rollout(tiny_scene(tracks, sdc=sdc), COAST, KEY, steps=STEPS)
        runs.append((run.trajectory, run.metrics, run.flags))
    for a, b in zip(plain(runs[0]), plain(runs[1]), strict=True):
        assert np.allclose(a[:, order], b[:, :4], atol=1e-5)


@pytest.mark.parametrize(
    ("config", "times"),
    [({"metrics": COLLIDE}, 1), ({"metrics": COLLIDE, "spawn": "wait"}, 1), ({"metrics": ("log_divergence",)}, 0)],
)
def test_gaps_are_taken_once_and_only_if_needed(config, times, monkeypatch):
    calls, gap_matrix = [], geometry.gap_matrix

    def counting(*arguments):
        calls.append(1)
        return gap_matrix(*arguments)

    monkeypatch.setattr(advancing, "gap_matrix", counting)
    monkeypatch.setattr(geometry, "gap_matrix", counting)
    sim = make(**config, history=1)  # a simulator that no other test has traced
    state = sim.reset(SCENE, KEY)
    calls.clear()
    jax.make_jaxpr(sim.step)(SCENE, state, None, KEY)
    assert len(calls) == times


@pytest.mark.parametrize("dynamics", [DeltaLocal(), Discrete()])
def test_unusable_actions_coast_and_are_flagged(dynamics):
    sim = make(dynamics, controlled="all")
    state, every = sim.reset(SCENE, KEY), np.ones(8, bool)
    good = np.array(sim.null_action(SCENE, state))
    coasted, _ = sim.step(SCENE, state, Action(good, every), KEY)
    bad = good.copy()
    bad[:3] = -1 if dynamics.integer else [[np.nan], [np.inf], [-np.inf]]
    for action in (Action(bad, every), Action(good, np.arange(8) > 2)):
        after, _ = sim.step(SCENE, state, action, KEY)
        assert np.allclose(after.x, coasted.x)
        assert np.allclose(after.yaw, coasted.yaw)
        assert np.array_equal(after.flags & INVALID_ACTION != 0, [1, 1, 0, 0, 0, 0, 0, 0])  # the third is not there yet


def test_actions_beyond_the_bounds_are_clipped_and_flagged():
    sim = make(controlled="all")
    state = sim.reset(SCENE, KEY)
    action = np.zeros((8, 2), np.float32)
    action[0], action[1] = [1e30, 0], [4, 0.3]
    after, _ = sim.step(SCENE, state, action, KEY)
    assert np.array_equal(after.flags & CLIPPED_ACTION != 0, [1, 1, 0, 0, 0, 0, 0, 0])
    assert np.isclose(after.accel[0], 4, atol=1e-3)


def test_uncontrolled_rows_are_ignored():
    sim = make(agents=LogPlayback())
    action = np.full((8, 2), np.nan, np.float32)
    action[0] = [1, 0]
    state = sim.reset(SCENE, KEY)
    after, _ = sim.step(SCENE, state, action, KEY)
    assert np.allclose(after.x[1], SCENE.log.x[1, 1])
    assert np.array_equal(after.flags[:2], [ALIVE | ENTERED] * 2)
    assert np.isclose(after.accel[0], 1, atol=1e-4)


@pytest.mark.parametrize(
    ("dynamics", "bound"),
    [
        (Bicycle(), 0.05),
        (DeltaLocal(), 0.001),
        (Discrete(), 0.15),
        pytest.param(StateTarget(), 1e-6, marks=pytest.mark.slow),
    ],
)
def test_the_expert_tracks_the_log(dynamics, bound):
    tracks = [turning(v, steps=LONG, amplitude=a) for v, a in ((8, 0.4), (15, 0.1), (3, 0.6), (0.8, 0.1))]
    scene = tiny_scene(tracks)
    roll = jax.device_get(make(dynamics, controlled="all").rollout(scene, expert(dynamics), KEY).trajectory)
    error = np.hypot(roll.x - scene.log.x, roll.y - scene.log.y)[:, :4]
    assert error.mean(0).max() < bound


def test_the_expert_coasts_where_the_log_is_silent():
    scene = tiny_scene([straight(0, 0, 10, steps=LONG, valid=slice(0, 5))])
    roll = make(controlled="all").rollout(scene, expert(Bicycle()), KEY)
    assert np.allclose(np.asarray(roll.trajectory.x)[:, 0], np.arange(LONG), atol=1e-3)
    assert not (np.asarray(roll.flags) & INVALID_ACTION).any()


def test_the_ring_holds_the_last_states_newest_first():
    sim = make(history=3)
    roll = sim.rollout(SCENE, null, KEY, steps=5, state=None)
    ring = roll.state.ring
    for field, past in zip(ring, roll.trajectory, strict=True):
        assert np.array_equal(field, past[4:1:-1])
    first = sim.reset(SCENE._replace(start=np.int32(2)), KEY).ring
    assert np.array_equal(first.x[:, 1], [SCENE.log.x[1, 1], SCENE.log.x[0, 1], 0])
    assert np.array_equal(first.valid[:, 1], [True, True, False])


@pytest.mark.slow
def test_the_gradient_of_log_divergence_through_a_rollout_agrees_with_differences():
    sim = make(controlled="all", metrics=("log_divergence",))

    def loss(actions):
        def policy(scene, state, key):
            return jnp.broadcast_to(actions, (8, 2))

        return sim.rollout(SCENE, policy, KEY, steps=20, record="metrics").metrics["log_divergence"].value[:, :2].sum()

    at, h = jnp.asarray([0.3, 0.01]), jnp.asarray([1e-2, 1e-4])
    value, grad = jax.jit(loss), jax.jit(jax.grad(loss))(at)
    for i in range(2):
        step = h * (jnp.arange(2) == i)
        assert np.isclose((value(at + step) - value(at - step)) / (2 * h[i]), grad[i], rtol=1e-2)


def test_rates_and_arcs_of_a_turn():
    sim, scene = make(controlled="all"), tiny_scene([straight(0, 0, 10)])
    state, _ = sim.step(scene, sim.reset(scene, KEY), np.tile(np.float32([1.0, 0.05]), (8, 1)), KEY)
    assert np.isclose(state.accel[0], 1.0, atol=1e-3)
    assert np.isclose(state.yaw_rate[0], 0.05 * 10.05, atol=1e-3)
    assert np.isclose(state.arc[0], 1.005, atol=1e-2)


def test_arcs_of_objects_that_enter_on_a_loop_lie_on_the_limb_of_their_direction():
    # A hairpin: 100 m out along y = 0, back along y = 4. The object enters on the way back, beside arc 17.5.
    arc = np.arange(288, dtype=np.float32)
    scene = tiny_scene([straight(), straight(20, 4, 5, yaw=np.pi, valid=slice(5, T))])
    scene.paths.x[1], scene.paths.y[1] = np.minimum(arc, 204 - arc), np.where(arc < 102, 0, 4)
    scene.paths.logged[1, 5:] = 186.5 + 0.5 * np.arange(T - 5)
    sim = make(controlled="all")
    state = sim.reset(scene, KEY)
    for _ in range(5):
        state, _ = sim.step(scene, state, np.zeros((8, 2), np.float32), KEY)
    assert np.isclose(state.arc[1], 186.5, atol=0.1)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (np.zeros((8, 3), np.float32), r"\(8, 3\).*\(8, 2\)"),
        (np.zeros((7, 2), np.float32), r"\(7, 2\).*\(8, 2\)"),
        (np.zeros((8, 2), np.int32), "int32.*float32"),
        (Action(np.zeros((8, 2), np.float32), np.ones(7, bool)), r"mask.*\(7,\).*\(8,\)"),
    ],
)
def test_actions_of_another_shape_or_dtype_are_refused_while_tracing(action, words):
    sim = make()
    with pytest.raises(ConfigError, match=words):
        jax.jit(sim.step)(SCENE, sim.reset(SCENE, KEY), action, KEY)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"metrics": ("crash",)}, "crash.*collision"),
        ({"terminate_on": ("crash",)}, "crash.*collision"),
        ({"start": -1}, "start -1"),
        ({"steps": 0}, "steps 0"),
        ({"history": -1}, "history -1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(config, words):
    with pytest.raises(ConfigError, match=words):
        make(**config)


def test_settings_of_another_type_are_refused():
    for name, value, words in (
        ("metrics", ["collision"], "a tuple of names"),
        ("metrics", "collision", "a tuple of names"),
        ("controlled", "ego", "ego.*predict"),
        ("on_done", "halt", "continue, stop, remove"),
        ("start", "a", "start 'a': a whole number"),
        ("steps", 2.5, "steps 2.5: a whole number"),
        ("history", True, "history True: a whole number"),
        ("road", "gridd", "grid, dense, raster"),
        ("terminate_on", ("ttc_s",), "true or false"),
    ):
        config = SimConfig()
        object.__setattr__(config, name, value)  # the tests' type checks would refuse it first
        with pytest.raises(ConfigError, match=words):
            Simulator(config, dynamics=Bicycle(), agents=LogPlayback())


def test_a_scene_may_be_a_constant_of_a_program():
    """`jit(grad(...))` over one fixed scene is the natural thing to write."""
    sim = make(metrics=("log_divergence",))
    state = jax.jit(lambda key: sim.reset(SCENE, key))(KEY)
    assert np.array_equal(state.x, sim.reset(SCENE, KEY).x)


def test_scenes_in_which_nobody_acts_are_refused():
    with pytest.raises(ConfigError, match=r"vehicles.*predict"):
        make().reset(tiny_scene(TRACKS, sdc=-1), KEY)
    with pytest.raises(ConfigError, match=r"\[7\].*100"):
        make(controlled=(7, 100)).rollout(SCENE, None, KEY)
    with pytest.raises(ConfigError, match="start 20"):
        make(start=20).reset(SCENE, KEY)
    with pytest.raises(ConfigError, match="start 20 leaves no step"):
        make().rollout(SCENE._replace(start=np.int32(20)), None, KEY)
    with pytest.raises(ConfigError, match="true or false"):
        make(terminate_on=("log_divergence",)).rollout(SCENE, None, KEY)
    with pytest.raises(ConfigError, match="one Scene"):
        make().rollout(jax.tree.map(lambda x: np.asarray(x)[None], SCENE), None, KEY, steps=2)
    with pytest.raises(ConfigError, match="0 or more"):
        make().rollout(SCENE, None, KEY, steps=-1)
    with pytest.raises(ConfigError, match="steps="):
        jax.vmap(lambda scene: make().rollout(scene, None, KEY))(jax.tree.map(lambda x: jnp.asarray(x)[None], SCENE))
    with pytest.raises(ConfigError, match="observes nothing"):
        make().observe(SCENE, make().reset(SCENE, KEY))


def test_record_and_steps():
    sim = Simulator(
        SimConfig(metrics=(), start=3, steps=5),
        dynamics=Bicycle(),
        agents=LogPlayback(),
        reward=lambda scene, previous, state, metrics: state.x - previous.x,
        observation=lambda scene, state: state.x[:2],
    )
    whole = sim.rollout(SCENE, None, KEY, record="all")
    assert whole.trajectory is not None
    assert whole.observation.shape == (5, 2)
    assert np.array_equal(whole.observation, whole.trajectory.x[1:, :2])
    assert np.allclose(whole.reward[:, 1], 0.6, atol=1e-4)
    assert whole.truncated.tolist() == [False] * 4 + [True]
    assert jax.eval_shape(lambda key: sim.rollout(SCENE, None, key, record="metrics"), KEY).trajectory is None
    assert jax.eval_shape(lambda key: sim.rollout(SCENE, None, key), KEY).observation is None
    assert np.array_equal(whole.controlled, np.arange(8) == 0)


def test_a_reward_is_one_value_an_object():
    sim = Simulator(SimConfig(metrics=()), agents=LogPlayback(), reward=lambda *step: jnp.float32(0))
    with pytest.raises(ConfigError, match=r"a reward of shape \(\)"):
        jax.eval_shape(lambda: sim.rollout(SCENE, None, KEY, steps=2))
    with pytest.raises(ConfigError, match=r"one value an object is needed, \(8,\)"):
        jax.eval_shape(lambda: sim.step(SCENE, sim.reset(SCENE, KEY), None, KEY))


def test_excused_overlaps_must_be_known_to_measure_contacts():
    state = make().reset(SCENE, KEY)
    with pytest.raises(ConfigError, match="excuse_overlap=False"):
        step_metrics(SCENE, state, state, COLLIDE)
    step_metrics(SCENE, state, state, ("infeasible",))


def test_action_specs():
    assert np.allclose(make(DeltaLocal()).spec_at(0.5).high, [30, 30, np.pi])
    spec = make().action_spec
    assert np.allclose([spec.low, spec.high], [[-8, -0.22], [4, 0.22]])
    assert np.allclose(make(controlled="all").action_spec.high, [4, 3])
    spec = make(Discrete()).action_spec
    assert (spec.low.tolist(), spec.high.tolist(), spec.shape, spec.dtype) == ([0], [272], (1,), np.int32)


def test_null_actions():
    assert np.array_equal(make().null_action(SCENE), np.zeros((8, 2)))
    assert np.array_equal(make(Discrete()).null_action(SCENE), np.full((8, 1), 136))
    assert np.isnan(make(DeltaLocal()).null_action(SCENE)[:, 0]).all()


def test_a_reward_gets_the_metrics_it_names():
    reward = LinearReward({"log_divergence": -1.0})
    sim = Simulator(SimConfig(metrics=()), dynamics=Bicycle(), agents=LogPlayback(), reward=reward)
    assert sim.names == ("log_divergence",)
    roll_ = sim.rollout(SCENE, None, KEY, steps=3)
    assert np.array_equal(roll_.reward, -roll_.metrics["log_divergence"].value)
