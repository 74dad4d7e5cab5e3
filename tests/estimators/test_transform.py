"""`expect` under every transformation of jax, held against the plain estimator and against enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from gleanings.core.errors import GleaningsError
from gleanings.estimators import (
    ARSPlus,
    CoupledLOO,
    DisARM,
    DisARMIW,
    LocalExpectation,
    ReinforceLOO,
    ReinMax,
    expect,
)

from ._oracle import all_outcomes, softmax, toy

MEMBERS = {
    "coupled": CoupledLOO(),
    "stick": CoupledLOO(3, structure="stick"),
    "local": LocalExpectation(),
    "iw": DisARMIW(),
    "reinmax": ReinMax(),
}
pytestmark = pytest.mark.plain_compilation
D, K, B = 2, 3, 8
PARAMS = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(D * K, 4)), jnp.float32), "c": jnp.ones(4)}


def f(params, z):
    return jnp.tanh(z.reshape(*z.shape[:-2], -1) @ params["w"]) @ params["c"]


def logits_of(*shape: int, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, D, K)), jnp.float32)


def loss_of(member):
    objective = expect(member)(f)
    return lambda logits, params, key: objective(params, logits, key).sum()


def plain(member, logits, key):
    """Value, cotangent and the pathwise gradient in params, all from the estimator's own call."""
    value, cotangent = member(lambda z: f(PARAMS, z), logits, key)
    pathwise = jax.grad(lambda p: member(lambda z: f(p, z), logits, jax.random.clone(key))[0].sum())(PARAMS)
    return value, cotangent, pathwise


def close(found, expected, tolerance=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=1e-5), found, expected)


@pytest.mark.parametrize("name", MEMBERS)
def test_gradient_is_the_plain_cotangent_under_jit_checkpoint_and_jvp(name):
    member, logits = MEMBERS[name], logits_of(B)

    objective, loss, v = expect(member)(f), loss_of(member), logits_of(B, seed=9)

    @jax.jit
    def run(logits, params, key):
        again = jax.random.clone  # the same key on purpose
        gradients = jax.grad(loss, (0, 1))(logits, params, again(key))
        moved = jax.jvp(lambda x: objective(params, x, again(key)), (logits,), (v,))
        return plain(member, logits, again(key)), gradients, moved

    (value, cotangent, pathwise), gradients, moved = run(logits, PARAMS, jax.random.key(3))
    close(gradients, (cotangent, pathwise))
    close(moved, (value, np.asarray(cotangent * v).sum((-2, -1))))
    with jax.debug_key_reuse(False):  # a rematerialised draw consumes its key once more
        rematerialised = jax.jit(jax.grad(jax.checkpoint(loss), (0, 1)))(logits, PARAMS, jax.random.key(3))
    close(rematerialised, (cotangent, pathwise))


@pytest.mark.parametrize("name", ["coupled", "local", "reinmax"])
def test_vmap_and_scan_equal_single_calls(name):
    member, logits, keys = MEMBERS[name], logits_of(B), jax.random.split(jax.random.key(5), B)
    gradient = jax.jit(jax.grad(loss_of(member), (0, 1)))
    single = jax.tree.map(lambda *x: np.stack(x), *[gradient(logits[i], PARAMS, keys[i]) for i in range(B)])
    again = jax.random.clone(keys)
    close(jax.jit(jax.vmap(gradient, (0, None, 0)))(logits, PARAMS, again), single)

    def step(carry, x):
        return carry, gradient(x[0], PARAMS, x[1])

    close(jax.jit(lambda k: jax.lax.scan(step, 0, (logits, k))[1])(jax.random.clone(keys)), single)


