"""Figures, tables and pages: correct, self-contained, deterministic, safe, and readable on both grounds."""

import re
import sys
from html.parser import HTMLParser
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest

from gleanings.core import _axes, _page
from gleanings.core._svg import PALETTE
from gleanings.core.errors import ConfigError
from gleanings.core.report import Report, Series, figure_bars, figure_heatmap, figure_line, table
from gleanings.core.stats import Interval
from gleanings.core.study import Check, Verdict

CURVE = Series("RLOO", [2, 4, 8, 16], [1.0, 0.5, 0.2, 0.1])
BAND = Series("coupled", [2, 4, 8, 16], [0.9, 0.4, 0.2, 0.1], [0.8, 0.3, 0.1, 0.05], [1.0, 0.5, 0.3, 0.2])
BARS = Series("step 50", ["IW", "SB", "Tree"], [0.9, 0.95, 1.0], [0.8, 0.9, 0.9], [1.0, 1.0, 1.1])
FIGURES = {
    "line": lambda: figure_line([CURVE, BAND], x_label="evaluations", y_label="variance", log="xy"),
    "points": lambda: figure_line([BAND], style="points", reference=1.0, title="Points"),
    "labelled": lambda: figure_line([CURVE, BAND], style="labelled", log="y"),
    "bars": lambda: figure_bars([BARS], value_label="ratio", style="bars"),
    "horizontal": lambda: figure_bars([BARS, BARS], horizontal=True, reference=1.0, log=True),
    "heatmap": lambda: figure_heatmap([[1.0, np.nan], [2.0, 3.0]], rows=["a", "b"], columns=["c", "d"], title="T"),
    "diverging": lambda: figure_heatmap([[1.0, -2.0]], rows=["a"], columns=["c", "d"], centre=0.0),
    "large": lambda: figure_heatmap(np.ones((60, 60)), rows=[""] * 60, columns=[""] * 60, value_label="ms"),
    "thumbnail": lambda: figure_bars([BARS], horizontal=True, thumbnail=True, size=(240, 120)),
}


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]


