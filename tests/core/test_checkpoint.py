"""Checkpoints give back exactly what was saved, or say which file is wrong."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import NamedSharding, PartitionSpec

from gleanings.core.checkpoint import Checkpoints
from gleanings.core.errors import CheckpointError, ConfigError


class State(eqx.Module):
    params: dict
    key: jax.Array
    activation: object
    step: int
    name: str = eqx.field(static=True)


def _state(seed=0):
    key = jax.random.key(seed)
    params = {
        "w/1": jax.random.normal(jax.random.key(seed + 1), (3, 4)),
        "half": jnp.arange(5, dtype=jnp.bfloat16),
        "int": jnp.int8(-3),
        "flag": jnp.array([True, False]),
        "none": None,
        "empty": jnp.zeros((0, 2)),
        "double": np.linspace(0, 1, 7),
        "scalar": np.float64(0.1),
    }
    return State(params, jax.random.split(key, 2), jax.nn.relu, 7 + seed, "agent")


def _leaves(tree):
    def plain(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return [plain(x) if hasattr(x, "dtype") else x for x in jax.tree.leaves(tree)]


def _assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(_leaves(a), _leaves(b), strict=True):
        assert type(x) is type(y)
        if hasattr(x, "dtype"):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
        else:
            assert x == y


def test_round_trip_of_every_kind_of_leaf(tmp_path):
    store = Checkpoints(tmp_path / "c")
    store.save(3, _state(1), {"position": [1, 2]}, {"loss": 0.5})
    restored = store.restore(_state(0))
    _assert_same(restored.state, _state(1))
    assert (restored.step, restored.data_state) == (3, {"position": [1, 2]})
    assert (restored.metrics, restored.skipped) == ({"loss": 0.5}, ())
    jax.random.normal(restored.state.key[0])


_arrays = st.sampled_from([np.float32, np.float64, np.int16, np.uint32, np.bool_]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=st.recursive(_arrays, lambda inner: st.dictionaries(st.text(), inner, max_size=3), max_leaves=4))
def test_round_trip_of_any_tree(tmp_path, tree):
    store = Checkpoints(tmp_path / "c", keep=1)
    store.save(0, {"tree": tree})
    _assert_same(store.restore({"tree": tree}).state, {"tree": tree})


def test_sharded_arrays_take_the_placement_of_like(tmp_path):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axis)) for axis in (["data"], []))
    values = jnp.arange(16.0)
    store = Checkpoints(tmp_path / "c")
    store.save(0, {"x": jax.device_put(values, split)})
    for sharding in (whole, split):
        restored = store.restore({"x": jax.device_put(jnp.zeros(16), sharding)}).state["x"]
        assert restored.sharding == sharding
        np.testing.assert_array_equal(restored, values)
    assert not store.restore({"x": jnp.zeros(16)}).state["x"].committed


@pytest.mark.parametrize(
    ("saved", "like", "message"),
    [
        ({"w": jnp.zeros(3)}, {"w": jnp.zeros(3, jnp.bfloat16)}, r"leaf w is float32\[3\] there but bfloat16\[3\]"),
        ({"w": jnp.zeros(3)}, {"w": jnp.zeros((3, 1))}, r"leaf w is float32\[3\] there but float32\[3, 1\]"),
        ({"w": jnp.zeros(3)}, {}, r"leaf w is float32\[3\] there but absent"),
        ({}, {"a": {"b": jnp.zeros(3)}}, r"leaf a/b is absent there but float32\[3\]"),
        ({"k": jax.random.key(0)}, {"k": jax.random.key(0, impl="rbg")}, r"leaf k is key<fry>"),
    ],
)
def test_another_form_is_refused_not_cast(tmp_path, saved, like, message):
    store = Checkpoints(tmp_path / "c")
    store.save(5, saved)
    with pytest.raises(CheckpointError, match=message) as caught:
        store.restore(like)
    assert caught.value.step == 5


def test_keeps_the_newest_and_the_best(tmp_path):
    store = Checkpoints(tmp_path / "c", keep=2, best="reward", mode="max")
    for step, reward in enumerate([1.0, 5.0, 5.0, 2.0, 3.0]):
        store.save(step, {"n": step}, metrics={"reward": reward})
    store.save(5, {"n": 5}, metrics={})
    assert (store.steps(), store.best(), store.latest()) == ([2, 4, 5], 2, 5)
    assert store.restore({"n": 0}, step=2).state == {"n": 2}
    assert Checkpoints(tmp_path / "c", best="reward", mode="min").best() == 4
    assert sorted(p.name for p in store.directory.iterdir()) == ["0000000002", "0000000004", "0000000005"]


def test_saving_a_step_again_replaces_it(tmp_path):
    store = Checkpoints(tmp_path / "c")
    for n in (1, 2):
        store.save(0, {"n": n})
    assert store.restore({"n": 0}).state == {"n": 2}


def test_leftovers_of_a_kill_are_no_checkpoint(tmp_path):
    store = Checkpoints(tmp_path / "c")
    store.save(1, {"n": 1})
    (store.directory / "0000000002.tmp" / "arrays").mkdir(parents=True)
    (store.directory / "0000000003").mkdir()
    restored = store.restore({"n": 0})
    assert restored.step == 1
    assert restored.skipped[0].startswith(str(store.directory / "0000000003" / "digests.json"))
    store.save(4, {"n": 4})
    assert not list(store.directory.glob("*.tmp"))


def test_errors(tmp_path):
    store = Checkpoints(tmp_path / "c")
    assert (store.latest(), store.steps(), store.best()) == (None, [], None)
    with pytest.raises(CheckpointError, match="there is none"):
        store.restore({})
    store.save(1, {"n": 1})
    with pytest.raises(CheckpointError, match=r"step 2, .*there is no such step; saved are \[1\]"):
        store.restore({"n": 0}, step=2)
    with pytest.raises(CheckpointError, match=r"step 3.*cannot be written: TypeError"):
        store.save(3, {"n": 1}, data_state={"x": object()})
    assert store.steps() == [1]
    with pytest.raises(ConfigError, match="keep"):
        Checkpoints(tmp_path, keep=0)
