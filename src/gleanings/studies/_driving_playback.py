"""Part B of the study of the simulator: do logs play back, and does the expert follow them through each dynamics?"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from gleanings.driving.agents import LogPlayback
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle, DeltaLocal, Discrete
from gleanings.driving.policies import expert
from gleanings.driving.scene import Scene
from gleanings.driving.sim import Simulator, on_device
from gleanings.driving.stack import group_scenes
from gleanings.driving.summary import chosen, per_object
from gleanings.studies._driving_scenes import family_scenes, steps_left

LOG = "log"
DYNAMICS = {"bicycle": Bicycle(), "discrete": Discrete(Bicycle()), "delta-local": DeltaLocal()}
ARMS = (LOG, *DYNAMICS)
METRICS = ("collision", "off_road", "log_divergence")
CHUNK = 8  # scenes of one program


def playback(family: str, seed: int, count: int, objects: int, steps: int, arms: Sequence[str]) -> dict[str, Any]:
    """`measured` on the scenes of a family."""
    return measured(family_scenes(family, seed, count, objects), steps, arms)


def measured(scenes: Sequence[Scene], steps: int | None, arms: Sequence[str]) -> dict[str, Any]:
    """By arm, one value a scene: sdc_contact, sdc_off_road; of the moving vehicles how many there are, how many touch
    something or leave the road, and the mean ADE of those without gaps in their logs, m (None: there are none)."""
    found: dict[str, Any] = {arm: [{} for _ in scenes] for arm in arms}
    for length in sorted({_steps(scene, steps) for scene in scenes}):
        alike = [index for index, scene in enumerate(scenes) if _steps(scene, steps) == length]
        for places, stacked in group_scenes([scenes[index] for index in alike], CHUNK):
            batch = filled(stacked, len(places))
            for arm in arms:
                rows = jax.tree.map(np.asarray, _run(*_simulator(arm), batch, length))
                for place, at in enumerate(places):
                    found[arm][alike[at]] = {name: values[place].item() for name, values in rows.items()}
    return {arm: {name: [row[name] for row in rows] for name in rows[0]} for arm, rows in found.items()}


def filled(stacked: Scene, count: int) -> Scene:
    """`count` stacked scenes as `CHUNK`, on the device: the last one is repeated, so as not to compile again."""
    rows = np.minimum(np.arange(CHUNK), count - 1)
    return on_device(jax.tree.map(lambda array: array[rows], stacked))


def _steps(scene: Scene, steps: int | None) -> int:
    left = steps_left(scene)
    return left if steps is None else min(left, steps)


@cache
def _simulator(arm: str) -> tuple[Simulator, Any]:
    if arm == LOG:
        return Simulator(SimConfig(controlled=(), metrics=METRICS), dynamics=Bicycle(), agents=LogPlayback()), None
    dynamics = DYNAMICS[arm]
    config = SimConfig(controlled="vehicles", metrics=METRICS, log_end="remove")
    return Simulator(config, dynamics=dynamics, agents=LogPlayback()), expert(dynamics)


def _gapless(scene: Scene) -> Bool[Array, " N"]:
    """Objects that the log holds at every step from the start, or their first one, to their last one."""
    step = jnp.arange(scene.log.x.shape[0])[:, None]
    within = (step >= jnp.maximum(scene.objects.first, scene.start)) & (step <= scene.objects.last)
    return jnp.all(jnp.asarray(scene.log.valid) | ~within, axis=0)


@eqx.filter_jit
def _run(sim: Simulator, policy: Any, scenes: Scene, steps: int) -> dict[str, Array]:
    def one(scene: Scene, key: Key[Array, ""]) -> dict[str, Array]:
        rollout = sim.rollout(scene, policy, key, steps=steps, record="metrics")
        values, moving = per_object(scene, rollout), chosen(scene, rollout, "moving")
        sdc = jnp.asarray(scene.objects.is_sdc)
        ade, known = values["ade_m"]
        counted = moving & known & _gapless(scene)
        mean = jnp.where(counted, ade, 0.0).sum() / counted.sum()  # NaN, and so None, where there are none
        found = {"sdc_contact": (values["collision"].value & sdc).any()}
        found["sdc_off_road"] = (values["off_road"].value & sdc).any()
        found["moving"] = moving.sum()
        found["contact"] = (values["collision"].value & moving).sum()
        found["off_road"] = (values["off_road"].value & moving).sum()
        return found | {"ade_m": mean}

    keys = jax.random.split(jax.random.key(0), CHUNK)
    return jax.vmap(one)(scenes, keys)
