"""What is measured of factors: planted truth, concepts that are known, nulls that are none."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tiny_models import D_MLP, tiny

from rotate_core import load_model
from rotate_core.dictionaries import Factors, hierarchy, snmf
from rotate_core.dictionaries.candidates import from_factors
from rotate_core.experiments import concept_sets, detection, factor_groups, factors
from rotate_core.text import Activations, added, steer
from rotate_core.text.corpus import Windows


def activations(x: torch.Tensor, n_windows: int, titles: tuple[str, ...] = ()) -> Activations:
    """Rows of x as the tokens of so many one-window documents."""
    length = len(x) // n_windows
    tokens = torch.zeros(n_windows, length + 2, dtype=torch.long)
    text = Windows(
        tokens, torch.arange(n_windows), titles or tuple(map(str, range(n_windows))),
        source=f"{n_windows} documents",
    )  # fmt: skip
    window = torch.arange(n_windows).repeat_interleave(length)
    return Activations(
        x.float(), window, torch.arange(1, length + 1).repeat(n_windows), text, "m", 0, "hidden"
    )


def sums(n: int, seed: int, *, k: int = 4, d: int = 40) -> torch.Tensor:
    """Tokens in which k disjoint groups of neurons fire, or do not."""
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, k, generator=g) < 0.3) * (torch.rand(n, k, generator=g) + 0.5)
    z = torch.zeros(k, d)
    for i in range(k):
        z[i, 10 * i : 10 * i + 5] = 1
    return y @ z + 0.05 * torch.randn(n, d, generator=g)


@pytest.fixture(scope="module")
def found() -> tuple[Activations, Activations, Factors]:
    train, test = activations(sums(400, 0), 20), activations(sums(300, 1), 15)
    return train, test, snmf(train, 4, share=0.125, progress=False)


def test_planted_groups_are_above_both_nulls(found) -> None:
    train, test, _ = found
    explained, agreement, fit = factors.beside_nulls(
        factors.with_nulls(train, test, seed=0), 4, seed=0, share=0.125, start_tokens=100
    )
    assert isinstance(fit, Factors)
    mean = explained.groupby("what").explained.mean()
    again = agreement.groupby("what").cosine.mean()
    assert mean[factors.DATA] > 0.9
    for null in (factors.SHUFFLED, factors.GAUSSIAN):
        assert mean[factors.DATA] > mean[null] + 0.1
    assert again[factors.DATA] > 0.99
    assert len(explained) == 3 * 15
    assert set(agreement.feature) == set(range(4))


def test_documents_add_up_to_the_whole(found) -> None:
    _, test, fit = found
    table = factors.by_document(fit, test)
    energy = torch.zeros(15).index_add(0, test.document, test.values.square().sum(1))
    whole = (table.explained * energy.numpy()).sum() / energy.sum()
    assert whole == pytest.approx(fit.energy_explained(test), abs=1e-5)


def test_the_race_has_both_solvers(found) -> None:
    table = factors.race(found[0].values, 4, 0.125, n_iter=5, seed=0)
    assert table.groupby("solver").size().tolist() == [5, 25]
    assert not table[table.solver == "exact steps"].rose.any()
    assert table.seconds.gt(0).all()


def test_a_concept_that_a_feature_carries_is_detected(found) -> None:
    """Sentences of ten tokens, each concept's with its own group of neurons."""
    fit = found[2]
    labels = ["a", "b"] * 6
    halves = []
    for seed in (2, 3):
        x = 0.05 * torch.randn(120, 40, generator=torch.Generator().manual_seed(seed))
        for i, label in enumerate(labels):
            first = 0 if label == "a" else 10
            x[10 * i + 4, first : first + 5] += 1
        halves.append(activations(x, 12))
    table = detection.chosen(from_factors(fit), [{"hidden": x} for x in halves], [labels, labels])
    assert table.held_out.tolist() == [1.0, 1.0]
    assert table.candidate.nunique() == 2
    scores = factors.concept_scores(fit, *halves, [labels, labels])
    assert (scores[table.candidate.tolist()] > 0.3).all()


def test_sentences_share_no_words_and_no_templates() -> None:
    halves = [concept_sets.sentences(half) for half in (0, 1)]
    assert {s.concept for s in halves[0]} == {s.concept for s in halves[1]}
    assert len({s.concept for s in halves[0]}) == 14
    for words in concept_sets.WORDS.values():
        assert not set(words[0].split()) & set(words[1].split())
    assert not {s.text for s in halves[0]} & {s.text for s in halves[1]}
    assert len(concept_sets.calendar()) == 19 * 6


@pytest.mark.real_model
def test_padding_changes_no_token_and_is_left_out() -> None:
    model = load_model("smollm2-135m")
    given = concept_sets.calendar()[:2] + concept_sets.sentences(0)[:2]
    layer = 2
    together = concept_sets.spoken(model, given, [layer])[layer]
    for i, sentence in enumerate(given):
        alone = concept_sets.spoken(model, [sentence], [layer])[layer]
        rows = together.document == i
        assert torch.equal(together.token_ids[rows], alone.token_ids)
        assert torch.allclose(together.values[rows], alone.values, atol=1e-4)
        assert "".join(model.tokenizer.decode(alone.token_ids)).strip() in sentence.text
    largest = concept_sets.strongest(together.values[:, :3], together)
    assert torch.equal(largest[1], together.values[together.document == 1][:, :3].amax(0))


