"""Sixteen families of generated driving scenes, for whoever has no data; NumPy and SciPy only. Source: ours."""

from dataclasses import replace
from difflib import get_close_matches

from gleanings.core.errors import ConfigError
from gleanings.driving.config import CompileConfig
from gleanings.driving.families import highways, junctions, roads
from gleanings.driving.families._check import faults
from gleanings.driving.families._conflicts import tables
from gleanings.driving.families._scene import build
from gleanings.driving.families.base import Plan, stream
from gleanings.driving.families.traffic import populate, simulate
from gleanings.driving.raw import Kind, RawScene
from gleanings.driving.scene import Scene

_MAKERS = {
    maker.__name__: maker
    for maker in (
        roads.straight,
        highways.multi_lane,
        roads.curve,
        roads.s_curve,
        highways.merge,
        highways.weave,
        junctions.t_junction,
        junctions.four_way_stop,
        junctions.four_way_signal,
        junctions.roundabout,
        roads.narrow,
        highways.cut_in,
        roads.jam,
        roads.crossing,
        roads.overpass,
        junctions.u_turn,
    )
}
FAMILIES = {name: (maker.__doc__ or "").split(".")[0] for name, maker in _MAKERS.items()}
_ATTEMPTS = 20


def make_raw(family: str, seed: int = 0, index: int = 0, objects: int | None = None) -> RawScene:
    """Scene `index` of a family: bit-equal for equal arguments. objects: how many at most; None: drawn, 8 to 64.

    ConfigError: an unknown family, a negative seed or index, or no scene without contact after 20 draws.
    """
    maker = _MAKERS[_known(family)]
    if seed < 0 or index < 0:
        raise ConfigError(f"seed {seed} and index {index}: both must be 0 or more")
    if objects is not None and not 1 <= objects <= 256:
        raise ConfigError(f"objects is {objects}; choose 1 to 256, or None to draw it")
    rng = stream(family, seed, index)
    reason = ""
    for attempt in range(_ATTEMPTS):
        plan = maker(rng)
        if objects is not None:
            _limit(plan, objects)
        table = tables(plan.routes, plan.zipper, plan.cluster)
        fleet = populate(plan, table, rng)
        scene = build(f"{family}-{seed}-{index}", plan, fleet, simulate(plan, table, fleet), rng)
        wrong = ["no vehicle can be the ego"] if scene is None else faults(scene)
        if scene is not None and objects is None and (len(scene.tracks) < 8 or len(scene.predict) < 2):
            wrong = [*wrong, "too few objects"]
        if scene is not None and not wrong:
            return replace(scene, repairs={"redrawn": attempt} if attempt else {})
        reason = wrong[0]
    raise ConfigError(
        f"family {family!r}, seed {seed}, index {index}: {_ATTEMPTS} draws failed ({reason}); take another index"
    )


def _limit(plan: Plan, objects: int) -> None:
    """Make a plan hold at most this many objects, the ego among them, and drive as many vehicles as that leaves."""
    plan.placed = sorted(plan.placed, key=lambda put: not put.sdc)[: max(1, objects // 2) if plan.late else objects]
    walk = sum(plan.routes[put.route].kind == Kind.PEDESTRIAN for put in plan.placed)
    plan.placed, walk = (plan.placed, walk) if walk < objects else ([], 0)
    plan.parked = plan.parked[: (objects - len(plan.placed)) // 2]
    plan.count = objects - len(plan.parked) - walk


def make_scenes(family: str, seed: int = 0, count: int = 1, *, config: CompileConfig | None = None) -> list[Scene]:
    """`count` compiled scenes of a family, or of every family in turn for "all"; errors as in `make_raw`."""
    from gleanings.driving.compile import compile_scene

    names = list(_MAKERS) if family == "all" else [_known(family)]
    raws = (make_raw(names[k % len(names)], seed, k // len(names)) for k in range(count))
    return [compile_scene(raw, config or CompileConfig()) for raw in raws]


def _known(family: str) -> str:
    if family in _MAKERS:
        return family
    near = get_close_matches(family, _MAKERS, 1, 0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"there is no family {family!r}; {hint}Known: all, {', '.join(_MAKERS)}")
