"""Text is split by document, and activations are those of the model itself."""

import pytest
import torch
import transformers

from rotate_core.text import corpus


class Letters:
    """A tokenizer: one token per letter."""

    def __init__(self, start=()):
        self.start = list(start)

    def __call__(self, text, add_special_tokens=True, **_):
        if isinstance(text, str):
            ids = self.start * add_special_tokens + [ord(c) for c in text]
        else:
            ids = [[ord(c) for c in part] for part in text]
        return transformers.BatchEncoding({"input_ids": ids})


def documents(n):
    return [corpus.Document(f"title {i}", chr(97 + i) * (10 + i)) for i in range(n)]


def test_splits_share_no_document_and_depend_on_the_seed():
    splits = corpus.split_documents(documents(20), seed=0)
    assert [len(part) for part in splits.values()] == [10, 4, 6]
    titles = [d.title for part in splits.values() for d in part]
    assert sorted(titles) == sorted(d.title for d in documents(20))
    assert splits == corpus.split_documents(documents(20), seed=0)
    assert splits != corpus.split_documents(documents(20), seed=1)
    with pytest.raises(ValueError, match="2 documents for 3 splits"):
        corpus.split_documents(documents(2))


def test_windows_take_turns_and_stay_within_a_document():
    cut = corpus.windows(documents(4), Letters(), length=5)
    assert cut.document.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert all(len(set(row.tolist())) == 1 for row in cut.tokens)
    assert len(corpus.windows(documents(4), Letters(), length=5, n_tokens=16)) == 3
    assert len(cut.first(4)) == 1, "one at least"
    with pytest.raises(ValueError, match="none of 4 documents"):
        corpus.windows(documents(4), Letters(), length=50)


def test_windows_begin_with_the_start_token_where_there_is_one():
    cut = corpus.windows(documents(4), Letters(start=[7]), length=5)
    assert (cut.tokens[:, 0] == 7).all()
    assert (cut.current != 7).all()


def test_counted_positions_line_up_with_their_tokens():
    cut = corpus.windows([corpus.Document("alphabet", "abcdefgh")], Letters(), length=4)
    assert "".join(map(chr, cut.current)) == "bcfg"
    assert "".join(map(chr, cut.next)) == "cdgh"
    assert torch.equal(cut.counted(cut.tokens), cut.current)


def test_a_folder_of_text_is_read(tmp_path):
    (tmp_path / "b.txt").write_text("beta")
    (tmp_path / "a.txt").write_text("alpha")
    assert [d.text for d in corpus.read_documents(str(tmp_path))] == ["alpha", "beta"]
    with pytest.raises(FileNotFoundError, match=r"no folder .* gensim-wikipedia, hansard"):
        corpus.read_documents(str(tmp_path / "missing"))


@pytest.mark.real_model
def test_the_embedded_text_is_prose():
    texts = {d.title: d.text for d in corpus.read_documents("gensim-wikipedia")}
    assert len(texts) == 103
    assert texts["Anarchism"].startswith("Anarchism is a political philosophy")
    assert not any("'''" in text or "\n*" in text for text in texts.values())
    assert not any(mark in text for text in texts.values() for mark in ("<ref", "{|", "http://"))


@pytest.mark.real_model
def test_the_second_text_is_speech_from_many_debates():
    speeches = corpus.read_documents("hansard")
    assert len(speeches) == 1000
    assert len({d.title for d in speeches}) == 1000
    text = " ".join(d.text for d in speeches)
    assert text.count("my hon. Friend") > 100
    assert "Â" not in text, "UTF-8 that was read as Windows-1252 is read as UTF-8"
    assert text.count("£") == 193
    assert text.count("“") == 121


def test_characters_that_were_decoded_wrongly_are_put_right():
    import re

    broken = "â€œIt cost Â£5,â€\x9d said the LÃ©gion; £6, by my count. Ã is whole"
    right = re.sub(r"[^\x00-\x7f]+", corpus._decoded, broken)
    assert right == "“It cost £5,” said the Légion; £6, by my count. Ã is whole"
