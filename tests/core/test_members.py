"""Members of a training: metrics of each, and `Freeze`: one that is lost stays, the others go on as before."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.core.errors import ConfigError, NumericsError
from gleanings.core.loop import Freeze, Rollback, Skip, Stop, fit
from gleanings.core.metrics import read_metrics
from gleanings.core.rundir import RunDirectory

MEMBERS = ("seed 2", "seed 3", "seed 5")
NEVER = (0, 0, 0)


def start(bad_at):
    """Member k gets something bad at step bad_at[k]."""
    keys = jax.random.split(jax.random.key(1), 3)
    weights = {"w": jnp.ones((3, 2, 2)), "half": jnp.zeros((3, 4), jnp.bfloat16), "flags": jnp.zeros((3, 0), bool)}
    return weights | {"key": keys, "step": jnp.zeros(3, jnp.int32), "bad_at": jnp.asarray(bad_at, jnp.int32)}


def update(state, batch, key, leaf="w", value=np.nan):
    """Members walk at random, each by its own key; the bad update is bad in one leaf, or in a metric."""

    def one(state, index):
        noise = jax.random.normal(jax.random.fold_in(key, index), (2, 2))
        step = state["step"] + 1
        bad = jnp.where(step == state["bad_at"], value, 0.0)
        new = state | {"w": 0.9 * state["w"] + noise, "half": state["half"] + 1, "step": step}
        new |= {"key": jax.random.fold_in(state["key"], 1)}
        loss = jnp.square(new["w"]).sum() + (bad if leaf == "loss" else 0.0)
        if leaf != "loss":
            new[leaf] = new[leaf] + bad.astype(new[leaf].dtype)
        return new, {"loss": loss, "count": step}

    return jax.vmap(one)(state, jnp.arange(3))


def run_to(steps, bad_at, *, leaf="w", value=np.nan, stop_after=None, **options):
    settings: dict[str, Any] = {"on_nonfinite": Freeze(), "members": MEMBERS, "log_every": 5, "progress": False}
    events, settings = [], settings | options
    for event in fit(lambda s, b, k: update(s, b, k, leaf, value), start(bad_at), steps=steps, seed=3, **settings):
        events.append(event)
        if len(events) == stop_after:
            break
    return events


def rows_of(state, members):
    state = state | {"key": jax.random.key_data(state["key"])}
    return {name: np.asarray(array, np.float64)[list(members)] for name, array in state.items() if name != "bad_at"}


def assert_same_bits(one, other, members=(0, 1, 2)):
    jax.tree.map(np.testing.assert_array_equal, rows_of(one, members), rows_of(other, members))


@pytest.fixture(scope="module")
def healthy():
    """The state at each step of a run in which nothing is bad, by the same program."""
    return {event.step: event.state for event in run_to(20, NEVER, log_every=1)}


@pytest.mark.parametrize(
    ("leaf", "value", "lost", "step"),
    [("w", np.nan, 1, 7), ("half", np.inf, 0, 1), ("loss", -np.inf, 2, 20), ("loss", np.nan, 1, 10)],
)
def test_a_lost_member_stays_as_it_was_and_the_others_do_not_notice(healthy, leaf, value, lost, step):
    bad_at = [step if k == lost else 0 for k in range(3)]
    *_, last = run_to(20, bad_at, leaf=leaf, value=value)
    assert last.frozen == {MEMBERS[lost]: step}
    assert_same_bits(last.state, healthy[20], set(range(3)) - {lost})
    before = healthy[step - 1] if step > 1 else start(NEVER)
    assert_same_bits(last.state, before, {lost})  # although every update after the bad one is finite


def test_means_are_over_those_alive_and_what_is_lost_has_no_metrics():
    alone = {event.step: event.metrics for event in run_to(20, NEVER)}
    events = run_to(20, (0, 7, 16))
    assert [(event.step, event.metrics["frozen"]) for event in events] == [(5, 0), (10, 1), (15, 1), (20, 2)]
    assert events[0].metrics == alone[5]
    assert events[1].frozen == {"seed 3": 7}
    own = {f"seed-{seed}/loss": alone[10][f"seed-{seed}/loss"] for seed in (2, 5)}
    counts = {"frozen": 1.0, "count": 10.0, "seed-2/count": 10.0, "seed-5/count": 10.0}
    assert events[1].metrics == own | counts | {"loss": pytest.approx(np.mean(list(own.values())), rel=1e-6)}
    assert events[3].metrics["loss"] == alone[20]["seed-2/loss"]


@pytest.mark.parametrize("policy", [Stop(), Skip(), Rollback(times=1, halve_rate=False)])
def test_values_of_members_are_metrics_with_any_policy(tmp_path, policy):
    with RunDirectory.create(tmp_path / "r", {}) as run:
        (event,) = run_to(5, NEVER, on_nonfinite=policy, run=run)
    expected = np.square(event.state["w"]).sum((1, 2))
    assert [event.metrics[f"seed-{seed}/loss"] for seed in (2, 3, 5)] == pytest.approx(expected.tolist(), rel=1e-5)
    assert event.metrics["loss"] == pytest.approx(expected.mean(), rel=1e-5)
    assert "frozen" not in event.metrics
    assert event.frozen == {}


def test_stop_names_the_metric_of_the_member():
    with pytest.raises(NumericsError) as caught:
        run_to(20, (0, 7, 0), leaf="loss", on_nonfinite=Stop())
    assert (caught.value.step, caught.value.names) == (7, ("metrics/loss", "metrics/seed-3/loss"))


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_run_with_frozen_members_goes_on_to_the_same_bits(tmp_path, stop_after, capsys):
    bad_at = (0, 7, 12)
    whole = run_to(20, bad_at)
    for resume in (False, True):
        with RunDirectory.create(tmp_path / "r", {}, resume=resume) as run:
            events = run_to(20, bad_at, run=run, save_every=5, stop_after=None if resume else stop_after, progress=True)
        notes = [line for line in capsys.readouterr().err.splitlines() if "frozen" in line]
        seen = {"seed 3": 7, "seed 5": 12} if resume else events[-1].frozen
        assert notes == [f"{member} is frozen: NaN or infinity at step {step}" for member, step in seen.items()]
    assert_same_bits(events[-1].state, whole[-1].state)
    assert (events[-1].metrics, events[-1].frozen) == (whole[-1].metrics, whole[-1].frozen)
    rows = read_metrics(tmp_path / "r" / "metrics.jsonl").rows
    assert [(row["step"], row["frozen"]) for row in rows] == [(5, 0), (10, 1), (15, 2), (20, 2)]
    with RunDirectory.create(tmp_path / "r", {}, resume=True) as run:
        (again,) = run_to(20, bad_at, run=run)
        assert (again.metrics, again.frozen) == (whole[-1].metrics, whole[-1].frozen)
        changes: Any = {"on_nonfinite": Stop()}, {"members": ("seed 2", "seed 4", "seed 5")}
        for change in changes:
            with pytest.raises(ConfigError, match="on_nonfinite: frozen in this run are seed 3 since step 7, seed 5"):
                run_to(30, bad_at, run=run, **change)


def test_a_run_that_stopped_goes_on_without_the_member_that_stopped_it(tmp_path):
    with pytest.raises(NumericsError, match="step 7"), RunDirectory.create(tmp_path / "r", {}) as run:
        run_to(20, (0, 7, 0), run=run, save_every=5, on_nonfinite=Stop())
    with RunDirectory.create(tmp_path / "r", {}, resume=True) as run:
        events = run_to(20, (0, 7, 0), run=run, save_every=5)
    assert (events[0].step, events[-1].frozen) == (10, {"seed 3": 7})


def test_nobody_left_is_an_error(tmp_path):
    with (
        pytest.raises(NumericsError, match=r"step 12: .* in seed 2, seed 5; no other member is left.*: w") as caught,
        RunDirectory.create(tmp_path / "r", {}) as run,
    ):
        run_to(20, (12, 7, 12), run=run, save_every=5)
    assert (caught.value.step, caught.value.names) == (12, ("w",))
    assert run.checkpoints.steps() == [5, 10]


def test_a_metric_of_all_that_is_not_finite_is_an_error():
    def mean(state, batch, key):
        new, metrics = update(state, batch, key, "loss")
        return new, {"mean": metrics["loss"].mean()}

    options: Any = {"members": MEMBERS, "on_nonfinite": Freeze(), "progress": False}
    with pytest.raises(NumericsError, match=r"step 7: .*\(non-finite: metrics/mean\)"):
        list(fit(mean, start((0, 7, 0)), steps=20, seed=3, **options))


def test_freezing_is_traced_and_compiled_once(caplog):
    traces = []

    def counted(state, batch, key):
        traces.append(1)
        return update(state, batch, key)

    options = {"members": MEMBERS, "on_nonfinite": Freeze(), "log_every": 4, "progress": False}
    with jax.log_compiles():
        *_, last = fit(counted, start((0, 7, 0)), steps=60, seed=0, **options)
    assert last.frozen == {"seed 3": 7}
    assert len(traces) == 1
    assert len([r for r in caplog.records if r.getMessage().startswith("Compiling jit(run)")]) == 1


def test_members_on_several_devices(healthy, caplog):
    mesh = jax.make_mesh((3,), ("seeds",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:3])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("seeds"))
    state = jax.device_put(start((0, 7, 0)), sharding)
    options = {"members": MEMBERS, "on_nonfinite": Freeze(), "progress": False, "log_every": 5}
    with jax.log_compiles():
        *_, last = fit(update, state, steps=20, seed=3, **options)
    assert len([r for r in caplog.records if r.getMessage().startswith("Compiling jit(run)")]) == 1
    assert (last.frozen, last.state["w"].sharding) == ({"seed 3": 7}, sharding)
    np.testing.assert_allclose(last.state["w"][0], healthy[20]["w"][0], rtol=1e-5)
    np.testing.assert_allclose(last.state["w"][1], healthy[6]["w"][1], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": ()}, "Freeze needs members"),
        ({"members": ("a", "b", "a")}, "none twice"),
        ({"members": ("a", "b")}, "members: 2 are named"),
        ({"update": lambda s, b, k: (s, {"x": jnp.zeros(2)})}, "'x' must be a scalar or have 3 values, one a member"),
        ({"update": lambda s, b, k: (s, {"x": jnp.zeros((3, 1))})}, "'x' must be a scalar or have 3 values"),
    ],
)
def test_members_that_do_not_fit(change, message):
    options = {"update": update, "members": MEMBERS, "on_nonfinite": Freeze(), "progress": False} | change
    with pytest.raises(ConfigError, match=message):
        list(fit(options.pop("update"), start(NEVER), steps=5, seed=0, **options))
