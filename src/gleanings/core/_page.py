"""Fills the page templates: escaping, light markup, and the shared style sheet."""

import functools
import html
import inspect
import math
import re
from typing import TYPE_CHECKING, Any

import gleanings
from gleanings.core._svg import PALETTE
from gleanings.core.stats import Interval

if TYPE_CHECKING:
    from jinja2 import Environment

MARKS = {
    "reproduced": "✓",
    "partly": "◐",
    "not reproduced": "✕",
    "underpowered": "≈",
    "not attempted": "–",
    "holds": "✓",
    "fails": "✕",
    "undecided": "–",
}


@functools.cache
def environment() -> "Environment":
    """The template environment; everything is escaped unless it is made here or by `core.report`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("gleanings.core"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.globals.update(palette=PALETTE, marks=MARKS, version=gleanings.__version__)
    made.filters.update(
        cell=cell,
        duration=duration,
        inline=lambda text: Markup(inline(text)),
        prose=lambda text: Markup(prose(text)),
    )
    made.tests["interval"] = lambda value: isinstance(value, Interval)
    return made


def page(template: str, **values: Any) -> str:
    """A whole HTML page."""
    return environment().get_template(template).render(values).lstrip()


def inline(text: str) -> str:
    """Escaped HTML of one paragraph; back quotes mark code, `arXiv 1234.56789` becomes a link."""
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', escaped)


def prose(text: str) -> str:
    """Escaped HTML of paragraphs parted by blank lines, and of lists whose items start with `- `."""
    blocks = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        before, *items = re.split(r"(?:^|\n)- ", block)
        if before.strip():
            blocks.append(f"<p>{inline(before.strip())}</p>")
        if items:
            blocks.append("<ul>" + "".join(f"<li>{inline(item.strip())}</li>" for item in items) + "</ul>")
    return "\n".join(blocks)


def cell(value: Any) -> str:
    """Text of a table cell: floats with four significant digits, a dash for what is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}".replace("-", "−") if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s` or `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
