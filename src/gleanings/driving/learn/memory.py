"""Whether a training fits in memory, told before anything is compiled. Source: ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax

from gleanings.core.errors import ConfigError
from gleanings.driving.learn import bc_sac, dqn
from gleanings.driving.learn.config import BCSACConfig, DQNConfig
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Scene

_COPIES = 2  # of the state: the one that is trained and the one that is saved
_CGROUP = Path("/sys/fs/cgroup")


class Need(NamedTuple):
    """Bytes: of the states without their replays, of an episode in the replays and of one while it is collected, for
    all seeds; of the bank. copies: of the states that are held at a time."""

    networks: int
    kept: int
    collected: int
    bank: int
    copies: int = _COPIES

    def total(self, capacity: int, environments: int) -> int:
        """With so many episodes kept, and collected at a time."""
        return self.copies * (self.networks + capacity * self.kept) + environments * self.collected + self.bank


def need_of(config: BCSACConfig | DQNConfig, world: World, seeds: int, scenes: Sequence[Scene] | Scene) -> Need:
    """What a training needs; nothing is computed, and networks are those of `init`."""
    init = bc_sac.init if isinstance(config, BCSACConfig) else dqn.init
    state: Any = eqx.filter_eval_shape(lambda key: init(config, world, key), jax.random.key(0))  # pyright: ignore[reportArgumentType]
    ring = state.replay
    everything, replay = _bytes(state), _bytes((ring.obs, ring.action, ring.reward, getattr(state, "priority", None)))
    horizon = world.config.horizon
    collected = 4 * ((horizon + 1) * world.observation_size + 3 * horizon)
    bank = _bytes(scenes) if isinstance(scenes, Scene) else len(scenes) * max(map(_bytes, scenes), default=0)
    return Need(seeds * (everything - replay), seeds * replay // config.capacity, seeds * collected, bank)


def check_memory(
    config: BCSACConfig | DQNConfig,
    world: World,
    seeds: int,
    scenes: Sequence[Scene] | Scene,
    free: int | None = None,
    copies: int = _COPIES,
) -> None:
    """ConfigError where states, replays and bank of scenes exceed the free memory: what each takes, and what would fit.

    free: bytes, None: those of the device; where they are unknown nothing is checked. copies: of the states.
    """
    free = free_bytes() if free is None else free
    need, capacity, environments = need_of(config, world, seeds, scenes), config.capacity, config.environments
    need = need._replace(copies=copies)
    total = need.total(capacity, environments)
    if free is None or total <= free:
        return
    parts = {
        f"{copies} x {seeds} states": copies * need.networks,
        f"{copies} x {seeds} replays of {capacity} episodes": copies * capacity * need.kept,
        f"{environments} episodes collected": environments * need.collected,
        "the scenes": need.bank,
    }
    listed = ", ".join(f"{size:,} for {name}" for name, size in parts.items())
    raise ConfigError(f"{total:,} bytes are needed ({listed}), {free:,} are free: {_advice(need, environments, free)}")


def free_bytes() -> int | None:
    """Free bytes of the first device; None: unknown."""
    stats = jax.local_devices()[0].memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        free = 1024 * int(text.split("MemAvailable:")[1].split()[0])
    except (OSError, ValueError, IndexError):
        return None
    try:
        limit, used = (int((_CGROUP / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no group, or no limit
        return free
    return min(free, limit - used)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def _advice(need: Need, environments: int, free: int) -> str:
    """The largest capacity that fits, a multiple of the environments; if there is none, also fewer of these."""
    spare = free - need.total(0, environments)
    fits = spare // (need.copies * need.kept) // environments * environments if spare > 0 else 0
    if fits:
        return f"capacity={fits} fits"
    fewer = (free - need.total(0, 0)) // (need.copies * need.kept + need.collected)
    if fewer > 0:
        return f"environments={fewer} and capacity={fewer} fit"
    return "nothing fits; take fewer seeds or scenes"
