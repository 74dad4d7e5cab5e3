"""Plain data and NumPy arrays from a pickle that cannot be trusted: a stack machine of our own that can call nothing.

It knows the instructions that lists, dicts, sets, texts, numbers and arrays need (pickle protocols 2 to 5; arrays from
protocol 3 on). A global is looked up in a table of seven names, each of which stands for a few lines below, never for
an object of Python or NumPy. Source: the instruction table in the documentation of Python's pickletools; ours.
"""

import math
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gleanings.core.errors import DataError
from gleanings.driving.readers._values import read_file

MAX_BYTES = 256 << 20
_MAX_OPS, _MAX_RANK, _MAX_DIM, _MAX_SHOWN = 5_000_000, 8, 1 << 31, 80
_CODE = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9][0-9]{0,3}")
_GLOBALS = {
    (module, name): name
    for module, names in {
        "numpy": ("ndarray", "dtype"),
        "numpy.core.multiarray": ("_reconstruct", "scalar"),
        "numpy._core.multiarray": ("_reconstruct", "scalar"),
        "collections": ("defaultdict",),
        "builtins": ("int",),
        "__builtin__": ("int",),
    }.items()
    for name in names
}
# Instructions that lead to code or data outside the file.
_REFUSED = {
    b"P": "a persistent id",
    b"Q": "a persistent id",
    b"\x82": "an extension code",
    b"\x83": "an extension code",
    b"\x84": "an extension code",
    b"i": "an instance of a class",
    b"o": "an instance of a class",
    b"\x81": "an instance of a class",
    b"\x92": "an instance of a class",
    b"\x97": "a buffer outside the file",
}


@dataclass(frozen=True)
class _Global:
    name: str


class _Mark:
    """Where a run of items on the stack begins."""


_MARK = _Mark()


@dataclass
class _Dtype:
    code: str
    order: str = "="


@dataclass
class _Array:
    """Stands for an array until BUILD puts it in its place: the top of the stack and these slots of the memo."""

    slots: list[int]


def unpickle(path: Path) -> Any:
    """The content of a pickle file: dicts, lists, tuples, sets, texts, bytes, numbers, None, float or integer arrays.

    DataError: no such file, more than 256 MB or 5 million instructions, a global that is not allowed (it is named),
    persistent ids, extension codes, objects, arrays of objects, lengths that do not fit, or a damaged file.
    """
    machine = _Machine(read_file(path, MAX_BYTES))
    try:
        return machine.run()
    except DataError as error:
        raise DataError(str(error), path, offset=machine.at) from error
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise DataError(f"damaged pickle ({type(error).__name__})", path, offset=machine.at) from error


