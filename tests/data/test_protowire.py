"""The wire decoder against Google's protobuf (test only), closed forms, and bytes that are no message."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gleanings.data.protoencode import put_bytes, put_real, put_reals, put_varint, put_varints
from gleanings.data.protowire import Message, WireError, columns

EXTREMES = [0, 1, -1, 127, 128, -128, 2**31 - 1, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63)]
whole = st.lists(st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EXTREMES), max_size=40)


@pytest.fixture(scope="module")
def schema() -> type:
    """protobuf's own class for: repeated int64 a = 1 and b = 2 (packed), double c = 3, string d = 4, Self e = 5."""
    descriptor = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    file = descriptor.FileDescriptorProto(name="t.proto", package="t", syntax="proto2")
    kind = descriptor.FieldDescriptorProto
    message = file.message_type.add(name="M")
    for number, (name, type_, label, packed) in enumerate(
        [
            ("a", kind.TYPE_INT64, kind.LABEL_REPEATED, False),
            ("b", kind.TYPE_INT64, kind.LABEL_REPEATED, True),
            ("c", kind.TYPE_DOUBLE, kind.LABEL_OPTIONAL, None),
            ("d", kind.TYPE_STRING, kind.LABEL_OPTIONAL, None),
            ("e", kind.TYPE_MESSAGE, kind.LABEL_REPEATED, None),
            ("f", kind.TYPE_FLOAT, kind.LABEL_REPEATED, True),
        ],
        1,
    ):
        field = message.field.add(name=name, number=number, type=type_, label=label)
        if type_ == kind.TYPE_MESSAGE:
            field.type_name = ".t.M"
        if packed is not None:
            field.options.packed = packed
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.M"))


@settings(max_examples=60, deadline=None)
@given(whole, whole, st.floats(allow_nan=False), st.text(max_size=20))
def test_equals_protobuf(schema: type, a: list[int], b: list[int], c: float, d: str) -> None:
    theirs = schema(a=a, b=b, c=c, d=d, e=[{"a": a}, {"d": d}], f=[0.5, -1.0])
    message = Message(theirs.SerializeToString())
    assert message.integers(1).tolist() == a
    assert message.integers(2).tolist() == b
    assert message.real(3, "double") == c
    assert message.content(4).decode() == d
    first, second = message.messages(5)
    assert first.integers(1).tolist() == a
    assert second.content(4).decode() == d
    assert message.reals(6, "float").tolist() == [0.5, -1.0]
    ours = put_varints(1, a, packed=False) + put_varints(2, b) + put_real(3, c, "double") + put_bytes(4, d)
    ours += put_bytes(5, put_varints(1, a, packed=False)) + put_bytes(5, put_bytes(4, d))
    assert schema.FromString(ours + put_reals(6, np.array([0.5, -1.0]), "float")) == theirs


def test_packed_and_single_values_keep_their_order() -> None:
    data = put_varints(1, EXTREMES) + put_varint(1, 7) + put_varint(2, 5) + put_varint(1, -8) + put_varints(1, [9, -1])
    assert Message(data).integers(1).tolist() == [*EXTREMES, 7, -8, 9, -1]
    assert Message(put_varint(1, -1)).integer(1) == -1
    assert len(put_varint(1, -1)) == 11
    values = np.random.default_rng(0).normal(size=50)
    mixed = put_reals(3, values[:20], "double") + put_reals(3, values[20:], "double", packed=False)
    assert Message(mixed).reals(3, "double").tolist() == values.tolist()
    assert Message(mixed).integers(9).shape == Message(mixed).reals(9, "float").shape == (0,)


def test_columns_equal_message_by_message() -> None:
    """Messages of many layouts: fields missing, repeated, in any order, unknown ones among them."""
    mix, parts, rows = random.Random(0), [], []
    for _ in range(400):
        x, n, y = mix.uniform(-9, 9), mix.choice(EXTREMES), mix.choice([0.5, 0.25])
        fields = [
            put_real(1, x, "double"),
            put_varint(2, n),
            put_real(3, y, "float"),
            put_bytes(20, "?" * mix.randrange(4)),
        ]
        fields = [field for field in fields if mix.random() < 0.8]
        mix.shuffle(fields)
        fields += [put_varint(2, 3)] * mix.randrange(2)
        parts.append(b"".join(fields))
    data = b"".join(put_bytes(1, part) for part in parts)
    spans = Message(data).spans(1)
    found = columns(data, spans, {1: "double", 2: "varint", 3: "float"})
    for part in parts:
        alone = Message(part)
        rows.append((alone.real(1, "double"), alone.integer(2), alone.real(3, "float")))
    np.testing.assert_array_equal(found[1], [row[0] for row in rows])
    assert found[2].tolist() == [row[1] for row in rows]
    np.testing.assert_array_equal(found[3], [row[2] for row in rows])
    assert columns(b"", np.zeros((0, 2), np.int64), {1: "double"})[1].shape == (0,)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x0b\x0c", "wire type 3 of field 1: a group"),
        (b"\x0e", "wire type 6"),
        (b"\x00\x01", "field number 0"),
        (b"\x0a\x05abc", "field 1 ends 2 bytes behind its message"),
        (b"\x0d\x01\x02", "field 1 ends 2 bytes"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "more than ten bytes"),
        (b"\x08\x80", "truncated inside a varint"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "behind its message"),
        (b"\xf8\xff\xff\xff\xff\x01\x01", "not allowed"),
    ],
)
def test_bad_bytes_are_named(data: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        Message(data)


def test_getters_refuse_other_types() -> None:
    message = Message(put_varint(1, 5) + put_bytes(2, b"\x80\x80") + put_bytes(3, b"abc"))
    for get in (
        lambda: message.spans(1),
        lambda: message.content(1),
        lambda: message.real(1, "double"),
        lambda: message.reals(1, "float"),
        lambda: message.integer(2),
        lambda: message.integers(2),
        lambda: message.reals(3, "float"),
        lambda: columns(message.data, np.array([[0, 2]]), {1: "float"}),
    ):
        with pytest.raises(WireError):
            get()


def test_counts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    many = Message(b"\x0a\x00" * 300_000 + put_bytes(2, b"\x00" * (1 + (16 << 20))))
    with pytest.raises(WireError, match="300,000 messages; at most 200,000"):
        many.messages(1)
    with pytest.raises(WireError, match="16,777,217 bytes of packed varints"):
        many.integers(2)
    monkeypatch.setattr("gleanings.data.protowire.MAX_FIELDS", 1000)
    with pytest.raises(WireError, match="more than 1,000 fields"):
        Message(b"\x08\x00" * 1001)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        message = Message(data)
        for number in message.numbers():
            message.integers(number)
    except WireError:
        pass
