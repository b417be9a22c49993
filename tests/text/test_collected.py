"""Activations of a text: the counted positions, their labels, the folder where they are kept."""

import logging

import pytest
import torch
from tiny_models import D_MLP, D_MODEL, LAYERS, tiny

from rotate_core.models import load_model
from rotate_core.text import SITES, Activations, activations, collected, stream
from rotate_core.text.corpus import Windows
from rotate_core.text.sites import at_every_position

WINDOWS = Windows(torch.arange(24).reshape(4, 6), torch.tensor([1, 0, 1, 0]), ("first", "second"))


@pytest.fixture(scope="module")
def network():
    return tiny("llama")


@pytest.fixture
def model(make_checkpoint):
    return load_model(make_checkpoint("llama"))


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for name in "abcdef":
        (folder / f"{name}.txt").write_text(f"The cat {name} sat on the mat. " * 20)
    return folder


@pytest.mark.parametrize("site", SITES)
def test_rows_are_the_counted_positions_of_all_windows(network, site):
    found = activations(network, WINDOWS, layers=[1, 0], site=site, batch=3, progress=False)
    whole = at_every_position(network, WINDOWS.tokens, [0, 1], site=site, progress=False)
    assert list(found) == [1, 0]
    for layer, x in found.items():
        assert isinstance(x, Activations)
        assert (x.layer, x.site) == (layer, site)
        assert x.values.shape == (len(x), D_MLP if site == "hidden" else D_MODEL)
        torch.testing.assert_close(x.values, WINDOWS.counted(whole[layer]))
        assert torch.equal(x.token_ids, WINDOWS.current)
        assert x.document.tolist() == [1] * 4 + [0] * 4 + [1] * 4 + [0] * 4


def test_a_row_knows_its_context_within_its_window(network):
    x = activations(network, WINDOWS, layers=[0], site="residual", progress=False)[0]
    assert x.context(4, n=1) == ("<6>", "<7>", "<8>", "first")
    assert x.context(0, n=9) == ("<0>", "<1>", "<2><3><4><5>", "second")
    some = x.take(torch.tensor([4, 0]))
    assert len(some) == 2
    assert torch.equal(some.values, x.values[[4, 0]])
    assert some.context(1) == x.context(0)
    assert x.take(x.document == 0).document.tolist() == [0] * 8
    assert repr(x).startswith("Activations(16 tokens of 2 documents x 16; ")
    assert "layer 0, residual" in x._repr_html_()


def test_a_named_text_is_split_by_document_and_its_tokens_are_strings(model, text):
    options = {"layers": [0], "site": "residual", "window": 16, "progress": False}
    parts = {
        split: activations(model, str(text), split=split, **options)[0]
        for split in ("train", "validation", "test", None)
    }
    titles = {split: set(part.windows.titles) for split, part in parts.items()}
    assert titles[None] == set("abcdef")
    assert sorted("".join(map("".join, (titles[s] for s in ("train", "validation", "test"))))) == (
        list("abcdef")
    )
    x = parts["train"]
    assert x.source == f"{text}, train"
    assert x.model == model.name
    left, token, right, title = x.context(5)
    assert left + token + right in (text / f"{title}.txt").read_text()
    few = activations(model, str(text), n_tokens=32, **options)[0]
    assert torch.equal(few.values, x.values[: 2 * 14])


def test_what_is_kept_is_read_back_and_one_more_layer_computes_only_that(
    model, text, tmp_path, monkeypatch
):
    passes = []

    def counted(network, tokens, layers, **options):
        passes.append(list(layers))
        return at_every_position(network, tokens, layers, **options)

    monkeypatch.setattr(collected, "at_every_position", counted)
    cache = tmp_path / "cache"

    def get(layers, **changes):
        options = {"site": "mlp_out", "window": 16, "cache": cache, "progress": False}
        return activations(model, str(text), layers=layers, **options | changes)

    first = get([0])
    assert torch.equal(get([0])[0].values, first[0].values)
    assert passes == [[0]]
    both = get([1, 0])
    assert passes == [[0], [1]]
    assert torch.equal(both[0].values, first[0].values)
    assert both[0].context(3) == first[0].context(3)
    changes = [{"site": "residual"}, {"split": "test"}, {"n_tokens": 32}, {"dtype": torch.bfloat16}]
    for n, change in enumerate(changes, 3):
        get([0], **change)
        assert len(passes) == n, change
    assert not list(cache.glob(".*"))


@pytest.mark.parametrize("damage", ["truncated", "foreign", "flipped"])
def test_a_damaged_file_is_named_and_made_anew(model, text, tmp_path, caplog, damage):
    options = {"site": "residual", "window": 16, "cache": tmp_path / "c", "progress": False}
    first = activations(model, str(text), layers=[0, 1], **options)[0].values
    file, other = sorted((tmp_path / "c").iterdir())
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[:-100])
    elif damage == "foreign":
        file.write_bytes(other.read_bytes())
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with caplog.at_level(logging.WARNING):
        again = activations(model, str(text), layers=[0], **options)[0].values
    assert torch.equal(again, first)
    assert file.name in caplog.text
    assert file.read_bytes() == content


def test_a_stream_is_the_whole_in_parts_and_goes_on_where_it_was(network):
    whole = activations(network, WINDOWS, layers=[1], site="hidden", progress=False)[1]
    parts = list(stream(network, WINDOWS, layer=1, site="hidden", batch=3))
    assert [len(part) for part in parts] == [12, 4]
    torch.testing.assert_close(torch.cat([part.values for part in parts]), whole.values)
    assert parts[1].context(0) == whole.context(12)
    rest = stream(network, WINDOWS, layer=1, site="hidden", batch=1, skip=3)
    torch.testing.assert_close(next(rest).values, parts[1].values)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert list(rest) == []


def test_what_cannot_be_read_is_refused(network, model, text):
    read = {"layers": [0], "site": "residual"}
    with pytest.raises(ValueError, match="memory="):
        activations(network, WINDOWS, **read, memory=100)
    with pytest.raises(ValueError, match="site='mlp'"):
        activations(network, WINDOWS, layers=[0], site="mlp")
    with pytest.raises(ValueError, match="skip=-1"):
        next(stream(network, WINDOWS, layer=0, site="residual", skip=-1))
    with pytest.raises(IndexError, match=f"layers 0 to {LAYERS - 1}"):
        activations(network, WINDOWS, layers=[0, LAYERS], site="residual")
    with pytest.raises(TypeError, match="needs a tokenizer"):
        activations(network, str(text), **read)
    with pytest.raises(TypeError, match="cache needs"):
        activations(network, WINDOWS, **read, cache=text)
    with pytest.raises(ValueError, match="split='dev': wanted one of train"):
        activations(model, str(text), **read, split="dev")
