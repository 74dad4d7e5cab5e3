"""The report of the study of BC-SAC on made-up evidence: what stands first, what is read off, a page from any size."""

import re

import numpy as np
import pytest

from gleanings.core.report import Report
from gleanings.studies import _bc_sac_plots as plots
from gleanings.studies import _bc_sac_report as pages
from gleanings.studies._bc_sac_judge import judge
from gleanings.studies._bc_sac_outcomes import outcomes

from ._bc_sac_evidence import made_up

SLOW = {"sac": (0.2, 0.1, 0.7, 0.6)}


def page(evidence, folder):
    report = Report("title")
    pages.render(evidence, judge(evidence), report)
    return report.save(folder / "report.html").read_text()


def test_losses_stand_first():
    assert pages.headline(made_up()) == ""
    lost = pages.headline(made_up(SLOW))
    assert lost.startswith("On raw failure SAC fails in 20.0 % [")
    assert judge(made_up(SLOW)).summary.startswith(lost)
    assert pages.headline(made_up(SLOW, size="smoke")) == ""
    found = pages.headline(made_up({"IDM on route": (0.2, 0.1, 0.1, 0.9), "random": (0.3, 0.3, 0.1, 0.9)}))
    assert "A control misses: random, failure* 3" in found
    assert "IDM on route learns nothing and fails in 20.0 % of the hardest scenes, BC-SAC in 30.0 %." in found


def test_progress_is_matched_along_the_curve():
    evidence = made_up()
    # Halfway between the second weight (progress 0.85, 20 %) and a third (0.95, 40 %).
    rows = evidence.values["tuning"]
    rows[-1] |= {"progress": [0.95, 0.95], "failure": [0.4, 0.4]}
    text = pages.matched(evidence.values)
    assert "λ = 0.1, 0.90, SAC with a progress reward fails in 30.0 %" in text
    assert "BC-SAC in 15.0 %: −15.0 points" in text
    rows[-1] |= {"progress": [0.88, 0.88]}
    assert "cannot be read off: it reaches 0.75 to 0.88" in pages.matched(evidence.values)
    evidence.values["tuning"] = []
    assert "not measured" in pages.matched(evidence.values)


def test_tenths_of_difficulty_average_to_all():
    values = made_up().values
    found = plots.deciles(values, "bc")
    assert found.mean() == pytest.approx(100 * outcomes(values, "bc", "failure", "all").mean())
    values["scenes"]["all"]["rank"] = [1.0] * 160
    assert np.isnan(plots.deciles(values, "bc")[:9]).all()


def test_every_section_is_there_and_plots_come_first(tmp_path):
    evidence = made_up()
    evidence.values["clips"].append({"scene": "b", "why": "both fail", "html": "<div id='clip'></div>"})
    evidence.values["clips"].append({"scene": "<c>", "why": "x", "file": 'clips/"c".html'})
    text = page(evidence, tmp_path)
    assert '<a href="clips/3.html">hazard-3</a>: BC-SAC fails' in text
    assert '<a href="clips/&quot;c&quot;.html">&lt;c&gt;</a>' in text
    assert "<div id='clip'></div>" in text
    assert "|r|max = 0.1 x 0.05 / 3 = 0.0017" in text
    assert "Given logs" not in text
    assert "0.37" in text
    assert text.index("<svg") < text.index("<table")
    assert text.count("<svg") == 14
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles[:4] == ["Failure by difficulty", "Failure against progress", "Hypotheses", "Failure along difficulty"]
    assert len(text) < 400_000


def test_a_tiny_run_and_one_without_extras_give_a_page(tmp_path):
    evidence = made_up(hard=4, all_of=8, seeds=2, size="smoke", without=("bc-sac-null", "bc-short"))
    values = evidence.values
    for scenes in values["scenes"].values():
        scenes["kind"], scenes["site"] = ["curve"] * len(scenes["kind"]), [0] * len(scenes["site"])
    values |= {"tuning": [], "frozen": {}, "clips": []}
    for arm in values["arms"].values():
        arm["curve"] = {"step": [0], "critic/loss": [None]}
    assert "Failure by difficulty" in page(evidence, tmp_path)
    assert pages.thumbnail(evidence).startswith("<svg")


def test_given_logs_are_described_by_arm_and_world(tmp_path):
    evidence = made_up(given=40, without=("bc-short", "bc-sac-null"))
    evidence.values["arms"]["sac"]["worlds"].pop("idm")
    for arm in evidence.values["arms"].values():  # as in sizes that drive no hard scenes among others by IDM
        arm["worlds"].get("idm", {}).pop("hard", None)
    text = page(evidence, tmp_path)
    section = text[text.index("<h2>Given logs") :]
    section = section[: section.index("<h2>", 5)]
    assert "40 windows of 3 logs" in section
    assert section.count("by IDM") == 4
    rate = f"{100 * outcomes(evidence.values, 'bc-sac', 'failure', 'given').mean():.1f}"
    assert f"{rate}\u00a0[" in section
    assert "expert\u00a0replay" in section
