"""What a log cannot carry, in words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Alarm:
    """Why a choice should not be trusted: a short name, what was found, and what to do about it."""

    name: str
    message: str
