"""Bad scenes, settings and numbers in learning to drive: one line says what, where and what to do."""

import dataclasses
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving.learn._drivers import family_scenes

from gleanings.core.errors import ConfigError, NumericsError
from gleanings.core.loop import fit
from gleanings.driving.learn import bc_sac, dqn
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.config import BCSACConfig, DQNConfig
from gleanings.driving.learn.memory import check_memory, free_bytes, need_of
from gleanings.driving.learn.world import World

pytestmark = pytest.mark.plain_compilation
BAD = 17  # the update from step 16 to step 17 gives something bad


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_members_that_are_not_finite_are_named(value):
    def update(state, batch, key):
        bad = jnp.where((state["step"] + 1 == BAD) & (jnp.arange(4) % 2 == 1), value, 0.0)
        return {"w": state["w"] + bad[:, None], "step": state["step"] + 1}, {"seed-7/loss": bad[3]}

    state = {"w": jnp.zeros((4, 3)), "step": jnp.zeros(4, jnp.int32)}
    names = tuple(f"seed {seed}" for seed in (2, 3, 5, 7))
    with pytest.raises(NumericsError, match=f"step {BAD}: .* in seed 3, seed 7 ") as caught:
        list(fit(update, state, steps=40, seed=0, members=names, progress=False))
    assert caught.value.names == ("metrics/seed-7/loss", "w")
    with pytest.raises(ConfigError, match="members: 3 are named"):
        fit(update, state, steps=40, seed=0, members=names[:3])


SETTINGS = """
import sys
from gleanings.core.errors import ConfigError
from gleanings.driving.learn.config import *
for make, words in (
    (lambda: BCSACConfig(imitation_weight=-0.1), "imitation_weight and rl_weight are (-0.1, 1.0); they are at least 0"),
    (lambda: sac_config(imitation_weight=float("nan")), "at least 0"),
    (lambda: sac_config(rl_weight=0.0), "not both 0"),
    (lambda: BCSACConfig(discount=1.0), "discount=1.0 lies in [0, 1)"),
    (lambda: DQNConfig(discount=-0.1), "lies in [0, 1)"),
    (lambda: DQNConfig(target_rate=0.0), "target_rate=0.0 in (0, 1]"),
    (lambda: DQNConfig(exploration=(1.0, 1.5)), "exploration is (1.0, 1.5); expected 0 to 1"),
    (lambda: DQNConfig(priority=-1.0), "priority is -1.0; expected 0 or more"),
    (lambda: BCSACConfig(temperature=0.0), "temperature is 0.0; expected a number above 0"),
    (lambda: BCConfig(learning_rate=float("inf")), "learning_rate is inf; expected a number above 0"),
    (lambda: BCConfig(gradient_steps=0), "gradient_steps is 0; expected 1 or more"),
    (lambda: BCConfig(head="beta"), "head='beta': choose from gaussian, mixture, categorical"),
    (lambda: NetConfig(encoder="mlp"), "encoder='mlp': choose from deep-set, attention"),
    (lambda: WorldConfig(others="sim"), "others='sim': choose from log, idm"),
    (lambda: WorldConfig(horizon=0), "horizon is 0; expected 1 or more"),
    (lambda: WorldConfig(edge_m=float("nan")), "edge_m is nan; expected 0 or more"),
    (lambda: WorldConfig(after_failure="stop"), "choose from go-on, absorb"),
    (lambda: WorldConfig(reward="dense"), "reward='dense': choose from clearance, binary"),
    (lambda: WorldConfig(reward="binary", clearance_m=2.0), "reward='binary' takes no clearance_m"),
    (lambda: BCSACConfig(critic_first=-1), "critic_first is -1; expected 0 or more"),
    (lambda: DemoConfig(follower_share=2.0), "follower_share is 2.0; expected 0 to 1"),
    (lambda: BucketConfig(percentiles=(50, 0)), "whole percents from 1 to 99"),
):
    try:
        make()
    except ConfigError as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)
assert not [name for name in sys.modules if name.partition(".")[0] in ("jax", "equinox", "numpy")]
"""


def test_settings_that_cannot_be_meant_are_refused_before_jax_is_loaded():
    subprocess.run([sys.executable, "-c", SETTINGS], check=True, timeout=60)


@pytest.mark.parametrize("learner", [BCSACConfig(), DQNConfig()], ids=["bc-sac", "dqn"])
def test_what_does_not_fit_in_memory_is_told_with_what_would(learner):
    world, scenes = World(), family_scenes()[:2] * 50
    init: Any = bc_sac.init if isinstance(learner, BCSACConfig) else dqn.init
    state = jax.eval_shape(lambda: init(learner, world, jax.random.key(0)))
    need = need_of(learner, world, 4, scenes)
    held = 4 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    bank = sum(leaf.nbytes for leaf in jax.tree.leaves(make_bank(scenes)))
    assert need.networks + learner.capacity * need.kept == held
    assert need.bank == pytest.approx(bank, rel=0.05)
    total = need.total(learner.capacity, learner.environments)
    assert 2 * held + need.bank < total < 1.2 * (2 * held + need.bank)
    check_memory(learner, world, 4, scenes, total)
    for free in (total - 1, total // 2, need.total(64, 64), need.total(64, 64) - 1, need.total(3, 3), need.total(1, 1)):
        with pytest.raises(ConfigError, match=f"{total:,} bytes are needed") as caught:
            check_memory(learner, world, 4, scenes, free)
        sizes = dict(re.findall(r"(environments|capacity)=(\d+)", str(caught.value)))
        fits = dataclasses.replace(learner, **{name: int(value) for name, value in sizes.items()})
        check_memory(fits, world, 4, scenes, free)
        step = fits.environments if "environments" not in sizes else 1
        more = need.total(fits.capacity + step, fits.environments + ("environments" in sizes))
        assert more > free
    with pytest.raises(ConfigError, match="nothing fits; take fewer seeds or scenes"):
        check_memory(learner, world, 4, scenes, need.total(1, 1) - 1)
    more = need._replace(copies=3).total(learner.capacity, learner.environments)
    assert more == total + held
    check_memory(learner, world, 4, scenes, more, copies=3)
    with pytest.raises(ConfigError, match=f"{more:,} bytes are needed .*for 3 x 4 states"):
        check_memory(learner, world, 4, scenes, total, copies=3)
    assert (free_bytes() or 2**30) > 2**20
