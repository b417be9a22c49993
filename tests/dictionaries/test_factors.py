"""What factors say of text and of a model, their agreement, their surrogates, and their stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch
from planted import planted_factors
from torch import Tensor

from rotate_core import load_model
from rotate_core.dictionaries import Factors, snmf, snmf_stream, stability
from rotate_core.dictionaries.surrogates import gaussian, shuffled
from rotate_core.text import Activations, activations
from rotate_core.text.corpus import Windows

OPTIONS = {"share": 0.02, "progress": False}


def labelled(x: Tensor, source: str = "a, train") -> Activations:
    n = len(x)
    text = Windows(
        torch.zeros(1, n + 2, dtype=torch.long), torch.zeros(1, dtype=torch.long), ("t",),
        source=source,
    )  # fmt: skip
    place = torch.arange(1, n + 1)
    return Activations(x, torch.zeros(n, dtype=torch.long), place, text, "tiny", 0, "hidden")


def test_stability_is_one_of_the_same_and_pairs_each_once() -> None:
    x = planted_factors(0)[0]
    fits = [snmf(x, 20, seed=seed, **OPTIONS) for seed in (0, 0, 1)]
    table = stability(fits)
    assert len(table) == 3 * 20
    same = table[(table["first"] == 0) & (table["second"] == 1)]
    assert (same.feature == same.partner).all()
    assert same.cosine.min() == pytest.approx(1)
    assert same.jaccard.min() == 1
    other = table[(table["first"] == 0) & (table["second"] == 2)]
    assert sorted(other.partner) == list(range(20))
    null = stability([snmf(shuffled(labelled(x), seed=s), 20, **OPTIONS) for s in (0, 1)])
    assert other.cosine.mean() > null.cosine.mean() + 0.3
    with pytest.raises(ValueError, match="1 fits"):
        stability(fits[:1])


def test_surrogates_keep_what_they_say() -> None:
    x = labelled(planted_factors(0, d=40, n=3000)[0])
    mixed = shuffled(x, seed=0).values
    assert torch.equal(mixed.sort(0).values, x.values.sort(0).values)
    assert not torch.equal(mixed, shuffled(x, seed=1).values)
    drawn = gaussian(x, seed=0).values
    scale = x.values.std()
    assert (drawn.mean(0) - x.values.mean(0)).abs().max() < 0.1 * scale
    assert (drawn.T.cov() - x.values.T.cov()).abs().max() < 0.3 * scale**2
    other = gaussian(labelled(x.values, "a, test"), seed=0).values
    assert not torch.equal(drawn, other)  # as many tokens of another text are other draws


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_what_a_feature_writes_is_what_the_model_adds(checkpoints, family) -> None:
    """Steering a feature into "hidden" moves "mlp_out" along what it writes."""
    from rotate_core.text import added, steer
    from rotate_core.text.sites import read_site

    model = load_model(checkpoints(family))
    network = model.transformers()
    tokens = torch.arange(20).view(2, 10)
    x = read_site(network, tokens, [1], site="hidden")[1].flatten(0, 1)
    factors = snmf(x, 3, share=0.5, progress=False)
    written = factors.written(model, 1)
    with steer(network, 1, added(1e4 * factors.vectors[0]), site="hidden"):
        out = read_site(network, tokens, [1], site="mlp_out")[1].flatten(0, 1)
    cosine = torch.cosine_similarity(out, written[:1])
    assert cosine.min() > 0.99
    with pytest.raises(ValueError, match="neurons of layer None"):
        factors.written(model)


@pytest.mark.real_model
def test_the_lines_of_the_documentation() -> None:
    smollm2 = load_model("smollm2-135m")
    x = activations(smollm2, "gensim-wikipedia", layers=[15], site="hidden", n_tokens=1000,
                    progress=False)[15]  # fmt: skip
    features = snmf(x, n_features=8, share=0.05, seed=0, progress=False, n_moves=1)
    assert features.vectors.shape == (8, 1536)
    assert features.support.shape == (8, 77)
    assert features.coefficients.shape == (len(x), 8)
    assert 0 < features.explained < 1
    assert features.written(smollm2).shape == (8, 576)
    top = features.top_positions(3, 5)
    assert top.columns.tolist() == ["row", "left", "token", "right", "title"]
    best = features.coefficients[:, 3].argmax()
    assert top.row[0] == best
    table = features.table()
    assert table.weight.sum() == pytest.approx(1, abs=1e-5)
    assert "layer 15, hidden: 8 features of 77 of 1536 neurons" in repr(features)
    assert "<table" in features._repr_html_()


def test_our_folder_reads_back(tmp_path: Path) -> None:
    x = planted_factors(0, n=300)[0]
    whole = snmf(labelled(x), 5, history=True, scale_neurons=True, **OPTIONS)
    streamed = snmf_stream([x], 5, **OPTIONS)
    for i, factors in enumerate((whole, streamed)):
        again = Factors.read(factors.write(tmp_path / str(i)))
        for field in dataclasses.fields(Factors):
            here, there = getattr(factors, field.name), getattr(again, field.name)
            if isinstance(here, Tensor):
                assert torch.equal(here, there), field.name
            else:
                assert here == there, field.name
    with pytest.raises(FileExistsError, match="holds factors already"):
        whole.write(tmp_path / "0")
    with pytest.raises(FileNotFoundError, match="no whole factors"):
        Factors.read(tmp_path)


# --- A stream ----------------------------------------------------------------------------------


def batches(x: Tensor, n_passes: int = 3) -> Iterator[Tensor]:
    return chain.from_iterable(repeat(x.split(250), n_passes))


def test_planted_features_are_found_in_a_stream() -> None:
    x = planted_factors(0, n=4000)[0]
    found = snmf_stream(batches(x), 20, start_tokens=50, history=True, **OPTIONS)
    whole = snmf(x, 20, **OPTIONS, n_moves=0)
    assert found.energy_explained(x) > whole.explained - 0.01
    assert found.explained == pytest.approx(found.energy_explained(x), abs=0.02)
    assert found.n_iter == 48
    assert found.coefficients.shape == (0, 20)
    assert "top_tokens" not in found.table()


class Killed(Exception):
    pass


def test_a_killed_stream_goes_on_to_the_same_factors(tmp_path: Path) -> None:
    x = planted_factors(0)[0]

    def cut_off() -> Iterator[Tensor]:
        for i, batch in enumerate(batches(x)):
            if i == 17:
                raise Killed
            yield batch

    options = {"start_tokens": 30, "scale_neurons": True, **OPTIONS}
    whole = snmf_stream(batches(x), 20, **options)
    with pytest.raises(Killed):
        snmf_stream(cut_off(), 20, folder=tmp_path, every=5, **options)
    again = snmf_stream(batches(x), 20, folder=tmp_path, every=5, **options)
    assert torch.equal(whole.vectors, again.vectors)
    with pytest.raises(ValueError, match="'seed': 0"):
        snmf_stream(batches(x), 20, folder=tmp_path, seed=1, **options)
    with pytest.raises(ValueError, match="factorised by hals"):
        snmf_stream(batches(x), 20, solver="multiplicative", **options)
