"""Whole generated scenes, compiled and rolled out: what must not change a result does not change it."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving._random_scenes import common_size, family_scene

from gleanings.driving.compile import compile_scene
from gleanings.driving.config import CompileConfig, SimConfig
from gleanings.driving.dynamics import Bicycle
from gleanings.driving.families import FAMILIES, make_raw
from gleanings.driving.idm import IDM
from gleanings.driving.policies import Expert
from gleanings.driving.raw import RawScene
from gleanings.driving.scene import Scene
from gleanings.driving.sim import Simulator
from gleanings.driving.stack import sizes_of, stack_scenes
from gleanings.driving.state import Rollout

KEY, STEPS = jax.random.key(0), 40
METRICS = ("collision", "overlap_gap", "off_road_m", "off_route_m", "progress_m", "log_divergence", "wrong_way")
TRACES = []


class Counting(Expert):
    """An expert that notes how often it is traced."""

    def __call__(self, scene, state, key=None):
        TRACES.append(scene.log.x.shape)
        return super().__call__(scene, state, key)


SIM = Simulator(SimConfig(metrics=METRICS), dynamics=Bicycle(), agents=IDM())
EXPERT = Counting(SIM.dynamics)


def roll(scene: Scene) -> Rollout:
    """The ego follows its log, all others the driver model; without the last state, whose key NumPy cannot hold."""
    return jax.device_get(SIM.rollout(scene, EXPERT, KEY, steps=STEPS)._replace(state=None))


def turned(raw: RawScene, angle: float, shift: tuple[float, float, float]) -> RawScene:
    """Everything of a raw scene turned about its zero, then moved."""
    c, s = np.cos(angle), np.sin(angle)
    spin = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    tracks = tuple(
        replace(
            track,
            position=track.position @ spin + shift,
            velocity=track.velocity @ spin[:2, :2],
            yaw=np.pi - (np.pi - track.yaw - angle) % (2 * np.pi),
        )
        for track in raw.tracks
    )
    features = tuple(replace(feature, points=feature.points @ spin + shift) for feature in raw.features)
    lights = tuple(replace(light, stop=light.stop @ spin + shift) for light in raw.lights)
    goals = tuple(
        replace(goal, centre=tuple((np.array([*goal.centre, 0]) @ spin + shift)[:2].tolist())) for goal in raw.goals
    )
    return replace(raw, tracks=tracks, features=features, lights=lights, goals=goals)


def permuted(raw: RawScene, order: np.ndarray) -> RawScene:
    """Track k is what track order[k] was."""
    place = np.argsort(order)
    return replace(
        raw,
        tracks=tuple(raw.tracks[k] for k in order),
        sdc=int(place[raw.sdc]),
        predict=tuple(int(place[k]) for k in raw.predict),
        interest=tuple(int(place[k]) for k in raw.interest),
        goals=tuple(replace(goal, track=int(place[goal.track])) for goal in raw.goals),
    )


@cache
def variants(family: str) -> tuple[RawScene, np.ndarray, list[Scene]]:
    """A scene; itself, in another order and turned, in one size."""
    raw = make_raw(family, seed=1)
    order = np.random.default_rng(0).permutation(len(raw.tracks))
    other = (raw, permuted(raw, order), turned(raw, 0.7, (1234.5, -987.25, 12.0)))
    return raw, order, common_size([compile_scene(one) for one in other])


def assert_close(one: Rollout, other: Rollout, count: int, order: np.ndarray | None = None, tolerance: float = 0.0):
    """Metrics of `count` objects agree: floats within the tolerance, masks and booleans exactly."""
    order = np.arange(count) if order is None else order
    for name, (value, mask) in one.metrics.items():
        again = other.metrics[name]
        np.testing.assert_array_equal(mask[:, order], again.mask[:, :count], name)
        if value.dtype == bool:
            np.testing.assert_array_equal(value[:, order], again.value[:, :count], name)
        else:
            np.testing.assert_allclose(value[:, order], again.value[:, :count], rtol=0, atol=tolerance, err_msg=name)
    np.testing.assert_array_equal(one.flags[:, order], other.flags[:, :count])


FEW = ("four_way_signal",)


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in FEW else pytest.mark.slow) for f in FAMILIES])
@pytest.mark.slow
def test_the_order_of_tracks_and_a_rigid_motion_change_nothing(family: str):
    raw, order, (scene, shuffled, moved) = variants(family)
    count, first = len(raw.tracks), roll(scene)
    assert_close(first, roll(shuffled), count, order, 1e-4)
    assert_close(first, roll(moved), count, None, 3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_larger_bucket_changes_nothing(family: str):
    raw, _, (scene, *_) = variants(family)
    large = compile_scene(raw, CompileConfig(objects=128, segments=4096))
    assert len(large.objects.kind) > len(scene.objects.kind)
    assert len(large.edges.ax) > len(scene.edges.ax)
    assert_close(roll(scene), roll(large), len(raw.tracks), None, 1e-4)


@pytest.mark.slow
def test_a_batch_of_compiled_scenes_is_its_singles():
    scenes = common_size([family_scene(name) for name in ("merge", "roundabout", "overpass", "crossing")])
    every = jax.tree.map(jnp.asarray, stack_scenes(scenes))
    batch = jax.vmap(lambda scene: SIM.rollout(scene, EXPERT, KEY, steps=STEPS)._replace(state=None))(every)
    for k, scene in enumerate(scenes):
        one = jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k]), batch)
        assert_close(roll(scene), one, len(scene.objects.kind), None, 1e-3)


def test_ten_scenes_of_a_bucket_are_traced_once():
    sizes = [tuple(sizes_of(family_scene("straight", seed)).items()) for seed in range(16)]
    most = max(sizes, key=sizes.count)
    bucket = [seed for seed in range(16) if sizes[seed] == most][:10]
    assert len(bucket) == 10
    TRACES.clear()
    sim = Simulator(SimConfig(metrics=()), dynamics=Bicycle(), agents=IDM())
    for seed in bucket:
        sim.rollout(family_scene("straight", seed), EXPERT, KEY, steps=3, record="metrics")
    assert len(TRACES) == 1
