"""What a policy was made for, which a world must meet before the policy drives in it. Loads no jax. Source: ours."""

import math
from dataclasses import dataclass, fields

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.config import (
    Algorithm,
    BCConfig,
    BCSACConfig,
    DQNConfig,
    HeadName,
    NetConfig,
    WorldConfig,
)

LIMITS = (-8.0, 4.0, 0.22, 10.0)
"""Of vehicles in `dynamics.Bicycle`: least and largest acceleration, m/s^2, curvature, 1/m, lateral m/s^2."""
_NET = NetConfig()
_SAME_DT = 0.01  # steps of real logs are up to 0.4 % off


def caveat(frozen_at: int | None) -> str:
    """What must be said of a policy whose training broke off at an iteration; "" of another."""
    why = f"training broke off at iteration {frozen_at} by NaN or infinity"
    return "" if frozen_at is None else f"{why}: counts as failing in every scene"


@dataclass(frozen=True)
class Contract:
    """Everything that an observation and an action mean to a policy, and where its data came from."""

    algorithm: Algorithm
    """How it was trained."""
    world: WorldConfig
    """World it was trained in: what is seen, steps of a decision, what the others did."""
    net: NetConfig = _NET
    """Its network."""
    head: HeadName = "gaussian"
    """Distribution of its actions; of a DQN the grid of them."""
    components: int = 6
    """Components of a mixture."""
    bins: tuple[int, int] = (13, 21)
    """Bins of a grid of actions."""
    dt: float = 0.1
    """Step of the simulation, s."""
    dynamics: str = "Bicycle"
    """Model of motion of the ego."""
    limits: tuple[float, float, float, float] = LIMITS
    """Least and largest acceleration, m/s^2, largest curvature, 1/m, largest lateral acceleration, m/s^2."""
    source: str = ""
    """The data it was trained on."""
    licence: str = ""
    """Licence note of these data."""
    frozen_at: int | None = None
    """Iteration that gave NaN or infinity, before which its training ended: it counts as failing in every scene."""

    def check(self, world: WorldConfig, dt: float) -> None:
        """ConfigError with both values of every field that differs; only what the others do, and rewards, may."""
        pairs = [("every", self.world.every, world.every)]
        pairs += [
            (f"observe.{field.name}", getattr(self.world.observe, field.name), getattr(world.observe, field.name))
            for field in fields(world.observe)
        ]
        pairs += [("dynamics", self.dynamics, "Bicycle"), ("limits", self.limits, LIMITS)]
        different = [
            f"{name} is {own!r} in the policy, {other!r} in the world" for name, own, other in pairs if own != other
        ]
        if not math.isclose(self.dt, dt, rel_tol=_SAME_DT):
            different.append(f"dt is {self.dt} s in the policy, {dt:.6g} s in the scenes")
        if different:
            raise ConfigError(f"the policy was not made for this world: {'; '.join(different)}")


def make_contract(
    algorithm: Algorithm,
    config: BCConfig | BCSACConfig | DQNConfig,
    world: WorldConfig,
    *,
    dt: float = 0.1,
    source: str = "",
    licence: str = "",
    frozen_at: int | None = None,
) -> Contract:
    """The contract of a policy trained with these settings."""
    net, origin = config.net, {"source": source, "licence": licence, "frozen_at": frozen_at}
    if isinstance(config, DQNConfig):
        return Contract(algorithm, world, net, "categorical", bins=config.bins, dt=dt, **origin)
    return Contract(algorithm, world, net, config.head, config.components, dt=dt, **origin)
