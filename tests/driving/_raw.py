"""Raw scenes made by hand: a straight road of three lanes, a ring, a T-junction, and cars on them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from gleanings.driving.raw import Kind, MapFeature, RawLight, RawScene, RawTrack, empty_track

STEPS, DT, START = 91, 0.1, 10
Line = Float[np.ndarray, "P 3"]


def line(x: object, y: object, z: float = 0.0) -> Line:
    """Points of a polyline from coordinates that broadcast."""
    return np.stack(np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float), z), axis=-1).copy()


def track(x: object, y: object, yaw: object = 0.0, *, name: str = "car", kind: Kind = Kind.VEHICLE) -> RawTrack:
    """An object of 4.5 x 1.9 x 1.6 m on the ground z = 0, seen at every step; velocity by differences."""
    arrays = empty_track(STEPS)
    arrays["position"][:, 0], arrays["position"][:, 1], arrays["position"][:, 2] = x, y, 0.8
    arrays["yaw"][:], arrays["size"][:], arrays["valid"][:] = yaw, (4.5, 1.9, 1.6), True
    arrays["velocity"][:] = np.gradient(arrays["position"][:, :2], DT, axis=0)
    return RawTrack(name=name, kind=kind, **arrays)


def driving(speed: float, x: float = 0.0, y: float = 0.0, **other: Any) -> RawTrack:
    """A car that drives along x at constant speed, at x at step 0."""
    return track(x + speed * DT * np.arange(STEPS), y, **other)


def scene(tracks: Sequence[RawTrack], features: Sequence[MapFeature] = (), **other: Any) -> RawScene:
    """A raw scene of 91 steps whose ego is track 0."""
    other = {"sdc": 0, **other}
    return RawScene("by hand", DT * np.arange(STEPS), START, tuple(tracks), tuple(features), **other)


def straight_road(linked: bool = True) -> list[MapFeature]:
    """Three lanes along x, 3.5 m apart, each in two halves that meet at x = 100; edges 1.75 m outside; limit 15 m/s."""
    features: list[MapFeature] = []
    for lane in range(3):
        for half in range(2):
            following = (f"{lane}-1",) if half == 0 else ()
            beside = tuple(f"{other}-{half}" for other in (lane - 1, lane + 1) if 0 <= other < 3)
            points = line(np.arange(100.0 * half - 50 * (1 - half), 100 + 100 * half + 1), 3.5 * lane)
            more = {"successors": following, "neighbours": beside, "linked": True} if linked else {}
            features.append(MapFeature("lane", points, f"{lane}-{half}", speed_limit=15.0 + lane, **more))
    x = np.arange(-50.0, 201.0)
    return [
        *features,
        MapFeature("road_edge", line(x, -1.75)),
        MapFeature("road_edge", line(x[::-1], 8.75)),
        MapFeature("road_line", line(x, 1.75)),
        MapFeature("stop_sign", line([20.0], [-3.0])),
    ]


def ring_road(radius: float) -> list[MapFeature]:
    """One closed lane that runs counter-clockwise round the origin."""
    angle = 2 * np.pi * np.arange(360) / 360
    return [MapFeature("lane", line(radius * np.cos(angle), radius * np.sin(angle)), "ring", closed=True)]


def junction() -> list[MapFeature]:
    """A lane along x to (0, 0), from where one goes straight on to x = 60 and one turns left to (10, 10) and up y."""
    quarter = np.linspace(-np.pi / 2, 0, 40)
    return [
        MapFeature("lane", line(np.arange(-60.0, 1), 0), "in"),
        MapFeature("lane", line(10 * np.cos(quarter), 10 + 10 * np.sin(quarter)), "left"),
        MapFeature("lane", line(np.arange(0.0, 61), 0), "straight"),
        MapFeature("lane", line(10, np.arange(10.0, 61)), "up"),
    ]


def light(lane: str = "0-0", x: float = 80.0, y: float = 0.0) -> RawLight:
    """A light that is red (STOP) until step 40 and green from then on."""
    return RawLight(lane, np.where(np.arange(STEPS) < 40, 4, 6).astype(np.uint8), np.array([x, y, 0.0]))


def moved(raw: RawScene, by: Sequence[float]) -> RawScene:
    """The scene moved by x, y, z metres."""
    shift = np.asarray(by, float)
    return replace(
        raw,
        tracks=tuple(replace(one, position=one.position + shift) for one in raw.tracks),
        features=tuple(replace(one, points=one.points + shift) for one in raw.features),
        lights=tuple(replace(one, stop=one.stop + shift) for one in raw.lights),
    )
