"""`gleanings fetch` from a source distribution: an index on this machine, and archives that mean harm."""

import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gleanings import _fetch, _sdist
from gleanings._sdist import SdistData
from gleanings.core.errors import ConfigError, DataError

MEMBER = "toy-1/data/a.csv"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def archive(*members: tuple[str, bytes | tarfile.TarInfo]) -> bytes:
    """A tar.gz of files with content, and of other members as they are given."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content) if isinstance(content, bytes) else info.size
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return stream.getvalue()


GOOD = archive(("toy-1/setup.py", b"raise SystemExit('ran')"), (MEMBER, b"data"), ("../../escaped", b"x"))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A simple index on this machine that lists toy 1 by a relative link; the folder it serves."""
    root = tmp_path / "index"
    (root / "simple" / "toy").mkdir(parents=True)
    page = '<a href="../../files/toy-0.tar.gz">old</a> <a class="x" href="../../files/toy-1.tar.gz#sha256=0">toy</a>'
    (root / "simple" / "toy" / "index.html").write_text(page)
    (root / "files").mkdir()
    (root / "files" / "toy-1.tar.gz").write_bytes(GOOD)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(_sdist, "_index", lambda: f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GLEANINGS_CACHE", str(tmp_path / "cache"))
    offer(monkeypatch, GOOD)
    yield root
    server.shutdown()
    server.server_close()


def offer(monkeypatch: pytest.MonkeyPatch, content: bytes, file: str = "a.csv") -> None:
    data = SdistData("toy", "1", sha(content), "toy-1/data", {file: sha(b"data")}, "use")
    monkeypatch.setitem(_fetch.DATA, "toy", data)


def test_fetch_takes_only_what_is_wanted_and_asks_once(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _fetch.fetch("toy")
    (index / "files" / "toy-1.tar.gz").unlink()
    _fetch.fetch("toy")
    target = tmp_path / "cache/toy"
    assert capsys.readouterr().out.splitlines() == [str(target), f"use: use {target}"] * 2
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == [tmp_path / "cache/toy/a.csv"]
    assert not list(tmp_path.rglob("escaped"))
    (tmp_path / "cache/toy/a.csv").write_bytes(b"Data")
    with pytest.raises(DataError, match=r"a\.csv: found sha256 .*the digests are of toy 1"):
        _fetch.fetch("toy")


def test_fetch_refuses_another_archive(index: Path, tmp_path: Path):
    (index / "files" / "toy-1.tar.gz").write_bytes(archive((MEMBER, b"data"), ("toy-1/more", b"")))
    with pytest.raises(DataError, match=r"toy-1\.tar\.gz: found sha256"):
        _fetch.fetch("toy")
    assert list((tmp_path / "cache").iterdir()) == []


def test_fetch_says_what_the_index_lacks(index: Path, monkeypatch: pytest.MonkeyPatch):
    (index / "simple" / "toy" / "index.html").write_text('<a href="toy-1.tar.gz.asc">signature</a>')
    with pytest.raises(ConfigError, match=r"does not list toy-1\.tar\.gz"):
        _fetch.fetch("toy")
    (index / "simple" / "toy" / "index.html").unlink()
    (index / "simple" / "toy").rmdir()
    with pytest.raises(ConfigError, match=r"cannot read http://127.*404"):
        _fetch.fetch("toy")
    monkeypatch.setattr(_sdist.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"fetch needs pip; otherwise put a\.csv into"):
        _fetch.fetch("toy")


def test_the_index_is_that_of_pip(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://example.org/a/long/address/that/would/not/fit/into/one/line/simple")
    assert _sdist._index().endswith("/line/simple")
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:secret@example.org/simple")
    with pytest.raises(ConfigError, match="asks for a password") as caught:
        _sdist._index()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["http://example.org/simple", "file:///etc"])
def test_fetch_reads_no_other_addresses(index: Path, monkeypatch: pytest.MonkeyPatch, address: str):
    monkeypatch.setattr(_sdist, "_index", lambda: address)
    with pytest.raises(ConfigError, match="reads https only"):
        _fetch.fetch("toy")


def test_fetch_follows_no_link_to_a_file_of_this_machine(index: Path):
    (index / "simple" / "toy" / "index.html").write_text('<a href="file:///etc/toy-1.tar.gz">toy</a>')
    with pytest.raises(ConfigError, match="reads https only"):
        _fetch.fetch("toy")


def test_fetch_stops_at_a_size(index: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_sdist, "_MAX_DOWNLOAD", 100)
    with pytest.raises(DataError, match="more than 100 bytes"):
        _fetch.fetch("toy")


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(MEMBER)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive((MEMBER, special(tarfile.SYMTYPE, "/etc/passwd"))), "not a plain file"),
        (archive(("toy-1/b", b"data"), (MEMBER, special(tarfile.LNKTYPE, "toy-1/b"))), "not a plain file"),
        (archive((MEMBER, special(tarfile.DIRTYPE))), "not a plain file"),
        (archive((MEMBER, special(tarfile.CHRTYPE))), "not a plain file"),
        (archive(("elsewhere/a.csv", b"data")), r"a file is not in it; expected a\.csv"),
        (archive((MEMBER, b"Data")), "found sha256"),
        (GOOD[: len(GOOD) // 2], r"not a tar\.gz archive"),
        (b"not gzip", r"not a tar\.gz archive"),
        (gzip.compress(b"not tar" * 100), r"not a tar\.gz archive"),
        (gzip.compress(bytes(1 << 20)), "unpacks to more than"),
    ],
    ids=map(str, range(99)),  # the archives hold the time, which must not be in a name
)
def test_hostile_archives(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str):
    """Also with the digest that is expected, an archive can do no more than be refused."""
    monkeypatch.setattr(_sdist, "_MAX_UNPACKED", 1 << 19)
    (index / "files" / "toy-1.tar.gz").write_bytes(content)
    offer(monkeypatch, content)
    with pytest.raises(DataError, match=message):
        _fetch.fetch("toy")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_claims_to_be_huge_is_not_read(monkeypatch: pytest.MonkeyPatch):
    info = tarfile.TarInfo(MEMBER)
    info.size = 1 << 40
    with pytest.raises(DataError, match=r"sensible size|not a tar"):
        _sdist._members(gzip.compress(info.tobuf() + bytes(10240)), {MEMBER}, "toy")
