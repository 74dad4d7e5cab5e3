"""Generated scenes for learning, in which things happen that rarely do, driven by a fair expert. Source: ours, 3.4."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from gleanings.core.errors import ConfigError
from gleanings.driving.advance import log_at
from gleanings.driving.families._scene import poses
from gleanings.driving.families.base import stream, vehicle_size
from gleanings.driving.families.layout import arc_of
from gleanings.driving.learn._actors import Actor, touch
from gleanings.driving.learn._compose import SLOTS, bystanders, compose, log_egos, seen_by_expert
from gleanings.driving.learn._plans import Style
from gleanings.driving.learn._scripts import Draw, script
from gleanings.driving.learn._sites import DT, SPREAD_M, START, STEPS, Site, make_site
from gleanings.driving.learn.bank import COMMON, make_bank, without_lanes
from gleanings.driving.learn.config import DemoConfig, WorldConfig
from gleanings.driving.learn.expert import Drive, Episode, drive, noise
from gleanings.driving.learn.follower import LATE_S, ROOM_M, follower
from gleanings.driving.learn.labels import towards
from gleanings.driving.learn.world import World
from gleanings.driving.raw import Light
from gleanings.driving.scene import Pose, Scene

BATCH, DECISIONS, SHARED = 16, 40, 16
_ATTEMPTS, _TRIES, _ENOUGH = 64, 20, 50
_ON_A_MAP = 2  # attempts, before a scene moves to a map of its own: on some the expert always fails
_MOST = 100_000  # or names of scenes would be cut
_STREETS = (("straight", "along"), ("curve", "along"), ("s_curve", "along"), ("crossing", "along"))
_HIGHWAYS = (("multi_lane", "along"), ("cut_in", "along"), ("weave", "along"))
_SITES: dict[str, tuple[tuple[str, str], ...]] = {
    "lead_brake": (*_STREETS[:3], _HIGHWAYS[0]),
    "cut_in": _HIGHWAYS,
    "merge": (("merge", "merge"),),
    "left_turn": (("four_way_signal", "left"), ("four_way_stop", "left"), ("t_junction", "left")),
    "crossing": (("four_way_signal", "ahead"), ("four_way_stop", "ahead")),
    "jaywalker": _STREETS,
    "occluded_pedestrian": _STREETS,
    "double_parked": _STREETS,
    "roundabout_entry": (("roundabout", "ring"),),
    "nothing": (*_STREETS, *_HIGHWAYS[:2], ("four_way_signal", "ahead"), ("roundabout", "ring")),
}
_PACES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # of a follower who lets others pass first
_PRIORITY = ("left_turn", "crossing")
KINDS = tuple(_SITES)


@dataclass(frozen=True)
class Discards:
    """How many scenes of each kind were drawn, and in how many of them the expert failed, so that they were dropped."""

    drawn: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def share(self, kind: str | None = None) -> float:
        """Share of the scenes of a kind (None: of all) that were discarded."""
        if kind is None:
            return sum(self.failed.values()) / max(sum(self.drawn.values()), 1)
        return self.failed[kind] / max(self.drawn[kind], 1)

    def check(self, most: float) -> None:
        """ConfigError if more than this share of a kind was discarded, once at least 50 were drawn."""
        for kind, drawn in self.drawn.items():
            if drawn >= _ENOUGH and self.share(kind) > most:
                raise ConfigError(
                    f"the expert fails in {self.share(kind):.0%} of {drawn} hazards {kind!r}, more than "
                    f"max_discard = {most:.0%}; leave the kind out or raise DemoConfig.max_discard"
                )


class Draft(NamedTuple):
    """A hazard before its ego has driven."""

    name: str
    kind: str
    attempt: int
    draw: Draw
    actors: list[Actor]
    slots: Int[np.ndarray, " K"]
    episode: Episode
    follows: tuple[float, float, tuple[float, float, float]] | None
    state: Any


def make_hazards(
    kinds: Sequence[str] | None = None, *, seed: int, count: int, config: DemoConfig | None = None
) -> tuple[list[Scene], Discards]:
    """`count` learning scenes of these kinds (None: all), named <kind>-<seed>-<index>, NumPy arrays.

    Where the expert fails a scene is drawn again, from the third time on elsewhere; `Discards` counts these. A scene is
    the same for the same kinds, seed and index, however many are made; `SHARED` rounds of the kinds happen on the same
    maps, which differ between seeds. With 'nothing' among the kinds `config.nothing_share` of the scenes are that, in
    shares of a round. ConfigError: an unknown kind, a seed or count below 0 or above 99,999, or a kind of which more
    than `config.max_discard` fail.
    """
    config = DemoConfig() if config is None else config
    deck = _deck(KINDS if kinds is None else tuple(kinds), config.nothing_share)
    if not 0 <= seed < _MOST or not 0 <= count < _MOST:
        raise ConfigError(f"seed {seed} and count {count}: both are from 0 to {_MOST - 1:,}")
    found: dict[int, Scene] = {}
    discards, world = Discards(), World(WorldConfig())
    waiting = [(index, 0) for index in range(count)]
    while waiting:
        batch, waiting = waiting[:BATCH], waiting[BATCH:]
        drafts = [draft(deck, seed, index, attempt, config) for index, attempt in batch]
        scenes, _ = solve(drafts)
        failed = replay(world, scenes)
        for (index, _), one, scene, fails in zip(batch, drafts, scenes, failed, strict=True):
            discards.drawn[one.kind] += 1
            discards.failed[one.kind] += int(fails)
            if fails:
                waiting.append((index, one.attempt + 1))
            else:
                found[index] = scene
        discards.check(config.max_discard)
    return [found[index] for index in range(count)], discards


def _deck(kinds: tuple[str, ...], share: float) -> tuple[str, ...]:
    """The kinds of one round: each once, 'nothing' as often as makes up its share."""
    if unknown := [kind for kind in kinds if kind not in _SITES]:
        raise ConfigError(f"there is no kind of hazard {unknown[0]!r}; known: {', '.join(KINDS)}")
    if not kinds:
        raise ConfigError(f"no kinds of hazards; known: {', '.join(KINDS)}")
    events = [kind for kind in dict.fromkeys(kinds) if kind != "nothing"]
    if "nothing" not in kinds or not events:
        return tuple(dict.fromkeys(kinds))
    count = max(1, round(share / (1 - share) * len(events))) if share > 0 else 0
    return (*events, *["nothing"] * count)


def draft(deck: Sequence[str], seed: int, index: int, attempt: int, config: DemoConfig) -> Draft:
    """Hazard `index` of a deck of kinds, drawn the `attempt`-th time, or later where a map has no room for it.

    ConfigError: there is none in 64 attempts.
    """
    for later in range(attempt, attempt + _ATTEMPTS):
        found = _drawn(deck, seed, index, later, config)
        if found is not None:
            return found
    kind = deck[index % len(deck)]
    raise ConfigError(f"hazard {kind!r}, seed {seed}, index {index}: none of {_ATTEMPTS} draws of maps has room for it")


def _drawn(deck: Sequence[str], seed: int, index: int, attempt: int, config: DemoConfig) -> Draft | None:
    """A hazard drawn the `attempt`-th time. None: its map has no lane for the ego, or no room for what happens."""
    card = index % len(deck)
    kind, number = deck[card], index // len(deck) // SHARED
    rng = stream(f"hazard {kind}", seed, index * _ATTEMPTS + min(attempt, _ATTEMPTS - 1))
    families = _SITES[kind]
    family, turn = families[(number + card) % len(families)]
    moved = attempt // _ON_A_MAP * _MOST + (index if attempt >= _ON_A_MAP else 0)
    site = make_site(family, turn, seed, number + moved)
    if site is None:
        return None
    for _ in range(_TRIES):
        draw = _draw(site, rng)
        actors = script(kind, draw)
        if actors is not None:
            slots = bystanders(site, actors, SLOTS - 2 - len(actors))
            state = _lights(site, kind)
            episode = _episode(site, draw, actors, slots, kind)
            follows = _follows(rng, config.follower_share)
            return Draft(f"{kind}-{seed}-{index}", kind, attempt, draw, actors, slots, episode, follows, state)
    return None


def _follows(rng: np.random.Generator, share: float) -> tuple[float, float, tuple[float, float, float]] | None:
    """Delay, gap and size of the follower, in this share of the scenes."""
    drawn = float(rng.uniform(*LATE_S)), float(rng.uniform(*ROOM_M)), vehicle_size(rng, False)
    return drawn if rng.uniform() < share else None


def _lights(site: Site, kind: str) -> UInt8[np.ndarray, "T S"]:
    """States of the lights: as they were, or green for the ego and those who come towards it, red for the others."""
    lights = site.scene.lights
    own = np.flatnonzero(np.isfinite(lights.arc[0]))
    if kind not in _PRIORITY or not len(own):
        return lights.state
    along = np.abs(np.cos(lights.yaw - lights.yaw[own[0]])) > 0.7
    along[own] = True
    return np.broadcast_to(np.where(along, Light.GO, Light.STOP).astype(np.uint8), lights.state.shape)


def _draw(site: Site, rng: np.random.Generator) -> Draw:
    arc = site.first + float(rng.uniform(0, SPREAD_M))
    here = float(site.way.points[round(arc - site.begin), 5])
    return Draw(site, rng, float(rng.beta(1, 3)), arc, here * float(rng.uniform(0.6, 1.0)), vehicle_size(rng, False))


def _episode(site: Site, draw: Draw, actors: list[Actor], slots: Int[np.ndarray, " K"], kind: str) -> Episode:
    rng = draw.rng
    points = site.way.points.copy()
    points[:, 5] *= rng.uniform(0.95, 1.15)
    delay = 5 if rng.uniform() < 0.02 else int(rng.integers(1, 4))
    style = Style(np.float32(rng.uniform(1.0, 2.2)), np.float32(draw.size[0]), np.float32(draw.size[1]))
    arc = draw.arc - site.begin
    row = int(arc)
    x, y = points[row, :2] + (arc - row) * (points[row + 1, :2] - points[row, :2])
    yaw = np.arctan2(points[row, 3], points[row, 2])
    left, turn = rng.normal(0, 0.12), rng.normal(0, 0.005)
    start = [x - left * np.sin(yaw), y + left * np.cos(yaw), yaw + turn, draw.speed, arc]
    others = seen_by_expert(site, actors, slots)
    return Episode(
        site.way._replace(points=points),
        others,
        site.red & (kind not in _PRIORITY),
        np.array(start, np.float32),
        style,
        np.int32(delay),
        noise(rng, DECISIONS),
    )


def solve(drafts: Sequence[Draft]) -> tuple[list[Scene], Float[np.ndarray, "C H 2"]]:
    """The scenes with the expert's drives, and its actions."""
    padded = [one.episode for one in drafts] + [drafts[0].episode] * (BATCH - len(drafts))
    drives = jax.device_get(drive(jax.tree.map(lambda *fields: np.stack(fields), *padded)))
    scenes = [_scene(one, Drive(*(field[k] for field in drives))) for k, one in enumerate(drafts)]
    log_egos(scenes)
    return scenes, drives.u[: len(drafts)]


