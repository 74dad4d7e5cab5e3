"""A choice on disk: decision.json with what it stands on, policy.npz with its value functions."""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np

from gleanings.core.config import from_dict
from gleanings.core.errors import ConfigError, DataError, GleaningsError
from gleanings.data.arrays import read_arrays
from gleanings.selection.alarm import Alarm
from gleanings.selection.classes import Identity, LinearQ, Pca, RandomFourier
from gleanings.selection.encoding import Encoding
from gleanings.selection.fqi import values_of
from gleanings.selection.networks import HiddenLayer, Net, Weights
from gleanings.selection.ope import Estimate
from gleanings.selection.overlap import Overlap
from gleanings.selection.pessimistic import HeadModel, Highest, LowerBound
from gleanings.selection.selection import Cell, Certificate, Label, Selection

DECISION, POLICY = "decision.json", "policy.npz"
_STRUCTURE = "structure"
_MAX_COLUMNS = 100_000
_KNOWN = (LinearQ, Net, Weights, Identity, RandomFourier, Pca, HiddenLayer, LowerBound, Highest, HeadModel)
_TYPES: dict[str, Callable[..., Any]] = {known.__name__: known for known in _KNOWN}


def save_selection(found: Selection, folder: str | Path) -> None:
    """Write the choice and its policy into `folder`. ConfigError: the policy holds Python functions."""
    arrays = policy_arrays(found)
    if found.columns is None:
        raise ConfigError(
            f"{found.name}: the log is not known, so neither is what the policy looks at; keep the object"
        )
    if arrays is None:
        raise ConfigError(f"{found.name}: its values are a Python function, which a file cannot hold; keep the object")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)
    text = json.dumps(found.to_json(), indent=1) + "\n"
    for name, content in ((DECISION, text.encode()), (POLICY, packed.getvalue())):
        partial = folder / f"{name}.tmp"
        partial.write_bytes(content)
        os.replace(partial, folder / name)


def load_selection(folder: str | Path) -> Selection:
    """The choice that `save_selection` or `gleanings select` wrote, without its log. DataError: damaged files."""
    folder = Path(folder)
    try:
        facts = json.loads((folder / DECISION).read_text(encoding="utf-8"))
        found = Selection(**_facts(facts))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, ConfigError) as error:
        raise DataError(f"not a saved choice ({error})", folder / DECISION) from error
    arrays = read_arrays(folder / POLICY)
    try:
        structure = json.loads(bytes(arrays.pop(_STRUCTURE)))
        columns = int(structure["columns"])
        if not 0 <= columns <= _MAX_COLUMNS or not structure["q"]:
            raise ValueError(f"{columns} columns and {len(structure['q'])} value functions")
        q = tuple(_built(part, arrays) for part in structure["q"])
        for one in q:
            values_of(one, np.zeros((1, columns), np.float32), found.num_actions)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, GleaningsError) as error:
        raise DataError(f"not a saved policy ({error})", folder / POLICY) from error
    return replace(found, q=q, columns=columns)


def policy_arrays(found: Selection) -> dict[str, np.ndarray] | None:
    """The value functions as named arrays, or None where they are not made of this room's parts."""
    arrays: dict[str, np.ndarray] = {}
    try:
        structure = {"columns": found.columns, "q": [_taken(q, arrays) for q in found.q]}
    except TypeError:
        return None
    return arrays | {_STRUCTURE: np.frombuffer(json.dumps(structure).encode(), np.uint8)}


def _taken(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """JSON form of a value function, its arrays put aside. TypeError: a part that is not known."""
    if type(value) in _KNOWN:
        names = value._fields if isinstance(value, Weights) else [f.name for f in fields(value)]
        return {"type": type(value).__name__, **{name: _taken(getattr(value, name), arrays) for name in names}}
    if isinstance(value, tuple):
        return [_taken(item, arrays) for item in value]
    if isinstance(value, str | int | float):
        return value
    if not hasattr(value, "dtype"):
        raise TypeError(f"{type(value).__name__} cannot be saved")
    name = f"array{len(arrays)}"
    arrays[name] = np.asarray(value)
    return {"array": name}


def _built(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `_taken`."""
    if isinstance(value, list):
        return tuple(_built(item, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    parts: dict[str, Any] = {name: _built(item, arrays) for name, item in value.items() if name != "type"}
    if value["type"] == RandomFourier.__name__ and not 0 < int(parts["total"]) <= _MAX_COLUMNS:
        raise ValueError(f"{parts['total']} random features")
    if value["type"] == HeadModel.__name__:  # which keeps double precision
        return HeadModel(**parts)
    return _TYPES[value["type"]](**{k: jnp.asarray(x) if isinstance(x, np.ndarray) else x for k, x in parts.items()})


def _facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Fields of a Selection from its JSON form."""
    kept = {name: facts[name] for name in ("index", "name", "rule", "verdict", "num_classes", "num_actions")}
    if kept["verdict"] not in get_args(Label) or kept["index"] not in (None, *range(min(kept["num_classes"], 10_000))):
        raise ValueError(f"class {kept['index']} of {kept['num_classes']}, verdict {kept['verdict']!r}")
    columns: dict[str, Sequence[Any]] = facts["certificate"]
    cells = [Cell(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    estimates = {name: Estimate(**(e | {"terms": np.empty(0)})) for name, e in facts["value"].items()}
    covered = facts["overlap"]
    overlap = covered and Overlap(**(covered | {"never_logged": tuple(covered["never_logged"])}))
    return kept | {
        "alarms": tuple(Alarm(**alarm) for alarm in facts["alarms"]),
        "certificate": Certificate(tuple(cells)),
        "value": estimates,
        "lift": facts["lift"] and Estimate(**(facts["lift"] | {"terms": np.empty(0)})),
        "overlap": overlap,
        "uncovered": facts["uncovered"],
        "losses": {name: (mean, se) for name, (mean, se) in facts["losses"].items()},
        "labels": tuple(facts["labels"]),
        "encoding": facts["encoding"] and from_dict(Encoding, facts["encoding"]),
    }
