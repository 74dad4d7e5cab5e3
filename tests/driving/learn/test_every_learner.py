"""What holds for every algorithm, head and encoder: one trace, no transfers, finite numbers, seeds that do not mix."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.driving.learn import bc, bc_sac, dqn
from gleanings.driving.learn.config import BCConfig, BCSACConfig, DQNConfig, NetConfig

from ._toys import TINY, Toy, toy_bank, toy_labels

WORLD = Toy(horizon=4)
NETS = {
    "deep-set": NetConfig(width=4, trunk=(8,)),
    "attention": NetConfig("attention", width=4, trunk=(8,), heads=2, latents=2, blocks=1),
}
SIZES = {"batch": 8, "gradient_steps": 1}
RING = {"environments": 4, "capacity": 8}
LEARNERS = {
    "bc": (bc, lambda **more: BCConfig(**SIZES, **more)),
    "bc-sac": (bc_sac, lambda **more: BCSACConfig(**SIZES, **RING, target_entropy=-2.0, **more)),
    "sac": (bc_sac, lambda **more: BCSACConfig(**SIZES, **RING, imitation_weight=0.0, **more)),
    "dqn": (dqn, lambda **more: DQNConfig(**SIZES, **RING, bins=(3, 3), **more)),
}
HEADS = ("gaussian", "mixture", "categorical")
DEFAULT = {("dqn", None, "deep-set"), ("bc-sac", "mixture", "deep-set"), ("sac", "categorical", "deep-set")}
TABLE = [*itertools.product(("bc", "sac", "bc-sac"), HEADS, NETS), *itertools.product(("dqn",), (None,), NETS)]


def marked(case):
    marks = () if case in DEFAULT else (pytest.mark.slow,)
    return pytest.param(*case, marks=marks, id="-".join(filter(None, case)))


@pytest.mark.parametrize(("algorithm", "head", "encoder"), [*map(marked, TABLE)])
def test_an_iteration(algorithm, head, encoder):
    module, make = LEARNERS[algorithm]
    config = make(net=NETS[encoder], **({} if head is None else {"head": head}))
    seeds = [module.init(config, TINY if module is bc else WORLD, jax.random.key(seed)) for seed in (0, 1)]
    bank, labels, traces = jax.device_put(toy_bank()), jax.device_put(toy_labels(16)), []

    def update(state, key):
        traces.append(1)
        if module is bc:
            return bc.update(config, state, labels, key)
        if module is dqn:
            return dqn.update(config, WORLD, state, bank, key)
        return bc_sac.update(config, WORLD, state, bank, labels, key)

    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    many, one = jax.jit(jax.vmap(update)), jax.jit(update)
    keys = [jax.vmap(jax.random.key)(np.array([2, 3])) for _ in range(2)]
    own = [jax.random.key(seed) for seed in (2, 3)]
    with jax.transfer_guard("disallow"):
        first, metrics = many(states, keys[0])
        second, _ = many(first, keys[1])
        alone = [one(seed, key) for seed, key in zip(seeds, own, strict=True)]
    assert len(traces) == 2  # of both programs
    for leaf in jax.tree.leaves((first, second, metrics)):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()
    for name, leaf in metrics.items():
        np.testing.assert_allclose(leaf, [found[name] for _, found in alone], atol=1e-4, rtol=1e-4, err_msg=name)
    for k, (state, _) in enumerate(alone):
        for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(np.float32(ours[k]), np.float32(theirs), atol=1e-4)
    moved = jax.tree.map(lambda old, new: np.abs(old - new).max(), *(_network(s) for s in (states, second)))
    assert max(jax.tree.leaves(moved)) > 1e-5


def _network(state):
    return getattr(state, "actor", None) or state.net