@pytest.mark.parametrize("name", ["coupled", pytest.param("local", marks=pytest.mark.slow), "reinmax"])
def test_shard_map_over_eight_devices_equals_the_shards_alone(name):
    if jax.device_count() < 8:
        pytest.skip("needs 8 forced host devices")
    member, logits, keys = MEMBERS[name], logits_of(16), jax.random.split(jax.random.key(6), 8)
    gradient = jax.jit(jax.grad(loss_of(member), (0, 1)))
    expected = [gradient(logits[2 * i : 2 * i + 2], PARAMS, keys[i]) for i in range(8)]
    data, whole = PartitionSpec("data"), PartitionSpec()

    def shard(logits, params, keys):
        return gradient(logits, params, keys[0])

    mapped = jax.shard_map(
        shard, mesh=Mesh(jax.devices()[:8], "data"), in_specs=(data, whole, data), out_specs=(data, whole)
    )
    in_logits, in_params = jax.jit(mapped)(logits, PARAMS, jax.random.clone(keys))
    close(in_logits, np.concatenate([g for g, _ in expected]))
    close(in_params, jax.tree.map(lambda *x: sum(x), *[g for _, g in expected]), 1e-5)


def test_jit_with_a_sharded_batch_equals_one_device():
    logits, key = logits_of(16), jax.random.key(2)
    mesh = Mesh(jax.devices()[:8], "data")
    sharded = jax.device_put(logits, jax.NamedSharding(mesh, PartitionSpec("data")))
    step = jax.jit(jax.grad(loss_of(CoupledLOO()), (0, 1)))
    close(step(sharded, PARAMS, key), step(logits, PARAMS, jax.random.clone(key)), 1e-5)


def test_hundred_steps_trace_f_once():
    traces = []

    def counted(params, z):
        traces.append(z.shape)
        return f(params, z)

    objective = expect(CoupledLOO())(counted)
    step = jax.jit(jax.value_and_grad(lambda x, p, key: objective(p, x, key).mean(), (0, 1)))
    logits, root = logits_of(B), jax.random.key(0)
    for i in range(100):
        _, (g, _) = step(logits, PARAMS, jax.random.fold_in(root, i))
        logits = logits - 0.1 * g
    assert traces == [(4, B, D, K)]


@pytest.mark.parametrize("name", ["coupled", "local", "reinmax"])
def test_the_gradient_in_the_logits_is_differentiable_in_params(name):
    loss, logits, key = loss_of(MEMBERS[name]), logits_of(2), jax.random.key(0)
    direction = {"w": jnp.ones((D * K, 4)), "c": jnp.arange(4.0)}

    @jax.jit
    def first_coordinates(p):
        return jax.grad(loss)(logits, p, jax.random.clone(key))[..., 0]

    def moved(step):
        return first_coordinates(jax.tree.map(lambda x, d: x + step * d, PARAMS, direction))

    _, slope = jax.jvp(first_coordinates, (PARAMS,), (direction,))
    assert float(jnp.abs(slope).max()) > 1e-2
    np.testing.assert_allclose(slope, (moved(1e-2) - moved(-1e-2)) / 2e-2, atol=2e-2)


@pytest.mark.parametrize("name", MEMBERS)
def test_second_derivatives_in_the_logits_raise(name):
    loss, logits, key = loss_of(MEMBERS[name]), logits_of(2), jax.random.key(0)

    def inner(x):
        return jax.grad(loss)(x, PARAMS, jax.random.clone(key))

    def swapped(x):
        return jax.grad(loss, 1)(x, PARAMS, jax.random.clone(key))["c"].sum()

    for attempt in [
        lambda: jax.hessian(lambda x: loss(x, PARAMS, jax.random.clone(key)))(logits),
        lambda: jax.grad(lambda x: (inner(x) ** 2).sum())(logits),
        lambda: jax.jvp(inner, (logits,), (logits,)),
        lambda: jax.grad(swapped)(logits),
    ]:
        with pytest.raises(GleaningsError, match="first order"):
            jax.make_jaxpr(attempt)()


