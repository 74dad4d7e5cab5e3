"""What `gleanings select` is asked, and how that becomes a choice."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gleanings.core.errors import ConfigError, DataError
from gleanings.core.keys import root
from gleanings.selection.bandit import BanditLog
from gleanings.selection.bandit_problems import BanditProblem, mixing_bandit, nested_bandit
from gleanings.selection.bandit_rules import (
    Auto,
    BanditRule,
    ComplexityCoverage,
    HoldOut,
    Largest,
    PolicyValue,
    Slope,
    Smallest,
)
from gleanings.selection.candidates import fit_candidates
from gleanings.selection.class_words import parse_classes
from gleanings.selection.classes import Identity, prefix_linear
from gleanings.selection.digits import digits_bandit
from gleanings.selection.encoding import Missing
from gleanings.selection.log import Transitions
from gleanings.selection.mdp_rules import (
    BVFT,
    FQE,
    HoldOutTD,
    LargestClass,
    MeanMaxQ,
    ModBE,
    RegressedBellman,
    SmallestClass,
)
from gleanings.selection.policy import select_policy
from gleanings.selection.problems import variance_trap
from gleanings.selection.selection import Rule, Selection

BANDIT_RULES: dict[str, BanditRule | Rule] = {
    "auto": Auto(),
    "hold-out": HoldOut(),
    "ccs": ComplexityCoverage(),
    "slope": Slope(),
    "policy-value": PolicyValue(),
    "largest": Largest(),
    "smallest": Smallest(),
    "modbe": ModBE(),
}
EPISODE_RULES: dict[str, Rule] = {
    "auto": ModBE(),
    "modbe": ModBE(),
    "hold-out": HoldOutTD(),
    "regressed-bellman": RegressedBellman(),
    "bvft": BVFT(),
    "fqe": FQE(),
    "mean-max": MeanMaxQ(),
    "largest": LargestClass(),
    "smallest": SmallestClass(),
}
DEMO = "demo:"
_DEMO_ROWS = 2000
_TRAP_DIMS = (1, 3, 6, 12, 24, 48, 96)


@dataclass(frozen=True)
class Question:
    """The arguments of `gleanings select`; config.json of its run directory. digest: sha256 of the table's file."""

    table: str
    action: str = "action"
    reward: str = "reward"
    propensity: str | None = None
    context: tuple[str, ...] = ()
    group: str | None = None
    episode: str | None = None
    terminal: str | None = None
    truncated: str | None = None
    stage: str | None = None
    discount: float | None = None
    classes: tuple[str, ...] = ("constant", "linear:all")
    rule: str = "auto"
    missing: Missing = "refuse"
    buckets: int = 0
    report_fraction: float = 0.2
    rows: int | None = None
    seed: int = 0
    digest: str = ""


@dataclass(frozen=True)
class Asked:
    """A question whose log has been read; `truth` is the problem of a demonstration."""

    log: BanditLog | Transitions
    classes: list[Any]
    rule: BanditRule | Rule
    question: Question
    truth: BanditProblem | None = None

    def answer(self) -> Selection:
        """The choice."""
        question, log = self.question, self.log
        if isinstance(log, BanditLog):
            fraction = question.report_fraction
            return select_policy(log, self.classes, self.rule, report_fraction=fraction, seed=question.seed)
        assert isinstance(self.rule, Rule)
        return self.rule.select(fit_candidates(self.classes, None, log, seed=question.seed))


def ask(question: Question) -> Asked:
    """Read the log and find the classes and the rule.

    ConfigError, DataError: what cannot be used, or a table that is not the one of the question's digest.
    """
    if question.table.startswith(DEMO):
        return _demonstration(question)
    path = Path(question.table).absolute()
    if not path.is_file():
        raise DataError("no such file", path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if question.digest not in ("", digest):
        raise DataError("the file has changed since the run began; start a new run", path)
    question = replace(question, table=str(path), digest=digest)
    shared = {
        "action": question.action,
        "reward": question.reward,
        "group": question.group,
        "missing": question.missing,
        "buckets": question.buckets,
        "rows": question.rows,
    }
    names = ("episode", "terminal", "truncated", "stage", "discount")
    steps = {name: getattr(question, name) for name in names if getattr(question, name) is not None}
    log: BanditLog | Transitions
    if steps and question.propensity:
        raise ConfigError("--propensity belongs to logs of one decision a row; episodes are valued without it")
    if steps:
        log = Transitions.from_table(question.table, observation=question.context or None, **steps, **shared)
    else:
        given = {"propensity": question.propensity, "context": question.context}
        log = BanditLog.from_table(question.table, **given, **shared)
    return Asked(log, parse_classes(question.classes, log), _rule(question, log), question)


def _rule(question: Question, log: BanditLog | Transitions) -> BanditRule | Rule:
    rules = BANDIT_RULES if isinstance(log, BanditLog) else EPISODE_RULES
    if question.rule not in rules:
        kind = "decisions" if isinstance(log, BanditLog) else "episodes"
        raise ConfigError(f"rule {question.rule!r} is not for logs of {kind}; use {', '.join(rules)}")
    return rules[question.rule]


def _demonstration(question: Question) -> Asked:
    name, seed = question.table.removeprefix(DEMO), question.seed
    if name == "trap":
        data = variance_trap(_DEMO_ROWS, key=root(seed))
        return Asked(data, list(prefix_linear(Identity(), _TRAP_DIMS)), _rule(question, data), question)
    makers = {
        "digits": lambda: digits_bandit(_DEMO_ROWS, seed),
        "nested": lambda: nested_bandit(_DEMO_ROWS, False, seed),
        "mixing": lambda: mixing_bandit(_DEMO_ROWS, seed),
    }
    if name not in makers:
        raise ConfigError(f"unknown demonstration {name!r}; use trap, {', '.join(makers)}")
    problem = makers[name]()
    return Asked(problem.log, problem.classes, _rule(question, problem.log), question, problem)
