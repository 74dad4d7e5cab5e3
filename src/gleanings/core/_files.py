"""Writing files so that a crash leaves either the old content or the new one, never a part."""

import json
import os
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Force the file or directory `path` to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Replace the content of `path` by `text`: temporary file, fsync, rename. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of `value` as JSON. Raises OSError, and TypeError for a value without JSON form."""
    write_atomic(path, json.dumps(value, indent=2) + "\n")
