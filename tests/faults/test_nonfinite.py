"""NaN and infinity are found at their step, named by leaf, and handled as the policy says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gleanings.core.errors import ConfigError, NumericsError
from gleanings.core.loop import Rollback, Skip, Stop, fit
from gleanings.core.metrics import read_metrics
from gleanings.core.rundir import RunDirectory

BAD = 17  # the update from step 16 to step 17 gives something bad


def _update(leaf, value):
    def update(state, batch, key):
        step = state["step"] + 1
        bad = jnp.where(step == BAD, value, 0.0)
        new = {name: state[name] + 1 + (bad if name == leaf else 0.0) for name in ("a", "b")}
        return {**new, "step": step}, {"loss": bad if leaf == "loss" else jnp.zeros(())}

    return update


def _start():
    return {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4, jnp.bfloat16), "step": jnp.int32(0)}


@pytest.mark.parametrize(("leaf", "name"), [("a", "a"), ("b", "b"), ("loss", "metrics/loss")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_stop_names_the_step_and_the_leaf(leaf, name, value):
    with pytest.raises(NumericsError, match=f"step {BAD}: .*non-finite: {name}") as caught:
        list(fit(_update(leaf, value), _start(), steps=50, seed=0, log_every=10, progress=False))
    assert (caught.value.step, caught.value.names, caught.value.exit_code) == (BAD, (name,), 5)


def _train(path, update, state, **options):
    with RunDirectory.create(path, {}) as run:
        return list(fit(update, state, seed=0, run=run, progress=False, **options))[-1], run


def test_stop_keeps_no_bad_checkpoint(tmp_path):
    with pytest.raises(NumericsError):
        _train(tmp_path / "r", _update("a", np.nan), _start(), steps=50, save_every=5, on_nonfinite=Stop())
    run = RunDirectory.open(tmp_path / "r")
    assert run.checkpoints.latest() == 15
    assert (run.status["status"], "step 17" in run.status["error"]) == ("failed", True)


def test_skip_undoes_the_update_alone():
    """After the bad update is undone the counter stays at 16, so it is tried and skipped again and again."""
    events = list(
        fit(_update("a", np.nan), _start(), steps=20, seed=0, log_every=10, on_nonfinite=Skip(), progress=False)
    )
    assert [(int(e.state["step"]), e.metrics["skipped"]) for e in events] == [(10, 0.0), (16, 4.0)]
    np.testing.assert_array_equal(events[-1].state["a"], np.full((2, 3), 16.0))


def _descent(rate):
    """Gradient descent on x^4, from x = 4: it diverges within 30 steps above a rate of about 0.03."""
    optimiser = optax.inject_hyperparams(optax.sgd)(learning_rate=rate)

    def update(state, batch, key):
        value, gradient = jax.value_and_grad(lambda x: x**4)(state["x"])
        steps, new = optimiser.update(gradient, state["optimiser"])
        return {"x": optax.apply_updates(state["x"], steps), "optimiser": new}, {"loss": value}

    return update, {"x": jnp.float32(4), "optimiser": optimiser.init(jnp.float32(4))}


def test_rollback_halves_the_rate_until_it_works(tmp_path):
    update, state = _descent(0.1)
    options = {"steps": 40, "save_every": 20, "log_every": 5, "on_nonfinite": Rollback(times=5)}
    last, run = _train(tmp_path / "r", update, state, **options)
    assert float(last.state["optimiser"].hyperparams["learning_rate"]) == pytest.approx(0.1 / 4)
    assert last.metrics["loss"] < 1
    assert [row["step"] for row in read_metrics(run.path / "metrics.jsonl").rows] == list(range(5, 45, 5))
    assert run.checkpoints.restore(state).data_state == {"position": None, "rollbacks": 2}


@pytest.mark.parametrize(("times", "halve"), [(1, True), (2, False)])
def test_rollback_gives_up_after_its_times(tmp_path, times, halve):
    update, state = _descent(0.1)
    policy = Rollback(times, halve_rate=halve)
    with pytest.raises(NumericsError, match=f"after {times} rollbacks"):
        _train(tmp_path / "r", update, state, steps=40, save_every=20, on_nonfinite=policy)


def test_rollback_restores_the_data_position(tmp_path):
    class Numbers:
        position, healed = 0, False

        def __iter__(self):
            return self

        def __next__(self):
            self.position += 1
            return np.float32(np.nan if self.position == BAD and not self.healed else self.position)

        def get_state(self):
            return str(self.position).encode()

        def set_state(self, state):
            self.position, self.healed = int(state), True

    def total(state, batch, key):
        return {"sum": state["sum"] + batch}, {}

    options = {"steps": 30, "save_every": 5, "on_nonfinite": Rollback(times=1, halve_rate=False)}
    last, _ = _train(tmp_path / "r", total, {"sum": jnp.zeros(())}, data=Numbers(), **options)
    assert float(last.state["sum"]) == 30 * 31 / 2


def test_a_scheduled_rate_cannot_be_halved(tmp_path):
    update, state = _descent(optax.constant_schedule(0.1))
    with RunDirectory.create(tmp_path / "r", {}) as run, pytest.raises(ConfigError, match="constant learning_rate"):
        fit(update, state, steps=1, seed=0, run=run, on_nonfinite=Rollback())
