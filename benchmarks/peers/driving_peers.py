"""Runs the peers of `gleanings.driving`: a worker for an environment with highway-env, or with metadrive, and no JAX.

One JSON command a line on stdin, one JSON answer a line on stdout:
    {"case": "highway", "vehicles": 127, "steps": 20, "repeats": 3}
    {"case": "metadrive", "vehicles": 127, "steps": 50, "repeats": 3}
        -> {"case": ..., "version": ..., "vehicles": mean number, "times": [[wall s, cpu s], ...], "moved": [...]}
`moved` counts vehicles times steps of 0.1 s. A command that fails answers {"case": ..., "error": ...}.
"""

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from _worker import serve


def highway(vehicles: int, steps: int, repeats: int) -> dict:
    """Six lanes, the ego keeps its lane, all others by its IDM and MOBIL; 10 Hz; 15 vehicles observed."""
    import gymnasium
    import highway_env  # noqa: F401

    config = {
        "vehicles_count": vehicles,
        "lanes_count": 6,
        "simulation_frequency": 10,
        "policy_frequency": 10,
        "duration": 1e6,
        "observation": {"type": "Kinematics", "vehicles_count": 15},
    }
    env: Any = gymnasium.make("highway-v0", config=config)
    env.reset(seed=0)

    def step() -> int:
        ended = env.step(1)[2:4]
        if any(ended):
            env.reset(seed=0)
        return len(env.unwrapped.road.vehicles)

    return {"version": version("highway-env"), **_clocked(step, steps, repeats)}


def metadrive(vehicles: int, steps: int, repeats: int) -> dict:
    """Its basic traffic on a map of four blocks, 10 Hz in five physical substeps, lidar of the ego observed."""
    from metadrive.envs.metadrive_env import MetaDriveEnv

    density = min(1.0, vehicles / 400)
    env = MetaDriveEnv({"map": "SCSX", "traffic_density": density, "traffic_mode": "respawn", "log_level": 50})
    env.reset()

    def step() -> int:
        if any(env.step([0.0, 0.0])[2:4]):
            env.reset()
        return 1 + len(list(env.engine.traffic_manager.traffic_vehicles))

    return {"version": version("metadrive-simulator"), **_clocked(step, steps, repeats)}


def _clocked(step: Callable[[], int], steps: int, repeats: int) -> dict[str, Any]:
    step()
    times, moved = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        moved.append(sum(step() for _ in range(steps)))
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return {"times": times, "moved": moved, "vehicles": sum(moved) / steps / repeats}


CASES = {"highway": highway, "metadrive": metadrive}


if __name__ == "__main__":
    serve(CASES)
