"""How Sphinx builds these pages; `make docs` fails on a warning."""

import re
from typing import Any

from gleanings import __version__

project = "gleanings"
author = "the gleanings authors"
copyright = "the gleanings authors, Apache-2.0"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"gleanings {__version__}"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
highlight_language = "text"


def _plain(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code`: make the code literal and the rest free of reST marks."""
    for i, line in enumerate(lines):
        text, *rest = re.split(r"`+([^`]+)`+", line)
        pieces = [re.sub(r"([*|_])", r"\\\1", text)]
        for code, text in zip(rest[::2], rest[1::2], strict=True):
            pieces += [f"``{code.strip()}``", re.sub(r"([*|_])", r"\\\1", text)]
        lines[i] = "".join(pieces)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _plain)
