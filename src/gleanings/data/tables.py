"""Tables with named columns: CSV, JSON lines, Parquet and npz files, or any object that holds named columns.

A column comes back as a NumPy array of floats, of booleans, or of text.
"""

import contextlib
import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from gleanings.core.errors import ConfigError, DataError
from gleanings.data._npz import PLAIN, open_npz

Columns = dict[str, np.ndarray]
_MAX_LINE, _MAX_CELL = 1 << 20, 1000
_ABSENT = ("NAType", "NaTType")
_EXACT = 2**53  # whole numbers up to here are different floats


def read_table(path: str | Path, columns: Sequence[str] | None = None, rows: int | None = None) -> Columns:
    """Some (default: all) columns of a .csv, .jsonl, .parquet or .npz file, at most `rows` rows of it.

    An empty field is NaN in a column of numbers. ConfigError: another ending, a column that is not there, or Parquet
    without pyarrow. DataError: no such file, or a damaged one, with the line.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet, ".npz": _read_npz}
    if path.suffix not in readers:
        raise ConfigError(f"{path}: unknown ending {path.suffix!r}; use {', '.join(readers)}")
    if not path.is_file():
        raise DataError("no such file", path)
    return readers[path.suffix](path, columns, rows)


def read_columns(table: Any) -> Columns:
    """Columns of a path, as in `read_table`, or of anything that `columns_of` takes."""
    return read_table(table) if isinstance(table, str | Path) else columns_of(table)


def column_names(path: str | Path) -> list[str]:
    """Names of a file's columns, without reading its rows; errors as in `read_table`."""
    path = Path(path)
    if path.suffix == ".parquet" and path.is_file():
        return _parquet_file(path).schema_arrow.names
    return list(read_table(path, rows=1))


def columns_of(table: Any) -> Columns:
    """Columns of a dict, or of a pandas, polars or pyarrow table, as arrays.

    ConfigError: not a table, or columns of different lengths.
    """
    names = getattr(table, "column_names", None) or getattr(table, "columns", None)
    names = list(table) if isinstance(table, dict) else None if names is None else [str(name) for name in names]
    if names is None:
        raise ConfigError(f"{type(table).__name__} has no named columns; pass a dict of arrays or a data frame")
    check_unique(names, "the table")
    found = {name: _typed(_to_numpy(table[name])) for name in names}
    lengths = {name: len(column) for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(f"columns differ in length: {lengths}")
    return found


def require(columns: Iterable[str], names: Iterable[str], where: str = "the table") -> None:
    """Raise ConfigError unless every one of `names` is a column; says which is nearest, and what is there."""
    there = list(columns)
    for name in names:
        if name not in there:
            near = get_close_matches(name, there, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ConfigError(f"{where} has no column {name!r}{hint} It has {', '.join(there)}")


def check_unique(names: Sequence[str], where: str) -> None:
    """Raise ConfigError naming a column that stands there twice."""
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ConfigError(f"{where} has two columns {twice[0]!r}; rename one")


def _to_numpy(column: Any) -> np.ndarray:
    return np.asarray(column.to_numpy() if hasattr(column, "to_numpy") else column)


def _typed(column: np.ndarray) -> np.ndarray:
    """Booleans as they are, numbers as floats, the rest as text; whole numbers that floats would merge are text."""
    if column.ndim != 1:
        raise ConfigError(f"a column has shape {column.shape}; expected one value a row")
    if column.dtype.kind in "iu" and column.size and max(abs(int(column.min())), abs(int(column.max()))) > _EXACT:
        return column.astype(np.str_)
    if column.dtype.kind in "iuf":
        return column.astype(np.float64)
    if column.dtype == bool:
        return column
    items = column.tolist()
    if items and all(isinstance(item, bool) for item in items):
        return np.array(items)
    if not any(isinstance(item, str | bytes) for item in items):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return np.array([math.nan if _is_missing(item) else item for item in items], dtype=np.float64)
    return _text(["" if _is_missing(item) else str(item) for item in items])


def _is_missing(item: Any) -> bool:
    """None, NaN, or what pandas puts in their place."""
    return (
        item is None or (isinstance(item, float) and math.isnan(item)) or type(item).__name__ in ("NAType", "NaTType")
    )


def _text(items: Sequence[str]) -> np.ndarray:
    # An array of text is as wide as its longest cell, so that one cell could fill the memory.
    longest = max(map(len, items), default=0)
    if longest > _MAX_CELL:
        raise DataError(
            f"a cell of {longest:,} characters; columns of text may have {_MAX_CELL:,}. Leave the column out"
        )
    return np.array(items, dtype=np.str_)


def _read_csv(path: Path, columns: Sequence[str] | None, rows: int | None) -> Columns:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(_short_lines(file, path), strict=True)
            header = next(reader, None)
            if not header:
                raise DataError("empty file; expected a line of column names", path)
            check_unique(header, str(path))
            require(header, columns or (), str(path))
            wanted = [header.index(name) for name in (columns or header)]
            table: list[list[str]] = []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(f"{len(row)} fields, the header has {len(header)}", path, reader.line_num)
                table.append([row[i] for i in wanted])
                if len(table) == rows:
                    break
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"not CSV ({error})", path) from error
    cells = list(zip(*table, strict=True)) if table else [()] * len(wanted)
    return {header[i]: _parsed(column) for i, column in zip(wanted, cells, strict=True)}


def _parsed(column: Sequence[str]) -> np.ndarray:
    if {"true", "false"} >= {value.lower() for value in column} and column:
        return np.array([value.lower() == "true" for value in column])
    try:
        numbers = np.array([value or "nan" for value in column], dtype=np.float64)
    except ValueError:
        return _text(column)
    # Codes such as 0150 are names, and so are whole numbers that floats would merge.
    code = any(len(value) > 1 and value[0] == "0" and value[1].isdigit() for value in column)
    merged = (np.abs(numbers) >= _EXACT) & np.isfinite(numbers)
    return _text(column) if code or merged.any() else numbers


def _read_jsonl(path: Path, columns: Sequence[str] | None, rows: int | None) -> Columns:
    records: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(_short_lines(file, path), 1):
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise DataError("not an object of named values", path, number)
                records.append({name: record.get(name) for name in columns} if columns else record)
                if not records[1:]:
                    require(record, columns or (), str(path))
                if len(records) == rows:
                    break
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", path, len(records) + 1) from error
    names = columns or list(dict.fromkeys(name for record in records for name in record))
    return {name: _typed(_objects([record.get(name) for record in records])) for name in names}


def _objects(items: list[Any]) -> np.ndarray:
    """One object a row, also where the items are lists of equal length."""
    column = np.empty(len(items), dtype=object)
    column[:] = items
    return column


def _parquet_file(path: Path) -> Any:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("Parquet needs pyarrow: pip install 'gleanings[selection]'") from error
    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"not a readable Parquet file ({error})", path) from error


