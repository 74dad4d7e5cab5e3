"""Settings of learning to drive; importing this module loads no jax. Source: ours, but where it is named.

Each class raises ConfigError, with the range that is allowed, for a value that cannot be meant.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from gleanings.core.errors import ConfigError
from gleanings.driving.config import ObserveConfig

Algorithm = Literal["bc", "sac", "bc-sac", "dqn"]
HeadName = Literal["gaussian", "mixture", "categorical"]
EncoderName = Literal["deep-set", "attention", "flat"]
Others = Literal["log", "idm"]
OnNonfinite = Literal["stop", "skip-seed"]
RewardName = Literal["clearance", "binary"]


def _check_least(config: Any, **least: int) -> None:
    """Numbers, and those in tuples, are finite and at least so large."""
    for name, bound in least.items():
        value = getattr(config, name)
        if not all(bound <= one < math.inf for one in (value if isinstance(value, tuple) else (value,))):
            raise ConfigError(f"{name} is {value}; expected {bound} or more")


def _check_choice(config: Any, **choices: Any) -> None:
    for name, kind in choices.items():
        if (value := getattr(config, name)) not in get_args(kind):
            raise ConfigError(f"{name}={value!r}: choose from {', '.join(map(str, get_args(kind)))}")


def _check_share(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not all(0 <= one <= 1 for one in (value if isinstance(value, tuple) else (value,))):
            raise ConfigError(f"{name} is {value}; expected 0 to 1")


def _check_descent(config: Any) -> None:
    _check_least(config, batch=1, gradient_steps=1, iterations=1)
    for name in ("learning_rate", "clip_norm"):
        if not 0 < getattr(config, name) < math.inf:
            raise ConfigError(f"{name} is {getattr(config, name)}; expected a number above 0")


def _check_values(config: Any) -> None:
    _check_descent(config)
    _check_least(config, environments=1, capacity=1)
    if not 0 <= config.discount < 1 or not 0 < config.target_rate <= 1:
        raise ConfigError(
            f"discount={config.discount} lies in [0, 1), target_rate={config.target_rate} in (0, 1]: nothing ends an "
            "episode, so that values without a discount have no bound"
        )


_SEEN = ObserveConfig(objects=6, frames=2, road=16, lights=1, route=10, spacing_m=5.0, line_of_sight=True)


@dataclass(frozen=True)
class WorldConfig:
    """The decision process: what is seen, how often one decides, and what it costs."""

    observe: ObserveConfig = _SEEN
    """What the ego sees."""
    every: int = 2
    """Simulation steps of 0.1 s with one action (m): 5 decisions a second."""
    horizon: int = 40
    """Decisions of an episode (H): 8 s."""
    others: Others = "log"
    """All other objects: played back from the log, or IDM on their paths."""
    reward: RewardName = "clearance"
    """What is lost by coming closer than the distances below; or -1 in a decision with contact or off the road, else 0,
    which takes no distances or weights."""
    clearance_m: float = 1.0
    """Distance to other boxes below which the reward falls (d_c)."""
    edge_m: float = 0.5
    """Distance to the road edge below which the reward falls (d_o)."""
    clearance_weight: float = 1.0
    """Weight of the first (w_c)."""
    edge_weight: float = 1.0
    """Weight of the second (w_o)."""
    progress_weight: float = 0.0
    """Reward for 10 m along the route (w_p)."""
    after_failure: Literal["go-on", "absorb"] = "go-on"
    """After the first failure the episode goes on, or costs the worst reward at every decision left."""

    def __post_init__(self) -> None:
        _check_choice(self, others=Others, reward=RewardName, after_failure=Literal["go-on", "absorb"])
        _check_least(self, every=1, horizon=1, clearance_m=0, edge_m=0, clearance_weight=0, edge_weight=0)
        _check_least(self, progress_weight=0)
        unused = ("clearance_m", "edge_m", "clearance_weight", "edge_weight") if self.reward == "binary" else ()
        if given := [name for name in unused if getattr(self, name) != getattr(type(self), name)]:
            raise ConfigError(f"reward='binary' takes no {', '.join(given)}: leave out what it does not use")


@dataclass(frozen=True)
class NetConfig:
    """Encoder and trunk, of actor and critics alike but with weights of their own."""

    encoder: EncoderName = "deep-set"
    """Sets of objects and points by masked maximum and mean, latents that attend to them, or all numbers in a row."""
    width: int = 32
    """Features of an object or a point."""
    trunk: tuple[int, ...] = (128, 128)
    """Hidden layers behind the encoder."""
    heads: int = 4
    """Attention heads."""
    latents: int = 16
    """Learned latents that attend."""
    blocks: int = 2
    """Blocks of cross and self attention."""
    norm: bool = True
    """Layer normalisation in the hidden layers of critics and Q-networks."""
    use_route: bool = True
    """Whether the route is seen; if not its rows are masked, with as many parameters."""

    def __post_init__(self) -> None:
        _check_choice(self, encoder=EncoderName)
        _check_least(self, width=1, heads=1, latents=1, blocks=0)


@dataclass(frozen=True)
class BCConfig:
    """Behaviour cloning: maximum likelihood of the logged actions."""

    net: NetConfig = NetConfig()
    """Networks."""
    head: HeadName = "gaussian"
    """Distribution of the action."""
    components: int = 6
    """Components of the mixture (K)."""
    learning_rate: float = 3e-3
    """Adam."""
    clip_norm: float = 10.0
    """Largest global norm of a gradient."""
    batch: int = 256
    """Rows of a gradient step."""
    gradient_steps: int = 160
    """Gradient steps of an iteration (U)."""
    iterations: int = 32
    """Iterations."""

    def __post_init__(self) -> None:
        _check_choice(self, head=HeadName)
        _check_descent(self)
        _check_least(self, components=1)


@dataclass(frozen=True)
class BCSACConfig:
    """SAC with an imitation term in the actor loss (arXiv 2212.11419, section IV). `imitation_weight` 0 is SAC."""

    net: NetConfig = NetConfig()
    """Networks."""
    head: HeadName = "gaussian"
    """Distribution of the action."""
    components: int = 6
    """Components of the mixture (K)."""
    imitation_weight: float = 0.1
    """Weight of the log-likelihood of logged actions in the actor loss (lambda)."""
    rl_weight: float = 1.0
    """Weight of the SAC term; 0 is behaviour cloning with a collection beside it."""
    temperature: float = 0.02
    """Entropy weight (alpha), or the first one if it is tuned."""
    target_entropy: float | None = None
    """Entropy towards which the temperature is tuned; None: it stays."""
    discount: float = 0.95
    """Of a decision (gamma)."""
    target_rate: float = 0.005
    """Step of the target critics towards the critics."""
    learning_rate: float = 3e-3
    """Adam, of actor and critics."""
    clip_norm: float = 10.0
    """Largest global norm of a gradient."""
    batch: int = 256
    """Rows from the replay, and as many from the demonstrations."""
    environments: int = 256
    """Episodes collected in an iteration (E)."""
    gradient_steps: int = 160
    """Gradient steps of an iteration (U)."""
    iterations: int = 32
    """Iterations."""
    capacity: int = 4096
    """Episodes that the replay holds (P)."""
    critic_first: int = 0
    """Gradient steps, the first of all, in which only the critics learn; for an actor that starts from a policy."""

    def __post_init__(self) -> None:
        _check_choice(self, head=HeadName)
        _check_values(self)
        _check_least(self, components=1, critic_first=0)
        weights = self.imitation_weight, self.rl_weight
        if not all(0 <= weight < math.inf for weight in weights) or sum(weights) == 0:
            raise ConfigError(f"imitation_weight and rl_weight are {weights}; they are at least 0 and not both 0")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}; expected a number above 0")
        if self.target_entropy is not None and self.rl_weight == 0:
            raise ConfigError("target_entropy needs an rl_weight above 0")


def sac_config(**changes: object) -> BCSACConfig:
    """`BCSACConfig` without imitation."""
    return BCSACConfig(**({"imitation_weight": 0.0} | changes))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class DQNConfig:
    """Double DQN with prioritised replay on discretised actions (arXiv 2310.08710, appendix; details ours)."""

    net: NetConfig = NetConfig()
    """Networks."""
    bins: tuple[int, int] = (13, 21)
    """Bins of acceleration and curvature."""
    discount: float = 0.95
    """Of a decision (gamma)."""
    target_rate: float = 0.005
    """Step of the target network towards the network."""
    learning_rate: float = 3e-4
    """Adam."""
    clip_norm: float = 10.0
    """Largest global norm of a gradient."""
    batch: int = 256
    """Rows of a gradient step."""
    environments: int = 64
    """Episodes collected in an iteration (E)."""
    gradient_steps: int = 160
    """Gradient steps of an iteration (U)."""
    iterations: int = 32
    """Iterations."""
    capacity: int = 2048
    """Episodes that the replay holds (P)."""
    priority: float = 0.6
    """Exponent of the temporal difference error in the probability of a row."""
    correction: tuple[float, float] = (0.4, 1.0)
    """Exponent of the importance weights, at the start and at the end."""
    exploration: tuple[float, float] = (1.0, 0.05)
    """Share of random actions, at the start and after half the iterations."""

    def __post_init__(self) -> None:
        _check_values(self)
        _check_least(self, priority=0, correction=0, bins=1)
        _check_share(self, "exploration")


@dataclass(frozen=True)
class DemoConfig:
    """Demonstrations: labels, windows of real logs, generated hazards and their expert."""

    max_residual_m: float = 0.1
    """A label whose replay misses the log by more (root mean square of the corners) is dropped."""
    min_travel_m: float = 30.0
    """A logged vehicle that travels less is no ego."""
    stride_s: float = 1.0
    """Distance of the windows of one log."""
    mirror: bool = True
    """Also the mirror image of each window."""
    follower_share: float = 0.6
    """Share of hazards with a car close behind the ego."""
    nothing_share: float = 0.3
    """Share of hazards in which nothing happens."""
    max_discard: float = 0.4
    """More scenes than this share that the expert cannot solve are an error."""
    max_audit: float = 0.25
    """More demonstrated steps with a negative reward than this share are an error."""

    def __post_init__(self) -> None:
        _check_least(self, max_residual_m=0, min_travel_m=0, stride_s=0)
        _check_share(self, "follower_share", "nothing_share", "max_discard")
        if self.nothing_share == 1:
            raise ConfigError("nothing_share is 1; expected less: ask for kinds=('nothing',) alone")


@dataclass(frozen=True)
class BucketConfig:
    """How hard a scene is."""

    kind: Literal["planner", "model"] = "planner"
    """By re-simulation of a frozen planner, or by a model of its near misses (arXiv 2212.11419, section V-B)."""
    simulations: int = 4
    """Re-simulations of a scene."""
    percentiles: tuple[int, ...] = (50, 10, 3)
    """Hardest shares, in percent, that are reported."""
    near_miss_m: float = 0.5
    """Gap below which the planner's drive is a near miss."""
    seed: int = field(default=0)
    """Of the noise of the re-simulations."""

    def __post_init__(self) -> None:
        _check_choice(self, kind=Literal["planner", "model"])
        _check_least(self, simulations=1, near_miss_m=0)
        if not all(0 < share < 100 for share in self.percentiles):
            raise ConfigError(f"percentiles {self.percentiles}: whole percents from 1 to 99")
