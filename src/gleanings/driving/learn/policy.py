"""A policy apart from its training: acting, and a folder that holds it.

The folder: `policy.json` (contract, settings of the training, digests) and `arrays.npz`; on demand `act.stablehlo`,
which `jax.export.deserialize` reads: observations f32 [b, D] -> u [b, 2] in a process that has only jax and
flatbuffers. Files are untrusted: digests, sizes and names are checked, nothing is unpickled. Source: ours.
"""

import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Key

from gleanings.core.config import from_dict, to_dict
from gleanings.core.errors import CheckpointError, ConfigError, DataError, GleaningsError
from gleanings.data.arrays import read_arrays
from gleanings.driving.learn import actions
from gleanings.driving.learn.config import BCConfig, BCSACConfig, DQNConfig
from gleanings.driving.learn.contract import Contract
from gleanings.driving.learn.drives import Driver
from gleanings.driving.learn.heads import Head, make_head
from gleanings.driving.learn.networks import Actor, QNetwork
from gleanings.driving.observation import observation_size
from gleanings.driving.scene import Scene
from gleanings.driving.state import SimState

FORMAT = 1
RECORD, ARRAYS, STABLEHLO = "policy.json", "arrays.npz", "act.stablehlo"
_MAX_RECORD, _MAX_ARRAYS, _MAX_STABLEHLO = 1 << 20, 1 << 30, 5 << 20
_MAX_LAYERS, _MAX_SIDE = 32, 1 << 16
Network = Actor | QNetwork
Config = BCConfig | BCSACConfig | DQNConfig


class Policy(Driver):
    """A trained network that drives. sample: as a driver it draws its actions instead of taking the likeliest."""

    network: Network
    contract: Contract = eqx.field(static=True)
    sample: bool = eqx.field(static=True, default=False)

    def __call__(
        self, scene: Scene, state: SimState, obs: Float32[Array, " D"], key: Key[Array, ""]
    ) -> Float[Array, "2"]:
        """u for what is observed; scene and state are not looked at."""
        return _action(self.network, self.contract, obs, key if self.sample else None)

    def act(
        self, obs: Float32[Array | np.ndarray, "*batch D"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "*batch 2"]:
        """u in [-1, 1]^2: the likeliest, or with a key a draw. ConfigError: rows of another size."""
        size = observation_size(self.contract.world.observe)
        if obs.shape[-1:] != (size,):
            raise ConfigError(f"observations have shape {obs.shape}; this policy needs rows of {size} numbers")
        return _act(self.network, self.contract, jax.device_put(obs), key)

    def physical(self, u: Float32[Array, "*batch 2"], speed: Float[Array, "*batch"]) -> Float32[Array, "*batch 2"]:
        """Acceleration, m/s^2, and curvature, 1/m, that u stands for at a speed, m/s."""
        return jnp.vectorize(actions.physical, signature="(a),()->(a)")(jnp.asarray(u), jnp.asarray(speed))

    def sampling(self) -> "Policy":
        """The same policy, which as a driver draws its actions. ConfigError: a DQN, which has none to draw."""
        if isinstance(self.network, QNetwork):
            raise ConfigError("a DQN has no distribution of actions to draw from: leave sample out")
        return Policy(self.network, self.contract, True)


def export_policy(
    network: Any,
    config: Config,
    contract: Contract,
    path: str | os.PathLike[str],
    *,
    seed: int | None = None,
    stablehlo: bool = False,
) -> Path:
    """Write a policy into the folder `path`, whole or not at all; a policy that is there is replaced.

    network: an `Actor` or `QNetwork`, or a training state that holds one (`average`, `net`). seed: row of the leading
    axis, where it has one. stablehlo: also `act.stablehlo`. Returns the folder. ConfigError: a network that is not of
    the contract, a folder that holds something else. CheckpointError: it cannot be written.
    """
    path = Path(path)
    network = _one(getattr(network, "average", getattr(network, "net", network)), contract, seed)
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **{name: np.asarray(leaf) for name, leaf in _leaves(network).items()})
    files = {ARRAYS: packed.getvalue()}
    if stablehlo:
        files[STABLEHLO] = export_stablehlo(Policy(network, contract))
    record = {
        "format": FORMAT,
        "contract": to_dict(contract),
        "config": to_dict(config),
        "seed": seed,
        "files": {name: _digest(content) for name, content in files.items()},
    }
    files[RECORD] = _text(record | {"digest": _digest(_text(record))})
    try:
        _write_folder(path, files)
    except OSError as error:
        raise CheckpointError(f"cannot be written ({error})", file=path) from error
    return path


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """The policy that `export_policy` wrote into a folder. CheckpointError names the file: damaged, missing, newer."""
    folder = Path(path)
    record = _read_record(folder / RECORD)
    try:
        contract = from_dict(Contract, record["contract"])
        _check_numbers(contract)
        skeleton = eqx.filter_eval_shape(lambda key: _make(contract, key), jax.random.key(0))
        expected = _leaves(skeleton)
        files = {ARRAYS: None} | record["files"]
    except (GleaningsError, KeyError, TypeError, ValueError, ArithmeticError, IndexError) as error:
        raise CheckpointError(f"not the record of a policy ({error})", file=folder / RECORD) from error
    for name, own in files.items():
        if name not in (ARRAYS, STABLEHLO):
            raise CheckpointError(f"lists a file that no policy has: {str(name)[:60]!a}", file=folder / RECORD)
        _verify(folder / name, own, _MAX_ARRAYS if name == ARRAYS else _MAX_STABLEHLO)
    loaded = _read_leaves(folder / ARRAYS, expected)
    arrays = [jax.device_put(loaded[name]) for name in expected]
    return Policy(jax.tree.unflatten(jax.tree.structure(skeleton), arrays), contract)


