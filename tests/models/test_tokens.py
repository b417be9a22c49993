"""A token's string is what it adds to a text, whatever the tokenizer's alphabet."""

from __future__ import annotations

import pytest
from conftest import TEXT

from rotate_core.models.tokens import excluded_tokens, token_strings, visible


@pytest.fixture(params=["byte_tokenizer", "piece_tokenizer"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def test_strings_join_to_the_text_they_were_made_of(tokenizer) -> None:
    strings = token_strings(tokenizer, len(tokenizer))
    text = TEXT.split("Été")[0] + "the\n\ncat"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    joined = "".join(strings[i] for i in ids)
    assert joined.replace("<0x0A>", "\n") == text  # to the second, one line end is a byte
    assert " the" in strings or " cat" in strings


def test_bytes_of_a_broken_character_are_named(tokenizer) -> None:
    strings = token_strings(tokenizer, len(tokenizer))
    ids = tokenizer("語€", add_special_tokens=False)["input_ids"]
    assert any(strings[i].startswith("<0xE") for i in ids)
    named = [string for string in strings if string.startswith("<0x")]
    assert len(named) == len(set(named)) >= 128
    assert not any("\ufffd" in string for string in strings)


def test_strings_are_those_of_decode_but_for_space_and_broken_characters(tokenizer) -> None:
    for i, string in enumerate(token_strings(tokenizer, len(tokenizer))):
        decoded = tokenizer.decode([i])
        if "\ufffd" not in decoded and "<0x" not in string:
            assert string.strip(" ") == decoded.strip(" ")


def test_numbers_beyond_the_tokenizer_are_no_tokens(tokenizer) -> None:
    n = len(tokenizer)
    assert token_strings(tokenizer, n + 1)[-1] == f"<no token {n}>"
    assert len(token_strings(tokenizer, 10)) == 10


def test_special_and_reserved_tokens_are_excluded(byte_tokenizer) -> None:
    assert excluded_tokens(byte_tokenizer, 1000).tolist() == [0, 1]
    assert excluded_tokens(byte_tokenizer, 1).tolist() == [0]


def test_byte_pieces_of_characters_with_a_piece_are_excluded(piece_tokenizer) -> None:
    excluded = piece_tokenizer.convert_ids_to_tokens(
        excluded_tokens(piece_tokenizer, 1000).tolist()
    )
    assert {"<pad>", "<eos>", "<unused0>", "<unused1>", "<0x61>", "<0x20>"} <= set(excluded)  # a, ▁
    assert not {"<0x0A>", "<0x7A>", "<0xE6>", "\n\n", "a", "▁"} & set(
        excluded
    )  # \n and z have none


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" until", "␣until"),
        ("a b", "a␣b"),
        ("\n\t", "⏎⇥"),
        ("\r\n", "␍⏎"),
        ("\u00a0", "⍽"),
        ("a\u200bb", "a<U+200B>b"),
        ("\u202e", "<U+202E>"),
        ("\x07", "<U+0007>"),
        ("\u3000", "<U+3000>"),
        ("\u0301", "◌\u0301"),
        ("", "∅"),
        ("日本語 été 🙂", "日本語␣été␣🙂"),
        ("<0xE2>", "<0xE2>"),
    ],
)
def test_visible(token, shown) -> None:
    assert visible(token) == shown
