"""Parts of few logs, notes that say so, and strata; no program is compiled."""

from collections import Counter
from functools import cache

import pytest

from gleanings.core.errors import ConfigError
from gleanings.driving.families import make_scenes
from gleanings.driving.learn import hazards
from gleanings.driving.learn.material import FEW_LOGS, GENERATED, LOGS, PARTS, Material, joined, of_hazards, of_logs
from gleanings.driving.learn.split import Split, log_id
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.stack import text_array


@cache
def _scene() -> Scene:
    return make_scenes("straight")[0]


def windows_of(count: int) -> list[Scene]:
    """Three windows of each of `count` logs; all the same but for the name."""
    names = [f"log-{k:03d}/0-{start}" for k in range(count) for start in (1, 11, 21)]
    return [_scene()._replace(scene_id=text_array(name, 32)) for name in names]


def logs(part: tuple[Scene, ...]) -> set[str]:
    return {log_id(name_of(scene)) for scene in part}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 10, 12, 40])
def test_every_number_of_logs_gives_something_to_train_and_test_on(count):
    found = of_logs(windows_of(count))
    train, validation, calibration, test = (logs(getattr(found.split, part)) for part in PARTS)
    assert train
    assert test
    assert calibration
    assert bool(validation) == (count >= 4)
    assert train | validation | calibration | test == logs(tuple(windows_of(count)))
    if count > 1:
        assert not train & test
    assert not (train | test) & validation
    assert (calibration == train) if count < 10 else not calibration & (train | validation | test)
    assert any(f"{len(train)} log" in note for note in found.notes) == (len(train) < FEW_LOGS)
    assert any("tested on the log" in note for note in found.notes) == (count == 1)


def test_generated_scenes_are_a_stratum_of_their_own():
    made = tuple(_scene()._replace(scene_id=text_array(f"cut_in-{k}-0", 32)) for k in range(4))
    both = joined(of_logs(windows_of(2)), Material(Split(*((one,) for one in made)), (1, 1, 1, 1)))
    assert both.strata("train") == (LOGS,) * 3 + (GENERATED,)
    assert both.strata("validation") == (GENERATED,)
    assert name_of(both.split.test[-1]) == "cut_in-3-0"
    assert any("2 logs, split by number" in note for note in both.notes)


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(ConfigError, match="no scenes"):
        of_logs([])


def test_hazards_say_how_many_were_left_out(monkeypatch):
    def made(*, seed, count):
        return [_scene()] * count, hazards.Discards(Counter(jam=count + 1), Counter(jam=1))

    monkeypatch.setattr(hazards, "make_hazards", made)
    (note,) = of_hazards(8).notes
    assert note == "Of 22 hazards drawn, 4 (18%) were left out: the expert could not solve them."
