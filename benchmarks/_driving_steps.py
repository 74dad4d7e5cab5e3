"""Times of what a simulator does in a step, beside the dense twin where there is one, in turns on one batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from _driving_dense import dense_idm, dense_stepping
from _driving_scene import Reference
from _results import Row, Target
from _timing import Sample, compile_step, interleave, summary, timer
from jax import lax

from gleanings.driving.agents import LogPlayback
from gleanings.driving.config import PER_STEP_METRICS, SimConfig
from gleanings.driving.dynamics import Bicycle
from gleanings.driving.idm import IDM
from gleanings.driving.scene import Scene
from gleanings.driving.sim import Simulator
from gleanings.driving.state import SimState
from gleanings.studies._driving_speed import LOOP, ROLLOUT, observing, reacting, rolling, simulator, stepping

DENSE_STEPS = 2
OBSERVATION = "observation of all objects, 200 road points"


def measure_steps(reference: Reference, count: int, report: Callable[[Row], None]) -> None:
    """One row an operation; milliseconds are of one operation on one scene."""
    scene, plain = (jax.device_put(one) for one in (reference.scene, reference.unmerged))
    cases: dict[str, tuple[Callable[[Scene], Any], Scene, int]] = {
        "step, no metrics": (stepping(ROLLOUT, ()), scene, ROLLOUT),
        "step, three metrics": (stepping(ROLLOUT), scene, ROLLOUT),
        "step, all metrics": (stepping(ROLLOUT, PER_STEP_METRICS), scene, ROLLOUT),
        "rollout of 80 steps, three metrics": (rolling(), scene, 1),
        "IDM, act": (reacting, scene, LOOP),
        "rollout of 80 steps, IDM, no metrics": (rolling_idm, scene, 1),
        OBSERVATION: (observing, scene, 1),
        "gradient of an 80-step log divergence": (gradient, scene, 1),
        "dense twin: step, three metrics": (dense_stepping(DENSE_STEPS), plain, DENSE_STEPS),
        "dense twin: IDM, act": (dense_reacting, plain, DENSE_STEPS),
    }
    timers, memory = {}, {}
    for name, (call, given, _) in cases.items():
        compiled = compile_step(call, given)
        memory[name] = compiled.temporary_bytes
        timers[name] = timer(lambda run=compiled.call, given=given: run(given))
    samples = interleave(timers, count, limit_s=300.0)
    for name, (_, _, loop) in cases.items():
        report({"case": name, **summary(_share(samples[name], loop)), "temporary_bytes": memory[name]})


def _share(samples: list[Sample], loop: int) -> list[Sample]:
    return [(wall / loop, cpu / loop) for wall, cpu in samples]


def rolling_idm(scene: Scene) -> Any:
    """80 steps in which IDM drives all but the ego."""
    sim = Simulator(SimConfig(metrics=()), dynamics=Bicycle(), agents=IDM())
    return sim.rollout(scene, None, jax.random.key(0), steps=ROLLOUT).trajectory


def dense_reacting(scene: Scene) -> Any:
    """What `reacting` does, by the dense twin."""
    state = simulator(()).reset(scene, jax.random.key(0))

    def one(state: SimState, _: None) -> tuple[SimState, None]:
        x, y, speed = dense_idm(scene, state)
        return dataclasses.replace(state, x=x, y=y, vx=speed * jnp.cos(state.yaw), vy=speed * jnp.sin(state.yaw)), None

    return lax.scan(one, state, None, length=DENSE_STEPS)[0].x


def gradient(scene: Scene) -> Any:
    """Gradient of the mean log divergence of all vehicles with respect to their actions in 80 steps."""
    config = SimConfig(controlled="vehicles", metrics=("log_divergence",))
    sim = Simulator(config, dynamics=Bicycle(), agents=LogPlayback())

    def loss(actions: Any) -> Any:
        def policy(scene: Scene, state: SimState, key: Any) -> Any:
            return lax.dynamic_index_in_dim(actions, state.t - scene.start, keepdims=False)

        rollout = sim.rollout(scene, policy, jax.random.key(0), steps=ROLLOUT, record="metrics")
        value, mask = rollout.metrics["log_divergence"]
        return jnp.where(mask, value, 0.0).sum() / jnp.maximum(mask.sum(), 1)

    return jax.grad(loss)(jnp.zeros((ROLLOUT, scene.objects.kind.shape[0], 2)))


def step_targets(rows: list[Row]) -> list[Target]:
    """Largest CPU times in ms, and how many times as long the dense twin takes at least."""
    cpu = {row["case"]: row.get("cpu_median_ms") for row in rows}
    least = {row["case"]: row.get("cpu_min_ms") for row in rows}

    def ratio(case: str) -> float | None:
        dense, own = least.get(f"dense twin: {case}"), least.get(case)
        return round(dense / own, 1) if dense and own else None

    return [
        ("step with three metrics, CPU ms", "<=", 0.6, cpu.get("step, three metrics")),
        ("rollout of 80 steps with them, CPU ms", "<=", 60.0, cpu.get("rollout of 80 steps, three metrics")),
        ("IDM for all agents, CPU ms", "<=", 0.8, cpu.get("IDM, act")),
        ("step without metrics, CPU ms", "<=", 0.1, cpu.get("step, no metrics")),
        ("observation of all objects, CPU ms", "<=", 8.0, cpu.get(OBSERVATION)),
        ("step with three metrics, dense twin / own", ">=", 50.0, ratio("step, three metrics")),
        ("IDM, dense twin / own", ">=", 20.0, ratio("IDM, act")),
    ]