def export_stablehlo(policy: Policy) -> bytes:
    """The likeliest actions [b, 2] for observations [b, D] as StableHLO for CPU and CUDA, in the format of jax.export.

    ConfigError: flatbuffers is not installed, or more than 5 MB.
    """
    try:
        import flatbuffers  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("StableHLO export needs flatbuffers: pip install flatbuffers") from error
    (batch,) = jax.export.symbolic_shape("b")
    rows = jax.ShapeDtypeStruct((batch, observation_size(policy.contract.world.observe)), np.float32)
    act = jax.jit(lambda obs: jax.vmap(lambda row: _action(policy.network, policy.contract, row, None))(obs))
    content = bytes(jax.export.export(act, platforms=("cpu", "cuda"))(rows).serialize())
    if len(content) > _MAX_STABLEHLO:
        raise ConfigError(
            f"the program has {len(content):,} bytes, at most {_MAX_STABLEHLO:,}: a smaller network is needed"
        )
    return content


def _action(network: Network, contract: Contract, obs: Array, key: Array | None) -> Array:
    head = _head(contract)
    params = network(obs)
    return head.mode(params) if key is None else head.sample(params, key)[0]


@eqx.filter_jit
def _act(network: Network, contract: Contract, obs: Array, key: Array | None) -> Array:
    rows = obs.reshape(-1, obs.shape[-1])
    keys = None if key is None else jax.random.split(key, rows.shape[0])
    found = jax.vmap(lambda row, key: _action(network, contract, row, key))(rows, keys)
    return found.reshape(*obs.shape[:-1], 2)


def _head(contract: Contract) -> Head:
    return make_head(contract.head, contract.components, contract.bins)


def _make(contract: Contract, key: Array) -> Network:
    head, observe = _head(contract), contract.world.observe
    if contract.algorithm == "dqn":
        return QNetwork(contract.net, observe, head.size, key)
    return Actor(contract.net, head, observe, key)


