"""One table of all members, by the name that tests show; a new member joins here as one row."""

from collections.abc import Iterable

import pytest

from gleanings.estimators import (
    ARM,
    ARMS,
    ARS,
    ARSM,
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

UNBIASED = {
    "reinforce-1": Reinforce(),
    "reinforce-3": Reinforce(3),
    "rloo-2": ReinforceLOO(),
    "rloo-5": ReinforceLOO(5),
    "local": LocalExpectation(),
    "iw": DisARMIW(),
    "sb": DisARMSB(),
    "tree": DisARMTree(order="ascending"),
    "coupled-4": CoupledLOO(),
    "coupled-2": CoupledLOO(2, order=None),
    "coupled-5-stick": CoupledLOO(5, structure="stick"),
    "coupled-4-pairs": CoupledLOO(4, coupling="pairs"),
    "coupled-6-stick-pairs": CoupledLOO(6, structure="stick", coupling="pairs", order=None),
    "ars": ARS(),
    "ars+": ARSPlus(),
    "arsm": ARSM(),
    "arsm+": ARSMPlus(),
}
BINARY = {
    "disarm": DisARM(),
    "arm": ARM(),
    "arms-4": ARMS(),
    "arms-2": ARMS(2),
    "binary-rloo-3": ReinforceLOO(3, variable="binary"),
    "binary-coupled-4": CoupledLOO(variable="binary"),
    "binary-coupled-3-stick": CoupledLOO(3, structure="stick", variable="binary"),
    "binary-local": LocalExpectation(variable="binary"),
    "binary-iw": DisARMIW(variable="binary"),
    "binary-arsm+": ARSMPlus(variable="binary"),
}
BIASED = {
    "straight-through": StraightThrough(),
    "gumbel": GumbelSoftmax(),
    "gumbel-hard": GumbelSoftmax(0.5, hard=True),
    "reinmax": ReinMax(),
    "binary-reinmax": ReinMax(variable="binary"),
}
MEMBERS = UNBIASED | BINARY | BIASED
# One member for each path through the code: the rows of a test that are not slow.
CORE = (
    *("rloo-2", "local", "iw", "tree", "coupled-4", "coupled-5-stick", "coupled-4-pairs", "ars+", "arsm"),
    *("disarm", "arms-4", "binary-coupled-4", "gumbel-hard", "reinmax"),
)
NOT_BLIND = ("reinforce-1", "reinforce-3")  # their coefficients do not sum to zero


def core_first(names: Iterable[str]) -> list:
    """Parameters for pytest: the members of CORE, and the others marked slow."""
    return [pytest.param(name, id=name, marks=() if name in CORE else pytest.mark.slow) for name in names]
