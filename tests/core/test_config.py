"""Configurations survive JSON, and what does not fit is named by its dotted path."""

import enum
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gleanings.core import config
from gleanings.core.errors import ConfigError


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


@dataclass(frozen=True)
class Adam:
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Sgd:
    rate: float
    nesterov: bool = False


@dataclass(frozen=True)
class Run:
    steps: int
    optimiser: Adam | Sgd
    name: str = "run"
    warmup: Adam | Sgd | None = None
    inner: Adam | None = None
    sizes: tuple[int, ...] = ()
    stages: tuple[Adam | Sgd, ...] = ()
    notes: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    nested: dict[str, Adam | Sgd] = field(default_factory=dict)
    path: Path | None = None
    mode: Literal["min", "max", 3] = "min"
    colour: Colour = Colour.RED
    limit: int | str | None = None
    extra: Any = None
    derived: int = field(default=5, init=False)


@dataclass(frozen=True)
class Positive:
    value: int

    def __post_init__(self):
        if self.value <= 0:
            raise ValueError("value must be positive")


_floats = st.floats(allow_nan=False)
_adam = st.builds(Adam, _floats, st.tuples(_floats, _floats))
_optimiser = _adam | st.builds(Sgd, _floats, st.booleans())
_runs = st.builds(
    Run,
    steps=st.integers(),
    optimiser=_optimiser,
    name=st.text(),
    warmup=st.none() | _optimiser,
    inner=st.none() | _adam,
    sizes=st.lists(st.integers()).map(tuple),
    stages=st.lists(_optimiser, max_size=2).map(tuple),
    notes=st.lists(st.text(), max_size=3),
    weights=st.dictionaries(st.text(), _floats, max_size=3),
    nested=st.dictionaries(st.text(), _optimiser, max_size=2),
    path=st.none() | st.just(Path("a/b")),
    mode=st.sampled_from(["min", "max", 3]),
    colour=st.sampled_from(Colour),
    limit=st.none() | st.integers() | st.text(),
)


@settings(max_examples=60, deadline=None)
@given(_runs)
def test_round_trip(run):
    text = json.dumps(config.to_dict(run))
    assert config.from_dict(Run, json.loads(text)) == run


def test_json_form():
    data = config.to_dict(Run(3, Sgd(0.1), inner=Adam(), sizes=(1, 2), path=Path("x"), colour=Colour.BLUE))
    assert data["optimiser"] == {"type": "Sgd", "rate": 0.1, "nesterov": False}
    assert data["inner"] == {"rate": 1e-3, "betas": [0.9, 0.999]}, "no tag where only one class is possible"
    assert (data["sizes"], data["path"], data["colour"]) == ([1, 2], "x", "BLUE")
    assert "derived" not in data


_GOOD = {"steps": 1, "optimiser": {"type": "Adam"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stpes": 1}, "stpes: unknown; the nearest valid name is 'steps'"),
        ({"optimiser": {"type": "Adam", "beta": 1}}, "optimiser.beta: unknown; .* 'betas'"),
        ({"optimiser": {"type": "adam"}}, "optimiser.type: unknown 'adam'; .* 'Adam'"),
        ({"optimiser": {"type": ["Adam"]}}, "optimiser.type: unknown"),
        ({"optimiser": {"type": "Sgd"}}, "optimiser.rate: missing"),
        ({"optimiser": 3}, "optimiser: expected"),
        ({"optimiser": None}, "optimiser: expected"),
        ({"steps": True}, "steps: expected int, got True"),
        ({"steps": 1.0}, "steps: expected int"),
        ({"name": 1}, "name: expected str"),
        ({"inner": 4}, "inner: expected the fields of Adam, got 4"),
        ({"inner": {"betas": [1]}}, "inner.betas: expected 2 items, got 1"),
        ({"inner": {"betas": [1, "x"]}}, "inner.betas.1: expected float, got 'x'"),
        ({"sizes": [1, 2.5]}, "sizes.1: expected int"),
        ({"weights": {"a": None}}, "weights.a: expected float"),
        ({"weights": [1]}, "weights: expected dict"),
        ({"mode": "mean"}, "mode: expected Literal"),
        ({"colour": "GREEN"}, "colour: expected Colour"),
        ({"path": 3}, "path: expected Path"),
        ({"limit": [1]}, "limit: expected"),
        ({"derived": 1}, "derived: unknown"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        config.from_dict(Run, {**_GOOD, **change})


def test_other_refusals():
    with pytest.raises(ConfigError, match="steps: missing"):
        config.from_dict(Run, {"optimiser": {"type": "Adam"}})
    with pytest.raises(ConfigError, match="value must be positive"):
        config.from_dict(Positive, {"value": 0})
    with pytest.raises(ConfigError, match="extra: a set has no JSON form"):
        config.to_dict(Run(1, Adam(), extra={1}))
    with pytest.raises(ConfigError, match="dataclass instance"):
        config.to_dict(Run)


def test_load_and_save(tmp_path):
    file = tmp_path / "config.json"
    config.save(Positive(3), file)
    assert config.load(Positive, file) == Positive(3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]
    for content in ("{", "[1]", '{"value": "x"}', "[" * 10_000):
        file.write_text(content)
        with pytest.raises(ConfigError, match=r"config\.json: "):
            config.load(Positive, file)
    with pytest.raises(ConfigError, match=r"absent\.json"):
        config.load(Positive, tmp_path / "absent.json")


def test_differences():
    a = {"optimiser": {"rate": 0.1, "type": "Adam"}, "steps": 3, "gone": 1}
    b = {"optimiser": {"rate": 0.2, "type": "Adam"}, "steps": 3, "new": {}}
    assert config.differences(a, b) == ["optimiser.rate: 0.1 -> 0.2", "gone: 1 -> 'absent'", "new: 'absent' -> {}"]
    assert config.differences(a, a) == []
