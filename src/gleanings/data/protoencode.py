"""Fields of protocol buffers as bytes; a message is its fields, joined. See `protowire` for reading them."""

import struct
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from gleanings.data.protowire import BYTES, DTYPE, VARINT, WIRE


def put_varint(number: int, value: int) -> bytes:
    """A varint field; negative numbers take ten bytes."""
    return _varint(number << 3 | VARINT) + _varint(value)


def put_bytes(number: int, value: bytes | str) -> bytes:
    """A length-delimited field: bytes, text or a message."""
    raw = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | BYTES) + _varint(len(raw)) + raw


def put_real(number: int, value: float, kind: Literal["double", "float"]) -> bytes:
    """A double or float field."""
    return _varint(number << 3 | WIRE[kind]) + struct.pack("<d" if kind == "double" else "<f", value)


def put_reals(
    number: int, values: Float[np.ndarray, " n"], kind: Literal["double", "float"], packed: bool = True
) -> bytes:
    """A repeated double or float field."""
    if packed:
        return put_bytes(number, values.astype(DTYPE[kind]).tobytes())
    return b"".join(put_real(number, value, kind) for value in values.tolist())


def put_varints(number: int, values: Sequence[int], packed: bool = True) -> bytes:
    """A repeated varint field."""
    if packed:
        return put_bytes(number, b"".join(map(_varint, values)))
    return b"".join(put_varint(number, value) for value in values)


def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
