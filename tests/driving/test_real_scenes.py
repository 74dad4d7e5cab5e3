"""Real scenes played back, and driven again by every model of motion through its inverse."""

from pathlib import Path

import jax
import numpy as np
import pytest
from tests.driving._random_scenes import REAL, SMALL, real_scene

from gleanings.driving.agents import LogPlayback
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle, DeltaGlobal, DeltaLocal, Discrete, Dynamics, StateTarget
from gleanings.driving.policies import expert
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Scene
from gleanings.driving.sim import Simulator
from gleanings.driving.state import Rollout
from gleanings.driving.summary import MOVING_M, chosen, per_object

KEY = jax.random.key(0)
PER_OBJECT = jax.jit(per_object)
BOUNDS = ((DeltaLocal(), 0.001), (DeltaGlobal(), 0.001), (StateTarget(), 0.001), (Bicycle(), 0.05), (Discrete(), 0.15))
# A lane of I-80 is 3.2 m wide in the map though vehicles stand beside each other nearer than that, and their positions
# come from a camera: 188 of 200 overlap. It is a load of vehicles, no log in which contacts mean anything.
CROWDED = REAL[-1]
# In these two the ego is a planning problem without a log; the others drive on bare lanelets, whose outer bounds stand
# in for the edges that the files do not have.
BARE = REAL[7:9]
# The speeds of this one rise by up to 19 m/s^2, and 19 of its 24 vehicles break the limits of their kind.
JERKY = REAL[8]


def counts(scene: Scene, roll: Rollout, who: str) -> dict[str, tuple[int, int]]:
    """Of a group: objects for which a metric held at some step, and for which it is defined."""
    group, values = np.asarray(chosen(scene, roll, who)), PER_OBJECT(scene, roll)
    use = {name: group & np.asarray(values[name].mask) for name in ("collision", "off_road")}
    return {name: (int(np.asarray(values[name].value)[some].sum()), int(some.sum())) for name, some in use.items()}


def play(scene: Scene) -> Rollout:
    """The log, replayed for all objects."""
    config = SimConfig(controlled=(), metrics=("collision", "off_road", "log_divergence"))
    return Simulator(config, dynamics=Bicycle(), agents=LogPlayback()).rollout(scene, None, KEY)


def assert_playback(scene: Scene) -> dict[str, dict[str, tuple[int, int]]]:
    """No divergence at all; counts of the groups `sdc` and `moving`."""
    roll = play(scene)
    assert roll.trajectory is not None
    for name, field, logged in zip(scene.log._fields, roll.trajectory, scene.log, strict=True):
        np.testing.assert_array_equal(field, logged[int(scene.start) :], name)
    assert not np.asarray(roll.metrics["log_divergence"].value).any()
    found = {who: counts(scene, roll, who) for who in ("sdc", "moving")}
    print(found)
    return found


def test_a_real_scene_plays_back(shared_data: Path):
    found = assert_playback(real_scene(shared_data, SMALL))
    assert found["sdc"] == {"collision": (0, 1), "off_road": (0, 1)}
    assert found["moving"] == {"collision": (0, 12), "off_road": (0, 12)}


@pytest.mark.slow
def test_real_scenes_play_back_without_contact_or_off_road(shared_data: Path):
    total = np.zeros((2, 2), int)
    for name in REAL:
        found = assert_playback(real_scene(shared_data, name))
        assert found["sdc"]["collision"][0] == found["sdc"]["off_road"][0] == 0
        if name not in (CROWDED, *BARE):
            total += list(found["moving"].values())
    print(total)
    (touching, n), (off, on_roads) = total
    assert touching <= 0.01 * n
    assert off <= 0.02 * on_roads


def throughout(scene: Scene) -> np.ndarray:
    """Vehicles that move and are logged at every step from the start on: what enters with a wrong speed, or is lost and
    found elsewhere, no model within the limits of a vehicle can follow."""
    moving = (scene.objects.kind == int(Kind.VEHICLE)) & (scene.objects.extent > MOVING_M)
    return moving & scene.log.valid[int(scene.start) :].all(0)


def displacements(scene: Scene, dynamics: Dynamics) -> tuple[np.ndarray, np.ndarray]:
    """Mean distance to the log [N] under the inverse of the model, and where it is defined."""
    sim = Simulator(SimConfig(controlled="all", metrics=("log_divergence",)), dynamics=dynamics, agents=LogPlayback())
    ade = PER_OBJECT(scene, sim.rollout(scene, expert(dynamics), KEY, record="metrics"))["ade_m"]
    return np.asarray(ade.value), np.asarray(ade.mask)


def assert_follows(scene: Scene, dynamics: Dynamics, bound: float) -> None:
    """Mean over vehicles logged throughout below the bound; exact models bring every object along, at every step."""
    value, mask = displacements(scene, dynamics)
    use = mask & throughout(scene)
    every = value[mask].max()
    mean = value[use].mean() if use.any() else float("nan")
    worst = value[use].max(initial=0)
    print(f"{type(dynamics).__name__:12} n {use.sum():3} mean {mean:.4f} worst {worst:.4f}; of all objects {every:.4f}")
    assert not mean > bound
    if bound < 0.01:
        assert every < bound


@pytest.mark.parametrize(("dynamics", "bound"), BOUNDS[3:4], ids=lambda value: type(value).__name__)
def test_models_follow_the_log_of_a_real_scene(shared_data: Path, dynamics: Dynamics, bound: float):
    assert_follows(real_scene(shared_data, SMALL), dynamics, bound)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_all_models_follow_the_logs_of_real_scenes(shared_data: Path, name: str):
    for dynamics, bound in BOUNDS:
        if name != JERKY or bound < 0.01:
            assert_follows(real_scene(shared_data, name), dynamics, bound)
