"""`python -m gleanings._readme README.md results [--check]`: the README's claims table from committed evidence."""

import sys
from pathlib import Path

from gleanings.core.study import refresh_readme, results_table
from gleanings.studies import STUDIES, load


def main(readme: Path, results: Path, check: bool) -> int:
    """Refresh the table in `readme`, or with `check` only say whether it is stale. Returns the exit status."""
    table = results_table(results, [load(name).about() for name in STUDIES])
    fresh = refresh_readme(readme, table, check)
    if check and not fresh:
        print(f"error: {readme} does not show the evidence in {results}: run `make readme`", file=sys.stderr)
    return int(check and not fresh)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), "--check" in sys.argv[3:]))
