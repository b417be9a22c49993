"""Markup of Wikipedia becomes the sentences that a reader of the page sees."""

import bz2
import sys

import mwparserfromhell
import pytest

from rotate_core.text import wikipedia

ARTICLE = """{{Infobox person|name=Ada}}
[[File:Ada.jpg|thumb|A picture of [[Ada]], whose caption is no sentence of the article at all.]]
'''Ada&nbsp;Lovelace''' was an [[England|English]] ''mathematician''<ref name="a">{{cite|b=c}}</ref> and a [[writer]].<!-- no -->
== Her life and work ==
* a list of things, which is longer than forty characters altogether
{| class="wikitable"
| a cell of a table, which is longer than forty characters altogether
|}
She wrote notes on [http://example.org/engine the engine], and <math>x^2</math> what it could do beyond numbers.
See [[:Category:Engines|all the engines]], and [[Atlas: A book]], which are links that a reader sees.
[[Category:Mathematicians of the nineteenth century]] [[fr:Ada Lovelace, comtesse de Lovelace]]
"""  # noqa: E501
PAGE = "<page><title>{}</title><ns>{}</ns><revision><text>{}</text></revision></page>"


def test_what_is_left_is_prose() -> None:
    text = wikipedia.prose(wikipedia.words(mwparserfromhell.parse(ARTICLE)))
    assert text.replace("\xa0", " ").splitlines() == [
        "Ada Lovelace was an English mathematician and a writer.",
        "She wrote notes on the engine, and what it could do beyond numbers.",
        "See all the engines, and Atlas: A book, which are links that a reader sees.",
    ]


def test_articles_are_read_and_redirects_are_not(tmp_path, monkeypatch) -> None:
    long = "A sentence of more than forty characters, by a {} sheep."
    pages = PAGE.format("One", 0, long.format("first")), PAGE.format("Two", 0, "#redirect [[One]]")
    pages += PAGE.format("Talk", 4, long), PAGE.format("Four", 0, long.format("fourth"))
    dump = tmp_path / "dump.bz2"
    xml = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export">{"".join(pages)}</mediawiki>'
    dump.write_bytes(bz2.compress(xml.encode()))
    monkeypatch.setattr(wikipedia, "fetch_file", lambda *_: dump)
    monkeypatch.setenv("ROTATE_CACHE", str(tmp_path / "cache"))
    wanted = [("One", long.format("first")), ("Four", long.format("fourth"))]
    assert wikipedia.articles() == wanted
    dump.unlink()
    assert wikipedia.articles() == wanted, "parsed once"


def test_what_parses_it_is_named_where_it_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mwparserfromhell", None)
    with pytest.raises(ModuleNotFoundError, match=r"gensim-wikipedia needs mwparserfromhell: pip"):
        wikipedia.articles()
