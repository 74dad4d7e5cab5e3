"""The `gleanings` command: a table of names, imported one at a time so that `--help` needs no jax."""

import importlib
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from types import FrameType
from typing import Any, NoReturn

from gleanings import __version__
from gleanings.core.errors import ConfigError, GleaningsError

# name -> (help line, "module:function" of a command or "module" of a room with its own COMMANDS).
COMMANDS: dict[str, tuple[str, str]] = {
    "reproduce": ("run studies and print which claims hold", "gleanings._reproduce:reproduce"),
    "resume": ("continue an interrupted run", "gleanings._reproduce:resume"),
    "report": ("write a run's report again from its stored evidence", "gleanings._reproduce:report"),
    "cite": ("print the BibTeX of the papers a run used", "gleanings._reproduce:cite"),
    "fetch": ("get optional real data into the cache", "gleanings._fetch:fetch"),
    "doctor": ("check this machine and installation", "gleanings._doctor:doctor"),
    "select": ("choose a model class from a table of logged decisions", "gleanings.selection.commands:select"),
    "drive": ("simulate agents in real or generated driving scenes and watch them", "gleanings.driving.commands"),
    "estimators": ("gradients through discrete variables: compare, train", "gleanings.estimators.commands"),
}

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code.

    A GleaningsError becomes one line on stderr and its exit code; `--debug` anywhere adds the traceback.
    Ctrl-C returns 130; SIGTERM raises SystemExit(143) in the running command, so that it can clean up.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        _run([argument for argument in arguments if argument != "--debug"])
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) is gone; keep Python from failing once more when it flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _explain(error, debug)
    finally:
        signal.signal(signal.SIGTERM, previous)


def console() -> NoReturn:
    """The console script: `main`, and an exit that does not wait for what an interruption left behind."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == _INTERRUPTED:
        # Threads that still compile would crash the interpreter on its way out.
        os._exit(code)
    sys.exit(code)


def choose(name: str, names: Iterable[str], what: str) -> None:
    """Raise ConfigError with the nearest valid name unless `name` is one of `names`."""
    names = list(names)
    if name not in names:
        nearest = get_close_matches(name, names, 1, 0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose from {', '.join(names)}"
        raise ConfigError(f"unknown {what} {name!r}; {hint}")


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help("gleanings", {name: line for name, (line, _) in COMMANDS.items()}))
        return
    if arguments[0] in ("--version", "-V"):
        print(f"gleanings {__version__}")
        return
    name, *rest = arguments
    choose(name, COMMANDS, "command")
    module, _, function = COMMANDS[name][1].partition(":")
    if function:
        _call(getattr(importlib.import_module(module), function), f"gleanings {name}", rest)
    else:
        _run_group(f"gleanings {name}", importlib.import_module(module).COMMANDS, rest)


def _run_group(program: str, commands: dict[str, Callable[..., Any]], arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(program, {name: (call.__doc__ or "").split("\n")[0] for name, call in commands.items()}))
        return
    name, *rest = arguments
    choose(name, commands, f"command of `{program}`")
    _call(commands[name], f"{program} {name}", rest)


def _call(function: Callable[..., Any], program: str, arguments: list[str]) -> None:
    import tyro

    description = inspect.cleandoc(function.__doc__ or "").partition("Raises:")[0].partition("Args:")[0]
    tyro.cli(function, prog=program, args=arguments, description=description.strip())


def _help(program: str, lines: dict[str, str]) -> str:
    width = max(map(len, lines))
    rows = "\n".join(f"  {name:<{width}}  {line}" for name, line in lines.items())
    return (
        f"usage: {program} COMMAND [arguments]\n\n{rows}\n\n"
        f"`{program} COMMAND --help` lists a command's arguments; `--debug` shows the traceback of an error."
    )


def _explain(error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    elif isinstance(error, GleaningsError):
        print(f"error: {error}", file=sys.stderr)
    else:
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"error: {line} (not expected; `--debug` shows where)", file=sys.stderr)
    return error.exit_code if isinstance(error, GleaningsError) else 1


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    console()
