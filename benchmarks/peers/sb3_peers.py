"""Trains SAC of stable-baselines3 on scenes of `gleanings`: a worker for an environment with both torch and JAX.

One JSON command a line on stdin, one JSON answer a line on stdout:
    {"case": "train", "source": FOLDER, "bank": FILE, "observe": {...}, "environments": 64, "threads": [1, 2],
     "decisions": 20480, "brief": 2560, "warm": 256, "batch": 256, "device": "cpu"}
        -> {"case": ..., "version": ..., "threads": the faster number, "times": [[wall s, cpu s] of a decision, ...],
            "decisions": all, "reward": of a decision}
One gradient step per 16 decisions. `brief` decisions are timed with each number of threads, then the faster trains on.
`reward` is the mean over the last fifth of the decisions. device: "cpu" or "cuda", of the networks and of the scenes.
"""

import time
from importlib.metadata import version
from typing import Any

from _driving_bank import world_and_bank
from _worker import serve

EVERY = 16  # decisions for one gradient step


def train(
    source: str,
    bank: str,
    observe: dict[str, Any],
    environments: int,
    threads: list[int],
    decisions: int,
    brief: int,
    warm: int,
    batch: int,
    device: str = "cpu",
) -> dict[str, Any]:
    """Trains for `warm` decisions, then times all others."""
    import jax
    import numpy as np
    import torch
    from stable_baselines3 import SAC

    jax.config.update("jax_platforms", device)
    scenes = _scenes(*world_and_bank(source, bank, observe), environments)
    model = SAC(
        "MlpPolicy",
        scenes,
        learning_rate=3e-4,
        buffer_size=decisions + 2 * environments,
        learning_starts=min(warm, batch) // 2,
        batch_size=batch,
        gamma=0.95,
        ent_coef=0.02,
        train_freq=max(EVERY // environments, 1),
        gradient_steps=max(environments // EVERY, 1),
        policy_kwargs={"net_arch": [128, 128]},
        device=device,
        seed=0,
    )
    model.learn(warm)

    def timed(count: int, decisions: int) -> tuple[float, float]:
        torch.set_num_threads(count)
        before, wall, cpu = model.num_timesteps, time.perf_counter(), time.process_time()
        model.learn(decisions, reset_num_timesteps=False)
        done = model.num_timesteps - before
        return (time.perf_counter() - wall) / done, (time.process_time() - cpu) / done

    tried = {count: timed(count, brief) for count in threads}
    best = min(tried, key=lambda count: tried[count][1])
    times = [tried[best], timed(best, decisions - model.num_timesteps)]
    rewards = np.concatenate(scenes.rewards)
    mean = float(rewards[-(len(rewards) // 5) :].mean())
    notes = {"version": version("stable-baselines3"), "threads": best, "times": times}
    return {**notes, "decisions": model.num_timesteps, "reward": mean}


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
