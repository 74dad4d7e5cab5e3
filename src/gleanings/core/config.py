"""Dataclass configurations to and from JSON. What does not fit is an error naming its path."""

import enum
import json
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from gleanings.core._decode import classes, decode, dotted, members
from gleanings.core._files import write_json
from gleanings.core.errors import ConfigError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """JSON form of a dataclass instance.

    A member of a union of dataclasses carries its class as `type`; tuples become lists, paths strings, enum
    members their name. Raises ConfigError for a value that has no JSON form.
    """
    if not is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"a configuration must be a dataclass instance, got {type(config).__name__}")
    return _encode(type(config), config, "")


def from_dict(cls: type[T], data: dict[str, Any]) -> T:
    """The instance of dataclass `cls` that `data` describes; the inverse of `to_dict`.

    A key may be missing if its field has a default. Of a union whose members share a JSON form, the first
    that fits is taken. Raises ConfigError naming the dotted key, and for an unknown one the nearest valid name.
    """
    return decode(cls, data, "")


def load(cls: type[T], path: str | Path) -> T:
    """`from_dict` of the JSON file `path`. Raises ConfigError, also for a file that cannot be read."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
    try:
        return decode(cls, data, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def save(config: Any, path: str | Path) -> None:
    """Write `to_dict(config)` to `path` as JSON, atomically."""
    write_json(Path(path), to_dict(config))


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """One line for each key whose value differs, such as `optimiser.rate: 0.1 -> 0.2`."""
    before, after = dict(_flat(a, "")), dict(_flat(b, ""))
    keys = [key for key in {**before, **after} if before.get(key, MISSING) != after.get(key, MISSING)]
    return [f"{key}: {before.get(key, 'absent')!r} -> {after.get(key, 'absent')!r}" for key in keys]


def _flat(value: Any, path: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        return [(path, value)]
    return [leaf for key, item in value.items() for leaf in _flat(item, dotted(path, key))]


def _items(kind: Any, value: Any) -> Any:
    """Declared type of the items of the container `value`, for each position."""
    for member in members(kind):
        if get_origin(member) is type(value):
            arguments = get_args(member)
            if isinstance(value, dict):
                return dict.fromkeys(value, arguments[1])
            fixed = isinstance(value, tuple) and arguments[-1] is not Ellipsis
            return arguments if fixed else (arguments[0],) * len(value)
    return dict.fromkeys(value, Any) if isinstance(value, dict) else (Any,) * len(value)


def _encode(kind: Any, value: Any, path: str) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value))
        names = [field.name for field in fields(value) if field.init]
        data = {name: _encode(hints[name], getattr(value, name), dotted(path, name)) for name in names}
        return {"type": type(value).__name__, **data} if len(classes(kind)) > 1 else data
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        kinds = _items(kind, value)
        return {key: _encode(kinds[key], item, dotted(path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        pairs = zip(_items(kind, value), value, strict=True)
        return [_encode(k, item, dotted(path, i)) for i, (k, item) in enumerate(pairs)]
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{path}: a {type(value).__name__} has no JSON form")
