"""A small study with two pieces, used by the tests of studies and of the scoreboard."""

from pathlib import Path

from gleanings.core.report import Series, figure_bars
from gleanings.core.stats import bootstrap_ci
from gleanings.core.study import Check, Evidence, Study, StudyConfig, Verdict


def run(config: StudyConfig) -> dict:
    config.parts.expect(2)
    return {name: config.parts.get(name, lambda: [config.seed + 0.5, 1.0, 2.0]) for name in ("first", "second")}


def judge(evidence: Evidence) -> Verdict:
    interval = bootstrap_ci(evidence.values["first"])
    checks = (
        Check("C1", "The mean is <positive>.", "mean | of three", interval, not interval.excludes(1.0)),
        Check("C2", "Unknown.", "not measured"),
    )
    return Verdict("partly", "One of two parts of the claim was found.", checks)


def thumbnail(evidence: Evidence) -> str:
    return figure_bars([Series("a", ["x", "y"], [1.0, 2.0])], thumbnail=True, size=(240, 120))


def toy(name: str = "toy", **changes: object) -> Study:
    """The study, with some fields changed."""
    fields = {
        "name": name,
        "title": f"The {name} study",
        "arxiv": "2106.08056",
        "claim": f"What {name} claims | exactly.",
        "paper_figure": "Table 1: 0.9.",
        "protocol": "Three numbers.",
        "deviations": "None.",
        "rule": "Fixed before.",
        "bibtex": "@article{toy}",
        "run": run,
        "judge": judge,
        "render": lambda evidence, verdict, report: report.section("Found", evidence.size),
        "thumbnail": thumbnail,
    }
    return Study(**{**fields, **changes})


def config(directory: Path, **changes: object) -> StudyConfig:
    """Its configuration at size quick."""
    return StudyConfig(**{"size": "quick", "data": None, "seed": 0, "directory": directory, **changes})


STUDY = toy()
