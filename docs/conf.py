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
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
python_use_unqualified_type_names = True
# The fences hold Python sessions and shell commands; nothing on the network is asked for.
highlight_language = "text"


def _plain(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code`: make the code literal and the rest free of reST marks."""
    for i, line in enumerate(lines):
        parts = re.split(r"(`+[^`]+`+)", line)
        lines[i] = "".join(
            f"``{part.strip('`')}``" if part.startswith("`") else re.sub(r"([*|_])(?=\W|\w)", r"\\\1", part)
            for part in parts
        )


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _plain)
