"""Part A of the study of the simulator: time of its operations on a scene of a reference size, by batch.

Beside them runs the dense twin: the same steps, where each corner looks at every unmerged segment of the road edge.
Times are CPU times, or wall times where jax has a GPU; of several calls the quickest counts.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from gleanings.driving.agents import LogPlayback
from gleanings.driving.config import ObserveConfig, SimConfig
from gleanings.driving.dynamics import Bicycle
from gleanings.driving.idm import IDM
from gleanings.driving.scene import Scene
from gleanings.driving.sim import Simulator, on_device
from gleanings.driving.state import SimState
from gleanings.studies._driving_playback import CHUNK, METRICS
from gleanings.studies._driving_scenes import REFERENCE_POINTS, reference_scene

LOOP = 10  # calls of an agent in one program, so that the time of starting it counts little
ROLLOUT = 80  # steps of an episode; in fewer, bringing a scene of a batch into the cache would count too much
Road = Literal["grid", "dense"]


@dataclass(frozen=True)
class Job:
    """One operation: `call` is compiled on `batch` copies of `scene`; a call makes `loop` of it."""

    call: Callable[[Scene], Any]
    scene: Scene
    batch: int = 1
    loop: int = 1
    repeats: int = 5


def speed(
    batches: Sequence[int], dense_batches: Sequence[int] = (), points: int = REFERENCE_POINTS, *, every: bool = True
) -> dict[str, Any]:
    """Milliseconds of each operation on one batch: `step` and `dense` by batch, others at batch 1 by name.

    dense_batches: those on which the dense twin runs, with a rollout of it. every: not the steps alone.
    """
    merged = reference_scene(points=points)
    plain = reference_scene(points=points, unmerged=True) if dense_batches else merged
    jobs = {f"step {n}": Job(stepping(ROLLOUT), merged, n, ROLLOUT) for n in batches}
    jobs |= {f"dense {n}": Job(stepping(1, road="dense"), plain, n, 1, 3) for n in dense_batches}
    if every:
        jobs["bare"] = Job(stepping(ROLLOUT, metrics=()), merged, loop=ROLLOUT)
        jobs["rollout"] = Job(rolling(), merged)
        jobs["idm"] = Job(reacting, merged, loop=LOOP)
        jobs["observe"] = Job(observing, merged)
    if dense_batches:
        jobs["dense rollout"] = Job(rolling(road="dense"), plain, repeats=2)
    times = timed(jobs)
    found: dict[str, Any] = {"step": {}, "dense": {}}
    for name, value in times.items():
        kind, _, batch = name.partition(" ")
        found.update({name: value}) if not batch.isdigit() else found[kind].update({batch: value})
    size = {"objects": int(np.asarray(merged.objects.exists).sum()), "segments": _segments(merged)}
    return found | {"scene": size | {"unmerged": _segments(plain)}, "clock": clock_name()}


def timed(jobs: dict[str, Job]) -> dict[str, float]:
    """Milliseconds of each job: all are compiled, two at a time, then run one after the other."""
    with ThreadPoolExecutor(2) as pool:
        compiled = dict(zip(jobs, pool.map(_compiled, jobs.values()), strict=True))
    times = {}
    for name, job in jobs.items():
        scenes = stacked(job.scene, job.batch)
        times[name] = least_ms(lambda run=compiled[name], scenes=scenes: run(scenes), job.repeats) / job.loop
    return times


def _compiled(job: Job) -> Callable[[Scene], Any]:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((job.batch, *np.shape(x)), np.asarray(x).dtype), job.scene)
    return jax.jit(batched(job.call, job.batch)).lower(shapes).compile()


def batched(call: Callable[[Scene], Any], count: int) -> Callable[[Scene], Any]:
    """`call` on `count` scenes: all in one vmap on a GPU, on a CPU in chunks that its cache holds."""
    if count <= CHUNK or jax.default_backend() != "cpu":
        return jax.vmap(call)
    return lambda scenes: lax.map(call, scenes, batch_size=CHUNK)


def stacked(scene: Scene, count: int) -> Scene:
    """`count` copies of a scene, each in memory of its own."""
    return on_device(jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], count, axis=0), scene))


def clock_name() -> str:
    """Which clock counts."""
    return "CPU" if jax.default_backend() == "cpu" else "wall"


def least_ms(call: Callable[[], Any], repeats: int) -> float:
    """Milliseconds of the quickest of `repeats` calls, after one that is not timed."""
    clock = time.process_time if clock_name() == "CPU" else time.perf_counter
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = clock()
        jax.block_until_ready(call())
        times.append(clock() - start)
    return 1e3 * min(times)


def simulator(metrics: tuple[str, ...] = METRICS, road: Road = "grid") -> Simulator:
    """The ego by `Bicycle`, the others as logged."""
    return Simulator(SimConfig(metrics=metrics, road=road), dynamics=Bicycle(), agents=LogPlayback())


def stepping(steps: int, metrics: tuple[str, ...] = METRICS, road: Road = "grid") -> Callable[[Scene], Any]:
    """So many steps of a coasting ego; of the metrics only the sum is kept."""
    sim = simulator(metrics, road)

    def call(scene: Scene) -> Any:
        key = jax.random.key(0)

        def one(carry: tuple[SimState, Array], _: None) -> tuple[tuple[SimState, Array], None]:
            state, total = carry
            state, out = sim.step(scene, state, None, key)
            total = total + sum(jnp.where(metric.mask, metric.value, 0).sum() for metric in out.metrics.values())
            return (state, total), None

        (state, total), _ = lax.scan(one, (sim.reset(scene, key), jnp.zeros(())), None, length=steps)
        return state.x, total

    return call


def rolling(road: Road = "grid") -> Callable[[Scene], Any]:
    """A rollout of 80 steps with the metrics, trajectory kept."""
    sim = simulator(road=road)

    def call(scene: Scene) -> Any:
        rollout = sim.rollout(scene, None, jax.random.key(0), steps=ROLLOUT)
        return rollout.trajectory, rollout.metrics

    return call


def reacting(scene: Scene) -> Any:
    """IDM asked for all objects, `LOOP` times in a row, each time from the poses that it found."""
    model, key = IDM(), jax.random.key(0)
    state = simulator(()).reset(scene, key)

    def one(state: SimState, _: None) -> tuple[SimState, None]:
        pose = model.act(scene, state, (), key)[0]
        return dataclasses.replace(state, x=pose.x, y=pose.y, yaw=pose.yaw, vx=pose.vx, vy=pose.vy), None

    return lax.scan(one, state, None, length=LOOP)[0].x


def observing(scene: Scene) -> Any:
    """What all objects observe at the start, 200 road points each."""
    config, seen = SimConfig(controlled="all", metrics=()), ObserveConfig(road=200)
    sim = Simulator(config, dynamics=Bicycle(), agents=LogPlayback(), observation=seen)
    return sim.observe(scene, sim.reset(scene, jax.random.key(0)))


def _segments(scene: Scene) -> int:
    return int(np.isfinite(np.asarray(scene.edges.z)).sum())
