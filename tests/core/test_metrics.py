"""The metrics file: what is written is read back, torn lines are counted, a resumed curve has no row twice."""

import math

import numpy as np
import pytest

from gleanings.core.errors import CheckpointError, ConfigError, DataError
from gleanings.core.metrics import MetricsWriter, read_metrics


def _steps(path):
    return [row["step"] for row in read_metrics(path).rows]


def test_rows_are_on_disk_after_each_write(tmp_path):
    writer = MetricsWriter(tmp_path / "m.jsonl")
    writer.write(1, {"critic/loss": np.float32(0.5), "n": 3})
    row = read_metrics(writer.path).rows[0]
    assert (row["step"], row["critic/loss"], row["n"]) == (1, 0.5, 3)
    writer.write(2, {"critic/loss": math.inf, "b": math.nan})
    row = read_metrics(writer.path).rows[1]
    assert math.isinf(row["critic/loss"])
    assert math.isnan(row["b"])


def test_torn_and_foreign_lines_are_counted(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n[1]\n{"step": 1, "a": "x"}\n{"a": 2}\n\xff\xfe\n{"step": 2, "lo')
    metrics = read_metrics(path)
    assert (metrics.broken, [row["step"] for row in metrics.rows]) == (5, [1])
    MetricsWriter(path).write(3, {})
    assert _steps(path) == [1, 3], "a new row must not be glued to a torn one"


def test_truncate_drops_later_rows_and_goes_on(tmp_path):
    writer = MetricsWriter(tmp_path / "m.jsonl")
    for step in (1, 2, 3, 4):
        writer.write(step, {})
    writer.truncate(2)
    writer.write(3, {})
    assert _steps(writer.path) == [1, 2, 3]


def test_tensorboard_view(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for part in (0, 1):
        writer = MetricsWriter(tmp_path / "m.jsonl", tmp_path / "tensorboard")
        writer.truncate(2)
        for step in (1, 2, 3):
            writer.write(step + 2 * part, {"critic/loss": step + 10 * part})
        writer.close()
    view = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = [(point.step, point.value) for point in view.Scalars("critic/loss")]
    assert points == [(1, 1.0), (2, 2.0), (3, 11.0), (4, 12.0), (5, 13.0)]
    assert _steps(writer.path) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"step": 1.0}, "'step'"),
        ({"time": 1.0}, "'time'"),
        ({"a": "x"}, "'a': expected a number"),
        ({"a": {"b": 1}}, "'a': expected a number"),
        ({"a": np.zeros(2)}, "'a': expected a number"),
    ],
)
def test_refused_metrics(tmp_path, metrics, message):
    writer = MetricsWriter(tmp_path / "m.jsonl")
    with pytest.raises(ConfigError, match=message):
        writer.write(1, metrics)
    assert _steps(writer.path) == []


def test_errors_name_the_file(tmp_path):
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        read_metrics(tmp_path / "absent.jsonl")
    with pytest.raises(CheckpointError, match=r"step 4, /dev/full"):
        MetricsWriter("/dev/full").write(4, {})
