"""The last step of every reader: repair what can be repaired in a raw scene, count it, and refuse the rest. Ours."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from gleanings.core.errors import DataError
from gleanings.driving._lacking import has_size, size_of, velocity_of
from gleanings.driving._resample import even_steps, is_uneven, resample
from gleanings.driving.raw import Light, MapFeature, RawLight, RawScene, RawTrack

MAX_STEPS = 100_000
MAX_STATES = 20_000_000
"""Largest number of tracks times steps."""
MAX_TRACKS = 50_000
MAX_POINTS = 20_000_000
MAX_FEATURES = 100_000
MAX_LINKS = 1_000_000
"""Largest number of successors and neighbours of all lanes."""
_MAX_METRES = 1e8
_MAX_SPEED = 1e4
_STEP_RANGE = (0.001, 10.0)
_FEWEST = {"stop_sign": 1}
Counts = dict[str, int]


def check_raw(scene: RawScene) -> RawScene:
    """The scene, repaired; what was mended is added to `repairs`.

    A pose that is not finite (or beyond 1e8 m) makes its step invalid; z may be NaN where the scene is flat. Sizes that
    are missing or not positive take those of the step that counts (at the start, else the first valid one after it,
    else the first one), else the default of the kind. Missing velocities are filled by backward differences.
    Yaw lies in (-pi, pi]. Rows that are not valid hold NaN. Steps off by more than 20 % are resampled to 0.1 s.
    Points of the map that are not finite and features with too few points are dropped; a light without a stop point
    stands at the first point of its lane, or is dropped. Raises: DataError for times that do not rise or lie outside
    0.001 to 10 s, lengths or indices that do not fit, sizes beyond the limits, and no valid object at the start.
    """
    _check_times(scene)
    _check_lengths(scene)
    _check_indices(scene)
    counts: Counts = {}
    tracks = tuple(_mend_track(track, scene, counts) for track in scene.tracks)
    features = tuple(mended for feature in scene.features if (mended := _mend_feature(feature, counts)) is not None)
    lanes = {feature.name: feature for feature in features if feature.kind == "lane"}
    lights = tuple(mended for light in scene.lights if (mended := _mend_light(light, lanes, counts)) is not None)
    repairs = {name: scene.repairs.get(name, 0) + counts.get(name, 0) for name in scene.repairs | counts}
    scene = replace(scene, tracks=tracks, features=features, lights=lights, repairs=repairs)
    if is_uneven(scene.times):
        _check_states(scene, even_steps(scene.times, scene.start))
        scene = resample(scene)
    if not any(track.valid[scene.start] for track in scene.tracks):
        raise _fault(scene, f"no object is valid at the start, step {scene.start}; expected at least one")
    tracks = tuple(replace(track, velocity=velocity_of(track, scene.times)) for track in scene.tracks)
    return replace(scene, tracks=tracks)


def _fault(scene: RawScene, message: str) -> DataError:
    return DataError(message, scene.source or None, scene.name or None)


def _check_times(scene: RawScene) -> None:
    times = scene.times
    if times.ndim != 1 or len(times) < 2:
        raise _fault(scene, f"{times.size} steps; expected at least 2")
    if not (np.all(np.isfinite(times)) and np.all(np.diff(times) > 0)):
        raise _fault(scene, "the times of the steps do not rise; expected seconds, one step after the other")
    middle = float(np.median(np.diff(times)))
    if not _STEP_RANGE[0] <= middle <= _STEP_RANGE[1]:
        raise _fault(scene, f"steps of {middle:g} s; expected {_STEP_RANGE[0]} to {_STEP_RANGE[1]} s")
    if not 0 <= scene.start < len(times):
        raise _fault(scene, f"start {scene.start} lies outside the {len(times)} steps")


def check_size(count: int, steps: int, what: str = "tracks") -> None:
    """Refuse more tracks (or `what`) or steps than a scene may have, before memory is taken. Raises: DataError."""
    if steps > MAX_STEPS or count > MAX_TRACKS or steps * count > MAX_STATES:
        limit = f"at most {MAX_STEPS:,} steps, {MAX_TRACKS:,} {what} and {MAX_STATES:,} states are read"
        raise DataError(f"{steps:,} steps of {count:,} {what}; {limit}; cut the recording into scenes")


def check_links(count: int) -> None:
    """Refuse more successors and neighbours than the lanes of a scene may have. Raises: DataError."""
    if count > MAX_LINKS:
        raise DataError(f"more than {MAX_LINKS:,} links between lanes; cut the map")


def _check_states(scene: RawScene, steps: int) -> None:
    try:
        check_size(len(scene.tracks), steps)
        check_size(len(scene.lights), steps, "lights")
        check_links(sum(len(feature.successors) + len(feature.neighbours) for feature in scene.features))
    except DataError as error:
        raise _fault(scene, str(error)) from None


def _check_lengths(scene: RawScene) -> None:
    steps = len(scene.times)
    _check_states(scene, steps)
    for track in scene.tracks:
        found = [track.position.shape, track.yaw.shape, track.velocity.shape, track.size.shape, track.valid.shape]
        if found != [(steps, 3), (steps,), (steps, 2), (steps, 3), (steps,)]:
            raise _fault(scene, f"track {track.name!r} has arrays of shapes {found}; expected {steps} steps in each")
    for light in scene.lights:
        if light.state.shape != (steps,) or light.stop.shape != (3,):
            message = f"the light of lane {light.lane!r} has {light.state.size} states; expected {steps}"
            raise _fault(scene, message)
    points, features = sum(len(feature.points) for feature in scene.features), len(scene.features)
    if points > MAX_POINTS or features > MAX_FEATURES:
        limit = f"at most {MAX_POINTS:,} and {MAX_FEATURES:,} are read"
        raise _fault(scene, f"{points:,} map points in {features:,} features; {limit}")


def _check_indices(scene: RawScene) -> None:
    count = len(scene.tracks)
    goals = tuple(goal.track for goal in scene.goals)
    of_ego = (scene.sdc,) if scene.sdc != -1 else ()
    for name, indices in {"sdc": of_ego, "predict": scene.predict, "interest": scene.interest, "goal": goals}.items():
        for index in indices:
            if not 0 <= index < count:
                raise _fault(scene, f"{name} names track {index}; the scene has {count}")
    for goal in scene.goals:
        if not (np.all(np.isfinite(goal.centre)) and np.isfinite(goal.radius) and goal.radius > 0):
            raise _fault(scene, f"the goal of track {goal.track} is no circle: {goal.centre}, radius {goal.radius}")


def _count(counts: Counts, name: str, number: int) -> None:
    if number:
        counts[name] = counts.get(name, 0) + int(number)


def _within(values: Float[np.ndarray, "*shape"], limit: float) -> Bool[np.ndarray, "*shape"]:
    return np.abs(values) <= limit  # False for NaN


def _mend_track(track: RawTrack, scene: RawScene, counts: Counts) -> RawTrack:
    good = _within(track.position[:, 0], _MAX_METRES) & _within(track.position[:, 1], _MAX_METRES)
    good &= np.isfinite(track.yaw)
    high = _within(track.position[:, 2], _MAX_METRES)
    if not scene.flat:
        good &= high
    valid = track.valid & good
    _count(counts, "invalid_pose", int(np.sum(track.valid & ~good)))
    position = np.where(valid[:, None], track.position, np.nan)
    position[~high, 2] = np.nan
    yaw = np.where(valid, track.yaw, 0.0)
    yaw = np.pi - (np.pi - yaw) % (2 * np.pi)
    seen = valid[:, None] & _within(track.velocity, _MAX_SPEED)
    velocity = np.where(seen.all(1, keepdims=True), track.velocity, np.nan)
    _count(counts, "velocity_filled", int(np.sum(valid & ~seen.all(1))))
    track = RawTrack(track.name, track.kind, position, np.where(valid, yaw, np.nan), velocity, track.size, valid)
    return replace(track, size=_mend_size(track, scene.start, counts))


def _mend_size(track: RawTrack, start: int, counts: Counts) -> Float[np.ndarray, "T 3"]:
    good, valid = has_size(track), track.valid[:, None]
    _count(counts, "size", int(np.sum(track.valid & (np.isfinite(track.size) & ~good).any(1))))
    _count(counts, "size_by_kind", int(track.valid.any() and not (good & valid)[:, 0].any()))
    return np.where(valid, np.where(good, track.size, size_of(track, start)), np.nan)


def _mend_feature(feature: MapFeature, counts: Counts) -> MapFeature | None:
    points = feature.points
    good = _within(points[:, 0], _MAX_METRES) & _within(points[:, 1], _MAX_METRES)
    _count(counts, "map_points_dropped", int(np.sum(~good)))
    points = np.where(_within(points, _MAX_METRES), points, np.nan)[good]
    if len(points) < _FEWEST.get(feature.kind, 2):
        _count(counts, "features_dropped", 1)
        return None
    limit = feature.speed_limit if 0 < feature.speed_limit < _MAX_SPEED else float("nan")
    return replace(feature, points=points, speed_limit=limit)


def _mend_light(light: RawLight, lanes: dict[str, MapFeature], counts: Counts) -> RawLight | None:
    known = light.state <= max(Light)
    _count(counts, "light_states", int(np.sum(~known)))
    state = np.where(known, light.state, Light.UNKNOWN).astype(np.uint8)
    stop = np.where(_within(light.stop, _MAX_METRES), light.stop, np.nan)
    if np.isnan(stop[:2]).any():
        lane = lanes.get(light.lane)
        _count(counts, "lights_dropped" if lane is None else "lights_moved_to_lane", 1)
        if lane is None:
            return None
        stop = lane.points[0]
    return RawLight(light.lane, state, stop)
