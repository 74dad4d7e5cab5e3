"""Outcomes of which only failures and progress are meant."""

import numpy as np

from gleanings.driving.learn.outcomes import Outcomes


def outcomes_with(failed: np.ndarray, first_failure: np.ndarray, progress_ratio: np.ndarray) -> Outcomes:
    """Each failure is a contact of the ego's fault; comfort is undefined, what is measured is 0, nothing lacks."""
    none, zero, known = np.zeros(len(failed), bool), np.zeros(len(failed)), np.ones(len(failed), bool)
    return Outcomes(
        collision=failed,
        at_fault=failed,
        off_road=none,
        off_route=none,
        first_failure=first_failure,
        progress_m=zero,
        progress_ratio=progress_ratio,
        clearance_m=zero,
        comfort=zero + np.nan,
        ade_m=zero,
        saturated=zero,
        reward=zero,
        edges=known,
        route=known,
    )
