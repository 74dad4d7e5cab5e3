"""Pieces of a study by name: each computed once, by any executor, and kept on disk."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gleanings.core.errors import GleaningsError
from gleanings.core.executor import TaskResult, map_tasks
from gleanings.core.study import StudyConfig

Pieces = dict[str, Callable[[], Any]]
_MISSING = object()


def compute(pieces: Pieces, config: StudyConfig) -> dict[str, Any]:
    """All pieces by name, from their files or else computed by the executor and stored one by one.

    Raises: GleaningsError naming a piece that failed in a worker.
    """
    if config.executor is None:
        return {name: config.parts.get(name, piece) for name, piece in pieces.items()}
    found = {name: _stored(name, config) for name in pieces}
    missing = [name for name, value in found.items() if value is _MISSING]
    results = map_tasks(_call, [pieces[name] for name in missing], config.executor)
    early: dict[int, Any] = {}
    for index, name in enumerate(missing):
        found[name] = config.parts.get(name, partial(_take, index, name, results, early))
    return found


def _stored(name: str, config: StudyConfig) -> Any:
    def absent() -> Any:
        raise LookupError(name)

    try:
        return config.parts.get(name, absent)
    except LookupError:
        return _MISSING


def _call(piece: Callable[[], Any]) -> Any:
    return piece()


def _take(index: int, name: str, results: Iterator[TaskResult], early: dict[int, TaskResult]) -> Any:
    """The value of task `index`; results that arrive before it wait in `early`."""
    while index not in early:
        result = next(results)
        early[result.index] = result
    result = early.pop(index)
    if result.error:
        raise GleaningsError(f"{name}: {result.error}")
    return result.value
