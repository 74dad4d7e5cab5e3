"""Scenes of a run by use: logs split by log, hazards generated anew for each part, and what to know of it. Ours."""

import math
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gleanings.core.errors import ConfigError
from gleanings.driving.learn.split import Split, log_id, split_scenes
from gleanings.driving.scene import Scene, name_of

FEW_LOGS = 20
LOGS, GENERATED = "logs", "generated"
PARTS = ("train", "validation", "calibration", "test")
_SHARES = (1, 0.25, 0.5, 0.5)  # hazards of each part, as a share of those to train on


@dataclass(frozen=True)
class Material:
    """split: logs first, then generated scenes. generated: how many of these end each part. notes: what a reader of
    the results has to know."""

    split: Split
    generated: tuple[int, int, int, int] = (0, 0, 0, 0)
    notes: tuple[str, ...] = ()

    def strata(self, part: str) -> tuple[str, ...]:
        """`LOGS` or `GENERATED` for each scene of a part."""
        count, own = len(getattr(self.split, part)), self.generated[PARTS.index(part)]
        return (LOGS,) * (count - own) + (GENERATED,) * own


def of_logs(scenes: Sequence[Scene], *, seed: int = 0) -> Material:
    """Learning scenes of logs, split by log as `split_scenes` does; where that leaves a part empty, by number.

    Of one log all is trained on and tested; of two or three one is for testing; from four on one is for validation;
    from ten on one for calibration, before that the training scenes calibrate. ConfigError: no scenes.
    """
    if not scenes:
        raise ConfigError("no scenes to learn from")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes say it
        split = split_scenes(scenes, seed=seed)
    notes: list[str] = []
    logs = sorted({log_id(name_of(scene)) for scene in scenes})
    if not all((split.train, split.validation, split.calibration, split.test)):
        split = _by_number(scenes, logs, seed)
        notes = _notes(len(logs))
    trained = len({log_id(name_of(scene)) for scene in split.train})
    if trained < FEW_LOGS:
        few = f"{trained} {'log' if trained == 1 else 'logs'} to train on: with fewer than {FEW_LOGS} a policy learns "
        notes.append(few + "those logs, not to drive.")
    return Material(split, notes=tuple(notes))


def of_hazards(count: int, *, seed: int = 0) -> Material:
    """`count` generated scenes to train on, a quarter for validation, half for calibration and for testing.

    Each part has a seed of its own, `seed` to `seed` + 3: within one, scenes happen on the same maps.
    """
    from gleanings.driving.learn.hazards import make_hazards

    counts = [math.ceil(share * count) for share in _SHARES]
    made = [make_hazards(seed=seed + k, count=some) for k, some in enumerate(counts)]
    train, validation, calibration, test = counts
    drawn, failed = (sum(sum(getattr(one, name).values()) for _, one in made) for name in ("drawn", "failed"))
    note = f"Of {drawn} hazards drawn, {failed} ({failed / drawn:.0%}) were left out: the expert could not solve them."
    return Material(Split(*(tuple(scenes) for scenes, _ in made)), (train, validation, calibration, test), (note,))


def joined(logs: Material, hazards: Material) -> Material:
    """Both, as strata of their own in what is reported; hazards stand in for what the logs have no part of."""
    pairs = zip(vars(logs.split).values(), vars(hazards.split).values(), strict=True)
    return Material(Split(*((*own, *made) for own, made in pairs)), hazards.generated, logs.notes + hazards.notes)


def _by_number(scenes: Sequence[Scene], logs: Sequence[str], seed: int) -> Split:
    count = len(logs)
    order = sorted(logs, key=lambda log: np.random.default_rng([seed, zlib.crc32(log.encode())]).random())
    test = order[: max(1, round(0.1 * count))] if count > 1 else order
    rest = order[len(test) :] if count > 1 else order
    validation, rest = (rest[:1], rest[1:]) if count >= 4 else ([], rest)
    calibration, rest = (rest[:1], rest[1:]) if count >= 10 else (rest, rest)
    parts = (rest, validation, calibration, test)
    return Split(*(tuple(s for s in scenes if log_id(name_of(s)) in part) for part in parts))


def _notes(count: int) -> list[str]:
    if count == 1:
        return ["One log: the policies are tested on the log that they were trained on."]
    notes = [f"{count} logs, split by number: one in ten, at least one, is for testing."]
    if count < 10:
        notes.append("Difficulty is ranked among the training scenes: there are too few logs to calibrate with others.")
    if count < 4:
        notes.append("No log is left for validation.")
    return notes
