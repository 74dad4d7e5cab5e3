"""All studies on one page, in the terminal, and as the README's table."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gleanings.core._evidence import Evidence, read_result
from gleanings.core._page import MARKS, duration, page
from gleanings.core._parts import to_json, write_json, write_text
from gleanings.core._verdict import LABELS, Check, Verdict
from gleanings.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

NOT_ATTEMPTED = Verdict("not attempted", "This study has not been run.")
_COLOURS = ("green", "yellow", "red", "magenta", "bright_black")


@dataclass(frozen=True)
class Entry:
    """One study on the scoreboard, from `Study.entry`; `report` is the path of its own page."""

    about: dict[str, str]
    evidence: Evidence | None = None
    verdict: Verdict = NOT_ATTEMPTED
    thumbnail: str = ""
    report: Path | None = None

    @property
    def machine(self) -> str:
        """The machine in a few words."""
        facts = self.evidence.machine if self.evidence else {}
        devices = [device for device in facts.get("devices", []) if device != "cpu"]
        names = [facts.get("processor"), f"{facts.get('cores', '?')} cores", *devices]
        return ", ".join(str(name) for name in names if name)


def scoreboard(entries: Sequence[Entry], path: Path) -> Path:
    """Write `report.html` and `scoreboard.json` into the folder `path`; returns the page's path."""
    counts = Counter(entry.verdict.label for entry in entries)
    shown = [
        {
            "about": entry.about,
            "evidence": entry.evidence,
            "verdict": entry.verdict,
            "thumbnail": entry.thumbnail,
            "machine": entry.machine,
            "href": _relative(entry.report, path),
        }
        for entry in entries
    ]
    html = page(
        "scoreboard.html",
        title="Claims, tested",
        subtitle="A published claim, a decision rule fixed before the run, and what was measured.",
        tally=[(label, counts[label]) for label in LABELS if counts[label]],
        entries=shown,
    )
    write_text(path / "report.html", html)
    write_json(path / "scoreboard.json", [_record(entry, path) for entry in entries])
    return path / "report.html"


def print_scoreboard(entries: Sequence[Entry], console: "Console | None" = None) -> None:
    """Print each study with its verdict and cost, and below it every check with its interval and n."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table("study", "verdict", "measured [95 % interval]", box=box.SIMPLE_HEAD)
    for entry in entries:
        label, evidence = entry.verdict.label, entry.evidence
        style = _COLOURS[LABELS.index(label)]
        cost = f"size {evidence.size}, {duration(evidence.cost.wall_s)}" if evidence else entry.verdict.summary
        shown.add_row(Text(entry.about["name"], "bold"), Text(f"{MARKS[label]} {label}", style), Text(cost))
        for check in entry.verdict.checks:
            shown.add_row(Text(f"  {check.name}"), f"  {MARKS[check.outcome]} {check.outcome}", Text(measured(check)))
    (console or Console()).print(shown)


def results_table(results_dir: Path, studies: Sequence[dict[str, str]] = ()) -> str:
    """Markdown table of the evidence files in a folder, and of `studies` (`Study.about()`) without one.

    DataError: a file is not the evidence of a study with its verdict.
    """
    rows: list[tuple[dict[str, str], Evidence | None, Verdict]] = []
    for path in sorted(Path(results_dir).glob("*.json")):
        evidence, about, verdict = read_result(path)
        rows.append((about, evidence, verdict))
    names = {about["name"] for about, _, _ in rows}
    rows += [(about, None, NOT_ATTEMPTED) for about in studies if about["name"] not in names]
    lines = ["| Study | Claim | In the paper | Here [95 % interval] | Verdict |", "|---|---|---|---|---|"]
    for about, evidence, verdict in rows:
        link = f"[{_flat(about['title'])}](https://arxiv.org/abs/{about['arxiv']})"
        run = [evidence.size, evidence.data, evidence.date] if evidence else []
        here = [f"{MARKS[check.outcome]} {check.name}: {measured(check)}" for check in verdict.checks]
        claim = about["claim"].strip().split("\n\n")[0]
        cells = [_flat(text) for text in (claim, about["paper_figure"], *(here or [verdict.summary]))]
        judged = f"**{verdict.label}**" + (f" ({_flat(', '.join(filter(None, run)))})" if run else "")
        lines.append(f"| {link} | {cells[0]} | {cells[1]} | {'<br>'.join(cells[2:])} | {judged} |")
    return "\n".join(lines) + "\n"


def refresh_readme(readme: Path, table: str, check: bool = False) -> bool:
    """Put `table` between the README's two result marks; True if it was there already. `check` writes nothing.

    ConfigError: the file does not hold each mark once, in order.
    """
    text = readme.read_text(encoding="utf-8")
    begin, end = "<!-- results:begin -->\n", "<!-- results:end -->\n"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ConfigError(f"{readme}: needs the lines {begin.strip()} and {end.strip()}, once and in this order")
    fresh = f"{text[: text.index(begin)]}{begin}\n{table}\n{text[text.index(end) :]}"
    if fresh != text and not check:
        write_text(readme, fresh)
    return fresh == text


def measured(check: Check) -> str:
    """What a check measured, with its interval and n, as plain text."""
    interval = check.interval
    return check.measured if interval is None else f"{check.measured} {interval}, n = {interval.n}"


def _record(entry: Entry, folder: Path) -> dict[str, Any]:
    evidence = to_json(entry.evidence) or {}
    evidence.pop("values", None)
    href = _relative(entry.report, folder)
    return {**entry.about, "verdict": to_json(entry.verdict), "report": href, "run": evidence or None}


def _relative(report: Path | None, folder: Path) -> str | None:
    return Path(os.path.relpath(report, folder)).as_posix() if report else None


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
