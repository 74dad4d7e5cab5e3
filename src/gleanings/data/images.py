"""Small grey images for discrete latent-variable models: npz and IDX files, scikit-learn's digits."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from gleanings.core.errors import ConfigError, DataError
from gleanings.data._idx import read_idx
from gleanings.data._npz import open_npz

if TYPE_CHECKING:
    import jax

_EXPECTED = "expected `train_x`/`test_x` or `x`, uint8 [N, 28, 28]"
_SPLITS = {"train_x": "train-images", "valid_x": "valid-images", "test_x": "t10k-images"}


@dataclass(frozen=True)
class Images:
    """Three splits of grey images, uint8 [N, H, W], valued 0..`maximum` with bright ink."""

    train: UInt8[np.ndarray, "N H W"]
    valid: UInt8[np.ndarray, "M H W"]
    test: UInt8[np.ndarray, "L H W"]
    name: str
    maximum: int = 255


def read_images(path: str | Path, key: str | None = None) -> Images:
    """Images of an npz file, an IDX file (.gz or not), or a folder of IDX files in MNIST's naming.

    An npz holds `train_x` and `test_x`, perhaps `valid_x`; or `x` (or the array called `key`). Without a
    validation split the last sixth of train is taken (MNIST: 50,000 / 10,000). One array alone is permuted
    with seed 0 and cut in the proportions 23,000 / 1,345 / 8,115.

    Raises: DataError(path, key) that says what was found and what is expected.
    """
    path = Path(path)
    if path.is_dir():
        arrays = _read_folder(path)
    elif not path.is_file():
        raise DataError("no such file or folder; expected npz or IDX images", path)
    elif path.suffix.lower() == ".npz":
        arrays = _read_npz(path, key)
    else:
        arrays = {"x": read_idx(path)}
    for name, array in arrays.items():
        _check(array, path, name)
    if len({array.shape[1:] for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise DataError(f"found splits of different image sizes: {shapes}", path)
    return Images(*_split(arrays, path), name=path.stem.split(".")[0])


def digits() -> Images:
    """The 1,797 handwritten 8x8 digits shipped with scikit-learn, 0..16, cut 1,297 / 250 / 250 by seed 0.

    Raises: ConfigError when scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError("digits need scikit-learn: pip install 'gleanings[studies]'") from error
    images = np.asarray(load_digits(return_X_y=True)[0], np.uint8).reshape(-1, 8, 8)
    images = images[np.random.default_rng(0).permutation(len(images))]
    return Images(images[:1297], images[1297:1547], images[1547:], name="digits", maximum=16)


def binarise(images: "np.ndarray | jax.Array", key: "jax.Array", maximum: int = 255) -> "jax.Array":
    """Draw every pixel from Bernoulli(pixel / maximum): float32 zeros and ones of the shape of `images`."""
    import jax

    return jax.random.bernoulli(key, images.astype("float32") / maximum).astype("float32")


def _read_npz(path: Path, key: str | None) -> dict[str, np.ndarray]:
    with open_npz(path) as npz:
        wanted = key or ("x" if "x" in npz.keys and "train_x" not in npz.keys else "train_x")
        names = ["train_x", "test_x"] if wanted == "train_x" else [wanted]
        if wanted == "train_x" and "valid_x" in npz.keys:
            names.append("valid_x")
        for name in names:
            if name not in npz.keys:
                nearest = get_close_matches(name, npz.keys, 1, 0.3)
                hint = f" (nearest: {nearest[0]!r})" if nearest else ""
                found = ", ".join(npz.keys[:8]) or "no array"
                raise DataError(f"no such key{hint}; found {found}; {_EXPECTED}", path, name)
        return {name: npz.read(name) for name in names}


def _read_folder(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for name, prefix in _SPLITS.items():
        files = sorted(file for file in path.glob(f"{prefix}*") if file.is_file())
        if files:
            arrays[name] = read_idx(files[0])
        elif name != "valid_x":
            raise DataError(f"no file called {prefix}*; expected IDX files in MNIST's naming", path)
    return arrays


def _check(array: np.ndarray, path: Path, key: str) -> None:
    if array.ndim != 3 or 0 in array.shape:
        raise DataError(f"found shape {array.shape}; {_EXPECTED}", path, key)
    if array.max() < 2:
        raise DataError("found values 0..1, expected grey levels 0..255", path, key)


def _split(arrays: Mapping[str, np.ndarray], path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if len(arrays) == 1:
        (x,) = arrays.values()
        first, second = len(x) * 23_000 // 32_460, len(x) * 24_345 // 32_460
        x = x[np.random.default_rng(0).permutation(len(x))]
        splits = x[:first], x[first:second], x[second:]
    else:
        train, cut = arrays["train_x"], len(arrays["train_x"]) * 5 // 6
        valid = arrays.get("valid_x", train[cut:])
        splits = train if "valid_x" in arrays else train[:cut], valid, arrays["test_x"]
    if min(map(len, splits)) == 0:
        raise DataError(f"found {sum(map(len, splits))} images, too few for three splits", path)
    return splits