def test_core_and_exclusive_neurons() -> None:
    vectors = torch.zeros(3, 8)
    vectors[0, [0, 1]] = torch.tensor([0.6, 0.8])
    vectors[1, [0, 2]] = torch.tensor([0.6, 0.8])
    vectors[2, [0, 3]] = torch.tensor([0.6, 0.8])
    fit = snmf(torch.rand(9, 8, generator=torch.Generator().manual_seed(0)), 3, progress=False)
    fit = dataclasses.replace(fit, vectors=vectors)
    features = pd.DataFrame(
        {
            "group": "days",
            "name": ["Monday", "Tuesday", "Friday", "Sunday"],
            "feature": [0, 1, 2, 2],
        }
    )
    sets = factor_groups.neuron_sets(fit, features)
    assert set(sets) == {("days", "core"), ("days", "Monday"), ("days", "Tuesday")}
    assert sets["days", "core"].nonzero().flatten().tolist() == [0]
    assert sets["days", "Monday"].nonzero().flatten().tolist() == [1]
    assert all(v.norm() == pytest.approx(1) for v in sets.values())
    changes = pd.DataFrame(
        [("days", "core", draw, name, value)
         for draw, value in ((-1, 3.0), (0, 1.0)) for name in ("Monday", "Tuesday")]
        + [("days", "Monday", draw, name, value)
           for draw, values in ((-1, (2.0, -1.0)), (0, (0.5, 0.0)))
           for name, value in zip(("Monday", "Tuesday"), values, strict=True)],
        columns=["group", "set", "draw", "name", "change"],
    )  # fmt: skip
    core, exclusive = factor_groups.core_and_exclusive(changes)
    assert core.change.tolist() == [3.0, 3.0]
    assert core.null.tolist() == [1.0, 1.0]
    assert exclusive.loc["Monday", "change"] == 3.0
    assert exclusive.loc["Monday", "null"] == 0.5
    for table in factor_groups.core_and_exclusive(changes[:0]):
        assert not len(table)
        assert table.dtypes.to_dict() == {"change": float, "null": float}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_sets_of_neurons_are_amplified_together_as_one_by_one(family) -> None:
    network = tiny(family)

    def tokenizer(prompt: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=torch.tensor([[len(prompt), 3, 4]]))

    vectors = torch.eye(D_MLP)[[2, 7]]
    together = factor_groups.logit_changes(
        network, tokenizer, 1, vectors, [5, 6], size=2.0, prompts=["a", "bc"]
    )
    alone = torch.zeros(2, 2)
    for row, vector in enumerate(vectors):
        for first in (1, 2):
            ids = torch.tensor([[first, 3, 4]])
            with torch.no_grad():
                before = network(ids).logits[0, -1]
                with steer(network, 1, added(2.0 * vector), site="hidden"):
                    change = network(ids).logits[0, -1] - before
            alone[row] += (change - change.mean())[[5, 6]] / 2
    assert torch.allclose(together, alone, atol=1e-5)


def test_nothing_is_amplified_where_no_feature_is_a_name() -> None:
    fit = snmf(torch.rand(9, 8, generator=torch.Generator().manual_seed(0)), 3, progress=False)
    nobody = pd.DataFrame(columns=["group", "name", "feature", "auroc"])
    changes = factor_groups.amplified(None, None, fit, nobody, {}, 0, size=1.0, n_null=1, seed=0)
    for table in factor_groups.core_and_exclusive(changes):
        assert list(table.columns) == ["change", "null"]
        assert table.empty


@pytest.mark.real_model
def test_amplifying_a_neuron_changes_logits_as_the_model_does() -> None:
    """The same change by hand: a hook that adds the vector."""
    model = load_model("smollm2-135m")
    network, tokenizer = model.transformers(), model.tokenizer
    names = factor_groups.names_of(tokenizer)
    assert len(names) == 19
    vector = torch.nn.functional.one_hot(torch.tensor([5]), model.d_mlp).float()
    tokens = [names["Monday"], names["May"]]
    prompt = factor_groups.PROMPTS[0]
    ours = factor_groups.logit_changes(
        network, tokenizer, 28, vector, tokens, size=3.0, prompts=[prompt]
    )
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        before = network(ids).logits[0, -1]
        down = network.model.layers[28].mlp.down_proj
        hook = down.register_forward_pre_hook(lambda _, args: (args[0] + 3 * vector,))
        after = network(ids).logits[0, -1]
        hook.remove()
    change = (after - after.mean()) - (before - before.mean())
    assert torch.allclose(ours[0], change[tokens], atol=1e-4)


def test_purity_of_a_tree_that_keeps_groups_apart() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.zeros(6, 60)
    for group in range(2):
        z[3 * group : 3 * group + 3, 30 * group : 30 * group + 4] = 1
    for i in range(6):
        z[i, 10 + 30 * (i // 3) + 4 * (i % 3) : 14 + 30 * (i // 3) + 4 * (i % 3)] = 1
    which = torch.arange(120) % 6
    x = activations(z[which] * (1 + torch.rand(120, 1, generator=g)), 120)
    names = ("Monday", "Friday", "Sunday", "March", "April", "May")
    ids = {name: i for i, name in enumerate(names)}
    x.windows.tokens[:, 1] = which
    x.windows.__dict__["strings"] = names
    fine = snmf(x, 6, share=8 / 60, progress=False)
    tree = hierarchy(fine, (2,), activations=x, progress=False)
    table = factor_groups.purity(tree, x, seed=0)
    assert table.purity.tolist() == [1.0] * len(table)
    assert (table.null < 1).all()
    told = factor_groups.features_of(fine, x, ids)
    assert told.auroc.tolist() == [1.0] * 6
    assert told.feature.nunique() == 6
