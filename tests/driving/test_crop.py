"""Cropped scenes: what is measured of the ego is what the whole scene says, whatever the window; sizes; bad input."""

from functools import cache, partial

import jax
import numpy as np
import pytest
from tests.driving._random_scenes import common_size
from tests.driving._raw import STEPS, driving, ring_road, scene, straight_road, track

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving.compile import compile_scene, compile_to_crop
from gleanings.driving.config import PER_STEP_METRICS, CompileConfig, SimConfig
from gleanings.driving.crop import CropConfig, crop_scene
from gleanings.driving.families import FAMILIES, make_raw, make_scenes
from gleanings.driving.grid import nearest_value
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.metrics import _measure
from gleanings.driving.routes import with_lane_route
from gleanings.driving.scene import Scene, Trajectory
from gleanings.driving.stack import LAYOUT, arrays_of, check_scene, sizes_of, stack_scenes

STARTS = (10, 0, 60)  # the scene's own, at the first step, and one whose window ends beyond the log
FINE = CropConfig(segments=1024)  # no edges merged


SOME = ("jam", "weave", "four_way_signal", "roundabout", "overpass")  # a loop, speed, lights, bends, levels


@cache
def families(names: tuple[str, ...] = SOME) -> list[Scene]:
    """A scene of each family, in one size, its ego on a lane route."""
    config = CompileConfig(path_m=512)
    return [with_lane_route(one) for one in common_size([make_scenes(f, 1, config=config)[0] for f in names])]


def ego_of(scene: Scene) -> int:
    return int(np.flatnonzero(scene.objects.is_sdc)[0])


def driven(scene: Scene, slot: int, first: int, seed: int) -> Trajectory:
    """82 logged rows from `first` on, the object in `slot` swaying by some metres off its log."""
    rng, steps = np.random.default_rng(seed), len(scene.log.valid)
    rows = np.arange(first, first + 82)
    there = (rows >= 0) & (rows < steps)
    fields = [np.array(np.asarray(field)[np.clip(rows, 0, steps - 1)]) for field in scene.log]
    moved = Trajectory(*fields)
    moved.valid[~there] = False
    sway = rng.normal(0, 2.5, (2, 1)) * np.sin(np.linspace(0, 1, 82) * rng.uniform(1, 6, (2, 1)))
    moved.x[:, slot] += sway[0].astype(np.float32)
    moved.y[:, slot] += sway[1].astype(np.float32)
    return Trajectory(*(np.where(moved.valid, field, 0).astype(field.dtype) for field in moved))


@partial(jax.jit, static_argnames="config")
@partial(jax.vmap, in_axes=(0, 0, 0, None))
def measured(scene, trajectory, first, config):
    return _measure(scene, trajectory, first, PER_STEP_METRICS, config)


@pytest.fixture(scope="module", params=[SOME, pytest.param(FAMILIES, marks=pytest.mark.slow)], ids=["some", "all"])
def both(request):
    """Metrics of the egos of whole and of cropped scenes [windows, steps], and the cropped ones of all objects."""
    whole, cut, motions, firsts = [], [], ([], []), []
    for number, one in enumerate(families(request.param)):
        for start in STARTS:
            piece, ego = crop_scene(one, FINE, start=start), ego_of(one)
            whole, cut = [*whole, one], [*cut, piece]
            motions[0].append(driven(one, ego, start - 1, number))
            moved = driven(one, ego, start - 1, number)
            rows = [np.where(piece.log.valid, field, 0) for field in piece.log]
            for row, field in zip(rows, moved, strict=True):
                row[:, 0] = field[:, ego]
            motions[1].append(Trajectory(*(row.astype(f.dtype) for row, f in zip(rows, moved, strict=True))))
            firsts.append(start - 1)
    stack = partial(jax.tree.map, lambda *leaves: np.stack(leaves))
    egos = [ego_of(one) for one in whole]
    every = measured(stack_scenes(whole), stack(*motions[0]), np.array(firsts, np.int32), SimConfig())
    every = jax.tree.map(lambda leaf: np.asarray(leaf)[np.arange(len(egos)), :, egos], every)
    bank, zero = make_bank(cut), np.zeros(len(cut), np.int32)
    alone = jax.tree.map(np.asarray, measured(bank, stack(*motions[1]), zero, SimConfig(measured="sdc")))
    return every, jax.tree.map(lambda leaf: leaf[..., 0], alone), alone


