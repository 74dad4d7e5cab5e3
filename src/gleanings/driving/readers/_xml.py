"""XML that cannot hurt: no document type, no entities, bounded size and depth."""

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from gleanings.core.errors import DataError

_MAX_BYTES, _MAX_DEPTH = 256 << 20, 64


class _Builder(TreeBuilder):
    """Refuses while parsing: the first byte after what is refused is never looked at."""

    depth = 0

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("a document type or entity is declared; remove the DOCTYPE")

    def start(self, tag: Any, attrs: Any, /) -> Any:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise ValueError(f"elements are nested deeper than {_MAX_DEPTH}")
        return super().start(tag, attrs)

    def end(self, tag: Any, /) -> Any:
        self.depth -= 1
        return super().end(tag)


def parse_xml(path: Path) -> Element:
    """The root element. DataError: DOCTYPE or entity, no XML, larger than 256 MiB, nested deeper than 64."""
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise DataError(f"{size:,} bytes of XML; at most {_MAX_BYTES:,}", path)
    parser = XMLParser(target=_Builder())
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 16):
                parser.feed(block)
        return parser.close()
    except (ParseError, ValueError, LookupError, MemoryError) as error:
        raise DataError(f"not readable XML: {error}", path) from error
