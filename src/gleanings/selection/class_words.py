"""Model classes from words: constant, linear:5,10,all, rff:128, in the order of their sizes."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from gleanings.core.errors import ConfigError
from gleanings.selection.bandit import BanditLog
from gleanings.selection.classes import FeatureMap, Identity, PrefixLinear, RandomFourier
from gleanings.selection.log import Transitions
from gleanings.selection.pessimistic import HeadLinear

_WORDS = "constant, linear:5,all (numbers of columns) or rff:128 (random Fourier features)"


class Size(NamedTuple):
    """One class: its kind and how many columns, or random features, it has."""

    kind: Literal["constant", "linear", "rff"]
    columns: int


def parse_classes(given: Sequence[str], log: BanditLog | Transitions) -> list[Any]:
    """Nested classes from words, for a bandit log or for transitions: weights for each action on leading features.

    The features are the columns of the context in their order, then random Fourier features of all of them.
    ConfigError: another word, more columns than there are, or sizes that do not increase.
    """
    columns = (log.context if isinstance(log, BanditLog) else log.observation).shape[1]
    sizes = [size for word in given for size in _sizes(word, columns)]
    waves = max((s.columns for s in sizes if s.kind == "rff"), default=0)
    # Standardised columns have unit variance, so that with this scale the phases do too.
    features = RandomFourier(1 + columns + waves, 1 / math.sqrt(max(columns, 1))) if waves else Identity()
    dims = [1 + (columns if s.kind == "rff" else 0) + s.columns for s in sizes]
    for k in range(1, len(sizes)):
        if dims[k] <= dims[k - 1]:
            before, after = (_title(s) for s in sizes[k - 1 : k + 1])
            raise ConfigError(f"classes {before}, {after}: nested classes must stand in the order of their sizes")
    if not sizes:
        raise ConfigError(f"no classes; name some, such as {_WORDS}")
    return [_made(log, features, d, _title(s)) for s, d in zip(sizes, dims, strict=True)]


def _sizes(word: str, columns: int) -> list[Size]:
    kind, _, arguments = word.partition(":")
    if word == "constant":
        return [Size("constant", 0)]
    if kind not in ("linear", "rff") or not arguments:
        raise ConfigError(f"unknown class {word!r}; use {_WORDS}")
    counts = []
    for argument in arguments.split(","):
        limit = columns if kind == "linear" else 10_000
        if kind == "linear" and argument == "all":
            counts.append(columns)
        elif not (argument.isdigit() and 1 <= int(argument) <= limit):
            also = ", or all" if kind == "linear" else ""
            raise ConfigError(f"{word}: {argument!r} is not a number of columns from 1 to {limit}{also}")
        else:
            counts.append(int(argument))
    return [Size(kind, count) for count in counts]


def _title(size: Size) -> str:
    return size.kind if size.kind == "constant" else f"{size.kind}[{size.columns}]"


def _made(log: BanditLog | Transitions, features: FeatureMap, dim: int, title: str) -> PrefixLinear | HeadLinear:
    if isinstance(log, Transitions):
        return PrefixLinear(features, dim, title=title)
    return HeadLinear(dim, features, title)