def _read_parquet(path: Path, columns: Sequence[str] | None, rows: int | None) -> Columns:
    file = _parquet_file(path)
    require(file.schema_arrow.names, columns or (), str(path))
    check_unique(file.schema_arrow.names, str(path))
    import pyarrow  # pyright: ignore[reportMissingImports]

    try:
        if rows is None:
            # One at a time, so that a column is not held twice.
            return {name: _typed(_to_numpy(file.read([name])[name])) for name in columns or file.schema_arrow.names}
        schema = pyarrow.schema([file.schema_arrow.field(c) for c in columns]) if columns else file.schema_arrow
        batches: list[Any] = []
        for batch in file.iter_batches(max(rows, 1), columns=schema.names):
            batches.append(batch)
            if sum(b.num_rows for b in batches) >= rows:
                break
        return columns_of(pyarrow.Table.from_batches(batches, schema).slice(0, rows))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"not a readable Parquet file ({error})", path) from error


def _read_npz(path: Path, columns: Sequence[str] | None, rows: int | None) -> Columns:
    with open_npz(path) as npz:
        require(npz.keys, columns or (), str(path))
        found = {name: npz.read(name, PLAIN) for name in columns or npz.keys}
    flat = {name: column for name, column in found.items() if column.ndim == 1}
    if len(flat) < len(found):
        odd = next(name for name in found if name not in flat)
        raise DataError(f"found shape {found[odd].shape}, expected one value a row", path, odd)
    return columns_of({name: column[:rows] for name, column in flat.items()})


def _short_lines(file: TextIO, path: Path) -> Iterator[str]:
    """Lines, none of which is read to its end where that is far away."""
    number = 0
    while line := file.readline(_MAX_LINE + 1):
        number += 1
        if len(line) > _MAX_LINE:
            raise DataError(f"a line of more than {_MAX_LINE:,} characters", path, number)
        yield line
