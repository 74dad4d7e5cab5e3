"""Part C of the study of the simulator: an ego that does not do what it did, among others that replay or react."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.sim import Simulator
from gleanings.driving.stack import group_scenes
from gleanings.driving.state import Rollout
from gleanings.driving.viewer import save_replay
from gleanings.studies._driving_ego import BRAKING, EGOS, Profile, ReactIf, SlowedEgo
from gleanings.studies._driving_playback import CHUNK, filled
from gleanings.studies._driving_scenes import family_scenes, steps_left

AGENTS = ("log", "idm")
ARMS = tuple((ego, agents) for ego in EGOS for agents in AGENTS)
OUTCOMES = ("contact", "not_at_fault")


def reactivity(family: str, seed: int, count: int, objects: int, steps: int, replays: Path) -> dict[str, Any]:
    """`confronted` on the scenes of a family; one replay page of it in the folder `replays`."""
    return confronted(family, family_scenes(family, seed, count, objects), steps, replays)


def confronted(name: str, scenes: Sequence[Scene], steps: int | None, replays: Path) -> dict[str, Any]:
    """By agents and ego, for each scene 0 or 1: whether the ego touched something, and whether it was not to blame for
    its first contact. A page shows the scene in which log and IDM differ most, in all arms."""
    found = {agents: {ego: {what: [0] * len(scenes) for what in OUTCOMES} for ego in EGOS} for agents in AGENTS}
    shown: tuple[int, int, Any] = (-1, 0, None)
    for length in sorted({min(steps_left(s), steps or steps_left(s)) for s in scenes}):
        alike = [index for index, s in enumerate(scenes) if min(steps_left(s), steps or steps_left(s)) == length]
        for places, stacked in group_scenes([scenes[index] for index in alike], CHUNK):
            contact, blameless, rollouts = jax.tree.map(np.asarray, _run(filled(stacked, len(places)), length))
            for place, at in enumerate(places):
                index = alike[at]
                for arm, (ego, agents) in enumerate(ARMS):
                    found[agents][ego]["contact"][index] = int(contact[place, arm])
                    found[agents][ego]["not_at_fault"][index] = int(blameless[place, arm])
                differs = _difference(found, index)
                if differs > shown[0]:
                    shown = (differs, index, jax.tree.map(lambda x, at=place: x[at], rollouts))
    assert shown[2] is not None  # the first scene differs by 0 at least
    page = _save(name, scenes[shown[1]], shown[2], replays)
    return {"runs": found, "replay": {"page": page, "scene": name_of(scenes[shown[1]])}}


def _difference(found: dict[str, Any], index: int) -> int:
    return sum(
        abs(found["log"][ego]["not_at_fault"][index] - found["idm"][ego]["not_at_fault"][index]) for ego in BRAKING
    )


def _save(name: str, scene: Scene, rollouts: Rollout, folder: Path) -> str:
    """Write the page of a scene with one rollout an arm; returns its file name."""
    parts = {
        f"ego {ego}, others {agents}": jax.tree.map(lambda x, at=arm: x[at], rollouts)
        for arm, (ego, agents) in enumerate(ARMS)
    }
    return save_replay(scene, parts, folder / f"{name}.html", title=f"Scene {name_of(scene)}").name


def first_contact(collision: Bool[Array, " T"], at_fault: Bool[Array, " T"]) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether there is a contact, and whether the first one is not the object's own fault."""
    some, first = collision.any(), jnp.argmax(collision)
    return some, some & ~at_fault[first]


@eqx.filter_jit
def _run(scenes: Scene, steps: int) -> tuple[Array, Array, Any]:
    """Contact and blameless contact of the ego [B, arms], and what a replay shows of the rollouts."""
    profiles = Profile(*(jnp.asarray(column) for column in zip(*(EGOS[ego] for ego, _ in ARMS), strict=True)))
    reacts = jnp.asarray([agents == "idm" for _, agents in ARMS])
    config = SimConfig(controlled="sdc", metrics=("collision", "at_fault"))

    def arm(scene: Scene, profile: Profile, reacts: Array, key: Key[Array, ""]) -> tuple[Array, Array, Any]:
        dynamics = Bicycle()
        sim = Simulator(config, dynamics=dynamics, agents=ReactIf(reacts))
        rollout = sim.rollout(scene, SlowedEgo(profile, dynamics), key, steps=steps)
        sdc = jnp.asarray(scene.objects.is_sdc)
        collision, at_fault = ((rollout.metrics[name].value & sdc).any(1) for name in config.metrics)
        return *first_contact(collision, at_fault), _shown(rollout)

    def all_arms(scene: Scene) -> tuple[Array, Array, Any]:
        key = jax.random.key(0)
        return jax.vmap(arm, (None, 0, 0, None))(scene, profiles, reacts, key)

    return jax.lax.map(all_arms, scenes)


def _shown(rollout: Rollout) -> Rollout:
    """What a replay page needs; the rest of a rollout is left out."""
    empty = jnp.zeros(())
    return rollout._replace(
        reward=empty,
        done=empty,
        terminated=empty,
        truncated=empty,
        actions=empty,
        state=empty,  # pyright: ignore[reportArgumentType]
    )
