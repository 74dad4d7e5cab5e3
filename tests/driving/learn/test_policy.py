"""Policies written and read back, damaged in every way that a file can be, and run by jax alone."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.core.errors import CheckpointError, ConfigError
from gleanings.driving.dynamics import largest_curvature, limits_of
from gleanings.driving.learn import policy as module
from gleanings.driving.learn.config import BCConfig, DQNConfig, NetConfig, WorldConfig
from gleanings.driving.learn.contract import LIMITS, Contract, make_contract
from gleanings.driving.learn.heads import make_head
from gleanings.driving.learn.networks import Actor, QNetwork
from gleanings.driving.learn.policy import (
    ARRAYS,
    RECORD,
    STABLEHLO,
    Policy,
    export_policy,
    export_stablehlo,
    load_policy,
)

NET = NetConfig(width=8, trunk=(16,))
CONFIG = BCConfig(net=NET)
CONTRACT = make_contract("bc", CONFIG, WorldConfig(), source="made up", licence="none")
OBSERVED = np.random.default_rng(0).normal(size=(1000, 306)).astype(np.float32)


def actor(seed: int = 0) -> Actor:
    return Actor(NET, make_head("gaussian"), CONTRACT.world.observe, jax.random.key(seed))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return export_policy(actor(), CONFIG, CONTRACT, tmp_path_factory.mktemp("policies") / "policy-0", seed=0)


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "policy")


def test_what_is_loaded_acts_alike(saved):
    loaded = load_policy(saved)
    assert loaded.contract == CONTRACT
    assert sorted(path.name for path in saved.parent.iterdir()) == ["policy-0"]
    expected = jax.vmap(lambda row: actor().head.mode(actor()(row)))(OBSERVED)
    assert np.asarray(loaded.act(OBSERVED)) == pytest.approx(np.asarray(expected), abs=1e-6)
    draws = loaded.act(OBSERVED, jax.random.key(1))
    assert np.abs(np.asarray(draws)).max() <= 1
    assert len(np.unique(np.asarray(draws))) > 1900
    physical = loaded.physical(jnp.asarray([[1.0, 1.0], [-1.0, 0.5]]), jnp.asarray([1.0, 20.0]))
    assert np.asarray(physical) == pytest.approx(np.array([[4.0, 0.22], [-8.0, 0.0125]]))
    with pytest.raises(ConfigError, match="rows of 306"):
        loaded.act(OBSERVED[:, :5])


def test_a_policy_from_before_rewards_had_names_loads(folder):
    record = json.loads((folder / RECORD).read_text())
    assert record["contract"]["world"].pop("reward") == "clearance"
    del record["digest"]
    record |= {"digest": module._digest(module._text(record))}
    (folder / RECORD).write_bytes(module._text(record))
    assert load_policy(folder).contract == CONTRACT


def test_the_contract_names_the_reward(tmp_path):
    contract = make_contract("bc", CONFIG, WorldConfig(reward="binary"))
    loaded = load_policy(export_policy(actor(), CONFIG, contract, tmp_path / "policy"))
    assert loaded.contract.world.reward == "binary"
    loaded.contract.check(WorldConfig(), 0.1)


def test_limits_are_those_of_the_vehicle():
    limits = limits_of(jnp.asarray(1))
    fast = largest_curvature(20.0, limits) * 400
    assert [*map(float, limits), float(fast)] == pytest.approx(LIMITS)


def test_a_seed_is_taken_out_of_several(tmp_path):
    both = jax.tree.map(lambda a, b: np.stack([a, b]), actor(0), actor(1))
    loaded = load_policy(export_policy(both, CONFIG, CONTRACT, tmp_path / "second", seed=1))
    assert all(map(np.array_equal, jax.tree.leaves(loaded.network), jax.tree.leaves(actor(1))))
    with pytest.raises(ConfigError, match="name the seed"):
        export_policy(both, CONFIG, CONTRACT, tmp_path / "none")
    other = make_contract("bc", BCConfig(net=NetConfig(width=8, trunk=(16, 16))), WorldConfig())
    with pytest.raises(ConfigError, match="not that of the contract"):
        export_policy(actor(), CONFIG, other, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_policy_is_replaced_and_nothing_else(folder, tmp_path):
    export_policy(actor(1), CONFIG, CONTRACT, folder)
    assert np.array_equal(jax.tree.leaves(load_policy(folder).network)[0], jax.tree.leaves(actor(1))[0])
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="holds no policy"):
        export_policy(actor(), CONFIG, CONTRACT, tmp_path / "mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        export_policy(actor(), CONFIG, CONTRACT, tmp_path / "file" / "policy")


@pytest.mark.parametrize("name", [RECORD, ARRAYS])
def test_any_flipped_bit_is_seen_and_its_file_named(folder, name):
    content = (folder / name).read_bytes()
    places = np.random.default_rng(1).choice(len(content) * 8, 60, replace=False)
    for place in [0, len(content) * 8 - 1, *places.tolist()]:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        (folder / name).write_bytes(damaged)
        with pytest.raises(CheckpointError) as error:
            load_policy(folder)
        assert error.value.file == folder / name


def rewrite(folder, arrays=None, **changes):
    """Another record, or other arrays, with digests that fit."""
    record = json.loads((folder / RECORD).read_text())
    del record["digest"]
    if arrays is not None:
        np.savez(folder / ARRAYS, **arrays)
        record["files"][ARRAYS] = module._digest((folder / ARRAYS).read_bytes())
    record |= changes
    (folder / RECORD).write_bytes(module._text(record | {"digest": module._digest(module._text(record))}))


def test_files_that_are_missing_cut_or_newer(folder):
    rewrite(folder, format=2)
    with pytest.raises(CheckpointError, match=r"policy.json: format 2 is newer"):
        load_policy(folder)
    rewrite(folder, format=1)
    load_policy(folder)
    (folder / ARRAYS).unlink()
    with pytest.raises(CheckpointError, match=r"arrays.npz: cannot be read"):
        load_policy(folder)
    with pytest.raises(CheckpointError, match=r"policy.json: cannot be read"):
        load_policy(folder / "none")


def test_arrays_that_are_missing_unknown_or_of_another_shape(folder):
    with np.load(folder / ARRAYS) as file:
        arrays = dict(file)
    name = next(iter(arrays))
    for change, message in (
        ({key: value for key, value in arrays.items() if key != name}, "missing|cannot hold"),
        (arrays | {"more": np.zeros(3)}, "'more' is unknown"),
        (arrays | {name: np.zeros((2, 9999), np.float32)}, "expected float32"),
        (arrays | {name: arrays[name].astype(np.float64)}, "is float64"),
        (arrays | {name: np.array([None])}, "arrays.npz"),
    ):
        rewrite(folder, change)
        with pytest.raises(CheckpointError, match=message) as error:
            load_policy(folder)
        assert error.value.file == folder / ARRAYS


@pytest.mark.parametrize(
    "changes",
    [
        {"contract": None},
        {"contract": {}},
        {"files": []},
        {"files": {"../secret": ""}},
        {"files": {ARRAYS: 5}},
        {"net": {"width": 10**9}},
        {"net": {"trunk": [8] * 1000}},
        {"net": {"trunk": []}},
        {"net": {"encoder": "attention", "heads": 3}},
        {"head": "other"},
        {"algorithm": "dqn"},
        {"head": "categorical", "bins": [2, 2]},
        {"world": {"observe": {"objects": -1}}},
        {"surprise": 1},
        {"frozen_at": "late"},
        {"frozen_at": 0},
        {"frozen_at": True},
    ],
)
def test_records_that_no_policy_has(folder, changes):
    contract = json.loads((folder / RECORD).read_text())["contract"]
    if changes.keys() & {"contract", "files"}:
        rewrite(folder, **changes)
    else:
        rewrite(folder, contract=contract | changes)
    with pytest.raises(CheckpointError):
        load_policy(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "5", '{"format": 1}', "[" * 100_000, "\udcff", '{"format": NaN, "digest": 1}']
)
def test_text_that_is_no_record(folder, text):
    (folder / RECORD).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"policy\.json"):
        load_policy(folder)


def test_a_dqn_takes_the_action_of_the_largest_value(tmp_path):
    config = DQNConfig(net=NET)
    contract = make_contract("dqn", config, WorldConfig())
    net = QNetwork(NET, contract.world.observe, 13 * 21, jax.random.key(0))
    loaded = load_policy(export_policy(net, config, contract, tmp_path / "dqn"))
    best = np.asarray(jax.vmap(net)(OBSERVED)).argmax(1)
    expected = np.stack([(best // 21 - 6) / 6, (best % 21 - 10) / 10], 1)
    assert np.asarray(loaded.act(OBSERVED)) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ConfigError, match="no distribution"):
        loaded.sampling()


def test_a_contract_survives_json(saved):
    assert load_policy(saved).contract == CONTRACT
    assert isinstance(CONTRACT, Contract)
    assert (CONTRACT.source, CONTRACT.licence) == ("made up", "none")


def test_where_training_broke_off_is_kept(folder):
    contract = json.loads((folder / RECORD).read_text())["contract"]
    rewrite(folder, contract=contract | {"frozen_at": 17})
    assert load_policy(folder).contract == replace(CONTRACT, frozen_at=17)
    del contract["frozen_at"]  # as in files written before there was such a field
    rewrite(folder, contract=contract)
    assert load_policy(folder).contract == CONTRACT


def test_stablehlo_runs_where_there_is_only_jax(tmp_path):
    pytest.importorskip("flatbuffers")
    folder = export_policy(actor(), CONFIG, CONTRACT, tmp_path / "policy", stablehlo=True)
    assert (folder / STABLEHLO).stat().st_size < 5 << 20
    np.save(tmp_path / "seen.npy", OBSERVED)
    code = (
        "import jax, numpy as np, sys\n"
        f"act = jax.export.deserialize(bytearray(open({str(folder / STABLEHLO)!r}, 'rb').read()))\n"
        f"np.save({str(tmp_path / 'u.npy')!r}, act.call(np.load({str(tmp_path / 'seen.npy')!r})))\n"
        "assert not [name for name in sys.modules if name.startswith(('gleanings', 'equinox'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert np.load(tmp_path / "u.npy") == pytest.approx(np.asarray(Policy(actor(), CONTRACT).act(OBSERVED)), abs=1e-5)
    (folder / STABLEHLO).write_bytes(b"other")
    with pytest.raises(CheckpointError, match=STABLEHLO):
        load_policy(folder)


def test_without_flatbuffers_the_way_to_get_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ConfigError, match="pip install flatbuffers"):
        export_stablehlo(Policy(actor(), CONTRACT))
