"""Files out of a Python source distribution, without running any of its code, which pip would do to read its metadata.

The distribution comes from the index that pip is configured with and must have the digest that is expected.
"""

import gzip
import hashlib
import http.client
import importlib.util
import io
import os
import posixpath
import re
import subprocess
import sys
import tarfile
import urllib.request
import zlib
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from gleanings.core.errors import ConfigError, DataError

_MAX_DOWNLOAD, _MAX_UNPACKED = 1 << 24, 1 << 26
_TIMEOUT_S = 60
_INDEX = re.compile(r"--index-url <url>\s+Base URL of the Python Package Index \(default (\S+)\)")
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class SdistData:
    """Files below a folder of a source distribution: sha256 of the archive, and of each file by its name there."""

    project: str
    version: str
    archive_sha256: str
    folder: str
    sha256: dict[str, str]
    use: str

    @property
    def source(self) -> str:
        """Project and version."""
        return f"{self.project} {self.version}"

    def lacks(self) -> str | None:
        """pip, where it is not installed: only it knows which index to ask."""
        return None if importlib.util.find_spec("pip") else "pip"

    def unpack(self, work: Path) -> Path:
        """The folder below `work` with the files. ConfigError: no connection. DataError: not what is expected."""
        print(f"downloading {self.source} from the index of pip", file=sys.stderr)
        name = f"{self.project}-{self.version}.tar.gz"
        content = _read(_link(f"{_index().rstrip('/')}/{self.project}/", name))
        found = hashlib.sha256(content).hexdigest()
        if found != self.archive_sha256:
            raise DataError(f"found sha256 {found[:12]}..., expected {self.archive_sha256[:12]}...", name)
        wanted = {f"{self.folder}/{file}": file for file in self.sha256}
        for member, data in _members(content, set(wanted), name).items():
            file = work / "files" / wanted[member]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return work / "files"


def _index() -> str:
    """Address of the package index: pip's help states the one in use, whether it is set or the default."""
    command = [sys.executable, "-m", "pip", "download", "--help"]
    environment = os.environ | {"COLUMNS": "1000"}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S)
    found = _INDEX.search(shown.stdout)
    if not found:
        raise ConfigError("pip does not say which index it uses; set PIP_INDEX_URL")
    if "@" in found[1]:
        raise ConfigError("the index of pip asks for a password, which fetch does not send; set PIP_INDEX_URL")
    return found[1]


def _link(page: str, name: str) -> str:
    """Address of the file called `name` on a project's page of a simple index (PEP 503)."""
    links = _Links()
    links.feed(_read(page).decode("utf-8", "replace"))
    for link in links.found:
        if posixpath.basename(unquote(urlsplit(link).path)) == name:
            return urljoin(page, link).partition("#")[0]
    raise ConfigError(f"the index of pip does not list {name}; set PIP_INDEX_URL to one that does")


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for key, value in attrs if (tag, key) == ("a", "href") and value]


def _read(address: str) -> bytes:
    """What stands at an https address, or on this machine, unless it is too large."""
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
        raise ConfigError(f"{address}: fetch reads https only; set PIP_INDEX_URL")
    request = urllib.request.Request(address, headers={"Accept": "text/html, */*;q=0.1"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            content = response.read(_MAX_DOWNLOAD + 1)
    except (OSError, http.client.HTTPException) as error:
        raise ConfigError(f"cannot read {address} ({error}); is the network there?") from error
    if len(content) > _MAX_DOWNLOAD:
        raise DataError(f"more than {_MAX_DOWNLOAD:,} bytes", address)
    return content


def _members(archive: bytes, wanted: set[str], where: str) -> dict[str, bytes]:
    """Contents of the wanted members of a tar.gz. DataError: damaged, too large, or one is not a plain file."""
    found = {}
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(archive)) as stream:
            content = stream.read(_MAX_UNPACKED + 1)
        if len(content) > _MAX_UNPACKED:
            raise DataError(f"unpacks to more than {_MAX_UNPACKED:,} bytes", where)
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                if member.name in wanted:
                    found[member.name] = _content(tar, member, where)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise DataError(f"not a tar.gz archive ({error})", where) from error
    return found


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> bytes:
    file = tar.extractfile(member) if member.isreg() and not member.issparse() else None
    if file is None or member.size > _MAX_UNPACKED:
        raise DataError("not a plain file of a sensible size", where, member.name)
    return file.read()