def _scene(one: Draft, driven: Drive) -> Scene:
    draw, site = one.draw, one.draw.site
    ego = np.zeros((STEPS, 6))
    ego[START:, 0], ego[START:, 1], ego[START:, 3] = driven.x, driven.y, driven.yaw
    ego[START:, 2] = site.line[0, 2]
    ego[START:, 4], ego[START:, 5] = driven.speed * np.cos(driven.yaw), driven.speed * np.sin(driven.yaw)
    before = draw.arc + (np.arange(START + 1) - START) * DT * float(driven.speed[0])
    back = poses(site.line, before, 0.0)
    ego[:START, :2] = back[:-1, :2] + ego[START, :2] - back[-1, :2]
    ego[:START, 3] = back[:-1, 3]
    ego[:START, 4:] = float(driven.speed[0]) * np.stack([np.cos(back[:-1, 3]), np.sin(back[:-1, 3])], 1)
    actors, slots = one.actors, one.slots
    behind = _behind(one, ego)
    if behind is not None:
        actors = [*actors, behind]
        slots = bystanders(site, actors, len(slots))
    return compose(one.name, site, ego, draw.size, actors, slots, one.state)


def _behind(one: Draft, ego: Float[np.ndarray, "T 6"]) -> Actor | None:
    """The follower; None: none was drawn, or at any pace it would touch what is scripted."""
    if one.follows is None:
        return None
    site, (late, gap, size) = one.draw.site, one.follows
    arc = arc_of(site.line)
    road = site.line[arc < one.draw.arc - one.draw.speed * DT * START - 1.0]
    yaw = ego[0, 3]
    normal = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
    foot = poses(site.line, np.array([one.draw.arc - one.draw.speed * DT * START]), 0.0)[0, :3]
    road = road + normal * ((ego[0, :3] - foot) @ normal)
    points = site.way.points
    last = int(np.hypot(*(points[:, :2] - ego[-1, :2]).T).argmin())
    ahead = np.column_stack([points[last + 6 :, :2], np.full(len(points[last + 6 :]), site.line[0, 2])])
    for pace in _PACES:
        found = follower(ego, one.draw.size[0], size, road, ahead.astype(np.float64), late, gap, pace)
        if found is None or not any(touch(found, actor) for actor in one.actors):
            return found
    return None


