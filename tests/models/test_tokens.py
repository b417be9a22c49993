"""A token's string is what it adds to a text, whatever the tokenizer's alphabet."""

from __future__ import annotations

import json

import pytest
from tiny_checkpoints import TEXT
from transformers import AutoTokenizer

from rotate_core.models.tokens import excluded_tokens, read_tokens, token_strings, visible


@pytest.fixture(params=["byte_tokenizer", "piece_tokenizer"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def test_strings_join_to_the_text_they_were_made_of(tokenizer) -> None:
    strings = token_strings(tokenizer.backend_tokenizer, len(tokenizer))
    text = TEXT.split("Été")[0] + "the\n\ncat"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    joined = "".join(strings[i] for i in ids)
    assert joined.replace("<0x0A>", "\n") == text  # to the second, one line end is a byte
    assert " the" in strings or " cat" in strings


def test_bytes_of_a_broken_character_are_named(tokenizer) -> None:
    strings = token_strings(tokenizer.backend_tokenizer, len(tokenizer))
    ids = tokenizer("語€", add_special_tokens=False)["input_ids"]
    assert any(strings[i].startswith("<0xE") for i in ids)
    named = [string for string in strings if string.startswith("<0x")]
    assert len(named) == len(set(named)) >= 128
    assert not any("\ufffd" in string for string in strings)


def test_strings_are_those_of_decode_but_for_space_and_broken_characters(tokenizer) -> None:
    for i, string in enumerate(token_strings(tokenizer.backend_tokenizer, len(tokenizer))):
        decoded = tokenizer.decode([i])
        if "\ufffd" not in decoded and "<0x" not in string:
            assert string.strip(" ") == decoded.strip(" ")


def test_numbers_beyond_the_tokenizer_are_no_tokens(tokenizer) -> None:
    n = len(tokenizer)
    assert token_strings(tokenizer.backend_tokenizer, n + 1)[-1] == f"<no token {n}>"
    assert len(token_strings(tokenizer.backend_tokenizer, 10)) == 10


def test_special_and_reserved_tokens_are_excluded(byte_tokenizer) -> None:
    assert excluded_tokens(byte_tokenizer.backend_tokenizer, 1000).tolist() == [0, 1]
    assert excluded_tokens(byte_tokenizer.backend_tokenizer, 1).tolist() == [0]


def test_byte_pieces_of_characters_with_a_piece_are_excluded(piece_tokenizer) -> None:
    excluded = piece_tokenizer.convert_ids_to_tokens(
        excluded_tokens(piece_tokenizer.backend_tokenizer, 1000).tolist()
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


def flags(content: str, *, special: bool) -> dict[str, object]:
    """A token as tokenizer_config.json has it."""
    names = ("lstrip", "rstrip", "normalized", "single_word")
    return {"content": content, "special": special} | dict.fromkeys(names, False)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pad_token": "[PAD]", "bos_token": "[BOS]", "additional_special_tokens": ["<x>", "a"]},
        {"image_token": "a", "extra_special_tokens": {"audio_token": "b"}},
        {
            "eos_token": flags("</s>", special=True) | {"__type": "AddedToken"},
            "added_tokens_decoder": {
                "330": flags("<spare>", special=False),
                "331": flags("<end>", special=True),
            },
        },
    ],
)
@pytest.mark.parametrize("special_tokens_map", [{}, {"sep_token": "a", "bos_token": "<s>"}])
def test_tokens_are_those_of_transformers(tokenizer, tmp_path, changes, special_tokens_map):
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text()) | changes
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special_tokens_map))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = read_tokens(tmp_path, tmp_path.joinpath)
    assert ours.get_vocab() == theirs.get_vocab()
    added = theirs.added_tokens_decoder.items()
    special = {i for i, token in added if token.special} | set(theirs.all_special_ids)
    assert special == {i for i, t in ours.get_added_tokens_decoder().items() if t.special}


def test_without_a_tokenizer_json_transformers_reads_the_tokens(byte_tokenizer, tmp_path):
    byte_tokenizer.backend_tokenizer.model.save(str(tmp_path))
    config = {"tokenizer_class": "GPT2Tokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))

    def locate(name):
        if not (tmp_path / name).exists():
            raise FileNotFoundError
        return tmp_path / name

    ours, n = read_tokens(tmp_path, locate), len(byte_tokenizer)
    assert token_strings(ours, n) == token_strings(byte_tokenizer.backend_tokenizer, n)
    assert excluded_tokens(ours, n).tolist() == [0, 1]


def test_a_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is no whole tokenizer .* copy it anew"):
        read_tokens(tmp_path, tmp_path.joinpath)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "has added_tokens_decoder"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"0": 3}}, "has bad tokens .*mapping"),
        ("tokenizer_config.json", {"extra_special_tokens": 5}, "extra_special_tokens: 5"),
        ("tokenizer.json", {"added_tokens": "\x1b[31m"}, "is no whole tokenizer"),
    ],
)
def test_a_damaged_tokenizer_is_named_with_file_and_field(damaged, name, content, message) -> None:
    file = damaged / name
    file.write_text(json.dumps(json.loads(file.read_text()) | content))
    with pytest.raises(ValueError, match=message) as caught:
        read_tokens(damaged, damaged.joinpath)
    assert str(file) in str(caught.value)
    assert "\x1b" not in str(caught.value)
