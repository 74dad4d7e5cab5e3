"""`python -m gleanings._readme README.md results`: the claims table between two marks of the README."""

import sys
from pathlib import Path

from gleanings.core.errors import ConfigError
from gleanings.core.study import results_table
from gleanings.studies import STUDIES, load

MARKS = ("<!-- claims: made by `make readme` -->\n", "<!-- end of claims -->\n")


def refresh(readme: Path, results: Path) -> None:
    """Put the table of `results` between the marks of `readme`. Raises: ConfigError without the marks."""
    text = readme.read_text(encoding="utf-8")
    before, start, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (start and end):
        raise ConfigError(f"{readme} needs the lines {MARKS[0].strip()} and {MARKS[1].strip()}")
    table = results_table(results, [load(name).about() for name in STUDIES])
    readme.write_text(f"{before}{start}\n{table}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    refresh(Path(sys.argv[1]), Path(sys.argv[2]))
