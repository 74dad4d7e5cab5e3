"""Arrays of a scene by name; growing, stacking and grouping scenes."""

import subprocess
import sys

import numpy as np
import pytest
from tests.driving._raw import driving, light, scene, straight_road

from gleanings.core.errors import ConfigError, DataError
from gleanings.driving.compile import compile_scene
from gleanings.driving.config import CompileConfig
from gleanings.driving.scene import Scene
from gleanings.driving.stack import (
    LAYOUT,
    arrays_of,
    check_scene,
    group_scenes,
    grow,
    names_of,
    pad_scene,
    scene_of,
    sizes_of,
    stack_grown,
    stack_scenes,
    unstack,
)


@pytest.fixture(scope="module")
def small() -> Scene:
    return compile_scene(scene([driving(5.0), driving(3.0, y=3.5)], straight_road(), lights=(light(),)))


@pytest.fixture(scope="module")
def large(small: Scene) -> Scene:
    return grow(small, {"N": 64, "E": 2048, "M": 96, "K": 64, "P": 2048, "L": 256, "S": 32, "R": 8192, "C": 32768})


def equal(one: Scene, two: Scene) -> None:
    for name, array in arrays_of(one).items():
        np.testing.assert_array_equal(arrays_of(two)[name], array, err_msg=name)
        assert arrays_of(two)[name].dtype == array.dtype


def test_the_layout_names_every_array_of_a_scene_once(small: Scene) -> None:
    leaves = [leaf for part in small for leaf in (part if isinstance(part, tuple) else (part,))]
    assert len(LAYOUT) == len(leaves)
    assert all(array is leaf for array, leaf in zip(arrays_of(small).values(), leaves, strict=True))
    equal(scene_of(arrays_of(small)), small)


def test_grown_scenes_hold_the_old_arrays_and_padding(small: Scene, large: Scene) -> None:
    check_scene(large)
    for name, array in arrays_of(large).items():
        old = arrays_of(small)[name]
        inner = tuple(slice(0, size) for size in old.shape)
        np.testing.assert_array_equal(array[inner], old, err_msg=name)
        rest = np.ones(array.shape, bool)
        rest[inner] = False
        if not name.endswith("slots"):
            np.testing.assert_array_equal(array[rest], np.asarray(LAYOUT[name].pad).astype(array.dtype), err_msg=name)
    assert large.grid.slots.tolist() == list(range(96))
    assert large.grid.start.max() + 96 <= len(large.grid.items)
    equal(pad_scene(small, large), large)


def test_scenes_do_not_shrink(small: Scene, large: Scene) -> None:
    with pytest.raises(ConfigError, match="N 32 < 64"):
        pad_scene(large, small)
    with pytest.raises(ConfigError, match="differ in T"):
        pad_scene(
            small,
            large._replace(
                log=large.log._replace(**{k: v[1:] for k, v in large.log._asdict().items()}),
                lights=large.lights._replace(state=large.lights.state[1:]),
                paths=large.paths._replace(logged=large.paths.logged[:, 1:]),
            ),
        )
    with pytest.raises(ConfigError, match=r"paths of 257 samples cannot become 513: .*path_m"):
        grow(small, {"Q": 513})


def test_stacked_scenes_come_apart_again(small: Scene) -> None:
    other = small._replace(dt=np.float32(0.2))
    stacked = stack_scenes([small, other])
    assert stacked.log.x.shape == (2, *small.log.x.shape)
    assert names_of(stacked) == ["by hand"] * 2
    for one, two in zip(unstack(stacked), (small, other), strict=True):
        equal(one, two)


def test_scenes_grow_while_they_are_stacked(small: Scene, large: Scene) -> None:
    sizes = sizes_of(large)
    equal(stack_grown([small, large], sizes), stack_scenes([grow(small, sizes), large]))
    with pytest.raises(ConfigError, match="cannot shrink: N 32 < 64"):
        stack_grown([small, large], sizes_of(small))


def test_unequal_sizes_are_listed(small: Scene, large: Scene) -> None:
    with pytest.raises(ConfigError, match=r"N \[32, 64\]; E \[1024, 2048\].*group_scenes"):
        stack_scenes([small, large])
    with pytest.raises(ConfigError, match="no scenes"):
        stack_scenes([])


def test_groups_hold_every_scene_once(small: Scene, large: Scene) -> None:
    wide = compile_scene(scene([driving(5.0)]), CompileConfig(objects=64))
    longer = grow(small, {"E": 4096})
    groups = list(group_scenes([small, large, small, wide, longer], 2))
    assert [indices for indices, _ in groups] == [[0, 2], [4], [1], [3]]
    for indices, stacked in groups:
        assert len(stacked.dt) == len(indices)
    assert groups[0][1].edges.ax.shape == (2, 4096)
    equal(unstack(groups[1][1])[0], longer)
    with pytest.raises(ConfigError, match="batch = 0"):
        next(group_scenes([small], 0))


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("lanes", "lane", 500, "lanes.lane"),
        ("grid", "items", 5000, "grid.items"),
        ("grid", "start", 1 << 20, "grid.start"),
        ("lane_grid", "nx", 1 << 20, "lane_grid.nx"),
        (None, "start", 91, "start holds"),
        ("objects", "kind", 4, "objects.kind holds"),
        ("objects", "kind", -1, "objects.kind holds"),
        ("objects", "last", 91, "objects.last holds"),
        ("lights", "state", 9, "lights.state holds"),
        ("road", "kind", 8, "road.kind holds"),
        ("grid", "slots", 1 << 20, "grid.slots holds"),
        (None, "dt", float("nan"), "dt is nan"),
    ],
)
def test_indices_outside_their_array_are_named(
    small: Scene, part: str | None, field: str, value: float, message: str
) -> None:
    owner = getattr(small, part) if part else small
    array = np.array(getattr(owner, field))
    array[(0,) * array.ndim] = value
    owner = owner._replace(**{field: array[()]})
    with pytest.raises(DataError, match=message):
        check_scene(small._replace(**{part: owner}) if part else owner)


def test_arrays_of_another_type_or_size_are_named(small: Scene) -> None:
    with pytest.raises(DataError, match="dt is float64"):
        sizes_of(small._replace(dt=np.float64(0.1)))
    with pytest.raises(DataError, match=r"log\.y has 30 along N, not 32"):
        sizes_of(small._replace(log=small.log._replace(y=small.log.y[:, :30])))


def test_compiling_and_storing_load_no_jax() -> None:
    code = "import sys, gleanings.driving.store, gleanings.driving.compile; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_too_few_steps_and_path_samples_are_named(small: Scene) -> None:
    short = small.paths._replace(**{name: getattr(small.paths, name)[:, :33] for name in ("x", "y", "z", "limit")})
    with pytest.raises(DataError, match="33 path samples; expected at least 34"):
        check_scene(small._replace(paths=short))
    log = small.log._replace(**{name: array[:1] for name, array in small.log._asdict().items()})
    lights, paths = small.lights._replace(state=small.lights.state[:1]), small.paths
    with pytest.raises(DataError, match="1 steps; expected at least 2"):
        check_scene(small._replace(log=log, lights=lights, paths=paths._replace(logged=paths.logged[:, :1])))
