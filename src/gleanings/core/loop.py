"""The one training loop: a generator that draws, updates, checks, saves and stops cleanly.

A run is a pure function of (state, seed, data): keys come from (seed, step), every update runs the same
compiled code, and so a resumed run is bit-identical to one that was never interrupted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from signal import Signals
from typing import Any

import numpy as np

from gleanings.core._job import Job, Plan
from gleanings.core._progress import Progress
from gleanings.core._signals import stop_requests
from gleanings.core.errors import ConfigError
from gleanings.core.rundir import RunDirectory


@dataclass(frozen=True)
class Stop:
    """On NaN or infinity: raise NumericsError."""


@dataclass(frozen=True)
class Skip:
    """On NaN or infinity: undo that update and go on. Rows of metrics count them as `skipped`."""


@dataclass(frozen=True)
class Rollback:
    """On NaN or infinity: go back to the newest checkpoint, at most `times` times, then raise NumericsError.

    `halve_rate` halves the learning rate that `optax.inject_hyperparams` keeps in the state; without it the
    same updates run again, which helps only against a fault that does not repeat.
    """

    times: int = 3
    halve_rate: bool = True


@dataclass(frozen=True)
class Freeze:
    """On NaN or infinity in some members: keep them as they were before that update, for good, and train the others.

    A member is lost when a float in its rows of the new state, or its value of a metric, is not finite; by a metric
    that is one number for all, all are. Rows of metrics count the members lost as `frozen`; means are over the others,
    and the values of its own end. Raises NumericsError when none is left. An update that could use the memory of the
    state again takes that of one more.
    """


@dataclass(frozen=True)
class Event:
    """What a run yields: `metrics` of the update that led to `step`, and `state`, a copy that stays valid.

    frozen: of the members that `Freeze` froze, the step that the update led to which they did not make.
    """

    step: int
    metrics: dict[str, float]
    state: Any
    saved: bool
    frozen: Mapping[str, int] = field(default_factory=dict)


def fit(
    update: Callable[[Any, Any, Any], tuple[Any, dict[str, Any]]],
    state: Any,
    *,
    steps: int,
    seed: int,
    draw: Callable[[Any, Any], Any] | None = None,
    data: Iterable[Any] | None = None,
    run: RunDirectory | None = None,
    save_every: int = 1000,
    log_every: int = 100,
    on_nonfinite: Stop | Skip | Rollback | Freeze = Stop(),
    members: Sequence[str] = (),
    progress: bool = True,
) -> Iterator[Event]:
    """Apply `update(state, batch, key) -> (state, metrics)` until `steps`; yield at each log, save and the end.

    The batch comes from `draw(state, key)`, compiled together with `update`, or from `data` (an iterator, with
    `get_state` and `set_state` if there is a `run`), or is None. Update number s, from 0, gets the keys
    `stream(seed, "update", s)` and `stream(seed, "draw", s)`. Float leaves of the state and metrics must stay
    finite; `members` names the M rows of the first axis of the state's leaves, such as seeds, for NumericsError to say
    which were not. Then a metric may have M values: their mean is logged and, of several members, each as
    `seed-3/...` for 'seed 3'. With a `run`, metrics and checkpoints are written, and the newest good checkpoint is
    resumed; whom `Freeze` froze stands there as `data_state["frozen"]`, as in `Event`.
    Ctrl-C and SIGTERM save, set the status `stopped`, and raise KeyboardInterrupt or SystemExit(143); a second
    one leaves at once.

    Raises ConfigError for arguments that do not fit, DataError when `data` ends early, NumericsError as
    `on_nonfinite` says, CheckpointError when saving fails or nothing saved can be restored. Source: ours.
    """
    for name, value, least in (("steps", steps, 0), ("save_every", save_every, 1), ("log_every", log_every, 1)):
        if value < least:
            raise ConfigError(f"{name}: must be at least {least}, got {value}")
    if not 0 <= seed < 2**31:
        raise ConfigError(f"seed: must lie in 0..2**31-1, got {seed}")
    if draw is not None and data is not None:
        raise ConfigError("draw, data: give one of them, not both")
    batches = None if data is None else iter(data)
    if run is not None and batches is not None and not hasattr(batches, "set_state"):
        raise ConfigError("data: a run that is saved needs an iterator with get_state and set_state")
    policy = on_nonfinite if isinstance(on_nonfinite, Rollback) else Rollback(0, False)
    if policy.times and run is None:
        raise ConfigError("on_nonfinite: Rollback needs a run, whose checkpoints it goes back to")
    skip, freezes = isinstance(on_nonfinite, Skip), isinstance(on_nonfinite, Freeze)
    if freezes and (not members or len(set(members)) < len(members)):
        raise ConfigError("on_nonfinite: Freeze needs members, a name for each row of the state, and none twice")
    rollback = policy.times, policy.halve_rate
    guard = skip, *rollback, tuple(members), freezes
    plan = Plan(update, draw, batches, run, steps, seed, save_every, log_every, *guard)
    job = Job(plan, state)
    if members and any(np.shape(array)[:1] != (len(members),) for array in job.arrays):
        raise ConfigError(f"members: {len(members)} are named; the first axis of every leaf of the state needs as many")
    if policy.halve_rate and not job.rates():
        raise ConfigError(
            "on_nonfinite: no learning rate to halve in the state; wrap the optimiser in "
            "optax.inject_hyperparams with a constant learning_rate, or set halve_rate=False"
        )
    return _events(job, progress)


def _events(job: Job, shown: bool) -> Iterator[Event]:
    with stop_requests() as stop:
        metrics, damaged = job.resume()
        with Progress(job.plan.steps, job.step, shown) as progress:
            for file in damaged:
                progress.note(f"damaged checkpoint passed over, resumed from step {job.step}: {file}")
            if job.step >= job.plan.steps:
                yield Event(job.step, metrics, job.state, job.saved == job.step, dict(job.frozen))
            pending, told = None, set[str]()
            while pending is not None or (job.step < job.plan.steps and stop.signum is None):
                more = job.step < job.plan.steps and stop.signum is None
                call = job.dispatch() if more else None  # before the wait, so that the device never idles
                if pending is not None:
                    if not job.settle(pending):
                        progress.note(f"NaN or infinity before step {pending.step}, back to step {job.step}")
                        pending = None  # `call` belongs to what was given up
                        continue
                    for member in sorted(job.frozen.keys() - told):
                        told.add(member)
                        progress.note(f"{member} is frozen: NaN or infinity at step {job.frozen[member]}")
                    if pending.snapshot is not None:
                        metrics, saved = job.record(pending)
                        yield Event(pending.step, metrics, job.leaves.join(pending.snapshot), saved, dict(job.frozen))
                    progress.update(pending.step, metrics)
                pending = call
        if stop.signum is not None:
            job.save(metrics)
            if job.plan.run is not None:
                job.plan.run.set_status("stopped", step=job.step, signal=Signals(stop.signum).name)
            stop.leave()