@pytest.mark.parametrize("name", PER_STEP_METRICS)
def test_the_ego_of_a_cropped_scene_measures_as_in_the_whole(both, name: str) -> None:
    (value, mask), (cut, known) = both[0][name], both[1][name]
    within = np.arange(len(mask)) % len(STARTS) != 1  # where the log goes on behind the window
    chosen = within if name == "progress_ratio" else slice(None)
    np.testing.assert_array_equal(known[chosen], mask[chosen])
    np.testing.assert_allclose(
        cut[chosen].astype(float), value[chosen].astype(float), atol=0.06 if "progress" in name else 2e-3
    )


def test_something_was_measured(both) -> None:
    every = both[0]
    for name in ("collision", "off_road", "wrong_way", "off_route", "speeding_mps", "red_light"):
        assert every[name].mask.any()
    for name in ("collision", "off_road", "ttc_low"):
        assert 0.005 < every[name].value.mean() < 0.9
    assert every["off_route"].value.any()


def test_only_the_ego_is_measured(both) -> None:
    for name in PER_STEP_METRICS:
        assert not both[2][name].mask[..., 1:].any()
        assert not both[2][name].value[..., 1:].any()


def test_all_scenes_have_one_size_but_for_lists() -> None:
    cut = [crop_scene(one, start=start) for one in families() for start in STARTS[:2]]
    config = CropConfig()
    for piece in cut:
        check_scene(piece)
        sizes = sizes_of(piece)
        assert [sizes[letter] for letter in "TNQERS"] == [82, 16, 257, 256, 128, 16]
        assert int(piece.start) == config.history
        assert piece.objects.is_sdc.tolist() == [True] + [False] * 15
    bank = make_bank(cut)
    assert sizes_of(bank, 1)["N"] == 16
    again = crop_scene(families()[0], start=STARTS[0])
    for name, array in arrays_of(again).items():
        np.testing.assert_array_equal(array, arrays_of(cut[0])[name], err_msg=name)
    with pytest.raises(ConfigError, match=r"different settings: N \[8, 16\]"):
        make_bank([cut[0], crop_scene(families()[0], CropConfig(objects=8))])
    with pytest.raises(ConfigError, match="at least one"):
        make_bank([])


def test_a_scene_compiled_to_be_cropped_has_the_same_crop() -> None:
    raw = make_raw("four_way_signal")
    one, two = (arrays_of(crop_scene(with_lane_route(made(raw)))) for made in (compile_scene, compile_to_crop))
    for name, array in one.items():
        np.testing.assert_array_equal(two[name], array, err_msg=name)


def test_slots_without_an_object_are_padding() -> None:
    piece = crop_scene(compile_scene(scene([driving(8.0, x=10.0), driving(8.0, x=-20.0)], straight_road())))
    assert piece.objects.exists.tolist() == [True, True] + [False] * 14
    for name, array in arrays_of(piece).items():
        axes = LAYOUT[name].axes
        if "N" in axes and name not in ("paths.x", "paths.y", "paths.z", "paths.limit"):
            padding = np.take(array, range(2, 16), axes.index("N"))
            np.testing.assert_array_equal(padding, np.full_like(padding, LAYOUT[name].pad), err_msg=name)


@pytest.mark.parametrize("start", STARTS)
def test_paths_begin_where_objects_are_and_lead_the_same_way(start: int) -> None:
    for whole in families():
        piece = crop_scene(whole, start=start)
        index = {int(number): slot for slot, number in enumerate(whole.objects.id) if number >= 0}
        for slot in np.flatnonzero(piece.objects.exists & (piece.paths.length > 0)).tolist():
            source, valid = index[int(piece.objects.id[slot])], piece.log.valid[:, slot]
            rows = np.arange(start - 1, start + 81)[valid]
            places = [
                np.interp(np.mod(arc, length) if closed else arc, np.arange(paths.x.shape[1]), paths.x[k])
                for paths, k, arc in (
                    (whole.paths, source, whole.paths.logged[source, rows]),
                    (piece.paths, slot, piece.paths.logged[slot, valid]),
                )
                for length, closed in [(paths.length[k], paths.closed[k])]
            ]
            near = piece.paths.logged[slot, valid] < 256
            np.testing.assert_allclose(places[1][near], places[0][near], atol=1e-3)
            assert piece.paths.closed[slot] or piece.paths.logged[slot, valid][0] <= 11 or start == 0
            stops = np.isfinite(piece.lights.arc[slot])
            x = np.interp(piece.lights.arc[slot][stops], np.arange(257), piece.paths.x[slot])
            y = np.interp(piece.lights.arc[slot][stops], np.arange(257), piece.paths.y[slot])
            assert (np.hypot(x - piece.lights.x[stops], y - piece.lights.y[stops]) < 2).all()


