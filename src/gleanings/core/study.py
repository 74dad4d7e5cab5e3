"""A study: a paper's claim, how it is tested and judged, and the evidence and report of a run."""

import copy
import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gleanings.core._cost import Cost, Meter, machine
from gleanings.core._evidence import Evidence
from gleanings.core._parts import Parts, Progress, code_digest, data_stamp, to_json
from gleanings.core._scoreboard import NOT_ATTEMPTED, Entry, print_scoreboard, refresh_readme, results_table, scoreboard
from gleanings.core._verdict import LABELS, Check, Label, Verdict
from gleanings.core.errors import ConfigError
from gleanings.core.executor import kept
from gleanings.core.report import Report

__all__ = [
    "LABELS",
    "Check",
    "Cost",
    "Entry",
    "Evidence",
    "Label",
    "Parts",
    "Progress",
    "Size",
    "Study",
    "StudyConfig",
    "Verdict",
    "print_scoreboard",
    "refresh_readme",
    "results_table",
    "run_study",
    "scoreboard",
    "write_report",
]
Size = Literal["smoke", "quick", "full"]


@dataclass(frozen=True)
class StudyConfig:
    """How to run a study.

    size: smoke exercises the plumbing in seconds, quick takes minutes, full is what is published.
    data: real data in place of what ships with the packages. seed: the first seed.
    directory: where evidence, parts and report go. executor: one of `core.executor`, None for in-process.
    progress: see `Parts`. parts: where the study keeps its pieces; made from the other fields, valid for one
    size, seed, data and code. DataError: `data` does not exist.
    """

    size: Size
    data: Path | None
    seed: int
    directory: Path
    executor: Any = None
    progress: Progress | None = None
    parts: Parts = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        data = data_stamp(self.data) if self.data else None
        settings = {"size": self.size, "seed": self.seed, "data": data, "code": code_digest()}
        object.__setattr__(self, "parts", Parts(self.directory / "parts", settings, self.progress))


@dataclass(frozen=True)
class Study:
    """A paper's claim as a runnable experiment. The texts are written, and the rule fixed, before it runs.

    name: as on the command line. claim: its first paragraph, one sentence, stands in the README's table.
    paper_figure: the paper's number and where it stands (table, figure), or that none is quoted.
    run(config) -> values (JSON). judge(evidence) -> verdict, a pure function. render(evidence, verdict, report)
    adds the study's sections. thumbnail(evidence) -> a small SVG. headline(evidence) -> what stands first in the
    report, before the verdict, such as where the method loses; empty for nothing.
    Texts are plain; a blank line starts a paragraph, `- ` a list item, back quotes mark code.
    """

    name: str
    title: str
    arxiv: str
    claim: str
    paper_figure: str
    protocol: str
    deviations: str
    rule: str
    bibtex: str
    run: Callable[[StudyConfig], Mapping[str, Any]]
    judge: Callable[[Evidence], Verdict]
    render: Callable[[Evidence, Verdict, Report], None]
    thumbnail: Callable[[Evidence], str]
    headline: Callable[[Evidence], str] = lambda evidence: ""

    def about(self) -> dict[str, str]:
        """The facts that do not depend on a run."""
        return {key: getattr(self, key) for key in ("name", "title", "arxiv", "claim", "paper_figure")}

    def decide(self, evidence: Evidence) -> Verdict:
        """The verdict of `judge`, except that size smoke never gives one."""
        verdict = self.judge(evidence)
        if evidence.size == "smoke":
            return Verdict("not attempted", "Size smoke tests the plumbing only.", verdict.checks)
        return verdict

    def entry(
        self, evidence: Evidence | None = None, verdict: Verdict | None = None, report: Path | None = None
    ) -> Entry:
        """This study on the scoreboard; without evidence it is shown as not attempted."""
        thumbnail = self.thumbnail(evidence) if evidence else ""
        return Entry(self.about(), evidence, verdict or NOT_ATTEMPTED, thumbnail, report)


def run_study(study: Study, config: StudyConfig) -> tuple[Evidence, Verdict]:
    """Run and judge a study; writes `evidence.json` and `report.html` into `config.directory`.

    Pieces left there by an interrupted run of the same settings and code are taken over, with their cost.
    Worker processes stay from its first piece to its last. Size smoke never gives a verdict. Errors of the study pass
    through; ConfigError: its values are not JSON.
    """
    meter = Meter(reset_peak=True)
    with kept(config.executor) as executor:
        with_workers = copy.copy(config)  # `replace` would count what is reused elsewhere
        object.__setattr__(with_workers, "executor", executor)
        values = to_json(study.run(with_workers), study.name)
    if not isinstance(values, dict):
        raise ConfigError(f"study {study.name}: run must return a dict, got {type(values).__name__}")
    cost = meter.read() + config.parts.reused
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    evidence = Evidence(study.name, config.size, values, cost, today, machine(), config.parts.fingerprint)
    verdict = study.decide(evidence)
    evidence.save(config.directory / "evidence.json", about=study.about(), verdict=verdict)
    write_report(study, evidence, verdict, config.directory / "report.html")
    return evidence, verdict


def write_report(study: Study, evidence: Evidence, verdict: Verdict, path: Path) -> Path:
    """The report of one run: verdict, claim, the study's own sections, then protocol, rule and citation."""
    on = f"size {evidence.size}" + (f" on {evidence.data}" if evidence.data else "")
    report = Report(study.title, f"arXiv {study.arxiv} · {on} · {evidence.date}")
    if first := study.headline(evidence):
        report.section("First", first)
    report.verdict(verdict)
    report.section("Claim", study.claim).section("In the paper", study.paper_figure)
    study.render(evidence, verdict, report)
    report.section("Protocol", study.protocol).section("Differences from the paper", study.deviations)
    report.section("Decision rule", study.rule)
    report.section("Cost and machine").table(["What", "Value"], _facts(evidence))
    report.section("Citation").code(study.bibtex)
    return report.save(path)


def _facts(evidence: Evidence) -> list[tuple[str, str]]:
    shown = {
        "wall time": f"{evidence.cost.wall_s:.1f} s",
        "CPU time": f"{evidence.cost.cpu_s:.1f} s",
        "peak memory": f"{evidence.cost.peak_memory_mb:,.0f} MB",
        **{key.replace("_gb", " / GB"): value for key, value in evidence.machine.items()},
        **evidence.settings,
        "data": evidence.data or "shipped with the packages",
    }
    return [(key, ", ".join(map(str, v)) if isinstance(v, list) else str(v)) for key, v in shown.items()]
