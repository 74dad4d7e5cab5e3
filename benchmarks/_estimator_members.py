"""The estimators that the benchmark runs at each number of categories, and what each is held against."""

import math

from _estimator_steps import BATCH

from gleanings import estimators as ge

LARGEST_STACK = 512 * 2**20
"""Bytes of one-hot draws above which a row is left out: such a member is out of its range on this machine."""


def members(num_categories: int | None) -> dict[str, ge.AbstractEstimator]:
    """The estimators at K categories (None: binary variables) by name, baselines excepted."""
    if num_categories is None:
        return {"DisARM": ge.DisARM(), "ARM": ge.ARM(), "ARMS-4": ge.ARMS(num_evaluations=4)}
    return {
        "StraightThrough": ge.StraightThrough(),
        "GumbelSoftmax": ge.GumbelSoftmax(),
        "ReinMax": ge.ReinMax(),
        "DisARMIW": ge.DisARMIW(),
        "DisARMSB": ge.DisARMSB(),
        "DisARMTree": ge.DisARMTree(),
        "CoupledLOO-2": ge.CoupledLOO(num_evaluations=2),
        "CoupledLOO-4": ge.CoupledLOO(num_evaluations=4),
        "CoupledLOO-4 stick": ge.CoupledLOO(num_evaluations=4, structure="stick"),
        "CoupledLOO-4 pairs": ge.CoupledLOO(num_evaluations=4, coupling="pairs"),
        "CoupledLOO-4 given order": ge.CoupledLOO(num_evaluations=4, order=None),
        "CoupledLOO-8": ge.CoupledLOO(num_evaluations=8),
        "CoupledLOO-8 stick": ge.CoupledLOO(num_evaluations=8, structure="stick"),
        "ARS": ge.ARS(),
        "ARSPlus": ge.ARSPlus(),
        "ARSM": ge.ARSM(allow_large=True),
        "ARSMPlus": ge.ARSMPlus(allow_large=True),
        "LocalExpectation": ge.LocalExpectation(),
    }


def baseline(evaluations: int, binary: bool) -> tuple[str, ge.AbstractEstimator]:
    """What a member of that many evaluations is held against: RLOO, or Reinforce where there is but one."""
    variable = "binary" if binary else "categorical"
    if evaluations == 1:
        return "Reinforce-1", ge.Reinforce(variable=variable)
    return f"ReinforceLOO-{evaluations}", ge.ReinforceLOO(evaluations, variable=variable)


def reason_to_skip(name: str, evaluations: int, shape: tuple[int, ...]) -> str | None:
    """Why a member is not run at this size, or None."""
    if name.startswith("ARSM") and shape[-1] > 64:
        return f"{evaluations} evaluations: K > 64 needs allow_large=True"
    stack = 4 * evaluations * BATCH * math.prod(shape)
    if stack > LARGEST_STACK:
        return f"{evaluations} evaluations: one stack of draws takes {stack / 2**30:.2f} GiB"
    return None
