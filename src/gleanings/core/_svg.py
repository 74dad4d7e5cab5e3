"""Matplotlib figures as inline SVG that takes its colours and font from the page around it."""

import contextlib
import hashlib
import html
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# (light, dark) values: at least 3:1 against the page, and distinct for the colour-blind (a test computes both).
PALETTE: tuple[tuple[str, str], ...] = (
    ("#0b5fd0", "#6db8ff"),
    ("#d95f02", "#ff9248"),
    ("#0f9d76", "#2fe0b0"),
    ("#a3468b", "#d070b8"),
    ("#6b4f00", "#ffd84d"),
    ("#333333", "#f7f7d4"),
    ("#0099cc", "#d02818"),
    ("#0f2157", "#6a6f76"),
)
# Matplotlib wants colours, the page decides them: these stand in and are replaced in the SVG text.
TEXT, FAINT, GRID = "#010101", "#010102", "#010103"
_PAGE = {TEXT: "currentColor", FAINT: "var(--faint, #6b7280)", GRID: "var(--grid, #dfe3e8)"}
_PAGE |= {f"#0201{i:02x}": f"var(--c{i}, {light})" for i, (light, _) in enumerate(PALETTE)}

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gleanings",
    "font.family": "DejaVu Sans",
    "font.size": 12.0,
    "text.parse_math": False,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.labelsize": 12.0,
    "axes.titlesize": 13.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.facecolor": "none",
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "xtick.labelsize": 11.0,
    "ytick.labelsize": 11.0,
    "legend.frameon": False,
    "legend.fontsize": 11.5,
    "legend.handlelength": 1.5,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.5,
    "legend.borderaxespad": 0.2,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify": True,
}


def colour(index: int) -> str:
    """Stand-in for the page's colour of series `index`."""
    return f"#0201{index % len(PALETTE):02x}"


@contextlib.contextmanager
def drawing(size: tuple[int, int], small: bool = False) -> Iterator["Figure"]:
    """A matplotlib figure of `size` CSS pixels in the house style, outside pyplot's global state."""
    import matplotlib
    from matplotlib.figure import Figure

    shrink = {key: 9.0 for key in _STYLE if key.endswith("size") and "marker" not in key} if small else {}
    style: Any = {**_STYLE, **shrink}
    with matplotlib.rc_context(style):
        yield Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")


def to_svg(figure: "Figure", label: str) -> str:
    """The figure as an inline SVG element with `label` for screen readers; equal figures give equal text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r"#0[12]01[0-9a-f]{2}\b", lambda match: _PAGE[match[0]], text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|font-family: [^;\"]*; ?", "", text, flags=re.S)
    text = re.sub(r' (?:d|x|y|transform)="[^"]*"', _two_decimals, text)
    width, height = (round(inches * 72) for inches in figure.get_size_inches())
    head = (
        f'<svg role="img" aria-label="{html.escape(label or "figure", quote=True)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" style="min-width: {min(width, 0.8 * width + 20):.0f}px" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return _own_ids(head + text[text.index(">") + 1 :])


def _two_decimals(match: re.Match[str]) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", match[0])


def _own_ids(text: str) -> str:
    """Keep only the ids that are referred to, under a prefix of their own, so that figures share a page."""
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]

    def rename(match: re.Match[str]) -> str:
        return f' id="{prefix}-{match[1]}"' if match[1] in used else ""

    text = re.sub(r' id="([^"]+)"', rename, text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)
