"""Every deliberate error carries its place and its exit code in one line."""

import pytest

from gleanings.core import errors

CASES = [
    (errors.ConfigError("rate: must be positive"), 2, "rate: must be positive"),
    (errors.DataError("bad magic", "a.npz"), 3, "a.npz: bad magic"),
    (errors.DataError("bad crc", "a.rec", 4, 128), 3, "a.rec, record 4, byte 128: bad crc"),
    (errors.DataError("empty"), 3, "empty"),
    (errors.CheckpointError("damaged", 7, "c/7"), 4, "checkpoint of step 7, c/7: damaged"),
    (errors.CheckpointError("none"), 4, "none"),
    (errors.NumericsError("NaN", 0, ["w", "b"]), 5, "step 0: NaN (non-finite: w, b)"),
    (errors.NumericsError("NaN"), 5, "NaN"),
]


@pytest.mark.parametrize(("error", "code", "text"), CASES)
def test_message_and_exit_code(error, code, text):
    assert isinstance(error, errors.GleaningsError)
    assert (error.exit_code, str(error)) == (code, text)


def test_places_stay_readable():
    error = errors.DataError("x", "f", record=0, offset=0)
    assert (error.path, error.record, error.offset) == ("f", 0, 0)
    assert "record 0, byte 0" in str(error)
