"""Endless simulation for learners: an episode that is over makes room for a new one of a scene drawn from a bank."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Int32, Key

from gleanings.core.errors import ConfigError
from gleanings.driving.scene import Scene
from gleanings.driving.sim import Simulator
from gleanings.driving.state import SimState, StepOutput

_PICK, _NEXT = 2**31 + 1, 2**31 + 2  # folded into a state's key: the draw of a scene, the key of the next state


class AutoReset(eqx.Module):
    """`sim` on a bank of scenes [S, ...] (`stack_scenes`), one of them at a time: `SimState.index`. Source: ours.

    For many at once, `jax.vmap` over the state, the action and the key, not over the bank. Scenes are drawn with equal
    chances from the key given to `reset`, so that the draws do not depend on the keys of the steps.
    """

    sim: Simulator

    def reset(self, scenes: Scene, key: Key[Array, ""]) -> SimState:
        """The first state of a scene drawn from the bank. ConfigError: scenes that `sim` cannot start in."""
        if not isinstance(scenes.start, Tracer):
            self._check(scenes)
        return self._draw(scenes, key)

    def step(self, scenes: Scene, state: SimState, action: Any, key: Key[Array, ""]) -> tuple[SimState, StepOutput]:
        """`Simulator.step`; if that ends the episode, the state is the first of the next one.

        The output is of the old episode but for `observation`, which is of the state returned; `final_observation` is
        what the old episode's state shows.
        """
        after, out = self.sim.step(_at(scenes, state.index), state, action, key)

        over = out.terminated | out.truncated
        # No typed key may reach `cond`, whose inputs a `vmap` selects: jax's search for reused keys objects.
        key = jax.random.fold_in(state.key, jnp.uint32(_NEXT) + over)
        bits, impl = jax.random.key_data(key), jax.random.key_impl(key)

        def fresh() -> tuple[dict[str, Any], Any]:
            first = self._draw(scenes, jax.random.wrap_key_data(bits, impl=impl))
            seen = None
            if self.sim.observation is not None:
                seen = self.sim.observe(_at(scenes, first.index), first)
            return keyless(first), seen

        parts, seen = lax.cond(over, fresh, lambda: (keyless(after), out.observation))
        now = SimState(**parts, key=key)
        return now, out._replace(observation=seen, final_observation=out.observation)

    def _draw(self, scenes: Scene, key: Key[Array, ""]) -> SimState:
        index = jax.random.randint(jax.random.fold_in(key, _PICK), (), 0, scenes.start.shape[0])
        return self.sim.reset(_at(scenes, index), key, index)

    def _check(self, scenes: Scene) -> None:
        """ConfigError if the bank is a single scene, or the first scene in which nobody can be controlled."""
        if np.ndim(scenes.start) != 1:
            raise ConfigError("AutoReset takes scenes with a leading axis: stack_scenes([scene, ...])")
        for index in range(scenes.start.shape[0]):
            objects = jax.tree.map(lambda leaf, index=index: np.asarray(leaf[index]), scenes.objects)
            log = jax.tree.map(lambda leaf: leaf[0], scenes.log)
            self.sim.check(scenes._replace(objects=objects, start=scenes.start[index], log=log))


def _at(scenes: Scene, index: Int32[Array, ""]) -> Scene:
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(jnp.asarray(leaf), index, keepdims=False), scenes)


def keyless(state: SimState) -> dict[str, Any]:
    """The fields but the key: jax's search for reused keys takes a key chosen by `cond` for one."""
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name != "key"}
