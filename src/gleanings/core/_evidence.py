"""What one run of a study measured, on disk and in memory."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gleanings.core._cost import Cost
from gleanings.core._parts import read_json, to_json, write_json
from gleanings.core._verdict import Verdict
from gleanings.core.errors import ConfigError, DataError

_T = TypeVar("_T")

_ABOUT_DATA = ("LICENSE", "NOTICE", "README")  # files of a folder of data that hold none


@dataclass(frozen=True)
class Evidence:
    """What a run measured. `values` is JSON, `date` the UTC day, `settings` what the values depend on."""

    study: str
    size: str
    values: dict[str, Any]
    cost: Cost
    date: str
    machine: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> str:
        """What the user's data are called, or the empty string where the study's own data were used."""
        every = [stamp[0] for stamp in self.settings.get("data") or []]
        names = [name for name in every if not name.startswith(_ABOUT_DATA)] or every
        return f"{names[0]} and {len(names) - 1} more files" if len(names) > 2 else ", ".join(names)

    def save(self, path: Path, **extra: Any) -> None:
        """Write as JSON, with `extra` facts beside it, which `load` ignores."""
        write_json(path, to_json(self) | to_json(extra))

    @classmethod
    def load(cls, path: Path) -> "Evidence":
        """Read what `save` wrote. DataError: the file is missing, not JSON, or not evidence."""
        return _parse(path, _evidence)


def read_result(path: Path) -> tuple[Evidence, dict[str, str], Verdict]:
    """Evidence, facts about the study, and verdict, as `run_study` writes them. DataError: one is missing."""

    def parse(data: dict[str, Any]) -> tuple[Evidence, dict[str, str], Verdict]:
        about = {key: str(data["about"][key]) for key in ("name", "title", "arxiv", "claim", "paper_figure")}
        return _evidence(data), about, Verdict.from_dict(data["verdict"])

    return _parse(path, parse)


def _evidence(data: dict[str, Any]) -> Evidence:
    fields = {field.name: data[field.name] for field in dataclasses.fields(Evidence)}
    return Evidence(**{**fields, "cost": Cost(**data["cost"])})


def _parse(path: Path, parse: Callable[[dict[str, Any]], _T]) -> _T:
    data = read_json(path)
    try:
        return parse(data)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise DataError(f"not the evidence of a study: {error!r}", path) from error
