"""Random observations, with padding."""

import numpy as np

from gleanings.driving.config import ObserveConfig
from gleanings.driving.observation import Observation

SMALL = ObserveConfig(objects=3, frames=2, road=4, lights=2, route=3)


def observation(seed: int, config: ObserveConfig = SMALL) -> Observation:
    """Numbers of plausible size, without a batch axis; about a third of the rows is padding, and holds 0."""
    rng = np.random.default_rng(seed)
    c = config

    def rows(shape: tuple[int, ...], scale: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        mask = rng.random(shape) < 0.7
        values = rng.normal(size=(*shape, len(scale))) * np.array(scale)
        return (values * mask[..., None]).astype(np.float32), mask

    others, others_mask = rows((c.objects, c.frames), (15, 15, 1, 1, 5, 5, 4, 2, 0))
    others_mask[:, 1:] &= others_mask[:, :1]
    others[..., 8] = rng.integers(0, 4, (c.objects, 1))
    others *= others_mask[..., None]
    road, road_mask = rows((c.road,), (15, 15, 1, 1, 1, 0, 0))
    road[:, 5] = rng.integers(1, 8, c.road) * road_mask
    lights, lights_mask = rows((c.lights,), (15, 15, 1, 1, 1, 1, 1, 1))
    path, path_mask = rows((c.route,), (15, 15, 10))
    ego = (rng.normal(size=8) * np.array([8, 0.2, 4, 2, 1, 0.3, 10, 0])).astype(np.float32)
    ego[7] = 1
    masks = others_mask, road_mask, lights_mask, path_mask
    return Observation(ego, others, road, lights, path, np.array(True), *masks)


def flat(seen: Observation) -> np.ndarray:
    """As `observation.flatten`, in NumPy."""
    return np.concatenate([np.asarray(part, np.float32).reshape(-1) for part in seen])
