"""What XLA for CPU is asked for where a program runs for longer than it compiles. Source: ours, by measurement."""

import functools
import os

import jax

_ONE_THREAD: dict[str, str | bool | int] = {
    # Results are used soon after they are made, while they are in the cache.
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_cpu_copy_insertion_use_region_analysis": True,  # fewer copies of what a loop carries
    "xla_cpu_prefer_vector_width": 512,
}


def for_long_runs() -> dict[str, str | bool | int] | None:
    """`compiler_options` of `jax.jit`; None unless programs run on a CPU with one thread, as in worker processes.

    With several, an order of work that spares the cache keeps threads waiting. Left out: what this version of jax does
    not know, and what XLA_FLAGS already sets.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    platform = jax.device_put(0).device.platform  # of the default device, which need not be of the default backend
    if platform != "cpu" or "intra_op_parallelism_threads=1" not in flags.split():
        return None
    return {name: value for name, value in _ONE_THREAD.items() if name not in flags and _known(name, value)}


@functools.cache
def _known(name: str, value: str | bool | int) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value})()
    except jax.errors.JaxRuntimeError:
        return False
    return True
