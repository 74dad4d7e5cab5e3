"""Checkpoints that detect damage: Orbax holds the arrays, a sha256 manifest of our own holds the truth.

A step is one folder, complete or absent (it is renamed into place last):
`arrays/` written by Orbax, `step.json` (names, types, shapes, data position, metrics), `digests.json`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp

from gleanings.core._digests import Damaged, digests, one_line, read_record, verify
from gleanings.core._files import sync
from gleanings.core._leaves import is_key, split
from gleanings.core.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Restored:
    """A restored step. `skipped` names the damaged file of each newer step that was passed over."""

    step: int
    state: Any
    data_state: dict[str, Any] | None
    metrics: dict[str, float]
    skipped: tuple[str, ...]


class Checkpoints:
    """The checkpoints of one run: the `keep` newest, and the best by the metric `best` if one is named.

    State leaves may be jax or numpy arrays, typed keys or Python numbers; others are taken from `like`.
    Raises ConfigError for `keep` < 1.
    """

    def __init__(
        self, directory: Path, keep: int = 3, best: str | None = None, mode: Literal["min", "max"] = "min"
    ) -> None:
        if keep < 1:
            raise ConfigError(f"keep: at least 1 checkpoint must be kept, got {keep}")
        self.directory, self._keep, self._best, self._mode = Path(directory), keep, best, mode

    @cached_property
    def _orbax(self) -> ocp.PyTreeCheckpointer:
        return ocp.PyTreeCheckpointer()

    def steps(self) -> list[int]:
        """Saved steps in ascending order, damaged ones included."""
        return sorted(int(folder.name) for folder in self.directory.glob("[0-9]*") if folder.name.isdigit())

    def latest(self) -> int | None:
        """Newest saved step, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Step with the best value of the chosen metric, the newest among equals; None if none is chosen."""
        if self._best is None:
            return None
        sign = -1 if self._mode == "min" else 1
        values = [(sign * value, step) for step in self.steps() if (value := self._value(step, self._best)) is not None]
        return max(values)[1] if values else None

    def save(
        self,
        step: int,
        state: Any,
        data_state: dict[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Write `step`, return when it is safe on disk, then delete the steps no longer kept.

        `data_state` must be JSON-able. Raises CheckpointError when writing fails; older steps stay.
        """
        folder = self._folder(step)
        temporary = folder.with_suffix(".tmp")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
            self._write(temporary, step, state, data_state, {k: float(v) for k, v in (metrics or {}).items()})
            if folder.exists():
                self._discard(folder)
            temporary.replace(folder)
            sync(self.directory)
        except Exception as error:  # Orbax reports a full disk by several types
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(f"cannot be written: {one_line(error)}", step, folder) from error
        for old in set(self.steps()[: -self._keep]) - {self.best()}:
            self._discard(self._folder(old))

    def restore(self, like: Any, step: int | None = None) -> Restored:
        """The newest undamaged step (or exactly `step`), with the structure and placement of `like`.

        Raises CheckpointError when there is none, when `step` is damaged, or when a name, dtype or shape
        differs from that of `like`.
        """
        candidates = self.steps()[::-1] if step is None else [step]
        skipped: list[str] = []
        for candidate in candidates:
            try:
                return self._read(candidate, like, tuple(skipped))
            except Damaged as damage:
                skipped.append(str(damage))
        if step is not None and step not in self.steps():
            raise CheckpointError(f"there is no such step; saved are {self.steps()}", step, self.directory)
        found = "; ".join(skipped) or "there is none"
        raise CheckpointError(f"no checkpoint can be restored: {found}", step, self.directory)

    def _folder(self, step: int) -> Path:
        return self.directory / f"{step:010d}"

    def _write(self, folder: Path, step: int, state: Any, data_state: Any, metrics: dict[str, float]) -> None:
        names, arrays, _, _ = split(state)
        record = {
            "step": step,
            "leaves": [[name, *_form(array)] for name, array in zip(names, arrays, strict=True)],
            "data_state": data_state,
            "metrics": metrics,
        }
        text = json.dumps(record, indent=1)
        folder.mkdir()
        if stored := _stored(arrays):  # Orbax refuses to save nothing
            self._orbax.save((folder / "arrays").absolute(), stored)
        (folder / "step.json").write_text(text)
        (folder / "digests.json").write_text(json.dumps(digests(folder), indent=1))
        with ThreadPoolExecutor(8) as pool:  # together, so that the file system can join the flushes
            list(pool.map(sync, [folder, *folder.rglob("*")]))

    def _read(self, step: int, like: Any, skipped: tuple[str, ...]) -> Restored:
        folder = self._folder(step)
        verify(folder)
        data_state, metrics, saved = read_record(folder / "step.json")
        names, arrays, join, _ = split(like)
        _compare(saved, dict(zip(names, map(_form, arrays), strict=True)), step, folder)
        stored = _stored(arrays)
        placement = {name: _placement(array) for name, array in stored.items()}
        path = (folder / "arrays").absolute()
        try:
            loaded = self._orbax.restore(path, item=stored, restore_args=placement) if stored else {}
        except Exception as error:  # whatever Orbax makes of intact bytes it cannot read
            raise Damaged(f"{folder / 'arrays'}: {one_line(error)}") from error
        state = join([_as_like(loaded.get(f"{i:05d}"), array) for i, array in enumerate(arrays)])
        return Restored(step, state, data_state, metrics, skipped)

    def _value(self, step: int, metric: str) -> float | None:
        try:
            return float(read_record(self._folder(step) / "step.json")[1][metric])
        except (Damaged, KeyError, TypeError, ValueError):
            return None

    def _discard(self, folder: Path) -> None:
        # Renamed first: a kill half-way through must not leave a folder that looks like a damaged step.
        condemned = folder.with_suffix(".old.tmp")
        folder.replace(condemned)
        shutil.rmtree(condemned, ignore_errors=True)

    def _sweep(self) -> None:
        for left_over in self.directory.glob("*.tmp"):
            shutil.rmtree(left_over, ignore_errors=True)


