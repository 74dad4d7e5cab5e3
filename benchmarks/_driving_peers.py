"""Vehicles moved a second beside highway-env and metadrive, each on traffic of its own, with what each does."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _driving_scene import Reference
from _peers import Peer, PeerError, peers_python
from _results import Row, Target
from _timing import interleave, timer

from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle
from gleanings.driving.idm import IDM
from gleanings.driving.scene import Scene
from gleanings.driving.sim import Simulator
from gleanings.studies._driving_playback import METRICS
from gleanings.studies._driving_speed import ROLLOUT

WORKER = Path(__file__).parent / "peers" / "driving_peers.py"
OWN = "gleanings, 128 slots, IDM"
PEERS = {
    "highway": ("highway-env", "GLEANINGS_HIGHWAY_PYTHON", "IDM and lane changes, one straight road, contact"),
    "metadrive": ("metadrive-simulator", "GLEANINGS_METADRIVE_PYTHON", "IDM, rigid-body physics, lidar of the ego"),
}


def measure_peers(
    reference: Reference, pythons: dict[str, Path | None], quick: bool, report: Callable[[Row], None]
) -> None:
    """One row a simulator."""
    repeats = 2 if quick else 5
    run = jax.jit(_rollout)
    scene = jax.device_put(reference.scene)
    moved = int(np.asarray(run(scene)[0]))
    samples = interleave({OWN: timer(lambda: run(scene))}, repeats)[OWN]
    rates = {"vehicle_steps_per_cpu_s": round(moved / statistics.median(cpu for _, cpu in samples))}
    features = "IDM on paths of a map, log divergence, contact and off-road of every object"
    report({"simulator": OWN, **rates, "vehicles": round(moved / ROLLOUT, 1), "features": features})
    for case, (name, variable, features) in PEERS.items():
        report({"simulator": name, "features": features, **_peer(case, pythons.get(case), variable, repeats)})


def _rollout(scene: Scene) -> Any:
    """Objects times steps, and the metrics."""
    sim = Simulator(SimConfig(metrics=METRICS), dynamics=Bicycle(), agents=IDM())
    rollout = sim.rollout(scene, None, jax.random.key(0), steps=ROLLOUT, record="metrics")
    return rollout.metrics["log_divergence"].mask.sum(), rollout.metrics


def _peer(case: str, option: Path | None, variable: str, repeats: int) -> Row:
    python = peers_python(option, variable)
    if python is None:
        return {"unmeasured": f"no interpreter: --{case}-python or {variable}"}
    try:
        with Peer(python, worker=WORKER) as peer:
            found = peer.ask(case, vehicles=127, steps=20, repeats=repeats)
    except PeerError as error:
        return {"unmeasured": str(error).splitlines()[0][:200]}
    rates = [moved / cpu for moved, (_, cpu) in zip(found["moved"], found["times"], strict=True)]
    rate = {"vehicle_steps_per_cpu_s": round(statistics.median(rates)), "vehicles": round(found["vehicles"], 1)}
    return {"version": found["version"], **rate}


def peer_targets(rows: list[Row]) -> list[Target]:
    """Our rate over each peer's."""
    rates = {row["simulator"]: row.get("vehicle_steps_per_cpu_s") for row in rows}
    own, found = rates.get(OWN), []
    for name, *_ in PEERS.values():
        other = rates.get(name)
        found.append(
            (f"vehicle-steps a CPU second, own / {name}", ">=", 10.0, round(own / other, 1) if own and other else None)
        )
    return found
