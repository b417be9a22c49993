"""The excerpt of the English Wikipedia that gensim's package carries, read as plain text.

Pages of a dump of 2010, CC BY-SA 3.0, by the authors of the articles. gensim itself is not
installed: one file is taken out of a pinned wheel, and is the same in those of all platforms.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rotate_core.models.extras import import_extra
from rotate_core.models.fetch import Packaged, cache_directory, fetch_file
from rotate_core.storage import make_once, write_whole

WIKIPEDIA = Packaged(
    name="gensim-wikipedia",
    requirements=("gensim==4.4.0",),
    n_bytes=27_809_988,
    file="enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
    sha256="a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
    license="CC BY-SA 3.0",
    platform=("3.11", "cp311", "manylinux_2_28_x86_64"),
)
NO_PROSE = {
    "code", "gallery", "imagemap", "math", "pre", "ref", "references", "score", "source", "table",
    "timeline",
}  # fmt: skip
"""Tags whose content is no sentence of the article."""
SHORTEST = 40
"""Characters of a line of prose; shorter ones are headings, captions and what tables leave."""


def articles() -> list[tuple[str, str]]:
    """Title and prose of each article, in the dump's order; redirects are left out.

    Parsing takes seconds, so the prose is kept beside the dump, by the version of the parser and of
    this file.

    Raises:
        ModuleNotFoundError: mwparserfromhell, which parses the markup, is not installed.
        ConnectionError: the file is not on this machine yet, and PyPI cannot be reached.
        ValueError: another file came.
    """
    parser = import_extra("mwparserfromhell", f"reading {WIKIPEDIA.name}")
    cache = cache_directory(kind="texts")
    made_with = parser.__version__.encode() + Path(__file__).read_bytes()
    digest = hashlib.sha256(made_with).hexdigest()[:12]

    def make(partial: Path) -> Path:
        found = list(parsed(fetch_file(WIKIPEDIA, cache), parser))
        write_whole(partial / "whole/articles.json", json.dumps(found).encode())
        return partial / "whole"

    kept = make_once(cache / f"{WIKIPEDIA.name}-{digest}", make, n_bytes=10_000_000)
    rows = json.loads((kept / "articles.json").read_text(encoding="utf-8"))
    return [(title, text) for title, text in rows]


def parsed(dump: Path, parser: Any) -> Iterator[tuple[str, str]]:
    """Title and prose of each article of a dump, parsed with mwparserfromhell."""
    with bz2.open(dump) as stream:
        for _, element in ElementTree.iterparse(stream):
            if not element.tag.endswith("}page"):
                continue
            markup = element.findtext("{*}revision/{*}text") or ""
            redirects = markup.lstrip().upper().startswith("#REDIRECT")
            if element.findtext("{*}ns") == "0" and not redirects:
                yield element.findtext("{*}title") or "", prose(words(parser.parse(markup)))
            element.clear()


def words(code: Any) -> str:
    """What a reader of the page sees of parsed markup, less templates, tables, notes and pictures.

    Args:
        code: a ``Wikicode`` of mwparserfromhell, or None.
    """
    parts: list[str] = []
    for node in code.nodes if code is not None else ():
        kind = type(node).__name__
        if kind == "Text":
            parts.append(node.value)
        elif kind == "HTMLEntity":
            parts.append(node.normalize())
        elif kind == "ExternalLink":
            parts.append(words(node.title))
        elif kind == "Wikilink" and not re.match(r"\w[\w ]*:\S", str(node.title)):  # as File:
            parts.append(words(node.title if node.text is None else node.text).lstrip(":"))
        elif kind == "Tag" and str(node.tag).lower() not in NO_PROSE:
            parts.append(node.wiki_markup if node.self_closing and node.wiki_markup else "")
            parts.append(words(node.contents))
    return "".join(parts)


def prose(text: str) -> str:
    """Lines that are paragraphs: not those of a list or a heading, and not the short ones."""
    text = re.sub(r"'{2,}|<[^<>]*>", "", text)  # of markup that does not end
    lines = (line.strip() for line in text.splitlines())
    kept = [line for line in lines if len(line) > SHORTEST and line[0] not in "*#:;=|{}!"]
    return "\n".join(re.sub(r"[ \t]+", " ", line) for line in kept)
