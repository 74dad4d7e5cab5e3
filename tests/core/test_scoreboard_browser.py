"""The scoreboard and a report in a real browser: no console error, every study on the page, both colour schemes."""

import re
from pathlib import Path

import numpy as np
import pytest

from gleanings.core._verdict import LABELS
from gleanings.core.study import Verdict, run_study, scoreboard

from ._toy_study import config, toy


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A scoreboard with a study of every verdict, one of them not run."""
    folder = tmp_path_factory.mktemp("board")
    evidence, verdict = run_study(toy(), config(folder / "toy"))
    report = folder / "toy" / "report.html"
    entries = [
        toy(label.replace(" ", "-")).entry(evidence, Verdict(label, label, verdict.checks), report)
        for label in LABELS
        if label != "not attempted"
    ]
    return scoreboard([*entries, toy("not-attempted").entry()], folder)


def picture(browser, page: Path, out: Path, scheme: int, width: int = 900) -> np.ndarray:
    from matplotlib.image import imread

    browser(
        page, f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={width},900", f"--screenshot={out}"
    )
    return np.asarray(imread(out))[..., :3]


def test_the_console_is_watched(browser, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<script>undefined_name()</script>")
    _, console = browser(bad, "--dump-dom")
    assert any("undefined_name" in line for line in console)


def test_every_study_is_on_the_page_and_the_console_is_silent(browser, page):
    dom, console = browser(page, "--dump-dom")
    assert console == []
    cards = re.findall(r'<article class="card" id="([\w-]+)">(.*?)</article>', dom, flags=re.S)
    assert [name for name, _ in cards] == [label.replace(" ", "-") for label in LABELS]
    for name, body in cards:
        assert f'class="badge {name}"' in body
        assert f"What {name} claims" in body
        assert ("<svg" in body) == (name != "not-attempted")


def test_the_report_is_silent_too(browser, page):
    dom, console = browser(page.parent / "toy" / "report.html", "--dump-dom")
    assert console == []
    assert "The toy study" in dom


def test_both_colour_schemes_are_followed(browser, page, tmp_path):
    dark = picture(browser, page, tmp_path / "dark.png", 0)
    light = picture(browser, page, tmp_path / "light.png", 1)
    assert light[0, 0].min() == 1.0
    assert dark[0, 0].max() < 0.12
    assert dark.std() > 0.05
    assert light.std() > 0.05
    # The plot has a ground of its own in neither: what is white in the light page is dark in the dark one.
    assert np.all(dark[light.min(-1) == 1.0].max(-1) < 0.2)


def test_a_narrow_page_does_not_overflow(browser, page, tmp_path):
    narrow = picture(browser, page, tmp_path / "narrow.png", 1, width=500)
    assert narrow.shape[1] == 500
    assert np.all(narrow[:, -8:] == 1.0), "something reaches over the right margin"
