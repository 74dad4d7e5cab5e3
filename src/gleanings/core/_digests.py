"""Which files a checkpoint consists of and whether they are still what was written."""

import hashlib
import json
from pathlib import Path
from typing import Any


class Damaged(Exception):
    """A file of a checkpoint is not as written; the message names it."""


def one_line(error: Exception) -> str:
    """Type and message of a foreign error, shortened to one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file in `folder` except the manifest itself."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "digests.json":
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def verify(folder: Path) -> None:
    """Compare `folder` with its manifest `digests.json`. Raises Damaged."""
    manifest = folder / "digests.json"
    try:
        listed = json.loads(manifest.read_text())
        found = digests(folder)
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{manifest}: {one_line(error)}") from error
    if not isinstance(listed, dict) or "step.json" not in listed:
        raise Damaged(f"{manifest}: not a manifest")
    for name, digest in listed.items():
        if found.get(name) != digest:
            raise Damaged(f"{folder / name}: " + ("content changed" if name in found else "missing"))


def read_record(path: Path) -> tuple[dict[str, Any] | None, dict[str, float], dict[str, list[Any]]]:
    """Data position, metrics, and the form of each leaf, as `step.json` holds them. Raises Damaged."""
    try:
        record = json.loads(path.read_text())
        leaves = {name: [dtype, shape] for name, dtype, shape in record["leaves"]}
        return record["data_state"], record["metrics"], leaves
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{path}: {one_line(error)}") from error
