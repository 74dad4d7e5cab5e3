"""Train a driving policy for several seeds in one program: checkpoints, validation, a resumable run. Source: ours.

The class of the configuration picks the algorithm. A run is a function of its configuration and scenes alone: keys come
from the seed and the step, so that a run that was killed goes on bit for bit.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from gleanings.core.errors import ConfigError
from gleanings.core.keys import stream
from gleanings.core.loop import Event, Freeze, Stop, fit
from gleanings.core.rundir import RunDirectory
from gleanings.driving.learn import bc, bc_sac, dqn
from gleanings.driving.learn._start import check_start, started
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.config import Algorithm, BCConfig, BCSACConfig, DQNConfig, OnNonfinite, WorldConfig
from gleanings.driving.learn.contract import make_contract
from gleanings.driving.learn.demos import Demonstrations
from gleanings.driving.learn.drives import drive
from gleanings.driving.learn.memory import check_memory
from gleanings.driving.learn.outcomes import outcomes_of
from gleanings.driving.learn.policy import Policy, export_policy
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Scene, source_of
from gleanings.driving.sim import on_device
from gleanings.driving.stack import arrays_of

Learner = BCConfig | BCSACConfig | DQNConfig
_WORLD = WorldConfig()
ALGORITHMS: dict[type, ModuleType] = {BCConfig: bc, BCSACConfig: bc_sac, DQNConfig: dqn}


@dataclass(frozen=True)
class Training:
    """What a run trains; config.json of its folder. data: digest of the scenes and demonstrations."""

    learner: Learner
    world: WorldConfig = _WORLD
    seeds: tuple[int, ...] = (0,)
    data: str = ""
    validate_every: int = 8
    """Iterations between drives of the validation scenes."""
    save_every: int = 4
    """Iterations between checkpoints."""
    source: str = ""
    """Files and licence notes of the scenes."""


def train(
    learner: Learner,
    scenes: Sequence[Scene] | Scene,
    demos: Demonstrations | None,
    *,
    world: WorldConfig = _WORLD,
    seeds: Sequence[int] = (0,),
    validation: Sequence[Scene] = (),
    start: Policy | Sequence[Policy] | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
    validate_every: int = 8,
    save_every: int = 4,
    on_nonfinite: str = "stop",
    progress: bool = True,
) -> Iterator[Event]:
    """An event an iteration: its metrics, means over the seeds and those of each as `seed-3/...`, and the states.

    scenes: learning scenes to drive in, or a bank of them; demos: what is imitated, None for pure reinforcement. States
    have a leading axis of seeds; `driver_of` takes one. With validation scenes every `validate_every` iterations and at
    the end `validation/failure` and `validation/progress` are added. start: policies from which actors start, one for
    all seeds or one a seed; BC and BC-SAC only. directory: a run folder, resumed if `resume`.
    on_nonfinite: "stop", or "skip-seed": a seed that gives NaN or infinity stays as it was (`Event.frozen`), counts as
    failing from then on, and has no other metrics; means are over the others. It may be changed on resuming.
    ConfigError: settings, scenes or policies that do not fit each other; NumericsError: a loss that is not finite, of
    all seeds where they are skipped.
    """
    config = Training(learner, world, tuple(seeds), "", validate_every, save_every)
    _check(config, scenes, demos)
    if on_nonfinite not in get_args(OnNonfinite):
        raise ConfigError(f"on_nonfinite={on_nonfinite!r}: use {' or '.join(get_args(OnNonfinite))}")
    policy = Freeze() if on_nonfinite == "skip-seed" else Stop()
    starts = check_start(learner, world, config.seeds, start)
    if not isinstance(learner, BCConfig):
        check_memory(learner, World(world), len(config.seeds), scenes, copies=3 if isinstance(policy, Freeze) else 2)
    if directory is None:
        yield from _events(config, scenes, demos, starts, validation, None, policy, progress)
        return
    config = replace(config, data=_digest(scenes, demos, starts), source=_sources(scenes))
    with RunDirectory.create(directory, config, resume=resume) as run:
        event = None
        for event in _events(config, scenes, demos, starts, validation, run, policy, progress):
            yield event
        if event is not None and event.step == learner.iterations:
            export_policies(config, event.state, run.artifacts, scenes, event.frozen)


def driver_of(learner: Learner, states: Any, index: int, sample: bool = False) -> Any:
    """What drives scenes as the policy of the seed at `index` does."""
    state = jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, states)
    if isinstance(learner, DQNConfig):
        return dqn.driver(learner, state)
    return bc_sac.Driver(state.average, sample)


def export_policies(
    config: Training,
    states: Any,
    folder: Path,
    scenes: Sequence[Scene] | Scene,
    frozen: Mapping[str, int] | None = None,
) -> list[Path]:
    """Write the policy of each seed to `folder`/policy-SEED; its contract names where the scenes are from.

    frozen: as in the event of the states.
    """
    config, since = replace(config, source=_sources(scenes)), frozen or {}
    return [
        export_seed(config, states, seed, folder / f"policy-{seed}", since.get(member_of(seed)))
        for seed in config.seeds
    ]


def export_seed(config: Training, states: Any, seed: int, path: Path, frozen_at: int | None = None) -> Path:
    """Write the policy of one seed of the run into the folder `path`. frozen_at: where its training broke off."""
    origin: dict[str, Any] = {"source": config.source, "frozen_at": frozen_at}
    contract = make_contract(algorithm_of(config.learner), config.learner, config.world, **origin)
    return export_policy(states, config.learner, contract, path, seed=config.seeds.index(seed))


def member_of(seed: int) -> str:
    """Name of a seed in the training loop."""
    return f"seed {seed}"


def initial_states(config: Training) -> Any:
    """What training starts from, with a leading axis of seeds."""
    world = World(config.world)
    return eqx.filter_jit(eqx.filter_vmap(lambda key: _init(config.learner, world, key)))(
        jax.vmap(lambda seed: jax.random.fold_in(stream(0, "init"), seed))(np.asarray(config.seeds, np.int32))
    )


def algorithm_of(learner: Learner) -> Algorithm:
    """Name of the algorithm that a configuration picks."""
    if isinstance(learner, BCSACConfig):
        return "bc-sac" if learner.imitation_weight > 0 else "sac"
    return "bc" if isinstance(learner, BCConfig) else "dqn"


def _check(config: Training, scenes: Sequence[Scene] | Scene, demos: Demonstrations | None) -> None:
    if type(config.learner) not in ALGORITHMS:
        names = ", ".join(kind.__name__ for kind in ALGORITHMS)
        raise ConfigError(f"there is no algorithm for {type(config.learner).__name__}; known: {names}")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        raise ConfigError(f"seeds {list(config.seeds)}: at least one, none twice, from 0 on")
    if min(config.validate_every, config.save_every, config.learner.iterations) < 1:
        raise ConfigError("iterations, validate_every and save_every are at least 1")
    if demos is None and _imitates(config.learner):
        raise ConfigError(f"{type(config.learner).__name__} imitates and needs demonstrations")
    if not scenes and not isinstance(config.learner, BCConfig):
        raise ConfigError("no scenes to drive in")


def _imitates(learner: Learner) -> bool:
    return isinstance(learner, BCConfig) or (isinstance(learner, BCSACConfig) and learner.imitation_weight > 0)


def _digest(scenes: Sequence[Scene] | Scene, demos: Demonstrations | None, starts: Sequence[Policy] = ()) -> str:
    """Changes with any number in the scenes, the demonstrations or the policies that training starts from."""
    total = hashlib.sha256()
    for scene in [scenes] if isinstance(scenes, Scene) else scenes:
        for array in arrays_of(scene).values():
            total.update(np.ascontiguousarray(array).tobytes())
    for array in (*(demos or ()), *(leaf for policy in starts for leaf in jax.tree.leaves(policy.network))):
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]


def _sources(scenes: Sequence[Scene] | Scene) -> str:
    """The first few, and how many more; nothing of a bank."""
    found = [] if isinstance(scenes, Scene) else sorted({source_of(scene) for scene in scenes})
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _events(
    config: Training,
    scenes: Sequence[Scene] | Scene,
    demos: Demonstrations | None,
    starts: Sequence[Policy],
    validation: Sequence[Scene],
    run: RunDirectory | None,
    policy: Stop | Freeze,
    progress: bool,
) -> Iterator[Event]:
    world = World(config.world)
    judge = _judge(config, world, validation)
    loop = fit(
        _update(config, world, scenes, demos),
        started(initial_states(config), starts),
        steps=config.learner.iterations,
        seed=0,
        run=run,
        save_every=config.save_every,
        members=[member_of(seed) for seed in config.seeds],
        on_nonfinite=policy,
        log_every=1,
        progress=progress,
    )
    for event in loop:
        if event.step % config.validate_every and event.step != config.learner.iterations:
            yield event
            continue
        found = judge(event.state, event.frozen)
        if run is not None and found:
            run.metrics.write(event.step, found)
        yield replace(event, metrics=event.metrics | found)


def _init(learner: Learner, world: World, key: Key[Array, ""]) -> Any:
    if isinstance(learner, BCConfig):
        return bc.init(learner, world.config.observe, key)
    return bc_sac.init(learner, world, key) if isinstance(learner, BCSACConfig) else dqn.init(learner, world, key)


def _update(
    config: Training, world: World, scenes: Sequence[Scene] | Scene, demos: Demonstrations | None
) -> Callable[[Any, None, Array], tuple[Any, dict[str, Array]]]:
    """An iteration of all seeds; of each metric a value a seed. The loop passes the bank and the demonstrations to the
    program as arguments."""
    learner, seeds = config.learner, jnp.asarray(np.asarray(config.seeds, np.int32))
    driven = not isinstance(learner, BCConfig)
    bank = on_device(scenes if isinstance(scenes, Scene) else make_bank(scenes)) if driven else None
    labels = None if demos is None else Demonstrations(*map(jax.device_put, demos))

    def one(state: Any, key: Array) -> tuple[Any, dict[str, Array]]:
        if isinstance(learner, BCConfig):
            return bc.update(learner, state, labels, key)  # pyright: ignore[reportArgumentType]
        if isinstance(learner, BCSACConfig):
            return bc_sac.update(learner, world, state, bank, labels, key)  # pyright: ignore[reportArgumentType]
        return dqn.update(learner, world, state, bank, key)  # pyright: ignore[reportArgumentType]

    def update(states: Any, _: None, key: Array) -> tuple[Any, dict[str, Array]]:
        keys = jax.vmap(lambda seed: jax.random.fold_in(key, seed))(seeds)
        return _for_each(one, states, keys)

    return update


def _for_each(one: Callable[[Any, Array], Any], states: Any, keys: Array) -> Any:
    """`one` for each row of states and keys. On a CPU one after the other: side by side gains nothing there."""
    if jax.default_backend() != "cpu":
        return eqx.filter_vmap(one)(states, keys)
    arrays, rest = eqx.partition(states, eqx.is_array)

    def row(item: tuple[Any, Array]) -> Any:
        state, metrics = one(eqx.combine(item[0], rest), item[1])
        return eqx.filter(state, eqx.is_array), metrics

    arrays, metrics = jax.lax.map(row, (arrays, keys))
    return eqx.combine(arrays, rest), metrics


def _judge(
    config: Training, world: World, validation: Sequence[Scene]
) -> Callable[[Any, Mapping[str, int]], dict[str, float]]:
    """Failure rate and mean progress ratio of the policies' modes in the validation scenes; who is frozen fails."""
    if not validation:
        return lambda states, frozen: {}
    bank = make_bank(validation)
    held = on_device(bank)

    def judge(states: Any, frozen: Mapping[str, int]) -> dict[str, float]:
        found: dict[str, float] = {}
        for index, seed in enumerate(config.seeds):
            if member_of(seed) in frozen:
                found[f"seed-{seed}/validation/failure"] = 1.0
                continue
            drives = drive(world, held, driver_of(config.learner, states, index), stream(0, "validation"))
            outcomes = outcomes_of(world, bank, drives)
            ratio = outcomes.progress_ratio[np.isfinite(outcomes.progress_ratio)]
            found[f"seed-{seed}/validation/failure"] = float((outcomes.first_failure >= 0).mean())
            found[f"seed-{seed}/validation/progress"] = float(ratio.mean()) if len(ratio) else float("nan")
        for name in ("validation/failure", "validation/progress"):
            found[name] = float(np.mean([value for key, value in found.items() if key.endswith(name)]))
        return {name: value for name, value in found.items() if len(config.seeds) > 1 or name[:5] != "seed-"}

    return judge
