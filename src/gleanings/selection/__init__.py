"""Which model class to trust, from logs alone: ModBE (arXiv 2211.02016), batch policy optimisation (2112.12320)."""

from gleanings.selection.alarm import Alarm
from gleanings.selection.bandit import BanditLog
from gleanings.selection.bandit_problems import (
    cover_bandit,
    impossible_pair,
    mixing_bandit,
    nested_bandit,
    rare_bandit,
)
from gleanings.selection.bandit_rules import (
    Auto,
    BanditCandidates,
    BanditRule,
    ComplexityCoverage,
    HoldOut,
    Largest,
    PolicyValue,
    Slope,
    Smallest,
    slope,
)
from gleanings.selection.candidates import Candidates, PrefixCandidates, fit_candidates
from gleanings.selection.class_words import parse_classes
from gleanings.selection.classes import FunctionClass, Identity, Pca, PrefixLinear, RandomFourier, pca, prefix_linear
from gleanings.selection.digits import digits_bandit
from gleanings.selection.fqi import fqe, fqi
from gleanings.selection.log import Split, Transitions
from gleanings.selection.mdp_rules import (
    BVFT,
    FQE,
    HoldOutTD,
    LargestClass,
    MeanMaxQ,
    ModBE,
    RegressedBellman,
    SmallestClass,
    modbe,
)
from gleanings.selection.modbe import ModBEConfig
from gleanings.selection.networks import Mlp, MlpHead, mlp, mlp_heads, widen
from gleanings.selection.ope import DM, DR, IPS, SNDR, SNIPS, DRos, Estimate, SwitchDR
from gleanings.selection.overlap import Overlap, overlap
from gleanings.selection.pessimistic import BanditClass, HeadLinear, JointLinear, Pessimism, heads
from gleanings.selection.policy import select_policy
from gleanings.selection.problems import variance_trap
from gleanings.selection.saved import load_selection
from gleanings.selection.selection import Certificate, Rule, Selection
from gleanings.selection.trap import Trap

__all__ = [
    "BVFT",
    "DM",
    "DR",
    "FQE",
    "IPS",
    "SNDR",
    "SNIPS",
    "Alarm",
    "Auto",
    "BanditCandidates",
    "BanditClass",
    "BanditLog",
    "BanditRule",
    "Candidates",
    "Certificate",
    "ComplexityCoverage",
    "DRos",
    "Estimate",
    "FunctionClass",
    "HeadLinear",
    "HoldOut",
    "HoldOutTD",
    "Identity",
    "JointLinear",
    "Largest",
    "LargestClass",
    "MeanMaxQ",
    "Mlp",
    "MlpHead",
    "ModBE",
    "ModBEConfig",
    "Overlap",
    "Pca",
    "Pessimism",
    "PolicyValue",
    "PrefixCandidates",
    "PrefixLinear",
    "RandomFourier",
    "RegressedBellman",
    "Rule",
    "Selection",
    "Slope",
    "Smallest",
    "SmallestClass",
    "Split",
    "SwitchDR",
    "Transitions",
    "Trap",
    "cover_bandit",
    "digits_bandit",
    "fit_candidates",
    "fqe",
    "fqi",
    "heads",
    "impossible_pair",
    "load_selection",
    "mixing_bandit",
    "mlp",
    "mlp_heads",
    "modbe",
    "nested_bandit",
    "overlap",
    "parse_classes",
    "pca",
    "prefix_linear",
    "rare_bandit",
    "select_policy",
    "slope",
    "variance_trap",
    "widen",
]