def linear_rgb(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(linear_rgb(colour) @ [0.2126, 0.7152, 0.0722])


def contrast(first: str, second: str) -> float:
    high, low = sorted([luminance(first), luminance(second)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def css_colours(scheme: str) -> dict[str, str]:
    """Variables of the style sheet as the page of that scheme sees them."""
    css = _page.environment().get_template("style.css").render()
    light, dark = css.split("@media screen and (prefers-color-scheme: dark)")
    found = dict(re.findall(r"--([\w-]+): (#\w{6})", light))
    return found if scheme == "light" else {**found, **dict(re.findall(r"--([\w-]+): (#\w{6})", dark))}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_series_stand_out_from_the_ground(scheme):
    colours = css_colours(scheme)
    assert contrast(colours["ink"], colours["ground"]) >= 12
    assert all(contrast(colours[name], colours["ground"]) >= 4.5 for name in ("faint", "link"))
    assert all(contrast(colours[k], colours[f"{k}-tint"]) >= 4.5 for k in ("good", "part", "bad", "weak", "none"))
    assert all(contrast(colours[f"c{i}"], colours["ground"]) >= 3 for i in range(len(PALETTE)))


SIGHT = {  # Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB
    "full": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def oklab(linear: np.ndarray) -> np.ndarray:
    cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.6806995, 0.10739696],
        [0.08830246, 0.28171884, 0.6299787],
    ]
    axes = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.9779985, -2.42859221, 0.45059371],
        [0.0259040, 0.78277177, -0.80867577],
    ]
    return np.array(axes) @ np.cbrt(np.array(cones) @ np.clip(linear, 0, 1))


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize("sight", SIGHT)
def test_series_differ_for_every_kind_of_sight(scheme, sight):
    seen = [oklab(np.array(SIGHT[sight]) @ linear_rgb(pair[scheme])) for pair in PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 0.08


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_well_formed_deterministic_and_take_the_pages_colours(name):
    svg = FIGURES[name]()
    assert svg == FIGURES[name]()
    assert "currentColor" in svg
    assert not re.search(r"#0[12]01[0-9a-f]{2}", svg), "a stand-in colour was left"
    assert "font-family" not in svg
    assert "<style" not in svg
    assert "<metadata" not in svg
    assert len(svg) < 60_000
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    used = re.findall(r'(?:url\(#|href="#)([^")]+)', svg)
    assert len(ids) == len(set(ids))
    assert set(used) == set(ids)


def test_figures_do_not_share_ids():
    found = [set(re.findall(r' id="([^"]+)"', make())) for make in FIGURES.values()]
    assert all(not (a & b) for a, b in combinations(found, 2))


def test_figures_leave_matplotlibs_settings_and_pyplot_alone():
    import matplotlib

    before, pyplot = dict(matplotlib.rcParams), sys.modules.get("matplotlib.pyplot")
    FIGURES["line"]()
    assert dict(matplotlib.rcParams) == before
    assert sys.modules.get("matplotlib.pyplot") is pyplot


def test_names_are_text_even_if_they_look_like_markup():
    names = ["<b>&amp;", "$x^2$ and $", "a_b"]
    svg = figure_line([Series(name, [0, 1], [i, 1.0]) for i, name in enumerate(names)], title='"quoted"')
    assert [text for text in texts(svg) if text in names] == names
    assert "&lt;b&gt;" in svg
    assert 'aria-label="&quot;quoted&quot;"' in svg


def test_bounds_and_reference_are_drawn():
    def bars(**bounds):
        return figure_line([Series("a", [1, 2], [1.0, 2.0], **bounds)], style="points").count("stroke-width: 1.6")

    assert bars() == 0
    assert bars(low=[0.0, 1.0], high=[2.0, 3.0]) == 2
    plain = Series("a", ["x", "y"], [1.0, 2.0])
    assert figure_bars([plain], reference=1.5).count("stroke-dasharray") == 1
    assert figure_bars([plain]).count("stroke-dasharray") == 0


def test_missing_values_are_gaps():
    svg = figure_line([Series("a", [0, 1, 2, 3], [1.0, None, float("nan"), 2.0])])
    assert "nan" not in svg.lower().replace("nance", "")


def test_axes_speak_plainly():
    assert {"2", "4", "8", "16"} <= set(texts(FIGURES["line"]()))
    assert {"IW", "SB", "Tree", "step 50"} <= set(texts(FIGURES["horizontal"]()))
    assert "ratio" not in texts(figure_bars([BARS], value_label="ratio", thumbnail=True))
    crowd = [Series(name, [1], [1.0]) for name in ("first", "second", "third")]
    heights = re.findall(r'y="([\d.]+)"[^>]*>(?:first|second|third)<', figure_line(crowd, style="labelled"))
    assert min(abs(float(a) - float(b)) for a, b in combinations(heights, 2)) >= 12


def test_names_of_crowds_stand_in_the_legend():
    seeds, more, one = (
        Series(name, x, [0.5] * len(x)) for name, x in (("seeds", [0, 1]), ("more", [2, 3]), ("one", [1]))
    )

    def heights(*series):
        found = re.findall(r'y="([\d.]+)"[^>]*>(seeds|more|one)<', figure_line(series, style="labelled"))
        assert len(found) == len(series)
        return {name: float(y) for y, name in found}

    crowds = heights(seeds, more, one)
    assert crowds["seeds"] == crowds["more"] < crowds["one"]  # above the axes
    assert heights(seeds, one)["seeds"] > crowds["seeds"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.001, "0.001"), (20.0, "20"), (1e4, "10⁴"), (2e-5, "2·10⁻⁵"), (1e-12, "10⁻¹²"), (0.0, "0")]
)
def test_logarithmic_ticks(value, text):
    assert _axes._power(value) == text


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figure_line([Series("a", [1, 2], [1.0])]),
        lambda: figure_bars([Series("a", ["x"], [1.0], low=[0.0, 1.0])]),
        lambda: figure_heatmap([[1.0]], rows=["a", "b"], columns=["c"]),
        lambda: table(["a", "b"], [[1]]),
    ],
)
def test_mismatched_lengths_are_refused(draw):
    with pytest.raises(ConfigError, match=r"differ|labels|cells"):
        draw()


