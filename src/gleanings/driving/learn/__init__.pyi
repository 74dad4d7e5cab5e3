from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.config import (
    BCConfig,
    BCSACConfig,
    BucketConfig,
    DemoConfig,
    DQNConfig,
    NetConfig,
    WorldConfig,
    sac_config,
)
from gleanings.driving.learn.world import Decision, World

__all__ = [
    "BCConfig",
    "BCSACConfig",
    "BucketConfig",
    "DQNConfig",
    "Decision",
    "DemoConfig",
    "NetConfig",
    "World",
    "WorldConfig",
    "make_bank",
    "sac_config",
]