class _Machine:
    """The stack, the memo and the position in the file."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Until STOP; the one thing on the stack then."""
        for _ in range(_MAX_OPS):
            code = self.data[self.at : self.at + 1]
            self.at += 1
            if code == b".":
                break
            if code in _REFUSED:
                raise DataError(f"the pickle asks for {_REFUSED[code]}, which could run code; refused")
            if not code:
                raise DataError("the pickle ends without its last instruction")
            if code not in _OPS:
                raise DataError(f"instruction {code!r} is not one that plain data needs; refused")
            _OPS[code](self)
        else:
            raise DataError(f"more than {_MAX_OPS:,} instructions")
        (result,) = self.stack
        return result

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > len(self.data) - self.at:
            raise DataError(f"{count:,} bytes are announced, {len(self.data) - self.at:,} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        """The next number, in a format of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """The text up to the next end of line."""
        end = self.data.index(b"\n", self.at, self.at + 1000)
        return self.take(end + 1 - self.at)[:-1].decode()

    def pop(self) -> Any:
        """The top of the stack, which is no mark."""
        top = self.stack.pop()
        if top is _MARK:
            raise DataError("a mark where a value is due")
        return top

    def pop_run(self) -> list[Any]:
        """All above the last mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise DataError("no mark on the stack")
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def top(self, kind: type) -> Any:
        """The top of the stack, left there, which must be of a kind."""
        if type(self.stack[-1]) is not kind:
            raise DataError(f"a {kind.__name__} is due where another thing stands")
        return self.stack[-1]


def _push(form: str) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(m.number(form))


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(value)


def _new(make: Callable[[], Any]) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(make())


def _bytes(form: str) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(m.take(m.number(form)))


def _text(form: str) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(m.take(m.number(form)).decode())


def _tuple(count: int) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(tuple([m.pop() for _ in range(count)][::-1]))


def _get(form: str) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(m.memo[m.number(form)])


def _put(machine: _Machine, index: int) -> None:
    value = machine.stack[-1]
    if value is _MARK:
        raise DataError("a mark where a value is due")
    if isinstance(value, _Array):
        value.slots.append(index)
    machine.memo[index] = value


def _long(machine: _Machine) -> None:
    machine.stack.append(int.from_bytes(machine.take(machine.number("<B")), "little", signed=True))


def _append(machine: _Machine) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _append_run(machine: _Machine) -> None:
    run = machine.pop_run()
    machine.top(list).extend(run)


def _set_run(machine: _Machine) -> None:
    _set_items(machine, machine.pop_run())


def _set_items(machine: _Machine, run: list[Any]) -> None:
    if len(run) % 2:
        raise DataError("a key without a value")
    machine.top(dict).update(zip(_keys(run[::2]), run[1::2], strict=True))


def _set_one(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _set_items(machine, [key, value])


def _keys(values: list[Any]) -> list[Any]:
    """Texts and small whole numbers only: hashing others can take for ever (nested tuples, chosen numbers)."""
    for value in values:
        if not (isinstance(value, str | bytes) or (isinstance(value, int) and abs(value) < 1 << 31) or value is None):
            raise DataError(f"a {type(value).__name__} as a key or in a set; only texts and whole numbers are read")
    return values


def _add_items(machine: _Machine) -> None:
    run = machine.pop_run()
    machine.top(set).update(_keys(run))


def _find(machine: _Machine, module: Any, name: Any) -> None:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise DataError("a global whose name is no text; refused")
    if (module, name) not in _GLOBALS:
        shown = f"{module[:_MAX_SHOWN]}.{name[:_MAX_SHOWN]}".encode("unicode_escape").decode()
        raise DataError(f"the pickle asks for the global {shown}, which is not allowed; nothing was run")
    machine.stack.append(_Global(_GLOBALS[module, name]))


def _find_line(machine: _Machine) -> None:
    _find(machine, machine.line(), machine.line())


def _find_stack(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    _find(machine, module, name)


def _reduce(machine: _Machine) -> None:
    """What calling an allowed global would give."""
    arguments, function = machine.pop(), machine.pop()
    if not (isinstance(arguments, tuple) and isinstance(function, _Global)):
        raise DataError("a call of something that is no global; refused")
    match function.name, arguments:
        case "_reconstruct", (_Global("ndarray"), (0,), b"b"):
            machine.stack.append(_Array([]))
        case "dtype", (str() as code, *_) if _CODE.fullmatch(code):
            machine.stack.append(_Dtype(code))
        case "dtype", (str() as code, *_):
            raise DataError(f"an array of type {code[:_MAX_SHOWN]!r}; only numbers and texts are read")
        case "scalar", (_Dtype() as dtype, bytes() as data):
            machine.stack.append(_filled((), dtype, False, data).item())
        case "defaultdict", () | (_Global("int"),):
            machine.stack.append({})
        case name, _:
            raise DataError(f"{name} is called with arguments that data does not need; refused")


def _build(machine: _Machine) -> None:
    """The state of an array or of its type."""
    state, target = machine.pop(), machine.stack[-1]
    match target, state:
        case _Dtype(), (3, "<" | ">" | "|" | "=" as order, None, None, None, int(), int(), int()):
            target.order = order
        case _Array(), (1, tuple() as shape, _Dtype() as dtype, bool() as fortran, bytes() as data):
            machine.stack[-1] = _filled(shape, dtype, fortran, data)
            machine.memo.update(dict.fromkeys(target.slots, machine.stack[-1]))
        case _:
            raise DataError("a state that neither an array of numbers nor its type has; refused")


def _filled(shape: tuple[Any, ...], dtype: _Dtype, fortran: bool, data: bytes) -> np.ndarray:
    if len(shape) > _MAX_RANK or not all(type(n) is int and 0 <= n < _MAX_DIM for n in shape):
        raise DataError("an array with an impossible shape")
    kind = np.dtype(dtype.order.replace("|", "=") + dtype.code)
    if math.prod(shape) * kind.itemsize != len(data):
        raise DataError(f"an array of shape {shape} and type {kind.str} with {len(data):,} bytes")
    if kind.kind == "U" and np.frombuffer(data, kind.byteorder + "u4").max(initial=0) > sys.maxunicode:
        raise DataError("an array of texts with a character that there is not")
    array = np.frombuffer(data, np.uint8) != 0 if dtype.code == "b1" else np.frombuffer(data, kind)
    return array.reshape(shape, order="F" if fortran else "C")


_OPS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # protocol
    b"\x95": lambda m: m.take(8),  # frame: only says how far to read ahead
    b"(": _constant(_MARK),
    b"0": lambda m: m.stack.pop(),
    b"1": lambda m: m.pop_run(),
    b"2": lambda m: m.stack.append(m.stack[-1]),
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"J": _push("<i"),
    b"K": _push("<B"),
    b"M": _push("<H"),
    b"G": _push(">d"),
    b"\x8a": _long,
    b"X": _text("<I"),
    b"\x8c": _text("<B"),
    b"\x8d": _text("<Q"),
    b"B": _bytes("<I"),
    b"C": _bytes("<B"),
    b"\x8e": _bytes("<Q"),
    b"]": _new(list),
    b"}": _new(dict),
    b")": _new(tuple),
    b"\x8f": _new(set),
    b"a": _append,
    b"e": _append_run,
    b"s": _set_one,
    b"u": _set_run,
    b"\x90": _add_items,
    b"t": lambda m: m.stack.append(tuple(m.pop_run())),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"q": lambda m: _put(m, m.number("<B")),
    b"r": lambda m: _put(m, m.number("<I")),
    b"\x94": lambda m: _put(m, len(m.memo)),
    b"h": _get("<B"),
    b"j": _get("<I"),
    b"c": _find_line,
    b"\x93": _find_stack,
    b"R": _reduce,
    b"b": _build,
}
