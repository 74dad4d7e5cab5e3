"""Whether the settings of a simulator can be meant."""

from typing import get_args, get_type_hints

import numpy as np

from gleanings.core.errors import ConfigError
from gleanings.driving.config import EVENTS, SimConfig
from gleanings.driving.metrics import check_names

_LEAST = {"start": 0, "steps": 1, "history": 0}


def check_settings(config: SimConfig, names: tuple[str, ...]) -> None:
    """ConfigError for values that are not among the choices, numbers out of range, unknown metrics `names`."""
    for field in ("metrics", "terminate_on"):
        if not isinstance(getattr(config, field), tuple):
            raise ConfigError(f"{field}={getattr(config, field)!r}: a tuple of names, such as ('collision',)")
    hints = get_type_hints(SimConfig)
    for field in ("measured", "on_done", "spawn", "log_end", "road", "off_road_points"):
        if getattr(config, field) not in get_args(hints[field]):
            known = ", ".join(map(str, get_args(hints[field])))
            raise ConfigError(f"{field}={getattr(config, field)!r}: choose from {known}")
    for field, least in _LEAST.items():
        value = getattr(config, field)
        if value is not None and (type(value) is bool or not isinstance(value, int | np.integer) or value < least):
            raise ConfigError(f"{field} {value!r}: a whole number, {least} or more")
    known = ("sdc", "all", "vehicles", "predict")
    if not isinstance(config.controlled, tuple) and config.controlled not in known:
        raise ConfigError(f"controlled={config.controlled!r}: {', '.join(known)} or a tuple of ids")
    check_names(names)
    for name in config.terminate_on:
        if name not in EVENTS:
            raise ConfigError(
                f"terminate_on={name!r}: only what is true or false can end an episode: {', '.join(EVENTS)}"
            )
