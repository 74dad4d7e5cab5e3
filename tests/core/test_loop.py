"""The training loop: what it yields, that it resumes to the same bits, traces once, and stops when asked."""

import os
import signal
import subprocess
import sys
import threading
import warnings

import equinox as eqx
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gleanings.core import keys
from gleanings.core._leaves import split
from gleanings.core._step import compile_advance, copier
from gleanings.core.errors import CheckpointError, ConfigError, DataError
from gleanings.core.loop import Rollback, Skip, fit
from gleanings.core.metrics import read_metrics
from gleanings.core.rundir import RunDirectory

OPTIMISER = optax.sgd(0.05, momentum=0.9)


class State(eqx.Module):
    params: dict
    target: dict
    optimiser: tuple
    key: jax.Array
    activation: object
    count: int


def start():
    params = {"w": jnp.ones((4, 2)), "b": jnp.zeros(2)}
    # The target shares its buffers with the parameters: donation must cope.
    return State(params, params, OPTIMISER.init(params), jax.random.key(1), jnp.tanh, 0)


def update(state, batch, key):
    def loss(params):
        noise = 0.1 * jax.random.normal(key, (2,))
        return jnp.mean((state.activation(batch @ params["w"] + params["b"]) - 0.5 + noise) ** 2)

    value, gradient = jax.value_and_grad(loss)(state.params)
    steps, optimiser = OPTIMISER.update(gradient, state.optimiser)
    params = optax.apply_updates(state.params, steps)
    new = State(params, params, optimiser, jax.random.fold_in(state.key, 1), jnp.tanh, state.count + 1)
    return new, {"loss": value, "count": new.count}


def draw(state, key):
    return jax.random.normal(key, (8, 4))


def batches():
    numbers = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    return iter(grain.MapDataset.source(numbers).shuffle(seed=1).repeat().batch(8).to_iter_dataset())


SOURCES = {"draw": lambda: {"draw": draw}, "data": lambda: {"data": batches()}}


def run_to(steps, *, stop_after=None, **options):
    """Events of a run, left after `stop_after` events."""
    events = []
    for event in fit(update, start(), seed=3, steps=steps, progress=False, **options):
        events.append(event)
        if len(events) == stop_after:
            break
    return events


def same(a, b):
    flat = [[jax.random.key_data(x) if x.dtype == a.key.dtype else x for x in split(t).arrays] for t in (a, b)]
    return all(np.array_equal(x, y) for x, y in zip(*flat, strict=True))


def test_equals_a_plain_loop():
    state, plain = start(), eqx.filter_jit(lambda s, n: update(s, *_inputs(s, n))[0])
    for n in range(7):
        state = plain(state, jnp.int32(n))
    event = run_to(7, draw=draw)[-1]
    np.testing.assert_allclose(event.state.params["w"], state.params["w"], rtol=1e-5)
    assert (event.step, int(event.state.count), event.metrics["count"]) == (7, 7, 7.0)


def _inputs(state, n):
    return draw(state, keys.stream(3, "draw", n)), keys.stream(3, "update", n)


def test_events_come_at_logs_saves_and_the_end(tmp_path):
    with RunDirectory.create(tmp_path / "r", {}) as run:
        events = run_to(23, draw=draw, run=run, log_every=5, save_every=9)
    assert [event.step for event in events] == [5, 9, 10, 15, 18, 20, 23]
    assert [event.step for event in events if event.saved] == [9, 18, 23]
    assert run.checkpoints.steps() == [9, 18, 23]
    rows = read_metrics(run.path / "metrics.jsonl").rows
    assert [(row["step"], row["count"]) for row in rows] == [(e.step, e.step) for e in events]
    assert all(float(event.state.count) == event.step for event in events), "each state outlives the next update"


@pytest.mark.parametrize("source", SOURCES)
def test_resumed_run_is_bit_identical(tmp_path, source):
    whole = run_to(40, **SOURCES[source](), log_every=7)
    for part, options in enumerate(({"save_every": 6}, {"save_every": 11, "log_every": 5}, {"log_every": 7})):
        run = RunDirectory.create(tmp_path / "r", {}, resume=part > 0)
        events = run_to(40, **SOURCES[source](), run=run, stop_after=None if part == 2 else 4, **options)
        run.close()
    assert same(events[-1].state, whole[-1].state)
    assert events[-1].metrics == whole[-1].metrics
    steps = [row["step"] for row in read_metrics(tmp_path / "r" / "metrics.jsonl").rows]
    assert steps == sorted(set(steps)), "no row twice"


