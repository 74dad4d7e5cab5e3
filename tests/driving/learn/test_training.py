"""Training of several seeds in one run: bit-equal when it goes on after a stop, policies at its end, refusals."""

from dataclasses import replace
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.core.errors import ConfigError, NumericsError
from gleanings.core.metrics import read_metrics
from gleanings.driving.learn import commands, training
from gleanings.driving.learn._start import check_start, load_start, started
from gleanings.driving.learn.config import BCConfig, BCSACConfig, DQNConfig, NetConfig, WorldConfig, sac_config
from gleanings.driving.learn.demos import Demonstrations
from gleanings.driving.learn.policy import load_policy
from gleanings.driving.learn.training import Training, algorithm_of, export_policies, initial_states, train
from gleanings.driving.observation import observation_size

D = observation_size(WorldConfig().observe)
NET = NetConfig(width=8, trunk=(16,))
BC = BCConfig(net=NET, batch=16, gradient_steps=4, iterations=3)


def _demos(rows: int = 64) -> Demonstrations:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(rows, D)).astype(np.float32), rng.uniform(-0.9, 0.9, (rows, 2)).astype(np.float32)
    return Demonstrations(
        obs, action, np.ones((rows, 2), bool), np.zeros(rows, np.int32), np.arange(rows, dtype=np.int32)
    )


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path):
    options = {"seeds": (3, 5), "save_every": 1, "progress": False}
    whole = list(train(BC, (), _demos(), directory=tmp_path / "whole", **options))
    stopped = train(BC, (), _demos(), directory=tmp_path / "cut", **options)
    next(stopped)
    stopped.close()
    again = list(train(BC, (), _demos(), directory=tmp_path / "cut", resume=True, **options))
    assert again[-1].step == whole[-1].step == 3
    for one, other in zip(jax.tree.leaves(whole[-1].state), jax.tree.leaves(again[-1].state), strict=True):
        np.testing.assert_array_equal(one, other)
    rows = read_metrics(tmp_path / "cut" / "metrics.jsonl").rows
    assert [int(row["step"]) for row in rows] == [1, 2, 3]
    assert rows[-1]["seed-3/actor/bc_nll"] != rows[-1]["seed-5/actor/bc_nll"]
    policies = [load_policy(tmp_path / "cut" / "artifacts" / f"policy-{seed}") for seed in (3, 5)]
    obs = _demos().obs[:4]
    actions = [policy.act(obs) for policy in policies]
    assert np.abs(actions[0] - actions[1]).max() > 1e-4
    assert policies[0].contract.algorithm == "bc"
    with pytest.raises(ConfigError, match="data"):
        next(train(BC, (), _demos(65), directory=tmp_path / "cut", resume=True, **options))


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Untrained, of the seeds 0 and 1, and the folder that they are in."""
    config, folder = Training(BC, seeds=(0, 1)), tmp_path_factory.mktemp("policies")
    return [load_policy(path) for path in export_policies(config, initial_states(config), folder, ())], folder


def _leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_actors_start_as_the_policies_that_are_given(policies):
    policies, folder = policies
    for learner in (BC, BCSACConfig(net=NET, capacity=256)):
        config = Training(learner, seeds=(4, 5))
        plain = initial_states(config)
        states = started(plain, check_start(learner, WorldConfig(), (4, 5), policies))
        for index, policy in enumerate(policies):
            for given, actor, average in zip(
                *map(_leaves, (policy.network, states.actor, states.average)), strict=True
            ):
                np.testing.assert_array_equal(actor[index], given)
                np.testing.assert_array_equal(average[index], given)
        rest = [eqx.tree_at(lambda s: (s.actor, s.average), one, (0, 0)) for one in (plain, states)]
        for one, other in zip(*map(_leaves, rest), strict=True):
            np.testing.assert_array_equal(one, other)
    both = check_start(BC, WorldConfig(), (4, 5), policies[0])
    assert both == (policies[0], policies[0])
    assert load_start(folder / "policy-1", (7, 8))[0].contract == policies[1].contract
    found = load_start(folder, (1, 0))
    np.testing.assert_array_equal(_leaves(found[1].network)[0], _leaves(policies[0].network)[0])
    with pytest.raises(ConfigError, match=r"holds no policy, nor those of the seeds \(policy-0, policy-9\)"):
        load_start(folder, (0, 9))


def test_a_run_from_a_policy_goes_on_bit_for_bit_and_from_no_other(tmp_path, policies):
    policies, _ = policies
    options = {"seeds": (3, 5), "save_every": 1, "progress": False, "start": policies[0]}
    whole = list(train(BC, (), _demos(), **options))
    stopped = train(BC, (), _demos(), directory=tmp_path / "cut", **options)
    next(stopped)
    stopped.close()
    for other in (None, policies[1]):
        with pytest.raises(ConfigError, match="data"):
            next(train(BC, (), _demos(), directory=tmp_path / "cut", resume=True, **(options | {"start": other})))
    again = list(train(BC, (), _demos(), directory=tmp_path / "cut", resume=True, **options))
    for one, other in zip(_leaves(whole[-1].state), _leaves(again[-1].state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_policy_that_does_not_fit_is_no_start(policies):
    policy = policies[0][0]
    world = WorldConfig()
    other = replace(world, observe=replace(world.observe, objects=3))
    cases = [
        (BCConfig(net=NetConfig(width=9, trunk=(16,))), world, (0,), policy, "net is NetConfig.*width=8.*width=9"),
        (replace(BC, head="mixture"), world, (0,), policy, "head is 'gaussian' in it, 'mixture' in the training"),
        (BC, other, (0,), policy, "observe.objects is 6 in the policy, 3 in the world"),
        (BC, replace(world, every=4), (0,), policy, "every is 2 in the policy"),
        (BC, world, (0, 1, 2), [policy] * 2, "2 policies for 3 seeds"),
        (DQNConfig(net=NET), world, (0,), policy, "a DQN has none"),
    ]
    for learner, settings, seeds, start, words in cases:
        with pytest.raises(ConfigError, match=words) as caught:
            check_start(learner, settings, seeds, start)
        assert "\n" not in str(caught.value)
    check_start(BC, replace(world, reward="binary", others="idm"), (0,), policy)
    with pytest.raises(ConfigError, match="2 policies for 1 seeds"):
        next(train(BC, (), _demos(), start=[policy] * 2, progress=False))


def test_the_command_refuses_a_start_before_it_makes_scenes(tmp_path):
    cases = [
        ({"algorithm": "bc", "critic_first": 5}, "--critic-first is for sac and bc-sac"),
        ({"critic_first": -5}, "critic_first is -5"),
        ({"start": tmp_path}, "holds no policy"),
        ({"reward": "binary", "edge_m": 0.3}, "takes no edge_m"),
    ]
    for options, words in cases:
        with pytest.raises(ConfigError, match=words):
            commands.train(out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_trained_is_refused():
    assert [algorithm_of(config) for config in (BC, BCSACConfig(), sac_config())] == ["bc", "bc-sac", "sac"]
    cases = [
        ((BC, (), None), {}, "needs demonstrations"),
        ((BCSACConfig(), (), _demos()), {}, "no scenes to drive in"),
        ((BC, (), _demos()), {"seeds": (1, 1)}, "none twice"),
        ((BC, (), _demos()), {"save_every": 0}, "at least 1"),
        ((BC, (), _demos()), {"on_nonfinite": "skip"}, "on_nonfinite='skip': use stop or skip-seed"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ConfigError, match=message):
            next(train(*arguments, **options))


SEEDS = (3, 5, 7)
OPTIONS = {"seeds": SEEDS, "save_every": 1, "progress": False}
SKIP = OPTIONS | {"on_nonfinite": "skip-seed"}


@pytest.fixture
def poison(monkeypatch):
    """Sets the iteration in which each seed gets NaN, 0: never; one program for all."""
    plain, at = training._update, np.zeros(len(SEEDS), np.int32)

    def poisoned(config, *data):
        update, chosen = plain(config, *data), jnp.asarray(at[: len(config.seeds)])

        def one(states, batch, key):
            states, metrics = update(states, batch, key)
            bad = states.step == chosen * config.learner.gradient_steps
            return states, metrics | {"actor/bc_nll": jnp.where(bad, jnp.nan, metrics["actor/bc_nll"])}

        return one

    monkeypatch.setattr(training, "_update", poisoned)

    def to(*iterations: int) -> None:
        at[:] = iterations

    return to


def _row(states, k):
    return [np.asarray(leaf)[k] for leaf in jax.tree.leaves(states)]


def test_a_seed_that_gives_nan_is_left_out_and_the_others_do_not_notice(tmp_path, poison, capsys):
    healthy = list(train(BC, (), _demos(), **SKIP))
    poison(0, 2, 0)
    events = list(train(BC, (), _demos(), directory=tmp_path / "run", **(SKIP | {"progress": True})))
    assert "seed 5 is frozen: NaN or infinity at step 2" in capsys.readouterr().err.splitlines()
    assert [event.frozen for event in events] == [{}, {"seed 5": 2}, {"seed 5": 2}]
    for k, whole in enumerate((healthy[2], healthy[0], healthy[2])):
        for one, other in zip(_row(events[-1].state, k), _row(whole.state, k), strict=True):
            np.testing.assert_array_equal(one, other)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl").rows
    assert [row["frozen"] for row in rows] == [0, 1, 1]
    assert "seed-5/actor/bc_nll" in rows[0]
    assert not any(name.startswith("seed-5/") for row in rows[1:] for name in row)
    left = [healthy[2].metrics[f"seed-{seed}/actor/bc_nll"] for seed in (3, 7)]
    assert rows[2]["actor/bc_nll"] == pytest.approx(np.mean(left), rel=1e-6)
    policies = {seed: load_policy(tmp_path / "run" / "artifacts" / f"policy-{seed}") for seed in SEEDS}
    assert {seed: policy.contract.frozen_at for seed, policy in policies.items()} == {3: None, 5: 2, 7: None}
    kept = jax.tree.leaves(training.driver_of(BC, healthy[0].state, 1).actor)
    assert all(map(np.array_equal, jax.tree.leaves(policies[5].network), kept))


@pytest.mark.parametrize("done", [1, 2])
def test_a_run_with_a_frozen_seed_goes_on_bit_for_bit(tmp_path, poison, done):
    poison(0, 2, 0)
    whole = list(train(BC, (), _demos(), directory=tmp_path / "whole", **SKIP))
    cut = train(BC, (), _demos(), directory=tmp_path / "cut", **SKIP)
    for _ in range(done):
        next(cut)
    cut.close()
    again = list(train(BC, (), _demos(), directory=tmp_path / "cut", resume=True, **SKIP))
    assert (again[-1].metrics, again[-1].frozen) == (whole[-1].metrics, {"seed 5": 2})
    jax.tree.map(np.testing.assert_array_equal, again[-1].state, whole[-1].state)
    for seed in SEEDS:
        one, other = (
            {path.name: path.read_bytes() for path in (tmp_path / name / "artifacts" / f"policy-{seed}").iterdir()}
            for name in ("cut", "whole")
        )
        assert one == other


def test_a_run_that_stopped_on_nan_can_go_on_without_the_seed(tmp_path, poison):
    poison(0, 2, 0)
    with pytest.raises(NumericsError, match=r"step 2: .*seed-5/actor/bc_nll"):
        list(train(BC, (), _demos(), directory=tmp_path / "run", **OPTIONS))
    events = list(train(BC, (), _demos(), directory=tmp_path / "run", resume=True, **SKIP))
    assert (events[-1].step, events[-1].frozen) == (3, {"seed 5": 2})
    with pytest.raises(ConfigError, match="on_nonfinite: frozen in this run are seed 5 since step 2"):
        list(train(BC, (), _demos(), directory=tmp_path / "run", resume=True, **OPTIONS))


def test_without_a_seed_that_is_left_the_training_ends(poison):
    poison(2, 0, 0)
    with pytest.raises(NumericsError, match=r"step 2: .* in seed 3; no other member is left") as caught:
        list(train(BC, (), _demos(), **(SKIP | {"seeds": (3,)})))
    assert caught.value.names == ("metrics/actor/bc_nll",)


def test_a_frozen_seed_fails_in_validation(poison, monkeypatch):
    driven = []

    def outcomes(world, bank, drives):
        driven.append(drives)
        return SimpleNamespace(first_failure=np.array([-1, -1, 4, -1]), progress_ratio=np.array([0.5, 1.0, np.nan, 0]))

    fakes = {"make_bank": list, "on_device": list, "drive": lambda world, bank, driver, key: driver}
    for name, fake in (fakes | {"outcomes_of": outcomes}).items():
        monkeypatch.setattr(training, name, fake)
    poison(0, 2, 0)
    validation = (training.Scene(*[0] * len(training.Scene._fields)),)
    events = list(train(BC, (), _demos(), validation=validation, validate_every=1, **SKIP))
    found = [{name: value for name, value in event.metrics.items() if "validation" in name} for event in events]
    rates, progress = {3: 0.25, 5: 1.0, 7: 0.25}, {3: 0.5, 7: 0.5}
    expected = {f"seed-{seed}/validation/failure": value for seed, value in rates.items()}
    expected |= {f"seed-{seed}/validation/progress": value for seed, value in progress.items()}
    assert found[1] == found[2] == expected | {"validation/failure": 0.5, "validation/progress": 0.5}
    assert found[0]["validation/failure"] == 0.25
    assert len(driven) == 3 + 2 + 2
