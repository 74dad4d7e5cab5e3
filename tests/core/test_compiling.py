import jax
import pytest

from gleanings.core import compiling

_ONE = "intra_op_parallelism_threads=1"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_cpu_multi_thread_eigen=false {_ONE}")
    compiling._known.cache_clear()
    yield
    compiling._known.cache_clear()


def test_this_jax_knows_every_option():
    assert compiling.for_long_runs() == compiling._ONE_THREAD


def test_an_option_that_jax_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setitem(compiling._ONE_THREAD, "xla_cpu_of_another_version", True)
    assert "xla_cpu_of_another_version" not in compiling.for_long_runs()


def test_flags_of_the_user_stay(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_cpu_prefer_vector_width=256 {_ONE}")
    assert "xla_cpu_prefer_vector_width" not in compiling.for_long_runs()


@pytest.mark.parametrize("flags", ["", "intra_op_parallelism_threads=16"])
def test_several_threads_get_no_options(monkeypatch, flags):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert compiling.for_long_runs() is None


def test_the_default_device_counts():
    with jax.default_device(jax.devices("cpu")[0]):
        assert compiling.for_long_runs() is not None
