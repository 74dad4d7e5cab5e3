"""How time and memory of a rollout grow with the number of scenes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _driving_scene import Reference
from _results import Row, Target
from _timing import compile_step, interleave, summary, timer

from gleanings.driving.scene import Scene
from gleanings.driving.sim import on_device
from gleanings.studies._driving_speed import ROLLOUT, batched, rolling, simulator, stacked, stepping

BATCHES = (1, 4, 16, 64, 256, 1024)
GPU_BATCHES = (1, 64, 1024, 4096)
ONE_VMAP = 64  # scenes of the batch that also runs without chunks
_MOST_BYTES = 8 * 2**30


def measure_scale(reference: Reference, quick: bool, count: int, report: Callable[[Row], None]) -> None:
    """A row for memory, then one a batch: ms of one scene in a step with three metrics, in episodes of 80."""
    report(memory(reference.scene))
    for batch in BATCHES[:2] if quick else BATCHES if _on_cpu() else GPU_BATCHES:
        for how in ("chunks of 8", "one vmap") if batch == ONE_VMAP and _on_cpu() else ("chunks of 8",):
            report(_batch(reference.scene, batch, how, count))


def memory(scene: Scene) -> Row:
    """Bytes that a step carries, that a rollout needs beside its output, and of the scene itself."""
    sim = simulator()
    state = jax.eval_shape(lambda: sim.reset(jax.tree.map(jnp.asarray, scene), jax.random.key(0)))
    compiled = compile_step(rolling(), scene)
    return {
        "case": "memory",
        "carry_bytes": sum(_bytes(leaf) for leaf in jax.tree.leaves(state)),
        "temporary_bytes": compiled.temporary_bytes,
        "output_bytes": compiled.output_bytes,
        "scene_bytes": sum(_bytes(leaf) for leaf in jax.tree.leaves(scene)),
    }


def moved(scene: Scene) -> float:
    """Objects that are there in a step of an episode, on average."""
    alive = jax.jit(rolling())(on_device(scene))[0].valid
    return round(float(np.asarray(alive)[1:].sum(-1).mean()), 1)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _bytes(leaf: Any) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return leaf.size * leaf.dtype.itemsize


def _batch(scene: Scene, batch: int, how: str, count: int) -> Row:
    row = {"case": "batch", "scenes": batch, "how": how if _on_cpu() else "one vmap", "moved": moved(scene)}
    size = batch * sum(_bytes(leaf) for leaf in jax.tree.leaves(scene))
    if size > _MOST_BYTES:
        return row | {"unmeasured": f"{batch} scenes are {size / 2**30:.1f} GiB"}
    call = stepping(ROLLOUT)
    scenes = stacked(scene, batch)
    compiled = compile_step(batched(call, batch) if how != "one vmap" else jax.vmap(call), scenes)
    samples = interleave({"own": timer(lambda: compiled.call(scenes))}, count, limit_s=60.0)["own"]
    row |= {"agent_steps_per_wall_s": round(row["moved"] * ROLLOUT * batch / min(wall for wall, _ in samples))}
    share = [(wall / ROLLOUT / batch, cpu / ROLLOUT / batch) for wall, cpu in samples]
    return row | summary(share) | {"temporary_bytes": compiled.temporary_bytes}


def scale_targets(rows: list[Row]) -> list[Target]:
    """Carry, the time of a scene in a batch of 256 over that of one alone, and the objects moved on a GPU."""
    carry = next((row["carry_bytes"] for row in rows if row["case"] == "memory"), None)
    needed = next((row["temporary_bytes"] for row in rows if row["case"] == "memory"), None)
    times = {row.get("scenes"): row.get("cpu_min_ms") for row in rows if row.get("how") != "one vmap"}
    on_gpu = [row for row in rows if row.get("how") == "one vmap" and row["scenes"] >= 1024]
    rate = max((row["agent_steps_per_wall_s"] for row in on_gpu if "agent_steps_per_wall_s" in row), default=None)
    one, many = times.get(1), times.get(256)
    return [
        ("carry of a step and scene, KB", "<=", 10.0, carry and round(carry / 1e3, 2)),
        ("temporaries of a rollout, MB", "<=", 2.0, needed and round(needed / 1e6, 3)),
        ("objects moved a second with three metrics, 1,024 scenes or more, on a GPU", ">=", 10e6, rate),
        ("time a scene, 256 scenes / 1", "<=", 1.1, round(many / one, 3) if one and many else None),
    ]
