"""Random scenes of one size, and motions in them, for the tests of metrics."""

import numpy as np

from gleanings.driving.raw import DEFAULT_SIZE, Kind
from gleanings.driving.scene import Scene, Trajectory

from ._metric_scenes import Track, build, drive, track

STEPS = 24


def random_scene(seed: int) -> tuple[Scene, Trajectory]:
    """Eight objects that weave along a road with edges, lanes and lights, with gaps; and a motion near their log."""
    rng = np.random.default_rng(seed)
    tracks = []
    for _ in range(8):
        kind = Kind(rng.integers(4))
        yaw = rng.choice([0.0, 0.3, np.pi - 0.01, -np.pi / 2]) + rng.normal(0, 0.1)
        motion = drive(
            rng.uniform(-20, 20), rng.uniform(-8, 8), yaw, rng.choice([0, 0.3, 5, 12]), STEPS, rng.normal(0, 0.1)
        )
        valid = np.ones(STEPS, bool)
        valid[: rng.integers(0, 6)] = False
        valid[rng.integers(0, STEPS) :][: rng.integers(0, 4)] = False
        size = tuple(np.array(DEFAULT_SIZE[kind]) * rng.uniform(0.8, 1.3))
        goal = (*motion[-1, :2], 2.0) if rng.random() < 0.7 else None
        z = float(rng.choice([0.8, 0.8, 0.8, 6.5]))
        tracks.append(track(motion, kind, valid * (rng.random() < 0.9), size=size, z=z, goal=goal))
    states = rng.choice([0, 1, 4, 4, 6, 7], (3, STEPS // 6)).repeat(6, 1)
    scene = street(tracks, states, rng.uniform(-15, 15, 3), int(rng.integers(3)), rng.normal(0, 0.5, (2, 9)))
    some = rng.random(3) < 0.9
    # What is not there is padding, so that one compiled program serves all scenes.
    nothing = np.float32(np.inf)
    scene = scene._replace(
        edges=scene.edges._replace(z=np.where(some[0], scene.edges.z, nothing)),
        lanes=scene.lanes._replace(z=np.where(some[1], scene.lanes.z, nothing)),
        lights=scene.lights._replace(exists=scene.lights.exists & some[2]),
    )
    return scene, _near_the_log(scene, rng)


def street(tracks: list[Track], states: np.ndarray, stops: np.ndarray, start: int = 0, rough: np.ndarray | float = 0):
    """An eastbound lane at y = -2 (limit 8 m/s), a westbound one at 2, edges at -6 and 7, three lights [3, T] at x."""
    x, flat = np.linspace(-60, 60, 9), np.zeros(9)
    edge = np.array([[-6.0], [7.0]]) + rough + np.zeros((2, 9))
    lines = [np.stack([x, edge[0], flat], 1), np.stack([x[::-1], edge[1], flat], 1)]
    lanes = [(np.stack([x, flat - 2, flat], 1), 8.0), (np.stack([x[::-1], flat + 2, flat], 1), float("nan"))]
    places = ((-2.0, 0.0), (2.0, 3.1), (-3.0, 0.4))
    lights = [(state, float(stop), *place) for state, stop, place in zip(states, stops, places, strict=True)]
    return build(tracks, lines, lanes, lights, start)


def _near_the_log(scene: Scene, rng: np.random.Generator) -> Trajectory:
    """From the start to past the log: drifting away from it, with gaps of its own."""
    log, first = scene.log, int(scene.start)
    rows = np.minimum(first + np.arange(STEPS), STEPS - 1)
    shape = (len(rows), log.x.shape[1])
    drift = np.linspace(0, 1, len(rows))[:, None] * rng.normal(0, 1.5, (3, 1, shape[1]))
    noise = rng.normal(0, 0.02, (4, *shape))
    valid = log.valid.any(0) & (rng.random(shape) < 0.97)
    fields = [log.x[rows] + drift[0] + noise[0], log.y[rows] + drift[1], log.z[rows], log.yaw[rows] + drift[2] * 0.1]
    fields += [log.vx[rows] + noise[2], log.vy[rows] + noise[3]]
    return Trajectory(*(np.where(valid, field, 0).astype(np.float32) for field in fields), valid)
