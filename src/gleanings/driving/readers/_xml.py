"""XML files that cannot be trusted: no document types or entities, bounded size, depth and number of elements. Ours."""

from pathlib import Path
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from gleanings.core.errors import DataError

MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS = 256 << 20, 64, 5_000_000


def parse_xml(path: Path) -> Element:
    """The root element of an XML file.

    DataError: no such file, not XML, a DOCTYPE or entity (refused where it begins, nothing is expanded), more than
    256 MB or 5 million elements, or nested deeper than 64.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{size:,} bytes; XML of up to {MAX_BYTES:,} bytes is read. Cut the map", path)
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path) from error
    return _Builder(path).parse(data)


class _Builder:
    """Feeds what the parser sees to a tree, and counts."""

    def __init__(self, path: Path) -> None:
        self.path, self.tree, self.depth, self.count = path, TreeBuilder(), 0, 0
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.tree.data
        self.parser.StartDoctypeDeclHandler = self.refuse
        self.parser.EntityDeclHandler = self.refuse

    def parse(self, data: bytes) -> Element:
        """The whole document."""
        try:
            self.parser.Parse(data, True)
        except (expat.ExpatError, ValueError, LookupError) as error:  # the last two: encodings nobody knows
            raise DataError(f"not readable XML: {error}", self.path, offset=self.parser.ErrorByteIndex) from error
        return self.tree.close()

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        self.depth, self.count = self.depth + 1, self.count + 1
        if self.depth > MAX_DEPTH or self.count > MAX_ELEMENTS:
            limit = f"nested deeper than {MAX_DEPTH}, or more than {MAX_ELEMENTS:,} elements"
            raise DataError(f"{limit}; no scene is", self.path, offset=self.parser.CurrentByteIndex)
        self.tree.start(tag, attributes)

    def end(self, tag: str) -> None:
        """An element ends."""
        self.depth -= 1
        self.tree.end(tag)

    def refuse(self, *_: Any) -> NoReturn:
        """A document type or entity is declared."""
        message = "a DOCTYPE or entity, which no scene needs; refused. Remove it if you trust the file"
        raise DataError(message, self.path, offset=self.parser.CurrentByteIndex)
