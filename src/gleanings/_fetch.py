"""`gleanings fetch`: optional real data from published packages into a cache, checked by sha256."""

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

from gleanings._sdist import SdistData
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

    @property
    def source(self) -> str:
        """Package and version."""
        return f"{self.package} {self.version}"

    def lacks(self) -> str | None:
        """Programs of Debian that are needed and not there."""
        return None if shutil.which("apt-get") and shutil.which("dpkg-deb") else "apt-get and dpkg-deb"

    def unpack(self, work: Path) -> Path:
        """The folder below `work` with the files. ConfigError: a program fails."""
        print(f"downloading {self.package} with apt-get", file=sys.stderr)
        _command(["apt-get", "download", self.package], work, "run `apt-get update` first?")
        (package,) = work.glob("*.deb")
        _command(["dpkg-deb", "-x", str(package), str(work / "files")], work, "the package is damaged")
        return work / "files" / self.folder


DATA: dict[str, DebianData | SdistData] = {
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
    ),
    "obd-sample": SdistData(
        project="obp",
        version="0.5.7",
        archive_sha256="3060d67fedfcfadf1e7a6f2608987f74412b5eb74d2c567edeb147595c68f2a0",
        folder="obp-0.5.7/obp/dataset/obd",
        sha256={
            "random/all/all.csv": "7168295b6e0a9eabcf3392320a5dd434e542b68e705d5cd9491499af589812f1",
            "random/men/men.csv": "ede6d08c6877f99cd3770f7d09e26c738e6aa6de4445ccccfb1356ba5d06b1eb",
            "random/women/women.csv": "e65f3bd3beb17664fa69cc129bf7bf852a775f8ffa630506e505fc905315bb34",
            "bts/all/all.csv": "0ad874e4dbf6902f0845dd478ad8dde5ef6903583d3ffaace78411bdad064106",
            "bts/men/men.csv": "db6d1f7ed2d591ba521533e45286d4c1fba7fe57a8ad2e80342210335f43c527",
            "bts/women/women.csv": "e5d1b49a39b608585a2f3014a3f54970430cd37a495c1b73fceb85cdf428a5b8",
        },
        use="gleanings reproduce batch-policy-selection --data",
    ),
}


def fetch(name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]) -> None:
    """Get real data called NAME into the cache and print where they are.

    The cache is GLEANINGS_CACHE, or the platform's cache folder. Names: fashion-mnist (MIT licence, 31 MB, with apt);
    obd-sample (24 MB, from the index of pip: six logs of the Open Bandit Dataset by ZOZO, Inc., as they lie in the
    source distribution of obp 0.5.7, which says of itself as a whole: "This project is licensed under the Apache 2.0
    License").

    Raises: ConfigError for an unknown name, without apt or pip, or without a network; DataError for a file with
    another digest.
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


def _missing(folder: Path, data: DebianData | SdistData) -> bool:
    """Whether a file is absent. Raises: DataError when one is there with another digest."""
    for name, expected in data.sha256.items():
        file = folder / name
        if not file.is_file():
            return True
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != expected:
            hint = f"remove the folder and fetch again; the digests are of {data.source}"
            raise DataError(f"found sha256 {found[:12]}..., expected {expected[:12]}...; {hint}", file)
    return False


def _download(data: DebianData | SdistData, target: Path) -> None:
    if lacking := data.lacks():
        raise ConfigError(f"fetch needs {lacking}; otherwise put {', '.join(data.sha256)} into {target} yourself")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        files = data.unpack(Path(name))
        if _missing(files, data):
            raise DataError(f"a file is not in it; expected {', '.join(data.sha256)}", data.source)
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