def replay(
    world: World, scenes: Sequence[Scene], u: Float[np.ndarray, "C H 2"] | None = None
) -> Bool[np.ndarray, " C"]:
    """Whether the ego of each of at most `BATCH` scenes fails under these actions; None: under the labels of its log,
    taken from where it is."""
    count = len(scenes)
    bank = without_lanes(make_bank([*scenes, *[scenes[0]] * (BATCH - count)], COMMON))
    given = np.zeros((BATCH, DECISIONS, 2), np.float32)
    if u is not None:
        given[:count] = u
    return np.asarray(_failures(world, *jax.device_put((bank, given, np.bool_(u is None)))))[:count]


@eqx.filter_jit
def _failures(world: World, bank: Scene, u: Array, labels: Array) -> Array:
    key, every = jax.random.key(0), world.config.every

    def one(scene: Scene, u: Array) -> Array:
        size = (scene.objects.length[0], scene.objects.width[0])

        def step(state: Any, u: Array) -> tuple[Any, Array]:
            here, there = (
                Pose(*(field[0] for field in pose)) for pose in (state.pose, log_at(scene, state.t + every)[0])
            )
            u = jnp.where(labels, towards(here, there, size, scene.dt, every)[0], u)
            return world.fails(scene, state, u, key)

        return jax.lax.scan(step, world.judge.reset(scene, key), u)[1].any()

    return jax.vmap(one)(bank, u)
