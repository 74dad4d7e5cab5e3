"""Reports: one self-contained HTML file with inline SVG, for light and dark screens, phones and paper."""

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gleanings.core._figures import Series, figure_bars, figure_heatmap, figure_line
from gleanings.core._page import environment, page
from gleanings.core._parts import write_text
from gleanings.core._verdict import Verdict
from gleanings.core.errors import ConfigError
from gleanings.core.stats import Interval

__all__ = ["Report", "Series", "figure_bars", "figure_heatmap", "figure_line", "table"]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """HTML table that scrolls in its own box. Cells: text, numbers, `Interval` (shown with its n), or None.

    Text is escaped; a column without text is aligned to the right. ConfigError: a row of another length.
    """
    for i, row in enumerate(rows):
        if len(row) != len(columns):
            raise ConfigError(f"table: row {i} has {len(row)} cells, there are {len(columns)} columns")
    kinds = int | float | Interval | None
    numeric = [all(isinstance(row[i], kinds) for row in rows) for i in range(len(columns))]
    heads = [{"name": name, "number": number} for name, number in zip(columns, numeric, strict=True)]
    return str(environment().get_template("parts.html").module.table(heads, rows))  # pyright: ignore


class Report:
    """A page built from top to bottom; every method returns the report. Show plots before tables.

    Texts are plain: a blank line starts a paragraph, `- ` a list item, back quotes mark code.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self._blocks: list[tuple[str, dict[str, Any]]] = []

    def section(self, title: str, text: str = "") -> "Report":
        """A heading, and what stands below it."""
        return self._add("section", title=title, text=text)

    def figure(self, svg: str | Sequence[str], caption: str = "") -> "Report":
        """A figure from this module, or several side by side, with one caption. The SVG is not escaped."""
        return self._add("figure", svgs=[svg] if isinstance(svg, str) else list(svg), caption=caption)

    def fragment(self, html: str, caption: str = "") -> "Report":
        """HTML as it is, such as a clip. Its inline scripts are the only ones that the page lets run."""
        return self._add("fragment", html=html, caption=caption)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> "Report":
        """A table as made by the function `table`, with a caption."""
        from markupsafe import Markup

        return self._add("table", table=Markup(table(columns, rows)), caption=caption)

    def verdict(self, verdict: Verdict) -> "Report":
        """The word, the summary, and every check with its interval and n."""
        return self._add("verdict", verdict=verdict)

    def code(self, text: str) -> "Report":
        """Text as it is, in a fixed-width font."""
        return self._add("code", text=text.strip())

    def save(self, path: Path) -> Path:
        """Write the page atomically, make its folder if need be, and return the path."""
        fragments = (block["html"] for kind, block in self._blocks if kind == "fragment")
        scripts = {digest for html in fragments for digest in _scripts(html)}
        html = page(
            "report.html", title=self.title, subtitle=self.subtitle, blocks=self._blocks, scripts=sorted(scripts)
        )
        write_text(Path(path), html)
        return Path(path)

    def _add(self, kind: str, **block: Any) -> "Report":
        self._blocks.append((kind, block))
        return self


def _scripts(html: str) -> set[str]:
    """What a content security policy calls the inline scripts of a fragment."""
    found = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    return {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in found}