def _one(network: Any, contract: Contract, seed: int | None) -> Network:
    """The network of one seed, whose arrays are those that the contract says."""
    expected = _leaves(eqx.filter_eval_shape(lambda key: _make(contract, key), jax.random.key(0)))
    found = _leaves(network)
    if found.keys() != expected.keys():
        raise ConfigError(f"the network is not that of the contract: {sorted(found.keys() ^ expected.keys())[:4]}")
    stacked = {name for name, leaf in found.items() if leaf.shape[1:] == expected[name].shape and leaf.ndim > 0}
    if seed is not None and len(stacked) == len(found):
        network = jax.tree.map(lambda leaf: leaf[seed] if eqx.is_array(leaf) else leaf, network)
        found = _leaves(network)
    for name, leaf in found.items():
        if (leaf.shape, leaf.dtype) != (expected[name].shape, expected[name].dtype):
            raise ConfigError(
                f"{name} is {leaf.dtype}{list(leaf.shape)}, the contract makes it "
                f"{expected[name].dtype}{list(expected[name].shape)}; name the seed if there are several"
            )
    return network


def _leaves(network: Any) -> dict[str, Any]:
    """Arrays by name, in the order of the tree."""
    paths, _ = jax.tree_util.tree_flatten_with_path(network)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def _read_leaves(path: Path, expected: dict[str, Any]) -> dict[str, np.ndarray]:
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in expected.values())
    if size > path.stat().st_size:
        raise CheckpointError(f"{path.stat().st_size:,} bytes cannot hold the {size:,} of this network", file=path)
    try:
        loaded = read_arrays(path)
    except DataError as error:
        raise CheckpointError(str(error), file=path) from error
    for name in expected.keys() | loaded.keys():
        if name not in loaded or name not in expected:
            raise CheckpointError(f"array {name!a} is {'missing' if name in expected else 'unknown'}", file=path)
        if (loaded[name].shape, loaded[name].dtype) != (expected[name].shape, expected[name].dtype):
            raise CheckpointError(
                f"array {name!a} is {loaded[name].dtype}{list(loaded[name].shape)}, expected "
                f"{expected[name].dtype}{list(expected[name].shape)}",
                file=path,
            )
    return loaded


def _read_record(path: Path) -> dict[str, Any]:
    content = _read(path, _MAX_RECORD)
    try:
        record = json.loads(content.decode())
        form, digest = record["format"], record.pop("digest")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"not the record of a policy ({type(error).__name__}: {error})", file=path) from error
    if isinstance(form, int) and form > FORMAT:
        raise CheckpointError(f"format {form} is newer than {FORMAT}, the newest known: update gleanings", file=path)
    # The digest covers the values; that the text is what would be written covers the rest of the bytes.
    if form != FORMAT or digest != _digest(_text(record)) or content != _text(record | {"digest": digest}):
        raise CheckpointError("content changed", file=path)
    return record


def _verify(path: Path, digest: Any, limit: int) -> None:
    if _digest(_read(path, limit)) != digest:
        raise CheckpointError("content changed", file=path)


def _read(path: Path, limit: int) -> bytes:
    try:
        if (size := path.stat().st_size) > limit:
            raise CheckpointError(f"{size:,} bytes, at most {limit:,} are read", file=path)
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", file=path) from error


def _check_numbers(contract: Contract) -> None:
    """CheckpointError for numbers that no policy has, before shapes are worked out."""
    net, observe = contract.net, contract.world.observe
    sides = (*net.trunk, net.width, net.heads, net.latents, contract.components, *contract.bins, observe.frames)
    seen = (observe.objects, observe.road, observe.lights, observe.route)
    layers = max(len(net.trunk), net.blocks)
    if layers > _MAX_LAYERS or max(*sides, *seen) > _MAX_SIDE or min(sides) < 1 or min(*seen, net.blocks) < 0:
        raise CheckpointError(f"{layers} layers, sizes of {sides} and {seen}: no such network is made")
    if contract.frozen_at is not None and contract.frozen_at < 1:
        raise CheckpointError(f"frozen_at is {contract.frozen_at}; iterations count from 1")
    if contract.algorithm == "dqn" and contract.head != "categorical":
        raise CheckpointError(f"a DQN whose head is {contract.head}")


def _write_folder(path: Path, files: dict[str, bytes]) -> None:
    if path.exists() and not (path / RECORD).is_file():
        raise ConfigError(f"{path} exists and holds no policy: choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}.tmp") for end in ("new", "old"))
    try:
        fresh.mkdir()
        for name, content in files.items():
            with (fresh / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _text(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