@pytest.mark.parametrize("member", [LocalExpectation(), CoupledLOO(), ReinforceLOO(3)])
def test_params_are_twice_differentiable(member):
    """The Hessian in params is that of sum_i w_i f(params, z_i) over the same draws."""
    logits, key = logits_of(), jax.random.key(4)

    @jax.jit
    def hessians(c, key):
        draw = member.draw(logits, key)

        def direct(c):
            return (draw.weights * f({"w": PARAMS["w"], "c": jnp.sin(c)}, draw.samples)).sum()

        def through(c):
            return loss_of(member)(logits, {"w": PARAMS["w"], "c": jnp.sin(c)}, jax.random.clone(key))

        return jax.hessian(through)(c), jax.hessian(direct)(c)

    through, direct = hessians(PARAMS["c"], key)
    assert np.abs(direct).max() > 1e-2
    close(through, direct)


@pytest.mark.parametrize(
    "member", [LocalExpectation(), CoupledLOO(), ARSPlus(), pytest.param(DisARMIW(), marks=pytest.mark.slow)]
)
def test_mean_params_gradient_is_the_enumerated_one(member):
    """One set of params an example, so that each gives a sample of d E[f] / d params; |z| <= 4.5."""
    draws, logits = 20_000, np.random.default_rng(7).normal(size=(D, K))
    z = np.eye(K, dtype=np.float32)[all_outcomes(D, K)]
    q = (z * softmax(logits)).sum(-1).prod(-1)
    exact = jax.grad(lambda p: (jnp.asarray(q, jnp.float32) * f(p, jnp.asarray(z))).sum())(PARAMS)
    batched = jax.tree.map(lambda x: jnp.broadcast_to(x, (draws, *x.shape)), PARAMS)

    def one_each(params, z):
        hidden = jnp.tanh(jnp.einsum("nbi,bih->nbh", z.reshape(*z.shape[:-2], -1), params["w"]))
        return jnp.einsum("nbh,bh->nb", hidden, params["c"])

    repeated = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (draws, D, K))
    objective = expect(member)(one_each)
    found = jax.jit(jax.grad(lambda p: objective(p, repeated, jax.random.key(1)).sum()))(batched)
    for name in PARAMS:
        g = np.asarray(found[name], float)
        error = g.std(0) / draws**0.5 + 1e-6
        assert np.abs((g.mean(0) - exact[name]) / error).max() < 4.5


@pytest.mark.parametrize("variable", ["categorical", "binary"])
def test_a_python_function_behind_pure_callback_is_optimised(variable):
    """200 steps raise the expected score of a black box inside jit."""
    logits, g = toy("mlp", 3, 3, binary=variable == "binary")
    member = DisARM() if variable == "binary" else CoupledLOO()
    calls = []

    def black_box(_, z):
        def score(z):
            calls.append(z.shape)
            return g(np.asarray(z, np.float64)).astype(np.float32)

        return jax.pure_callback(score, jax.ShapeDtypeStruct(z.shape[: z.ndim - logits.ndim], z.dtype), z)

    objective = expect(member)(black_box)

    @jax.jit
    def climb(x, key):
        def step(x, key):
            value, slope = jax.value_and_grad(lambda x: objective(None, x, key).mean())(x)
            return x + slope, value

        return jax.lax.scan(step, x, jax.random.split(key, 200))

    _, values = climb(jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (16, *logits.shape)), jax.random.key(0))
    assert values[-20:].mean() > values[:20].mean() + 0.05
    assert set(calls) == {(member.num_evaluations, 16, *logits.shape)}


def test_pytree_logits_under_grad():
    logits = {"a": logits_of(4), "b": logits_of(4, seed=3)[..., :1, :2]}

    def g(params, z):
        return f(params, z["a"]) * z["b"][..., 0, 0]

    member, key = CoupledLOO(3), jax.random.key(1)
    objective = expect(member)(g)
    found = jax.jit(jax.grad(lambda x: objective(PARAMS, x, key).sum()))(logits)
    close(found, jax.jit(lambda key: member(lambda z: g(PARAMS, z), logits, key)[1])(jax.random.clone(key)))
