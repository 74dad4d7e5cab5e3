"""Probes of `estimators.py` that need a process of their own: `python _estimator_probes.py memory|sharding`.

Each prints one JSON object. `memory`: peak memory of one gradient at K = 1024. `sharding`: the same gradient
with the batch on one device and split over eight forced ones; differences over the largest entry, at least 1.
"""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

VARIABLES, LARGE, BATCH = 32, 1024, 200
DEVICES = 8


def probe(name: str, timeout_s: float = 600.0) -> dict[str, Any]:
    """Runs one probe in a fresh process; where it fails the answer is {"unmeasured": reason}."""
    environment = dict(os.environ)
    if name == "sharding":
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"
        environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, str(Path(__file__)), name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return {"unmeasured": f"no answer within {timeout_s:g} s"}
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"unmeasured": reason[-1]}
    return json.loads(done.stdout)


def _peak_mib() -> float:
    """Peak of this process: VmHWM where there is one, since Linux hands `ru_maxrss` down from parent to child."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0]) / 2**10
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _memory() -> dict[str, Any]:
    import jax
    from _estimator_steps import bare
    from _timing import compile_step

    from gleanings.estimators import CoupledLOO

    gradient, arguments = bare(CoupledLOO(num_evaluations=4, structure="tree"), (VARIABLES, LARGE), BATCH)
    before = _peak_mib()
    compiled = compile_step(gradient, *arguments)
    after_compile = _peak_mib()
    jax.block_until_ready(compiled.call(*arguments))
    return {
        "estimator": "CoupledLOO-4",
        "n": 4,
        "K": LARGE,
        "D": VARIABLES,
        "batch": BATCH,
        "temporary_mib": round(compiled.temporary_bytes / 2**20, 1),
        "output_mib": round(compiled.output_bytes / 2**20, 1),
        "process_peak_mib": round(_peak_mib(), 1),
        "process_peak_before_mib": round(before, 1),
        "process_peak_after_compile_mib": round(after_compile, 1),
    }


def _sharding() -> dict[str, Any]:
    import jax
    import numpy as np
    from _estimator_steps import bare
    from jax.sharding import NamedSharding, PartitionSpec

    from gleanings import estimators

    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    differences = {}
    for name in ("ReinforceLOO", "CoupledLOO", "DisARMTree", "DisARMSB", "DisARMIW", "ReinMax"):
        gradient, (logits, *rest) = bare(getattr(estimators, name)(), (8, 16), batch=64)
        one = jax.jit(gradient)(logits, *rest)
        split = jax.device_put(logits, NamedSharding(mesh, PartitionSpec("data")))
        many = jax.jit(gradient)(split, *rest)
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True)
        differences[name] = max(_difference(np.asarray(a), np.asarray(b)) for a, b in pairs)
    return {"devices": jax.device_count(), "relative_difference": differences}


def _difference(a: Any, b: Any) -> float:
    return float(abs(a - b).max() / max(abs(a).max(), 1.0))


if __name__ == "__main__":
    print(json.dumps({"memory": _memory, "sharding": _sharding}[sys.argv[1]]()))