def test_a_loop_that_does_not_fit_is_rolled_out() -> None:
    angle = 12.0 * 0.1 * np.arange(STEPS) / 25
    car = track(25 * np.cos(angle), 25 * np.sin(angle), np.pi - (np.pi / 2 - angle) % (2 * np.pi))
    whole = with_lane_route(compile_scene(scene([car], ring_road(25.0))))
    assert whole.paths.closed[0]
    assert crop_scene(whole).paths.closed[0]
    piece = crop_scene(whole, CropConfig(samples=161), start=40)
    assert not piece.paths.closed[0]
    assert float(piece.paths.length[0]) == 160
    x, y = piece.paths.x[0] + whole.origin[0], piece.paths.y[0] + whole.origin[1]
    np.testing.assert_allclose(np.hypot(x, y), 25, atol=0.06)  # lanes are kept to 5 cm
    np.testing.assert_allclose(np.hypot(np.diff(x), np.diff(y)), 1, atol=0.03)
    at = np.interp(piece.paths.logged[0, :51], np.arange(161), x)
    np.testing.assert_allclose(at, 25 * np.cos(angle[39:90]), atol=0.05)


def test_dense_edges_are_merged_and_stay_where_they_are() -> None:
    whole = families()[SOME.index("jam")]
    piece, ego = crop_scene(whole), ego_of(whole)
    assert np.isfinite(whole.edges.z).sum() > 2 * 256
    rng, path = np.random.default_rng(0), np.stack([whole.paths.x[ego], whole.paths.y[ego]], 1)[:250]
    points = (path[rng.integers(0, 250, 2000)] + rng.uniform(-6, 6, (2000, 2))).astype(np.float64)
    values = []
    for one in (whole, piece):
        u, v = np.floor((points[:, 0] - one.grid.x0) / 2), np.floor((points[:, 1] - one.grid.y0) / 2)
        cell = (v * one.grid.nx + u).astype(np.int64)
        values.append(nearest_value(one.edges, one.grid, cell, *points.T, np.zeros(2000)))
    assert (values[0] > 0.1).sum() > 200
    np.testing.assert_allclose(values[1], values[0], atol=0.11)
    assert np.abs(values[1] - values[0]).mean() < 0.03


def test_scenes_without_a_map_can_be_cropped() -> None:
    piece = crop_scene(compile_scene(scene([driving(8.0), driving(5.0, y=20.0)])))
    check_scene(piece)
    assert not np.isfinite(piece.edges.z).any()
    assert not piece.lights.exists.any()


def test_another_object_becomes_the_ego() -> None:
    cars = [driving(8.0, x=12.0 * k, y=3.5 * (k % 3)) for k in range(6)]
    whole = compile_scene(scene(cars, straight_road()))
    piece = crop_scene(whole, CropConfig(objects=3), slot=4, start=30)
    assert piece.objects.id[0] == whole.objects.id[4]
    np.testing.assert_array_equal(piece.log.x[:60, 0], whole.log.x[29:89, 4])
    x, y = whole.log.x[29:89], whole.log.y[29:89]
    nearest = np.hypot(x - x[:, 4:5], y - y[:, 4:5]).min(0)[:6].argsort()
    assert set(piece.objects.id[1:]) <= set(whole.objects.id[nearest[1:5]])


def test_what_cannot_be_cropped() -> None:
    whole = compile_scene(scene([driving(8.0), driving(8.0, x=30.0)], straight_road()))
    nobody = whole._replace(objects=whole.objects._replace(is_sdc=whole.objects.is_sdc & False))
    for said, make in {
        "is not there at step 91": lambda: crop_scene(whole, start=91),
        "is not there at step -1": lambda: crop_scene(whole, start=-1),
        "no object in slot 5": lambda: crop_scene(whole, slot=5),
        "no object in slot -1": lambda: crop_scene(whole, slot=-1),
        "has no ego": lambda: crop_scene(nobody),
    }.items():
        with pytest.raises(DataError, match=said):
            make()
    with pytest.raises(ConfigError, match="samples is 300; the scene's paths have 257"):
        crop_scene(whole, CropConfig(samples=300))
    for wrong in (CropConfig(objects=0), CropConfig(steps=0), CropConfig(history=-1), CropConfig(samples=40)):
        with pytest.raises(ConfigError, match="needs at least"):
            crop_scene(whole, wrong)