def _form(array: Any) -> list[Any]:
    array = array if hasattr(array, "dtype") else np.asarray(array)
    return [str(array.dtype), list(array.shape)]


def _stored(arrays: Sequence[Any]) -> dict[str, Any]:
    """What Orbax is given: keys as their data; arrays without elements, which it refuses, left out."""
    plain = (jax.random.key_data(a) if is_key(a) else a for a in arrays)
    plain = (a if isinstance(a, jax.Array) else np.asarray(a) for a in plain)
    return {f"{i:05d}": a for i, a in enumerate(plain) if a.size}


def _placement(array: Any) -> ocp.RestoreArgs:
    # Only committed arrays get a sharding: an uncommitted one must stay free to follow its neighbours.
    if isinstance(array, jax.Array) and array.committed:
        return ocp.ArrayRestoreArgs(sharding=array.sharding)
    return ocp.RestoreArgs(restore_type=np.ndarray)


def _as_like(loaded: Any, like: Any) -> Any:
    if loaded is None:
        return like
    if is_key(like):
        return jax.random.wrap_key_data(jax.numpy.asarray(loaded), impl=jax.random.key_impl(like))
    if isinstance(like, jax.Array):
        return jax.numpy.asarray(loaded)
    return loaded if isinstance(like, np.ndarray) else type(like)(loaded[()])


def _compare(saved: dict[str, list[Any]], expected: dict[str, list[Any]], step: int, folder: Path) -> None:
    for name in [*saved, *expected]:
        if saved.get(name) != expected.get(name):
            texts = ["{}{}".format(*forms[name]) if name in forms else "absent" for forms in (saved, expected)]
            raise CheckpointError(f"leaf {name} is {texts[0]} there but {texts[1]} here", step, folder)
