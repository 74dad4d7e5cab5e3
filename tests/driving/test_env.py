"""Gymnasium environments: its own checker, final observations, seeds, bad actions, many episodes."""

import gc
import importlib
import resource
import sys
import warnings

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from tests.driving._scenes import straight, tiny_scene

from gleanings.core.errors import ConfigError
from gleanings.driving.agents import LogPlayback
from gleanings.driving.config import ObserveConfig, SimConfig
from gleanings.driving.dynamics import Bicycle, Discrete
from gleanings.driving.env import DrivingEnv
from gleanings.driving.observation import observation_size, unflatten
from gleanings.driving.sim import Simulator
from gleanings.driving.vector_env import DrivingVectorEnv

SMALL = ObserveConfig(objects=2, road=2, lights=1, route=3)
SPEEDS = (5.0, 10.0, 15.0)  # tell the scenes apart in what is observed
SCENES = [tiny_scene([straight(0, 0, speed), straight(30, 0, speed)]) for speed in SPEEDS]
COAST = np.zeros(2, np.float32)


def make_sim(dynamics=None, **config) -> Simulator:
    config = {"metrics": ("collision", "off_road", "log_divergence"), "steps": 4} | config
    config = {"terminate_on": ("collision",)} | config
    return Simulator(SimConfig(**config), dynamics=dynamics or Bicycle(), agents=LogPlayback())


def make(scenes=SCENES, dynamics=None, render_mode=None, seed=None, observe=SMALL, **config) -> DrivingEnv:
    sim = make_sim(dynamics, **config)
    return DrivingEnv(scenes, sim, seed=seed, observe=observe, render_mode=render_mode)


def make_many(count: int = 6, scenes=SCENES, dynamics=None, seed=None, **config) -> DrivingVectorEnv:
    return DrivingVectorEnv(scenes, make_sim(dynamics, **config), count, seed=seed, observe=SMALL)


@pytest.mark.parametrize("dynamics", [Bicycle(), Discrete(Bicycle())], ids=["box", "discrete"])
def test_gymnasium_finds_no_fault(dynamics):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*(symmetric and normalized|infinity|having a spec)")
        check_env(make(dynamics=dynamics, render_mode="rgb_array"))


def test_an_episode_by_hand():
    env = make()
    seen, info = env.reset(seed=1, options={"scene": 1})
    assert info == {"scene": 1, "t": 0}
    assert seen.shape == env.observation_space.shape == (observation_size(SMALL),)
    assert unflatten(seen, SMALL).ego[0] == 10
    for step in range(1, 5):
        seen, reward, terminated, truncated, info = env.step(np.array([1.0, 0.0], np.float32))
        assert info["t"] == step
        assert reward == pytest.approx(-0.01 * 0.5 * (0.1 * step) ** 2, abs=1e-6)  # divergence alone
        assert unflatten(seen, SMALL).ego[0] == pytest.approx(10 + 0.1 * step, abs=1e-4)
        assert not info["collision"]
        assert info["log_divergence"] == pytest.approx(0.5 * (0.1 * step) ** 2, abs=1e-4)
        assert (terminated, truncated) == (False, step == 4)


def test_metrics_end_episodes():
    env = make([tiny_scene([straight(0, 0, 10), straight(6, 0, 0)])])
    env.reset(seed=0)
    outcomes = [env.step(COAST) for _ in range(3)]
    assert [terminated for _, _, terminated, _, _ in outcomes] == [False, True, True]
    assert outcomes[1][1] == pytest.approx(-1.0)
    assert outcomes[1][4]["collision"] is True


def test_what_is_not_defined_is_not_told():
    scene = SCENES[0]
    bare = scene._replace(edges=scene.edges._replace(z=np.full(2, np.inf, np.float32)))
    env = make([bare])
    env.reset(seed=0)
    assert "off_road" not in env.step(COAST)[4]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_bad_actions_coast_or_are_clipped(value):
    env = make()
    env.reset(seed=0, options={"scene": 1})
    seen, reward, *_, info = env.step(np.array([value, 0], np.float32))
    assert np.isfinite(seen).all()
    assert np.isfinite(reward)
    assert info["invalid_action"] == (not np.isfinite(value))
    assert info["clipped_action"] == np.isfinite(value)
    assert unflatten(seen, SMALL).ego[0] == pytest.approx(10.0 if not np.isfinite(value) else 10.4)


def test_seeds_decide():
    def play(env: DrivingEnv) -> list:
        told = [env.reset()]
        for _ in range(3):
            told += [env.reset(), *(env.step(np.array([a, 0], np.float32)) for a in (1, -1))]
        return told

    assert data_equivalence(play(make(seed=3)), play(make(seed=3)), exact=True)
    env = make()
    drawn = {seed: [env.reset(seed=seed)[1]["scene"], *(env.reset()[1]["scene"] for _ in range(8))] for seed in (1, 2)}
    assert drawn[1] != drawn[2]
    assert set(drawn[1] + drawn[2]) == {0, 1, 2}


