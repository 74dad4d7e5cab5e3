"""The loop of a worker: one JSON command a line on stdin, one JSON answer a line on stdout. No JAX, any environment."""

import json
import sys
from collections.abc import Callable, Mapping


def answer(cases: Mapping[str, Callable[..., dict]], command: dict) -> dict:
    """{"case": ..., and what the case returns}; where it fails {"case": ..., "error": ...}."""
    case = command.pop("case", None)
    try:
        return {"case": case, **cases[case](**command)}
    except Exception as error:
        return {"case": case, "error": f"{type(error).__name__}: {error}"}


def serve(cases: Mapping[str, Callable[..., dict]]) -> None:
    """Answers commands until stdin closes; what libraries print goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        if line.strip():
            print(json.dumps(answer(cases, json.loads(line))), file=answers, flush=True)
