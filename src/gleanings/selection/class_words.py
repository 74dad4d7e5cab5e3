"""Model classes from words: constant, linear:5,10,all, rff:128, mlp:16,64, in the order of their sizes."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from gleanings.core.errors import ConfigError
from gleanings.selection.bandit import BanditLog
from gleanings.selection.classes import FeatureMap, Identity, PrefixLinear, RandomFourier
from gleanings.selection.log import Transitions
from gleanings.selection.networks import Mlp, MlpHead
from gleanings.selection.pessimistic import HeadLinear

_WORDS = "constant, linear:5,all (numbers of columns), rff:128 (random Fourier features) or mlp:16 (widths)"
_LARGEST = 10_000


class Size(NamedTuple):
    """One class: its kind and how many columns, random features or units it has."""

    kind: Literal["constant", "linear", "rff", "mlp"]
    columns: int


def parse_classes(given: Sequence[str], log: BanditLog | Transitions) -> list[Any]:
    """Nested classes from words, for a bandit log or for transitions.

    Linear ones have weights for each action on leading features, which are the columns of the context in their order,
    then random Fourier features of all of them; networks contain the linear ones without the latter. ConfigError:
    another word, more columns than there are, sizes that do not increase, or random features beside networks.
    """
    columns = (log.context if isinstance(log, BanditLog) else log.observation).shape[1]
    sizes = [size for word in given for size in _sizes(word, columns)]
    waves = max((s.columns for s in sizes if s.kind == "rff"), default=0)
    # Standardised columns have unit variance, so that with this scale the phases do too.
    features = RandomFourier(1 + columns + waves, 1 / math.sqrt(max(columns, 1))) if waves else Identity()
    if not sizes:
        raise ConfigError(f"no classes; name some, such as {_WORDS}")
    for before, after in pairwise(sizes):
        if _dimension(before, columns) >= _dimension(after, columns):
            names = f"{_title(before)}, {_title(after)}"
            raise ConfigError(f"classes {names}: nested classes must stand in the order of their sizes")
    if waves and sizes[-1].kind == "mlp":
        raise ConfigError("classes rff and mlp: neither contains the other; choose among one kind")
    return [_made(log, features, s, _dimension(s, columns)) for s in sizes]


def _sizes(word: str, columns: int) -> list[Size]:
    kind, _, arguments = word.partition(":")
    if word == "constant":
        return [Size("constant", 0)]
    if kind not in ("linear", "rff", "mlp") or not arguments:
        raise ConfigError(f"unknown class {word!r}; use {_WORDS}")
    if not columns:
        raise ConfigError(f"{word}: there is no column of the context; use constant")
    counts = []
    for argument in arguments.split(","):
        limit = columns if kind == "linear" else _LARGEST
        if kind == "linear" and argument == "all":
            counts.append(columns)
        elif not (argument.isdigit() and 1 <= int(argument) <= limit):
            also = ", or all" if kind == "linear" else ""
            raise ConfigError(f"{word}: {argument!r} is not a whole number from 1 to {limit}{also}")
        else:
            counts.append(int(argument))
    return [Size(kind, count) for count in counts]


def _title(size: Size) -> str:
    return size.kind if size.kind == "constant" else f"{size.kind}[{size.columns}]"


def _dimension(size: Size, columns: int) -> int:
    """Features of a class; of a network, more than any linear class can have."""
    return 1 + {"linear": 0, "constant": 0, "rff": columns, "mlp": columns + _LARGEST}[size.kind] + size.columns


def _made(log: BanditLog | Transitions, features: FeatureMap, size: Size, dim: int) -> Any:
    if isinstance(log, Transitions):
        return Mlp(size.columns) if size.kind == "mlp" else PrefixLinear(features, dim, title=_title(size))
    return MlpHead(size.columns) if size.kind == "mlp" else HeadLinear(dim, features, _title(size))
