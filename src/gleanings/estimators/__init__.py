"""Gradients through discrete random variables (arXiv 2106.08056)."""

from gleanings.estimators._base import AbstractEstimator, AbstractLinearEstimator, Draw
from gleanings.estimators.binary import ARM, ARMS, DisARM
from gleanings.estimators.check import check_unbiased, compare, exact_gradient, variance_of
from gleanings.estimators.coupled import CoupledLOO, DisARMSB, DisARMTree
from gleanings.estimators.graph import Site, expect_graph
from gleanings.estimators.importance import DisARMIW
from gleanings.estimators.score import LocalExpectation, Reinforce, ReinforceLOO
from gleanings.estimators.straight import GumbelSoftmax, ReinMax, StraightThrough
from gleanings.estimators.swap import ARS, ARSM, ARSMPlus, ARSPlus
from gleanings.estimators.transform import expect

__all__ = [
    "ARM",
    "ARMS",
    "ARS",
    "ARSM",
    "ARSMPlus",
    "ARSPlus",
    "AbstractEstimator",
    "AbstractLinearEstimator",
    "CoupledLOO",
    "DisARM",
    "DisARMIW",
    "DisARMSB",
    "DisARMTree",
    "Draw",
    "GumbelSoftmax",
    "LocalExpectation",
    "ReinMax",
    "Reinforce",
    "ReinforceLOO",
    "Site",
    "StraightThrough",
    "check_unbiased",
    "compare",
    "exact_gradient",
    "expect",
    "expect_graph",
    "variance_of",
]
