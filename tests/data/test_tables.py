"""Tables: the formats agree, and what is wrong with a file is said with its place."""

import contextlib
import json

import numpy as np
import pytest

from gleanings.core.errors import ConfigError, DataError
from gleanings.data.tables import column_names, columns_of, read_table

COLUMNS = {
    "arm": np.array(["a", "b", "a"]),
    "x": np.array([1.5, -2.0, np.nan]),
    "ok": np.array([True, False, True]),
}


def write_csv(path):
    path.write_text("arm,x,ok\na,1.5,true\nb,-2.0,false\na,,true\n")
    return path


def write_jsonl(path):
    rows = [
        {"arm": "a", "x": 1.5, "ok": True},
        {"arm": "b", "x": -2.0, "ok": False},
        {"arm": "a", "x": None, "ok": True},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def same(found, expected=COLUMNS):
    assert list(found) == list(expected)
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column)


def test_formats_agree(tmp_path):
    same(read_table(write_csv(tmp_path / "t.csv")))
    same(read_table(write_jsonl(tmp_path / "t.jsonl")))
    same(columns_of(COLUMNS))


def test_parquet_and_data_frames_agree(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table(COLUMNS)
    parquet.write_table(table, tmp_path / "t.parquet")
    same(read_table(tmp_path / "t.parquet"))
    same(columns_of(table))
    same(read_table(tmp_path / "t.parquet", ["x"], 2), {"x": COLUMNS["x"][:2]})


@pytest.mark.parametrize("name", ["pandas", "polars"])
def test_frames_of_other_libraries(name):
    library = pytest.importorskip(name)
    same(columns_of(library.DataFrame(COLUMNS)))


def test_some_columns_and_rows(tmp_path):
    for path in (write_csv(tmp_path / "t.csv"), write_jsonl(tmp_path / "t.jsonl")):
        same(read_table(path, ["x"], 2), {"x": COLUMNS["x"][:2]})
        with pytest.raises(ConfigError, match="no column 'y'"):
            read_table(path, ["y"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "empty file"),
        ("t.csv", "a,b\n1\n", "record 2: 1 fields, the header has 2"),
        ("t.csv", 'a,b\n1,"2\n', "not CSV"),
        ("t.csv", b"a\n\xff\xfe\n", "not CSV"),
        ("t.csv", "a\n" + "x" * (1 << 20) + "\n", "more than 1,048,576 characters"),
        ("t.jsonl", "{]\n", "record 1: not JSON"),
        ("t.jsonl", "[1]\n", "record 1: not an object"),
        ("t.jsonl", "[" * 100_000 + "\n", "not JSON"),
        ("t.parquet", "PAR1", "not a readable Parquet file"),
    ],
)
def test_a_damaged_file_is_named_with_its_place(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as caught:
        read_table(path)
    assert caught.value.path == path


def test_other_mistakes(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(ConfigError, match=r"unknown ending '\.xls'"):
        read_table(tmp_path / "t.xls")
    (tmp_path / "t.csv").write_text("a,a\n1,2\n")
    with pytest.raises(ConfigError, match="two columns 'a'"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(ConfigError, match="no named columns"):
        columns_of(3)
    with pytest.raises(ConfigError, match="differ in length"):
        columns_of({"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(ConfigError, match="shape"):
        columns_of({"a": np.zeros((2, 2))})


def test_what_looks_like_a_number_and_is_none(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffzip,id,n\n0150,9007199254740993,1\n70010,9007199254740992,2\n\n".encode())
    found = read_table(path)
    assert found["zip"].tolist() == ["0150", "70010"]
    assert found["id"].tolist() == ["9007199254740993", "9007199254740992"]
    assert found["n"].tolist() == [1, 2]
    numbers = columns_of(
        {"id": np.array([2**53 + 1, 2**53, 7]), "o": np.array(["a", None, float("nan")], dtype=object)}
    )
    assert numbers["id"].tolist() == ["9007199254740993", "9007199254740992", "7"]
    assert numbers["o"].tolist() == ["a", "", ""]
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n{"a": 2, "b": 3}\n')
    found = read_table(tmp_path / "t.jsonl")
    np.testing.assert_array_equal(found["b"], [np.nan, 3])
    path.write_text("a,b\n" + "x" * 2000 + ",1\n")
    with pytest.raises(DataError, match="a cell of 2,000 characters; columns of text may have 1,000"):
        read_table(path)


def write_npz(path, **columns):
    np.savez(path, **(COLUMNS | columns))
    return path


def test_npz_agrees_and_takes_plain_columns_only(tmp_path):
    path = write_npz(tmp_path / "t.npz")
    same(read_table(path))
    same(read_table(path, ["x"], 2), {"x": COLUMNS["x"][:2]})
    assert column_names(path) == list(COLUMNS)
    with pytest.raises(ConfigError, match="no column 'y'"):
        read_table(path, ["y"])
    for columns, message in (
        ({"x": np.zeros((3, 2))}, r"found shape \(3, 2\), expected one value a row"),
        ({"x": np.zeros(3, complex)}, "found dtype '<c16', expected numbers, booleans or text"),
        ({"x": np.array([{}, {}, {}])}, "not of a plain array|found dtype"),
    ):
        with pytest.raises(DataError, match=message):
            read_table(write_npz(path, **columns))
    with pytest.raises(ConfigError, match="differ in length"):
        read_table(write_npz(path, x=np.zeros(2)))


def test_text_of_an_npz_file_is_checked(tmp_path):
    path, text = tmp_path / "t.npz", np.array(["aa"])
    np.savez(path, a=text)
    raw = path.read_bytes().replace(text.tobytes(), b"\xff" * text.nbytes)
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"not Unicode|damaged"):
        read_table(path)


@pytest.mark.parametrize("ending", ["csv", "npz"])
def test_random_damage_is_a_data_error_or_harmless(tmp_path, ending):
    write = {"csv": write_csv, "npz": write_npz}[ending]
    rng, raw = np.random.default_rng(0), write(tmp_path / f"t.{ending}").read_bytes()
    for _ in range(200):
        mutant = bytearray(raw)
        for _ in range(rng.integers(1, 4)):
            mutant[rng.integers(len(mutant))] = rng.integers(256)
        path = tmp_path / f"m.{ending}"
        path.write_bytes(bytes(mutant[: rng.integers(1, len(mutant) + 1)]))
        with contextlib.suppress(DataError, ConfigError):
            read_table(path)
