"""XML files that cannot be trusted: no document types or entities, bounded size, depth and number of elements. Ours."""

from pathlib import Path
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from gleanings.core.errors import DataError
from gleanings.driving.readers._values import read_file

MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS, MAX_ATTRIBUTES, MAX_TAG = 256 << 20, 64, 5_000_000, 10_000_000, 1 << 20
_CHUNK = 1 << 16


def parse_xml(path: Path) -> Element:
    """The root element of an XML file.

    DataError: no such file, not XML, a DOCTYPE or entity (refused where it begins, nothing is expanded), more than
    256 MB, 5 million elements or 10 million attributes, a tag or comment of more than 1 MB, or nested deeper than 64.
    """
    return _Builder(path).parse(read_file(path, MAX_BYTES))


class _Builder:
    """Feeds what the parser sees to a tree, and counts."""

    def __init__(self, path: Path) -> None:
        self.path, self.tree = path, TreeBuilder()
        self.depth = self.elements = self.attributes = 0
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
            for end in range(_CHUNK, len(data) + _CHUNK, _CHUNK):
                self.parser.Parse(data[end - _CHUNK : end], False)
                # The parser stands where a tag begins until it has seen the end of it.
                if end - self.parser.CurrentByteIndex > MAX_TAG + _CHUNK:
                    raise self.fault(f"a tag or comment of more than {MAX_TAG:,} bytes")
            self.parser.Parse(b"", True)
        except (expat.ExpatError, ValueError, LookupError) as error:  # the last two: encodings nobody knows
            raise DataError(f"not readable XML: {error}", self.path, offset=self.parser.ErrorByteIndex) from error
        return self.tree.close()

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        self.depth, self.elements, self.attributes = (
            self.depth + 1,
            self.elements + 1,
            self.attributes + len(attributes),
        )
        if self.depth > MAX_DEPTH:
            raise self.fault(f"nested deeper than {MAX_DEPTH}; no scene is")
        if self.elements > MAX_ELEMENTS or self.attributes > MAX_ATTRIBUTES:
            raise self.fault(f"more than {MAX_ELEMENTS:,} elements or {MAX_ATTRIBUTES:,} attributes. Cut the map")
        self.tree.start(tag, attributes)

    def end(self, tag: str) -> None:
        """An element ends."""
        self.depth -= 1
        self.tree.end(tag)

    def refuse(self, *_: Any) -> NoReturn:
        """A document type or entity is declared."""
        raise self.fault("a DOCTYPE or entity, which no scene needs; refused. Remove it if you trust the file")

    def fault(self, message: str) -> DataError:
        """The error to raise at the place that the parser has come to."""
        return DataError(message, self.path, offset=self.parser.CurrentByteIndex)
