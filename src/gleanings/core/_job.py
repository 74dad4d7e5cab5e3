"""The state of one training run: what is in flight, what is saved, and how to go back."""

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gleanings.core._leaves import is_key, split
from gleanings.core._members import prefix
from gleanings.core._step import Advance, Health, compile_advance, copier, shared
from gleanings.core.errors import CheckpointError, ConfigError, DataError, NumericsError
from gleanings.core.rundir import RunDirectory

_CALL_S = 0.25  # updates are grouped into calls of about this time, so that a signal is answered soon
_RATE = "hyperparams/learning_rate"


@dataclass(frozen=True)
class Plan:
    """The arguments of `fit` that stay as they are. `times` is the number of rollbacks allowed."""

    update: Callable[..., Any]
    draw: Callable[..., Any] | None
    data: Iterator[Any] | None
    run: RunDirectory | None
    steps: int
    seed: int
    save_every: int
    log_every: int
    skip: bool
    times: int
    halve_rate: bool
    members: tuple[str, ...] = ()
    freezes: bool = False


class Call(NamedTuple):
    """One compiled call, perhaps still running. At a boundary it has a copy of the arrays."""

    step: int
    updates: int
    values: list[Any]
    health: Health
    snapshot: list[Any] | None
    position: Any


class Job:
    """A run at `step`. `dispatch` starts updates without waiting; `settle` waits for them and checks them.

    `frozen`: by member, the step from which it is frozen, as of the calls settled so far.
    """

    def __init__(self, plan: Plan, state: Any) -> None:
        self.plan, self.step, self.saved = plan, 0, -1
        self.leaves = split(state)
        self.leaves.arrays[:] = [x if is_key(x) else jnp.asarray(x) for x in self.leaves.arrays]
        self._copy = copier(self.leaves.arrays)
        self.arrays = self._copy(self.leaves.arrays)
        self._advance: Advance | None = None
        self._limit, self._settled, self._rollbacks, self._skipped = 1, time.monotonic(), 0, 0
        self.frozen: dict[str, int] = {}
        self._frozen = self._frozen_rows()

    @property
    def state(self) -> Any:
        """A copy of the newest state."""
        return self.leaves.join(self._copy(self.arrays))

    def resume(self) -> tuple[dict[str, float], tuple[str, ...]]:
        """Continue from the newest good checkpoint, if any: its metrics, and the damaged files passed over."""
        run = self.plan.run
        if run is None or run.checkpoints.latest() is None:
            if self.plan.times:
                self.save({})
            if run is not None:
                run.metrics.truncate(self.step)  # rows of a run that was killed before its first checkpoint
            return {}, ()
        restored = self._restore(run)
        self._rollbacks = restored.data_state["rollbacks"]
        if restored.skipped:
            run.set_status("running", resumed=self.step, damaged=list(restored.skipped))
        return restored.metrics, restored.skipped

    def dispatch(self) -> Call:
        """Start the next updates, up to the next boundary at most. Raises DataError when the data ends."""
        plan = self.plan
        batch = None if plan.data is None else self._next(plan.data)
        if self._advance is None:
            guard = plan.skip, plan.members, plan.freezes
            self._advance = compile_advance(plan.update, plan.draw, self.leaves, plan.seed, batch, *guard)
            self.leaves.arrays.clear()  # the initial state is needed no longer, and may be large
        boundary = min(plan.steps, *((self.step // n + 1) * n for n in (plan.log_every, plan.save_every)))
        count = min(self._limit, boundary - self.step) if self._advance.many else 1
        self.arrays, values, health = self._advance.run(self.arrays, self.step, count, batch, self._frozen)
        self._frozen = health.frozen
        self.step += count
        at_boundary = self.step == boundary
        snapshot = self._copy(self.arrays) if at_boundary else None
        return Call(self.step, count, values, health, snapshot, self._position() if at_boundary else None)

    def settle(self, call: Call) -> bool:
        """Wait for `call`; false if it was non-finite and the run went back. Raises NumericsError."""
        bad = int(call.health.bad)
        now = time.monotonic()
        if now - self._settled > _CALL_S:
            self._limit = max(1, self._limit // 2)
        elif now - self._settled < _CALL_S / 2 and call.updates == self._limit:
            self._limit *= 2
        self._settled = now
        if bad and self.plan.freezes:
            self._freeze(call.health)
        if bad == 0 or self.plan.skip or self.plan.freezes:
            self._skipped += bad
            return True
        self._go_back(call.health)
        return False

    def record(self, call: Call) -> tuple[dict[str, float], bool]:
        """Write the metrics of `call`, which ended at a boundary, and save if it is due."""
        assert self._advance is not None
        values = jax.device_get(call.values)
        metrics = {name: float(value) for name, value in zip(self._advance.names, values, strict=True)}
        if self.plan.skip:
            metrics["skipped"], self._skipped = float(self._skipped), 0
        if self.plan.freezes:
            lost = tuple(map(prefix, self.frozen))
            metrics = {name: value for name, value in metrics.items() if not name.startswith(lost)}
            metrics["frozen"] = float(len(self.frozen))
        due = call.step % self.plan.save_every == 0 or call.step == self.plan.steps
        if self.plan.run is not None:
            self.plan.run.metrics.write(call.step, metrics)
            if due:
                self._save(call.step, call.snapshot, call.position, metrics)
        return metrics, due and self.plan.run is not None

    def save(self, metrics: dict[str, float]) -> None:
        """Save the newest state unless that is done already or there is no run."""
        if self.saved != self.step:
            self._save(self.step, self.arrays, self._position(), metrics)

    def _save(self, step: int, arrays: Any, position: Any, metrics: dict[str, float]) -> None:
        if self.plan.run is not None:
            data_state = {"position": position, "rollbacks": self._rollbacks}
            data_state |= {"frozen": self.frozen} if self.frozen else {}
            self.plan.run.checkpoints.save(step, self.leaves.join(arrays), data_state, metrics)
            self.saved = step

    def _restore(self, run: RunDirectory) -> Any:
        restored = run.checkpoints.restore(self.leaves.join(self.arrays))
        saved = restored.data_state
        if saved is None or "rollbacks" not in saved or (saved["position"] is None) != (self.plan.data is None):
            raise CheckpointError("saved with another kind of data than this run has", restored.step)
        self.frozen = dict(saved.get("frozen", {}))
        if not set(self.frozen) <= set(self.plan.members if self.plan.freezes else ()):
            listed = ", ".join(f"{member} since step {step}" for member, step in self.frozen.items())
            raise ConfigError(f"on_nonfinite: frozen in this run are {listed}; it goes on with Freeze only")
        self._frozen = self._frozen_rows()
        self.arrays = self._copy(split(restored.state).arrays)
        self.step = self.saved = restored.step
        if self.plan.data is not None:
            _set_position(self.plan.data, saved["position"])
        run.metrics.truncate(restored.step)
        return restored

    def _blame(self, health: Health) -> tuple[int, list[str]]:
        """The step that the first bad update led to, and what was not finite there."""
        assert self._advance is not None
        finite = jax.device_get(health.finite)
        names = [name for name, good in zip(self._advance.checked, finite, strict=False) if not good]
        names = sorted(names, key=lambda name: not name.startswith("metrics/"))[:8]  # which tell more than weights do
        return int(health.first) + 1, names

    def _freeze(self, health: Health) -> None:
        """Take down who is frozen. Raises NumericsError when nobody is left."""
        rows = zip(self.plan.members, np.asarray(health.frozen).tolist(), strict=True)
        self.frozen = {member: step for member, step in rows if step}
        if len(self.frozen) < len(self.plan.members):
            return
        last, (step, names) = max(self.frozen.values()), self._blame(health)
        lost = ", ".join(member for member, since in self.frozen.items() if since == last)
        message = f"update gave NaN or infinity in {lost}; no other member is left, all are frozen"
        raise NumericsError(message, last, names if step == last else ())

    def _frozen_rows(self) -> Any:
        """`frozen` as the compiled updates take it."""
        if not self.plan.freezes:
            return None
        rows = [self.frozen.get(member, 0) for member in self.plan.members]
        return jax.device_put(np.asarray(rows, np.int32), shared(self.arrays))

    def _go_back(self, health: Health) -> None:
        step, names = self._blame(health)
        if self._rollbacks >= self.plan.times or self.plan.run is None:
            after = f" after {self._rollbacks} rollbacks" if self._rollbacks else ""
            raise NumericsError(f"update gave NaN or infinity{self._of_members()}{after}", step, names)
        self._rollbacks += 1
        restored = self._restore(self.plan.run)
        if self.plan.halve_rate:
            factor = 0.5 ** (self._rollbacks - restored.data_state["rollbacks"])
            for i in self.rates():
                self.arrays[i] = self.arrays[i] * jnp.asarray(factor, self.arrays[i].dtype)

    def _of_members(self) -> str:
        """Which members of the state are not finite now; what is lost in one does not spread to others."""
        rows = [np.asarray(x) for x in self.arrays if jnp.issubdtype(x.dtype, jnp.inexact)]
        lost = [m for k, m in enumerate(self.plan.members) if not all(np.isfinite(x[k]).all() for x in rows)]
        return f" in {', '.join(lost)}" if lost else ""

    def rates(self) -> list[int]:
        """Places of the learning rates that can be halved: constants that optax keeps in its state."""
        scheduled = any("hyperparams_states/learning_rate" in name for name in self.leaves.names)
        return [] if scheduled else [i for i, name in enumerate(self.leaves.names) if name.endswith(_RATE)]

    def _next(self, data: Iterator[Any]) -> Any:
        try:
            return next(data)
        except StopIteration:
            wanted = f"{self.plan.steps} steps are wanted; repeat it, or lower steps"
            raise DataError(f"the data ended after {self.step} batches but {wanted}") from None

    def _position(self) -> Any:
        if self.plan.run is None or self.plan.data is None:
            return None
        position = self.plan.data.get_state()  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(position, bytes):
            return {"base64": base64.b64encode(position).decode()}
        return {"value": position}


def _set_position(data: Any, saved: dict[str, Any]) -> None:
    data.set_state(base64.b64decode(saved["base64"]) if "base64" in saved else saved["value"])
