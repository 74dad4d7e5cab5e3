"""Training of several seeds in one run: bit-equal when it goes on after a stop, policies at its end, refusals."""

import jax
import numpy as np
import pytest

from gleanings.core.errors import ConfigError
from gleanings.core.metrics import read_metrics
from gleanings.driving.learn.config import BCConfig, BCSACConfig, NetConfig, WorldConfig, sac_config
from gleanings.driving.learn.demos import Demonstrations
from gleanings.driving.learn.policy import load_policy
from gleanings.driving.learn.training import algorithm_of, train
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


def test_what_cannot_be_trained_is_refused():
    assert [algorithm_of(config) for config in (BC, BCSACConfig(), sac_config())] == ["bc", "bc-sac", "sac"]
    cases = [
        ((BC, (), None), {}, "needs demonstrations"),
        ((BCSACConfig(), (), _demos()), {}, "no scenes to drive in"),
        ((BC, (), _demos()), {"seeds": (1, 1)}, "none twice"),
        ((BC, (), _demos()), {"save_every": 0}, "at least 1"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ConfigError, match=message):
            next(train(*arguments, **options))