def test_scenes_of_two_sizes_and_history():
    other = tiny_scene([straight(0, 0, 7)], slots=32)
    env = make([SCENES[0], other], observe=ObserveConfig(objects=2, frames=3, road=2))
    for scene, speed in ((0, 5), (1, 7), (0, 5)):
        seen, _ = env.reset(options={"scene": scene})
        assert seen[0] == speed


def test_a_picture_follows_the_object():
    env = make(render_mode="rgb_array")
    env.reset(seed=0, options={"scene": 2})
    before = env.render()
    assert (before.shape, before.dtype) == ((640, 640, 3), np.uint8)
    blue = before[318:322, 318:322].mean((0, 1))
    assert blue[2] > blue[0] + 100  # the controlled object, in the middle
    for _ in range(3):
        env.step(np.array([-8, 0], np.float32))  # falls behind the other car
    assert (env.render() != before).any()
    assert make().render() is None


def test_arguments_that_cannot_be_meant():
    with pytest.raises(ConfigError, match="at least one scene"):
        make([])
    with pytest.raises(ConfigError, match="drives one object"):
        make(controlled="all")
    with pytest.raises(ConfigError, match="no ego"):
        make([tiny_scene([straight()], sdc=-1)])
    with pytest.raises(ConfigError, match="render_mode 'human'"):
        make(render_mode="human")
    env = make()
    with pytest.raises(ConfigError, match="call reset"):
        env.step(COAST)
    with pytest.raises(ConfigError, match="there are 3 scenes"):
        env.reset(options={"scene": 3})
    env.reset(seed=0)
    for wrong, message in (
        (np.zeros(3, np.float32), r"\(3,\)"),
        ("left", "no array of numbers"),
        (None, "shape|numbers"),
    ):
        with pytest.raises(ConfigError, match=message):
            env.step(wrong)
    env.close()
    env.close()


@pytest.mark.parametrize("module", ["env", "vector_env"])
def test_without_gymnasium_the_error_says_what_to_install(monkeypatch, module):
    for name in [name for name in sys.modules if name.split(".")[0] == "gymnasium"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"gleanings.driving.{module}")
    with pytest.raises(ConfigError, match=r"pip install 'gleanings\[driving\]'"):
        importlib.import_module(f"gleanings.driving.{module}")


@pytest.mark.slow
def test_many_environments_equal_single_ones():
    """All environments but for their random draws: the same actions on the same scenes give the same numbers."""
    many, actions = make_many(), np.random.default_rng(0).uniform(-3, 3, (4, 6, 2)).astype(np.float32) * [1, 0.01]
    first, infos = many.reset(seed=5)
    singles = [make() for _ in range(6)]
    seen = [env.reset(options={"scene": int(scene)})[0] for env, scene in zip(singles, infos["scene"], strict=True)]
    np.testing.assert_array_equal(first, seen)
    for step, action in enumerate(actions.astype(np.float32)):
        now, reward, terminated, truncated, infos = many.step(action)
        told = [env.step(one) for env, one in zip(singles, action, strict=True)]
        final = infos.get("final_info", infos)
        np.testing.assert_allclose(reward, [one[1] for one in told], atol=1e-5)
        assert terminated.tolist() == [one[2] for one in told]
        assert truncated.tolist() == [one[3] for one in told] == [step == 3] * 6
        for name in told[0][4]:
            assert final[f"_{name}"].all()
            np.testing.assert_allclose(final[name], [one[4][name] for one in told], atol=1e-5)
        rows = np.stack(infos["final_obs"]) if step == 3 else now
        np.testing.assert_allclose(rows, [one[0] for one in told], atol=1e-5)


def test_the_last_observation_is_of_the_old_scene():
    many, speed = make_many(), np.array(SPEEDS)
    seen, infos = many.reset(seed=0)
    scenes, visited = infos["scene"], set()
    for step in range(1, 25):
        seen, _, _, truncated, infos = many.step(np.zeros((6, 2), np.float32))
        assert truncated.all() == (step % 4 == 0)
        if not truncated.any():
            assert "final_obs" not in infos
            assert infos["scene"].tolist() == scenes.tolist()
            continue
        final = np.stack(infos["final_obs"])
        np.testing.assert_allclose(final[:, 0], speed[scenes], atol=1e-5)
        assert infos["final_info"]["scene"].tolist() == scenes.tolist()
        assert infos["final_info"]["t"].tolist() == [4] * 6
        assert infos["t"].tolist() == [0] * 6
        assert "collision" not in infos  # nothing is measured of a first state
        scenes = infos["scene"]
        np.testing.assert_allclose(seen[:, 0], speed[scenes], atol=1e-5)
        visited |= set(scenes.tolist())
    assert visited == {0, 1, 2}


