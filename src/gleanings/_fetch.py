"""`gleanings fetch`: optional real data from a distribution's packages into a cache, checked by sha256."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gleanings.cli import choose
from gleanings.core.errors import ConfigError, DataError


@dataclass(frozen=True)
class DebianData:
    """Files of a Debian package: the version whose digests stand here, their folder, sha256 by name."""

    package: str
    version: str
    folder: str
    sha256: dict[str, str]
    use: str


DATA = {
    "fashion-mnist": DebianData(
        package="dataset-fashion-mnist",
        version="0.0~git20200523.55506a9-1",
        folder="usr/share/datasets/fashion-mnist",
        sha256={
            "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
            "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
            "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
            "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        },
        use="gleanings reproduce coupled-gradients --size full --data",
    )
}


def fetch(name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]) -> None:
    """Get real data called NAME into the cache and print where they are.

    The cache is GLEANINGS_CACHE, or the platform's cache folder. Names: fashion-mnist (MIT licence, 31 MB).
    Raises: ConfigError for an unknown name or without apt; DataError for a file with another digest.
    """
    choose(name, DATA, "data set")
    data, target = DATA[name], cache() / name
    if _missing(target, data):
        _download(data, target)
    print(f"{target}\nuse: {data.use} {target}")


def cache() -> Path:
    """Folder for fetched files: GLEANINGS_CACHE, else `gleanings` in the platform's cache folder."""
    if chosen := os.environ.get("GLEANINGS_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "gleanings"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gleanings"


def _missing(folder: Path, data: DebianData) -> bool:
    """Whether a file is absent. Raises: DataError when one is there with another digest."""
    for name, expected in data.sha256.items():
        file = folder / name
        if not file.is_file():
            return True
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != expected:
            hint = f"remove the folder and fetch again; the digests are of {data.package} {data.version}"
            raise DataError(f"found sha256 {found[:12]}..., expected {expected[:12]}...; {hint}", file)
    return False


def _download(data: DebianData, target: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        names = ", ".join(data.sha256)
        raise ConfigError(f"fetch needs apt-get and dpkg-deb; without them put {names} into {target} yourself")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        work = Path(name)
        print(f"downloading {data.package} with apt-get", file=sys.stderr)
        _command(["apt-get", "download", data.package], work, "run `apt-get update` first?")
        (package,) = work.glob("*.deb")
        _command(["dpkg-deb", "-x", str(package), str(work / "files")], work, "the package is damaged")
        files = work / "files" / data.folder
        if _missing(files, data):
            raise DataError(f"a file is not in the package; expected version {data.version}", package.name)
        shutil.rmtree(target, ignore_errors=True)
        files.rename(target)


def _command(command: list[str], folder: Path, hint: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=600)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        raise ConfigError(f"`{' '.join(command[:3])}` failed: {lines[-1]} ({hint})") from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"`{' '.join(command[:3])}` took longer than 10 minutes") from error