class Balance(HTMLParser):
    """Fails on tags that do not nest; collects what would be fetched from elsewhere."""

    VOID = frozenset({"meta", "link", "br", "img", "hr"})

    def __init__(self):
        super().__init__()
        self.stack, self.fetched, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.stack.append(tag)
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        links = [found.get("src"), found.get("data"), found.get("href") if tag in ("link", "script") else None]
        self.fetched += [link for link in links if link and not link.startswith("data:")]
        assert tag != "script"

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def check_page(html: str) -> Balance:
    parser = Balance()
    parser.feed(html)
    parser.close()
    assert not parser.stack
    assert not parser.fetched
    assert not re.search(r"@import|url\((?!#|['\"]?data:)", html)
    assert len(parser.ids) == len(set(parser.ids))
    return parser


VERDICT = Verdict(
    "not reproduced",
    "It <fails>.",
    (
        Check("C1", "claimed & so", "z = 3.1", None, True),
        Check("C2", "lower", "`ratio`", Interval(-0.912, -0.943, -0.881, 0.9, 12), False),
        Check("C3", "equal", "gap", Interval(0.1, -0.1, 0.3, 0.95, 7)),
    ),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    report = Report("A <title>", "arXiv 2106.08056 · today").verdict(VERDICT)
    report.section("First", "One & two.\n\n- item `x < y`\n- other").figure(FIGURES["line"](), "A line.")
    report.section("Second").figure([FIGURES["bars"](), FIGURES["points"]()], "Two.")
    rows = [["IW", 2, 0.5, Interval(0.91, 0.88, 0.94, 0.95, 10)], ["<SB>", 4, None, None]]
    report.table(["member", "n", "x", "ratio"], rows, "Numbers.").code("@article{a,\n  b={<c>}\n}")
    return report.save(tmp_path_factory.mktemp("pages") / "new" / "report.html")


def test_a_report_is_one_sound_page(saved):
    html = saved.read_text(encoding="utf-8")
    check_page(html)
    assert len(html) < 1_000_000
    assert "prefers-color-scheme: dark" in html
    assert "default-src 'none'" in html
    assert [path.name for path in saved.parent.iterdir()] == ["report.html"], "no temporary file is left"
    places = [html.index(text) for text in ("A &lt;title&gt;</h1>", "not reproduced", "First", "A line.", "Numbers.")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "text",
    [
        '<span class="badge not-reproduced">✕ not reproduced</span>',
        "It &lt;fails&gt;.",
        '<span class="outcome holds">✓ holds</span>',
        '<span class="outcome fails">✕ fails</span>',
        '<span class="outcome undecided">– undecided</span>',
        '<code>ratio</code> <span class="estimate">−0.912 [−0.943, −0.881]</span> <span class="n">(90 %)</span>',
        '<span class="n">n = 12</span>',
        '<a href="https://arxiv.org/abs/2106.08056">arXiv 2106.08056</a>',
        "<ul><li>item <code>x &lt; y</code></li><li>other</li></ul>",
        '<th>member</th><th class="number">n</th>',
        "&lt;SB&gt;",
        '<td class="number">–</td>',
        "  b={&lt;c&gt;}",
    ],
)
def test_a_report_shows(saved, text):
    assert text in saved.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("one\n    two", "<p>one\ntwo</p>"),
        ("\n    one\n\n    two\n    ", "<p>one</p>\n<p>two</p>"),
        ("intro:\n- a\n- b", "<p>intro:</p>\n<ul><li>a</li><li>b</li></ul>".replace("</p>\n", "</p>\n")),
        ("a - b -1", "<p>a - b -1</p>"),
        ("<script>", "<p>&lt;script&gt;</p>"),
        ("", ""),
    ],
)
def test_prose(text, html):
    assert _page.prose(text) == html


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (True, "yes"), (12345, "12345"), (-0.123456, "−0.1235"), ("a", "a")],
)
def test_cells(value, text):
    assert _page.cell(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (61.0, "1 min 01 s"), (7384.0, "2 h 03 min")]
)
def test_durations(seconds, text):
    assert _page.duration(seconds) == text