def test_a_finished_run_yields_its_end_again(tmp_path):
    with RunDirectory.create(tmp_path / "r", {}) as run:
        first = run_to(5, draw=draw, run=run)
    with RunDirectory.create(tmp_path / "r", {}, resume=True) as run:
        (again,) = run_to(5, draw=draw, run=run)
    assert same(first[-1].state, again.state)
    assert (again.step, again.metrics, again.saved) == (5, first[-1].metrics, True)


@pytest.mark.parametrize("source", SOURCES)
def test_update_is_traced_once_and_compiled_once(source, caplog):
    traces = []

    def counted(state, batch, key):
        traces.append(1)
        return update(state, batch, key)

    with jax.log_compiles(), warnings.catch_warnings():
        warnings.simplefilter("error")  # such as donated buffers that could not be used
        for _ in fit(counted, start(), steps=60, seed=0, log_every=4, progress=False, **SOURCES[source]()):
            pass
    assert len(traces) == 1
    assert len([r for r in caplog.records if r.getMessage().startswith("Compiling jit(run)")]) == 1


def test_arrays_closed_over_are_not_compiled_in():
    table = jnp.arange(100_000.0)
    leaves = split({"n": jnp.zeros(())})
    advance = compile_advance(lambda s, b, k: ({"n": s["n"] + b}, {}), lambda s, k: table[3], leaves, 0, None, False)
    arrays = copier(leaves.arrays)(leaves.arrays)
    arrays, values, health = advance.run(arrays, 0, 5, None)
    assert (float(arrays[0]), values, int(health.bad), advance.many) == (15.0, [], 0, True)


def test_convolutions_are_called_one_by_one_on_cpu():
    def convolve(state, batch, key):
        return {"x": jax.lax.conv(state["x"], jnp.ones((1, 1, 1, 1)), (1, 1), "SAME")}, {}

    advance = compile_advance(convolve, None, split({"x": jnp.ones((1, 1, 4, 4))}), 0, None, False)
    assert advance.many is (jax.default_backend() != "cpu")


def _train_until(act, **options):
    for event in fit(update, start(), steps=10**7, seed=3, draw=draw, log_every=10, progress=False, **options):
        if event.step == 50:
            act()


