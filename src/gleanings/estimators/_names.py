"""Names of the estimators on the command line: `coupled-loo-4` is CoupledLOO(num_evaluations=4)."""

import dataclasses
import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from gleanings.core.errors import ConfigError
from gleanings.estimators import (
    ARM,
    ARMS,
    ARS,
    ARSM,
    AbstractEstimator,
    ARSMPlus,
    ARSPlus,
    CoupledLOO,
    DisARM,
    DisARMIW,
    DisARMSB,
    DisARMTree,
    GumbelSoftmax,
    LocalExpectation,
    Reinforce,
    ReinforceLOO,
    ReinMax,
    StraightThrough,
)

# Class, and the options that the name stands for.
NAMES: dict[str, tuple[Callable[..., AbstractEstimator], dict[str, Any]]] = {
    "reinforce": (Reinforce, {}),
    "reinforce-loo": (ReinforceLOO, {}),
    "local-expectation": (LocalExpectation, {}),
    "coupled-loo": (CoupledLOO, {}),
    "coupled-loo-stick": (CoupledLOO, {"structure": "stick"}),
    "disarm-iw": (DisARMIW, {}),
    "disarm-sb": (DisARMSB, {}),
    "disarm-tree": (DisARMTree, {}),
    "disarm": (DisARM, {}),
    "arm": (ARM, {}),
    "arms": (ARMS, {}),
    "ars": (ARS, {}),
    "ars-plus": (ARSPlus, {}),
    "arsm": (ARSM, {}),
    "arsm-plus": (ARSMPlus, {}),
    "straight-through": (StraightThrough, {}),
    "gumbel-softmax": (GumbelSoftmax, {}),
    "reinmax": (ReinMax, {}),
}


def named(name: str, num_evaluations: int | None = None, binary: bool = False) -> AbstractEstimator:
    """The estimator called `name`, which may end with its number of evaluations.

    Raises: ConfigError for an unknown name (with the nearest), an estimator for the other kind of variable, a number
    of evaluations given twice or to an estimator that has none, or one that it refuses.
    """
    base, suffix = name, ""
    if name not in NAMES and (match := re.fullmatch(r"(.+)(-\d+)", name)):
        base, suffix = match.groups()
    if base not in NAMES:
        nearest = get_close_matches(base, NAMES, 1, 0.4)
        hint = f"did you mean {nearest[0] + suffix!r}?" if nearest else f"choose from {', '.join(NAMES)}"
        raise ConfigError(f"unknown estimator {name!r}; {hint}")
    cls, options = NAMES[base]
    taken = {field.name for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    if suffix and num_evaluations is not None:
        raise ConfigError(f"estimator {name!r} names its evaluations; leave out num_evaluations = {num_evaluations}")
    number = int(suffix[1:]) if suffix else num_evaluations
    if number is not None and "num_evaluations" not in taken:
        raise ConfigError(f"estimator {base!r} takes no number of evaluations: its own is fixed")
    options = options | ({} if number is None else {"num_evaluations": number})
    if binary and "variable" in taken:
        options["variable"] = "binary"
    estimator = cls(**options)
    if (estimator.variable == "binary") != binary:
        raise ConfigError(f"estimator {base!r} is for {estimator.variable} variables only")
    return estimator
