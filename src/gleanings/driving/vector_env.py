"""Many environments in one compiled program, as a Gymnasium vector environment. Needs the extra `driving`. Ours."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Key

from gleanings.core.errors import ConfigError
from gleanings.driving.auto_reset import AutoReset, keyless
from gleanings.driving.config import ObserveConfig
from gleanings.driving.env import Told, actions_of, environment_sim, marks_of, spaces_of, told_of
from gleanings.driving.scene import Scene
from gleanings.driving.sim import Simulator
from gleanings.driving.stack import grow, sizes_of, stack_scenes
from gleanings.driving.state import SimState

try:
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError:
    raise ConfigError("environments need Gymnasium: pip install 'gleanings[driving]'") from None

_OBSERVE = ObserveConfig()
_NEXT = 1  # folded into the key of an episode: the key of the next one
_FIXED = "TYXQ"  # sizes that padding would change the meaning of: steps, raster, paths


class DrivingVectorEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """`num_envs` environments on one bank of scenes, each `DrivingEnv` but for the ways of a vector environment.

    Where an episode ends, the observation returned is the first of the next one, of a scene drawn anew (SAME_STEP); the
    last of the old one is in infos["final_obs"], its info in infos["final_info"]. infos: for each key an array [n] and
    under "_" + key the environments for which it is defined. Scenes are padded to one size. `reset` with a seed s
    starts environment i from s + i, or give a list of seeds; resets without a seed go on from the first one.

    ConfigError: as `DrivingEnv`; scenes of different numbers of steps.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        scenes: Sequence[Scene],
        sim: Simulator,
        num_envs: int,
        *,
        seed: int | None = None,
        observe: ObserveConfig = _OBSERVE,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs {num_envs}: 1 or more")
        self.num_envs, self.sim = num_envs, environment_sim(scenes, sim, observe)
        self.scenes = jax.device_put(_bank(scenes))
        self.single_observation_space, self.single_action_space = spaces_of(self.sim, observe, scenes)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seed = seed
        self._states: SimState | None = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The first observations [n, D], and infos. ConfigError: any option, since scenes are drawn."""
        if options:
            raise ConfigError(f"options {options}: a vector environment draws its scenes and takes no options")
        seed, self._seed = self._seed if seed is None else seed, None
        self._states, seen = _first(AutoReset(self.sim), self.scenes, self._keys(seed))
        return np.array(seen), _infos(_where(self._states), np.ones(self.num_envs, bool))

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Observations [n, D], rewards, terminated, truncated [n] and infos after actions."""
        if self._states is None:
            raise ConfigError("call reset() before step()")
        actions = actions_of(actions, self.action_space, self.sim)
        old = np.asarray(self._states.index)
        self._states, now, told = _follow(AutoReset(self.sim), self.scenes, self._states, actions)
        now, told = jax.device_get((now, told))
        over = told.terminated | told.truncated
        last = {name: tuple(metric) for name, metric in told.metrics.items()}
        every = np.ones_like(over)
        last |= {name: (mark, every) for name, mark in marks_of(told.flags).items()}
        infos = _infos(last, ~over) | _infos(_where(self._states), every)
        if over.any():
            final = np.full(self.num_envs, None, object)
            for index in np.flatnonzero(over):
                final[index] = np.array(told.seen[index])
            infos |= {"final_obs": final, "_final_obs": over.copy()}
            ended = _infos(last | {"scene": (old, every), "t": (told.t, every)}, over)
            infos |= {"final_info": ended, "_final_info": over.copy()}
        return np.array(now), np.array(told.reward, np.float64), told.terminated.copy(), told.truncated.copy(), infos

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the states."""
        self._states = None

    def _keys(self, seed: int | list[int | None] | None) -> Key[Array, " n"]:
        if isinstance(seed, int | np.integer):
            seeds: list[int | None] = [int(seed) + index for index in range(self.num_envs)]
        else:
            seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ConfigError(f"{len(seeds)} seeds for {self.num_envs} environments")
        if seeds[0] is not None:
            super().reset(seed=seeds[0])  # what is drawn later follows too
        drawn = self.np_random.integers(2**32, size=self.num_envs)
        chosen = [int(one) if given is None else given % 2**32 for one, given in zip(drawn, seeds, strict=True)]
        return jax.vmap(jax.random.key)(jnp.asarray(chosen, jnp.uint32))


def _bank(scenes: Sequence[Scene]) -> Scene:
    """The scenes in one stack, padded to the largest sizes. ConfigError: sizes that no padding can make equal."""
    sizes = [sizes_of(scene) for scene in scenes]
    largest = {letter: max(size[letter] for size in sizes) for letter in sizes[0]}
    differ = {letter: sorted({size[letter] for size in sizes}) for letter in _FIXED}
    if lines := [f"{letter} {found}" for letter, found in differ.items() if len(found) > 1]:
        raise ConfigError(f"scenes differ in {'; '.join(lines)} (T: steps; Y, X: raster): one vector environment each")
    return stack_scenes([grow(scene, largest) for scene in scenes])


def _where(states: SimState) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    index, t = np.array(states.index), np.array(states.t)
    every = np.ones(index.shape, bool)
    return {"scene": (index, every), "t": (t, every)}


def _infos(values: dict[str, Any], shown: np.ndarray) -> dict[str, Any]:
    """Values [n] with their masks, for the environments that are `shown`; zero elsewhere, as Gymnasium has it."""
    infos: dict[str, Any] = {}
    for name, (value, mask) in values.items():
        mask = mask & shown
        if mask.any():
            infos |= {name: np.where(mask, value, np.zeros((), value.dtype)), f"_{name}": mask}
    return infos


@eqx.filter_jit
def _first(auto: AutoReset, scenes: Scene, keys: Key[Array, " n"]) -> tuple[SimState, Array]:
    def one(key: Key[Array, ""]) -> tuple[SimState, Array]:
        state = auto.reset(scenes, key)
        return state, auto.sim.observe(_scene(scenes, state), state)

    states, seen = jax.vmap(one)(keys)
    return replace(states, key=jax.random.clone(keys)), seen


@eqx.filter_jit
def _follow(auto: AutoReset, scenes: Scene, states: SimState, actions: Array) -> tuple[SimState, Array, Told]:
    """The next states, what they show, and what is told of the old episodes."""

    def one(state: SimState, action: Array) -> tuple[SimState, Told]:
        scene = _scene(scenes, state)
        every = jnp.broadcast_to(action, (*state.x.shape, *action.shape))
        after, out = auto.sim.step(scene, state, every, state.key)
        return after, told_of(auto.sim.controlled(scene), after, out)

    after, told = jax.vmap(one)(states, actions)
    over = told.terminated | told.truncated

    keys = jax.vmap(jax.random.fold_in, (0, None))(after.key, _NEXT)

    def renewed() -> tuple[dict[str, Any], Array]:
        fresh, seen = _first(auto, scenes, keys)
        return jax.tree.map(partial(_choose, over), (keyless(fresh), seen), (keyless(after), told.seen))

    # Not `AutoReset.step`: under `vmap` it would start an episode in every environment at every step.
    parts, seen = lax.cond(jnp.any(over), renewed, lambda: (keyless(after), told.seen))
    return SimState(**parts, key=jax.random.clone(jnp.where(over, keys, after.key))), seen, told


def _choose(over: Array, fresh: Array, old: Array) -> Array:
    return jnp.where(over.reshape(-1, *[1] * (fresh.ndim - 1)), fresh, old)


def _scene(scenes: Scene, state: SimState) -> Scene:
    return jax.tree.map(lambda leaf: leaf[state.index], scenes)
