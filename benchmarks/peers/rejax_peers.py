"""Trains SAC of rejax on scenes of `gleanings`: a worker for an environment with rejax and gymnax.

One JSON command a line on stdin, one JSON answer a line on stdout:
    {"case": "train", "source": FOLDER, "bank": FILE, "observe": {...}, "environments": 64, "iterations": 8,
     "batch": 256, "seeds": 1}
        -> {"case": ..., "version": ..., "times": [[wall s, cpu s], ...], "decisions": of an iteration and seed,
            "rewards": mean of a decision in each iteration}
An iteration is one episode in every environment, all in one program, with a gradient step per 16 decisions. Nothing
ends an episode: scenes are drawn anew between iterations, so that no step pays for a reset that does not happen.
"""

import time
from importlib.metadata import version
from typing import Any

from _driving_bank import world_and_bank
from _worker import serve

EVERY = 16  # decisions for one gradient step


def train(
    source: str, bank: str, observe: dict[str, Any], environments: int, iterations: int, batch: int, seeds: int = 1
) -> dict[str, Any]:
    """Times each iteration after the first, which compiles. Several seeds train in one `jax.vmap`."""
    world, scenes = world_and_bank(source, bank, observe)
    import jax
    from rejax import SAC

    decisions = environments * world.config.horizon
    algorithm = SAC.create(
        env=_environment(world, scenes.start.shape[0]),
        env_params=scenes,
        skip_initial_evaluation=True,
        total_timesteps=decisions,
        eval_freq=decisions,
        num_envs=environments,
        num_epochs=max(environments // EVERY, 1),
        buffer_size=decisions * (iterations + 1),
        fill_buffer=0,
        batch_size=batch,
        gamma=0.95,
        polyak=0.995,
        learning_rate=3e-4,
        agent_kwargs={"activation": "relu"},
        hidden_layer_sizes=(128, 128),
    ).replace(eval_callback=lambda algorithm, state, key: ())

    def iteration(state: Any, scenes: Any, key: Any) -> Any:
        drawn = algorithm.replace(env_params=scenes)
        obs, begun = drawn.vmap_reset(jax.random.split(key, environments), scenes)
        return drawn.train(train_state=state.replace(last_obs=obs, env_state=begun))[0]

    def begin(key: Any) -> Any:
        return jax.tree.map(jax.numpy.array, algorithm.init_state(key))

    if seeds > 1:
        iteration, begin = jax.vmap(iteration, in_axes=(0, None, 0)), jax.vmap(begin)

    def key_of(turn: int) -> Any:
        return jax.random.split(jax.random.key(turn), seeds) if seeds > 1 else jax.random.key(turn)

    run = jax.jit(iteration, donate_argnums=0)
    state = jax.jit(begin)(key_of(0))
    times, rewards = [], []
    for turn in range(iterations + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        state = jax.block_until_ready(run(state, scenes, key_of(turn)))
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
        rewards.append(float(state.env_state.reward.mean()))
    return {"version": version("rejax"), "times": times[1:], "decisions": decisions, "rewards": rewards[1:]}


def _environment(world: Any, count: int) -> Any:
    """Scenes as gymnax steps them, one for one; the parameters are the bank. The state keeps its scene."""
    import jax
    import jax.numpy as jnp
    from flax import struct
    from gymnax.environments import environment, spaces

    @struct.dataclass
    class Driven:
        scene: Any
        state: Any
        reward: Any  # mean of a decision so far

    class Scenes(environment.Environment):
        def reset(self, key: Any, params: Any = None) -> tuple:
            row_key, key = jax.random.split(key)
            row = jax.random.randint(row_key, (), 0, count)
            scene = jax.tree.map(lambda leaf: leaf[row], params)
            state, obs = world.begin(scene, key)
            return obs, Driven(scene, state, jnp.zeros(()))

        def step(self, key: Any, state: Driven, action: Any, params: Any = None) -> tuple:
            after, decision = world.decide(state.scene, state.state, action, key)
            reward = state.reward + decision.reward / world.config.horizon
            return decision.observation, Driven(state.scene, after, reward), decision.reward, jnp.bool_(False), {}

        def action_space(self, params: Any = None) -> Any:
            return spaces.Box(-1.0, 1.0, (2,))

        def observation_space(self, params: Any = None) -> Any:
            return spaces.Box(-jnp.inf, jnp.inf, (world.observation_size,))

    return Scenes()


CASES = {"train": train}


if __name__ == "__main__":
    serve(CASES)
