"""Images from npz, IDX files and scikit-learn: the splits, and what is said about files that do not fit."""

import gzip
import struct
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from gleanings.core.errors import ConfigError, DataError
from gleanings.data.images import binarise, digits, read_images

GREY = np.random.default_rng(0).integers(0, 256, (120, 5, 4), np.uint8)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def test_mnist_without_valid_gives_its_last_sixth(tmp_path: Path):
    labels = np.zeros(120, np.int64)
    images = read_images(write(tmp_path / "own.npz", train_x=GREY, train_y=labels, test_x=GREY[:7]))
    np.testing.assert_array_equal(images.train, GREY[:100])
    np.testing.assert_array_equal(images.valid, GREY[100:])
    np.testing.assert_array_equal(images.test, GREY[:7])
    assert (images.name, images.maximum) == ("own", 255)


def test_a_validation_split_of_the_file_is_used(tmp_path: Path):
    images = read_images(write(tmp_path / "own.npz", train_x=GREY, valid_x=GREY[:3], test_x=GREY[:7]))
    assert [len(split) for split in (images.train, images.valid, images.test)] == [120, 3, 7]


@pytest.mark.parametrize("key", [None, "ink"])
def test_one_array_is_permuted_and_cut(tmp_path: Path, key: str | None):
    whole = np.arange(32_460, dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2)
    images = read_images(write(tmp_path / "own.npz", **{key or "x": whole}), key)
    splits = [images.train, images.valid, images.test]
    assert [len(split) for split in splits] == [23_000, 1_345, 8_115]
    seen = np.concatenate(splits).reshape(-1, 4).view(np.uint32).ravel()
    assert sorted(seen) == list(range(32_460))
    assert not np.array_equal(seen, np.arange(32_460))
    np.testing.assert_array_equal(seen, np.random.default_rng(0).permutation(32_460))


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_and_folders(tmp_path: Path, packed: bool):
    end = ".gz" if packed else ""
    pack = gzip.compress if packed else bytes
    for name, part in {"train-images-idx3-ubyte": GREY, "t10k-images-idx3-ubyte": GREY[:9]}.items():
        (tmp_path / f"{name}{end}").write_bytes(pack(idx(part)))
    folder = read_images(tmp_path)
    np.testing.assert_array_equal(np.concatenate([folder.train, folder.valid]), GREY)
    np.testing.assert_array_equal(folder.test, GREY[:9])
    alone = read_images(tmp_path / f"train-images-idx3-ubyte{end}")
    assert len(alone.train) + len(alone.valid) + len(alone.test) == 120


def test_fortran_order_and_other_npy_versions(tmp_path: Path):
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, np.asfortranarray(GREY), version=(2, 0))
    import zipfile

    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
    images = read_images(tmp_path / "own.npz")
    np.testing.assert_array_equal(images.train[0], GREY[np.random.default_rng(0).permutation(120)[0]])


BAD = {
    "nearest key": ({"train_X": GREY, "test_x": GREY}, None, "record train_x: no such key (nearest: 'train_X'); found"),
    "no test": ({"train_x": GREY}, None, "record test_x: no such key"),
    "key asked for": ({"x": GREY, "digit": GREY}, "digits", "record digits: no such key (nearest: 'digit')"),
    "dtype": ({"x": GREY.astype(np.float32)}, None, "record x: found dtype '<f4', expected uint8"),
    "object": ({"x": np.array([{}, []], object)}, None, "record x: found dtype '|O', expected uint8"),
    "structured": ({"x": np.zeros(3, [("a", "u1")])}, None, "record x: found an npy header that is not"),
    "rank": ({"x": GREY[0]}, None, "record x: found shape (5, 4); expected `train_x`/`test_x` or `x`, uint8"),
    "empty": ({"x": GREY[:0]}, None, "record x: found shape (0, 5, 4)"),
    "range": ({"x": GREY // 128}, None, "record x: found values 0..1, expected grey levels 0..255"),
    "sizes": ({"train_x": GREY, "test_x": GREY[:, :3]}, None, "different image sizes: train_x (120, 5, 4), test_x"),
    "few": ({"x": GREY[:3]}, None, "found 3 images, too few for three splits"),
}


@pytest.mark.parametrize("case", BAD)
def test_the_message_says_found_and_expected(tmp_path: Path, case: str):
    arrays, key, message = BAD[case]
    path = write(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError) as caught:
        read_images(path, key)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert caught.value.path == path
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_paths(tmp_path: Path):
    with pytest.raises(DataError, match="no such file"):
        read_images(tmp_path / "absent.npz")
    with pytest.raises(DataError, match=r"no file called train-images\*"):
        read_images(tmp_path)
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no IDX header"):
        read_images(tmp_path / "table.csv")


def test_digits_are_the_real_ones_in_three_splits(monkeypatch: pytest.MonkeyPatch):
    images = digits()
    assert [len(split) for split in (images.train, images.valid, images.test)] == [1297, 250, 250]
    assert images.train.shape[1:] == (8, 8)
    assert (images.train.min(), images.train.max(), images.maximum) == (0, 16, 16)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match="pip install"):
        digits()


@pytest.mark.parametrize("where", [np.asarray, jax.numpy.asarray])
def test_binarisation_has_the_pixels_as_its_means(where):
    levels = np.broadcast_to(np.array([0, 51, 204, 255], np.uint8), (4000, 4))
    drawn = np.asarray(binarise(where(levels), jax.random.key(0)))
    assert drawn.dtype == np.float32
    assert set(np.unique(drawn)) == {0.0, 1.0}
    # Standard error of the middle ones: sqrt(.2 * .8 / 4000) = .0063.
    np.testing.assert_allclose(drawn.mean(0), [0, 0.2, 0.8, 1], atol=4.5 * 0.0063)
    assert drawn[:, [0, 3]].std() == 0.5


def test_real_files_beside_the_checkout(shared_data: Path):
    images = read_images(shared_data / "images" / "mnist.npz")
    assert (images.train.shape, images.valid.shape, images.test.shape) == (
        (50_000, 28, 28),
        (10_000, 28, 28),
        (10_000, 28, 28),
    )
    assert images.train.mean() / 255 == pytest.approx(0.1307, abs=5e-4)