def test_episodes_end_apart():
    scenes = [tiny_scene([straight(0, 0, 10), straight(6 + far, 0, 0)]) for far in (0, 1, 9)]
    many, life = make_many(scenes=scenes), np.array([2, 3, 4])  # the gap is 1.4 m and more, a metre goes in a step
    _, infos = many.reset(seed=1)
    scene, age, apart = infos["scene"], np.zeros(6, int), 0
    for _ in range(12):
        _, _, terminated, truncated, infos = many.step(np.zeros((6, 2), np.float32))
        age += 1
        over = age == life[scene]
        np.testing.assert_array_equal(terminated, over & (scene < 2))
        np.testing.assert_array_equal(truncated, over & (scene == 2))
        if over.any():
            final, apart = infos["final_info"], apart + (not over.all())
            assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == over.tolist()
            assert [row is not None for row in infos["final_obs"]] == over.tolist()
            assert final["_collision"].tolist() == over.tolist()
            assert final["collision"].tolist() == terminated.tolist()
            assert not infos.get("collision", np.zeros(1)).any()
        age, scene = np.where(over, 0, age), infos["scene"]
        assert infos["t"].tolist() == age.tolist()
    assert apart > 3


def test_a_vector_environment_keeps_gymnasiums_contract():
    many = make_many(seed=4)
    assert many.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.SAME_STEP
    many.action_space.seed(0)
    runs = []
    for env in (many, make_many(seed=4)):
        told = [env.reset()]
        env.action_space.seed(0)
        for _ in range(5):
            told.append(env.step(env.action_space.sample()))
            seen, reward, terminated, truncated, infos = told[-1]
            assert seen in env.observation_space
            assert reward.shape == terminated.shape == truncated.shape == (6,)
            assert (terminated.dtype, truncated.dtype) == (bool, bool)
            assert all(name.startswith("_") or f"_{name}" in infos for name in infos)
        runs.append(told)
    assert data_equivalence(*runs, exact=True)
    first, _ = many.reset(seed=7)
    again, _ = many.reset(seed=[7, 8, 9, 10, 11, 12])
    np.testing.assert_array_equal(first, again)
    kept = first.copy()
    first += 1  # what was returned belongs to the caller
    np.testing.assert_array_equal(many.reset(seed=7)[0], kept)
    later = [many.reset()[0] for _ in range(3)]
    for seed in (7, [7, 8, 9, 10, 11, 12]):  # what follows a seed follows from it
        many.reset(seed=seed)
        np.testing.assert_array_equal([many.reset()[0] for _ in range(3)], later)
    many.close()
    with pytest.raises(ConfigError, match="call reset"):
        many.step(np.zeros((6, 2)))


def test_scenes_are_padded_or_refused():
    small, large = SCENES[0], tiny_scene([straight(0, 0, 7)], slots=32)
    many = make_many(scenes=[small, large])
    seen, infos = many.reset(seed=0)
    np.testing.assert_array_equal(seen[:, 0], np.array([5, 7])[infos["scene"]])
    with pytest.raises(ConfigError, match=r"scenes differ in T \[21, 31\]"):
        make_many(2, [small, tiny_scene([straight(steps=31)])])
    with pytest.raises(ConfigError, match="num_envs 0"):
        make_many(0)
    for options in ({"scene": 99}, {"scene": 0}):
        with pytest.raises(ConfigError, match="takes no options"):
            many.reset(seed=0, options=options)
    with pytest.raises(ConfigError, match="2 seeds for 6"):
        many.reset(seed=[1, 2])


def play(env: DrivingEnv | DrivingVectorEnv, episodes: int, seed: int) -> None:
    """Random actions, one in ten not a number, until so many episodes are over."""
    rng, done = np.random.default_rng(seed), 0
    seen, _ = env.reset(seed=seed)
    while done < episodes:
        action = rng.uniform(-9, 9, env.action_space.shape).astype(np.float32)
        action[rng.random(action.shape) < 0.1] = np.nan
        seen, reward, terminated, truncated, _ = env.step(action)
        assert np.isfinite(seen).all()
        assert np.isfinite(reward).all()
        over = np.sum(terminated | truncated)
        done += int(over)
        if over and isinstance(env, DrivingEnv):
            env.reset()


def held() -> tuple[int, float]:
    """Live arrays, and the largest resident memory so far in MB."""
    gc.collect()
    return len(jax.live_arrays()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("episodes", [50, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("many", [False, True], ids=["single", "vector"])
def test_episodes_leave_nothing_behind(many, episodes):
    env = make_many() if many else make()
    play(env, 20, seed=0)
    arrays, memory = held()
    play(env, episodes, seed=1)
    now, after = held()
    assert now <= arrays + 2
    assert after <= memory + 20
