"""JSON values to typed Python values, as the annotations of a dataclass declare them."""

import enum
import types
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gleanings.core.errors import ConfigError


def nearest(name: str, valid: list[str]) -> str:
    """Hint for an unknown `name`: the valid one that looks most like it."""
    close = get_close_matches(name, valid, 1, 0.0)
    return f"the nearest valid name is {close[0]!r}" if close else "no name is valid here"


def dotted(path: str, key: object) -> str:
    """`path` extended by `key`."""
    return f"{path}.{key}" if path else str(key)


def members(kind: Any) -> tuple[Any, ...]:
    """Members of a union; a type that is none is its own only member."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def classes(kind: Any) -> dict[str, type]:
    """Dataclasses of a union by name; their values are tagged when there are two or more."""
    return {m.__name__: m for m in members(kind) if isinstance(m, type) and is_dataclass(m)}


def decode(kind: Any, value: Any, path: str) -> Any:
    """`value` as an instance of `kind`. Raises ConfigError naming `path`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _decode_union(kind, value, path)
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, path)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
    elif origin is dict and isinstance(value, dict):
        return {key: decode(arguments[1], item, dotted(path, key)) for key, item in value.items()}
    elif origin in (list, tuple) and isinstance(value, list):
        return _decode_sequence(origin, arguments, value, path)
    elif isinstance(kind, type):
        decoded = _decode_plain(kind, value)
        if decoded is not MISSING:
            return decoded
    name = kind.__name__ if isinstance(kind, type) and not arguments else str(kind).replace("typing.", "")
    raise ConfigError(f"{path or 'configuration'}: expected {name}, got {value!r}")


def _decode_plain(kind: type, value: Any) -> Any:
    if issubclass(kind, enum.Enum):
        return kind.__members__.get(value, MISSING) if isinstance(value, str) else MISSING
    if issubclass(kind, Path):
        return kind(value) if isinstance(value, str) else MISSING
    if kind is float and type(value) is int:
        return float(value)
    return value if type(value) is kind else MISSING


def _decode_sequence(origin: Any, arguments: tuple[Any, ...], value: list[Any], path: str) -> Any:
    fixed = origin is tuple and arguments[-1:] != (Ellipsis,)
    if fixed and len(value) != len(arguments):
        raise ConfigError(f"{path}: expected {len(arguments)} items, got {len(value)}")
    kinds = arguments if fixed else (arguments[0],) * len(value)
    pairs = zip(kinds, value, strict=True)
    return origin(decode(k, item, dotted(path, i)) for i, (k, item) in enumerate(pairs))


def _decode_union(kind: Any, value: Any, path: str) -> Any:
    tagged = classes(kind)
    if len(tagged) > 1 and isinstance(value, dict):
        tag = str(value.get("type"))
        if tag not in tagged:
            raise ConfigError(f"{dotted(path, 'type')}: unknown {tag!r}; {nearest(tag, list(tagged))}")
        return _decode_dataclass(tagged[tag], {k: v for k, v in value.items() if k != "type"}, path)
    others = [member for member in members(kind) if member is not type(None)]
    if value is None and len(others) < len(members(kind)):
        return None
    if len(others) == 1:
        return decode(others[0], value, path)
    for member in sorted(others, key=lambda member: member is not type(value)):
        try:
            return decode(member, value, path)
        except ConfigError:
            continue
    raise ConfigError(f"{path}: expected {kind}, got {value!r}")


def _decode_dataclass(cls: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise ConfigError(f"{path or 'configuration'}: expected the fields of {cls.__name__}, got {value!r}")
    known = {field.name: field for field in fields(cls) if field.init}
    for key in value:
        if key not in known:
            raise ConfigError(f"{dotted(path, key)}: unknown; {nearest(str(key), list(known))}")
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{dotted(path, name)}: missing, and {cls.__name__} has no default for it")
    hints = get_type_hints(cls)
    decoded = {name: decode(hints[name], item, dotted(path, name)) for name, item in value.items()}
    try:
        return cls(**decoded)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path or cls.__name__}: {error}") from error
