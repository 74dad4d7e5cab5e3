"""Settings of the simulator and of compiling and observing scenes; importing this module loads no jax."""

import math
from dataclasses import dataclass
from typing import Literal

from gleanings.core.errors import ConfigError

PER_STEP_METRICS = (
    "collision",
    "overlap_gap",
    "at_fault",
    "off_road",
    "off_road_m",
    "wrong_way",
    "off_route",
    "off_route_m",
    "progress_m",
    "progress_ratio",
    "log_divergence",
    "infeasible",
    "ttc_s",
    "ttc_low",
    "red_light",
    "speeding_mps",
    "goal_reached",
)

PolicyName = Literal["expert", "null", "idm"]
AgentName = Literal["log", "idm", "constant"]
DynamicsName = Literal["bicycle", "discrete", "delta"]
Controlled = Literal["sdc", "all", "vehicles", "predict"]

EVENTS = (
    "collision",
    "at_fault",
    "off_road",
    "wrong_way",
    "off_route",
    "infeasible",
    "ttc_low",
    "red_light",
    "goal_reached",
)
"""Those that are true or false."""


@dataclass(frozen=True)
class CompileConfig:
    """How a raw scene becomes arrays of fixed sizes."""

    max_objects: int = 256
    """Tracks kept: the ego, those to predict or of interest, then the nearest at the start."""
    objects: int | None = None
    """Object slots; None: the smallest of 32, 64, 128, 256 that holds the tracks."""
    segments: int | None = None
    """Road edge segments; None: the smallest of 1k, 2k, 4k, 8k, 16k that holds them."""
    simplify_m: float = 0.001
    """Largest distance, in metres, by which merging collinear edge segments may move an edge."""
    path_m: int | None = None
    """Length of the paths: 256, 512 or 1024 m; None: the least that holds every logged way and what lies ahead."""
    raster: bool = False
    """Also store the signed distance on a 0.5 m raster."""

    def __post_init__(self) -> None:
        """Raises: ConfigError for a `simplify_m` that is no length."""
        if not 0 <= self.simplify_m < math.inf:
            raise ConfigError(f"simplify_m is {self.simplify_m}; expected 0 metres or more, such as 0.001")


@dataclass(frozen=True)
class ObserveConfig:
    """What an agent sees, in its own frame (x forward, y left)."""

    objects: int = 16
    """Nearest other objects (K)."""
    frames: int = 1
    """Steps of history, the present one included (H); needs `SimConfig.history >= frames - 1`."""
    road: int = 64
    """Nearest road points (R)."""
    lights: int = 4
    """Nearest stop lines of traffic lights (S)."""
    radius_m: float = 60.0
    """Road points, objects and stop lines beyond are masked."""
    route: int = 40
    """Points of the path ahead."""
    spacing_m: float = 2.0
    """Between them."""
    line_of_sight: bool = False
    """Objects behind others are masked: all five lines, to centre and corners, cross another box."""


@dataclass(frozen=True)
class SimConfig:
    """What a simulator does with the objects of a scene."""

    controlled: Controlled | tuple[int, ...] = "sdc"
    """Objects that take actions; a tuple holds ids of `Scene.objects.id`."""
    start: int | None = None
    """First state index; None: `Scene.start`."""
    steps: int | None = None
    """Steps of an episode; None: to the end of the log."""
    metrics: tuple[str, ...] = PER_STEP_METRICS
    """Metrics measured at each step."""
    measured: Literal["all", "sdc"] = "all"
    """Objects that are measured; metrics of the others are undefined. The ego alone costs much less."""
    terminate_on: tuple[str, ...] = ()
    """Boolean metrics that end an object's episode."""
    on_done: Literal["continue", "stop", "remove"] = "continue"
    """What an object does after that: goes on, stands where it is, or leaves."""
    spawn: Literal["log", "wait"] = "log"
    """When a simulated object that enters later appears: as logged, or once its place is free."""
    log_end: Literal["keep", "remove"] = "keep"
    """What a simulated object does after its last logged step."""
    excuse_overlap: bool = True
    """A pair in contact when both are first alive is no collision until it separates."""
    follow_ground: bool = True
    """Simulated objects follow the height of the road."""
    history: int = 0
    """Past states kept in `SimState.ring` for observations."""
    road: Literal["grid", "dense", "raster"] = "grid"
    """How the distance to the road edge is found."""
    off_road_points: Literal[4, 8] = 4
    """Points of a box that `off_road_m` looks at: its corners, or also the middles of its sides."""