@pytest.mark.parametrize(("signum", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_saves_and_stops(tmp_path, signum, error):
    before = signal.getsignal(signum)
    with pytest.raises(error) as caught, RunDirectory.create(tmp_path / "r", {}) as run:
        _train_until(lambda: os.kill(os.getpid(), signum), run=run)
    if error is SystemExit:
        assert caught.value.code == 143
    assert signal.getsignal(signum) is before
    status = RunDirectory.open(run.path).status
    assert (status["status"], status["signal"]) == ("stopped", signal.Signals(signum).name)
    assert run.checkpoints.latest() == status["step"] >= 50


def test_a_second_signal_leaves_at_once():
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal was ignored")

    with pytest.raises(KeyboardInterrupt):
        _train_until(twice)


def test_other_threads_train_without_touching_signals():
    done = []
    thread = threading.Thread(target=lambda: done.extend(run_to(5, draw=draw)))
    thread.start()
    thread.join()
    assert done[-1].step == 5


OVERHEAD = """
import time, jax, jax.numpy as jnp, numpy as np
from gleanings.core.loop import fit
data = iter(lambda: np.float32(1), None)
events = fit(lambda s, b, k: ({"x": s["x"] + b}, {}), {"x": jnp.zeros(())}, steps=10**6, seed=0, data=data)
bare, x, costs = jax.jit(lambda x, b: x + b), jnp.zeros(()), []
next(events), bare(x, np.float32(1))
for _ in range(10):
    begun = time.thread_time()
    for _ in range(5):
        next(events)
    middle = time.thread_time()
    for _ in range(500):
        x = bare(x, np.float32(1))
    costs.append((2 * middle - begun - time.thread_time()) / 500)
print(min(costs))
"""


def test_overhead_per_step():
    """Seconds of processor time of the calling thread beyond a bare jitted call, without type checks."""
    output = subprocess.run([sys.executable, "-c", OVERHEAD], capture_output=True, text=True, check=True).stdout
    assert float(output) < 100e-6


def test_plain_progress_lines(monkeypatch, capsys):
    monkeypatch.setattr("gleanings.core._progress._LINE_S", 0.0)
    for _ in fit(update, start(), steps=20, seed=0, draw=draw, log_every=10):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("step 20/20  ")
    assert "/s  0 min left  count 20  loss 0." in lines[-1]


def _bad(metrics=None, **leaves):
    return lambda s, b, k: ({**s, **leaves}, metrics if metrics is not None else {"loss": jnp.zeros(())})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -1}, "steps: must be at least 0"),
        ({"save_every": 0}, "save_every"),
        ({"log_every": 0}, "log_every"),
        ({"seed": 2**31}, "seed"),
        ({"draw": draw, "data": []}, "give one of them"),
        ({"on_nonfinite": Rollback()}, "Rollback needs a run"),
        ({"update": _bad(w=jnp.zeros(4))}, r"state leaf w turns from float32\[3\] to float32\[4\]"),
        ({"update": _bad(w=jnp.zeros(3, int))}, "state leaf w turns from float32"),
        ({"update": _bad(extra=jnp.zeros(3))}, r"differs in structure from the old one: \['extra'\]"),
        ({"update": _bad(metrics=[])}, "metrics must be a dict"),
        ({"update": _bad(metrics={"a": jnp.zeros(3)})}, "metric 'a' must be a scalar"),
        ({"update": _bad(metrics={"a": {"b": 0.0}})}, "metric 'a' must be a scalar"),
        ({"data": [np.zeros(3), np.zeros(4)]}, r"a batch differs in form from the first one: float32\[4\]"),
    ],
)
def test_arguments_that_do_not_fit(change, message):
    options = {"update": _bad(), "steps": 5, "seed": 0, "progress": False, **change}
    with pytest.raises(ConfigError, match=message):
        list(fit(options.pop("update"), {"w": jnp.zeros(3)}, **options))


def test_data_that_ends_or_cannot_be_saved(tmp_path):
    with pytest.raises(DataError, match="ended after 2 batches but 5 steps"):
        list(fit(_bad(), {}, steps=5, seed=0, data=[np.zeros(3)] * 2, progress=False))
    with RunDirectory.create(tmp_path / "r", {}) as run:
        with pytest.raises(ConfigError, match="get_state"):
            fit(_bad(), {}, steps=5, seed=0, data=[], run=run)
        with pytest.raises(ConfigError, match="inject_hyperparams"):
            fit(_bad(), {}, steps=5, seed=0, run=run, on_nonfinite=Rollback())
        run_to(3, draw=draw, run=run)
        with pytest.raises(CheckpointError, match="another kind of data"):
            run_to(4, data=batches(), run=run)


def test_rows_count_skipped_updates():
    def sometimes(state, batch, key):
        return {"n": state["n"] + 1, "k": state["k"]}, {"loss": jnp.where(batch % 5 == 2, jnp.nan, 1.0)}

    data = [np.float32(n) for n in range(20)]
    state = {"n": jnp.int32(0), "k": jax.random.key(0)}
    options = {"steps": 20, "seed": 0, "log_every": 10, "on_nonfinite": Skip(), "progress": False}
    events = list(fit(sometimes, state, data=data, **options))
    assert [(int(e.state["n"]), e.metrics["skipped"]) for e in events] == [(8, 2.0), (16, 2.0)]


def test_sharded_state_resumes_in_its_place(tmp_path):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    state = {"x": jax.device_put(jnp.ones(16), sharding)}

    def noisy(state, batch, key):
        return {"x": 0.9 * state["x"] + jax.random.normal(key, (16,))}, {}

    options = {"steps": 20, "seed": 0, "log_every": 4, "progress": False}
    *_, whole = fit(noisy, state, **options)
    for resume in (False, True):
        with RunDirectory.create(tmp_path / "r", {}, resume=resume) as run:
            for event in fit(noisy, state, run=run, save_every=7, **options):
                if event.step == 16 and not resume:
                    break
    assert event.state["x"].sharding == sharding
    np.testing.assert_array_equal(event.state["x"], whole.state["x"])
