"""Trains SAC of stable-baselines3 on scenes of `gleanings`: a worker for an environment with both torch and JAX.

One JSON command a line on stdin, one JSON answer a line on stdout:
    {"case": "train", "source": FOLDER, "bank": FILE, "environments": 64, "threads": 1, "decisions": 2560, "warm": 256,
     "batch": 256}
        -> {"case": ..., "version": ..., "time": [wall s, cpu s], "decisions": timed ones, "reward": of a decision}
One gradient step per 16 decisions. `reward` is the mean over the last fifth of the decisions.
"""

import time
from importlib.metadata import version
from typing import Any

from _driving_bank import world_and_bank
from _worker import serve

EVERY = 16  # decisions for one gradient step


def train(
    source: str, bank: str, environments: int, threads: int, decisions: int, warm: int, batch: int
) -> dict[str, Any]:
    """Trains for `warm` decisions, then times the others."""
    import numpy as np
    import torch
    from stable_baselines3 import SAC

    torch.set_num_threads(threads)
    scenes = _scenes(*world_and_bank(source, bank), environments)
    model = SAC(
        "MlpPolicy",
        scenes,
        learning_rate=3e-4,
        buffer_size=max(decisions + warm, batch),
        learning_starts=min(warm, batch) // 2,
        batch_size=batch,
        gamma=0.95,
        ent_coef=0.02,
        train_freq=max(EVERY // environments, 1),
        gradient_steps=max(environments // EVERY, 1),
        policy_kwargs={"net_arch": [128, 128]},
        device="cpu",
        seed=0,
    )
    model.learn(warm)
    wall, cpu = time.perf_counter(), time.process_time()
    model.learn(decisions, reset_num_timesteps=False)
    took = time.perf_counter() - wall, time.process_time() - cpu
    rewards = np.concatenate(scenes.rewards)[-(decisions // 5) :]
    done = model.num_timesteps - warm
    return {"version": version("stable-baselines3"), "time": took, "decisions": done, "reward": float(rewards.mean())}


def _scenes(world: Any, bank: Any, count: int) -> Any:
    """A VecEnv of `count` scenes that step in one program and end together, in time."""
    import jax
    import numpy as np
    from gymnasium.spaces import Box
    from stable_baselines3.common.vec_env import VecEnv

    @jax.jit
    def begin(bank: Any, key: Any) -> tuple:
        row_key, key = jax.random.split(key)
        rows = jax.random.randint(row_key, (count,), 0, bank.start.shape[0])
        scenes = jax.tree.map(lambda leaf: leaf[rows], bank)
        return scenes, *jax.vmap(world.begin)(scenes, jax.random.split(key, count))

    decide = jax.jit(jax.vmap(world.decide, in_axes=(0, 0, 0, None)))

    class Scenes(VecEnv):
        def __init__(self) -> None:
            seen, done = Box(-np.inf, np.inf, (world.observation_size,)), Box(-1.0, 1.0, (2,))
            self.key, self.rewards, self.actions = jax.random.key(0), [], None
            super().__init__(count, seen, done)

        def reset(self) -> Any:
            self.key, key = jax.random.split(self.key)
            self.t, (self.scenes, self.state, seen) = 0, begin(bank, key)
            return np.asarray(seen)

        def step_async(self, actions: Any) -> None:
            self.actions = np.asarray(actions, np.float32)

        def step_wait(self) -> tuple:
            self.state, decision = decide(self.scenes, self.state, self.actions, self.key)
            self.t += 1
            seen, reward = np.asarray(decision.observation), np.asarray(decision.reward)
            self.rewards.append(reward)
            ended = self.t == world.config.horizon
            notes: list[dict] = [{} for _ in range(count)]
            if ended:
                notes = [{"TimeLimit.truncated": True, "terminal_observation": row} for row in seen]
                seen = self.reset()
            return seen, reward, np.full(count, ended), notes

        def close(self) -> None: ...
        def get_attr(self, attr_name: str, indices: Any = None) -> list:
            return [getattr(self, attr_name, None)] * count

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...
        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list:
            return [None] * count

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * count

    return Scenes()


CASES = {"train": train}


if __name__ == "__main__":
    serve(CASES)
