"""All methods on one small checkpoint: every one is offered, judged, recorded and read back."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import torch

from rotate_core import decompose, load_model
from rotate_core.dictionaries import topk_sae
from rotate_core.dictionaries.candidates import Writing
from rotate_core.experiments import offers as offering
from rotate_core.experiments import side_by_side
from rotate_core.experiments.concept_sets import Sentence, spoken_at_sites
from rotate_core.experiments.dictionary_ablation import paper_tests
from rotate_core.experiments.steering_task import steering_task
from rotate_core.figures import side_by_side as figures
from rotate_core.figures.style import panels
from rotate_core.null import label
from rotate_core.text import activations
from rotate_core.text.corpus import Windows
from rotate_core.verdicts.record import write_results

LAYER, TARGET = 1, 1e-4  # the logits of small random weights hardly move
SENTENCES = [
    [Sentence(name, f"the {word} sat") for name, words in half.items() for word in words.split()]
    for half in (
        {"pets": "cat cow pig", "tools": "axe saw pin"},
        {"pets": "dog hen fox", "tools": "nut bolt gun"},
    )
]


@pytest.fixture(scope="module")
def run(checkpoints):
    """The chapter, small: what is offered, found and steered."""
    model = load_model(checkpoints("llama"))
    network = model.transformers()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, model.d_vocab, (30, 12), generator=generator)
    text = Windows(tokens, torch.arange(30), tuple(map(str, range(30))))
    sites = ("hidden", "residual", "mlp_in", "mlp_out")
    seen = {
        site: activations(network, text, layers=[LAYER], site=site, progress=False)[LAYER]
        for site in sites
    }
    channels = {
        kind: decompose(
            model.neurons(LAYER, kind, range(4)), model.vocabulary(LAYER), n_channels=2,
            threshold=1.5, progress=False,
        )
        for kind in model.kinds
    }  # fmt: skip
    saes = {
        site: topk_sae(seen[site], 20, n_active=3, passes=2, progress=False)
        for site in ("mlp_in", "mlp_out")
    }
    halves = [spoken_at_sites(network, model.tokenizer, half, LAYER) for half in SENTENCES]
    concepts = [[each.concept for each in half] for half in SENTENCES]
    offers = offering.offered(
        model, LAYER, channels, seen, halves[0]["mlp_out"], concepts[0], (saes["mlp_out"], 1.0),
        n_features=4, n_regions=2, seed=0,
    )  # fmt: skip
    found = side_by_side.detected(offers, halves, concepts, n_chance=1, seed=0)
    task = steering_task(network, model.tokenizer, LAYER, text, SENTENCES, n_prompts=3, length=5)
    steering = side_by_side.steered(task, offers, found, targets=[TARGET], signs=[1], seed=0)
    texts = side_by_side.continued(task, offers, steering, target=TARGET, n_prompts=1, n_tokens=2)
    methods = side_by_side.summary(offers, found, steering, texts, target=TARGET, seed=0)
    return model, network, text, seen, channels, saes, offers, found, steering, texts, methods


def test_every_method_has_a_row_and_says_what_it_saw(run):
    *_, offers, found, steering, texts, methods = run
    assert methods.index.is_unique
    assert len(methods) == len(offers) == 7
    assert found.groupby("method").concept.nunique().eq(2).all()
    blind = methods[methods.tokens == 0]
    assert [name.split(",")[0] for name in blind.index] == [
        "ROTATE",
        "ROTATE",
        "difference of means",
    ]
    assert methods.labels.tolist() == [0] * 6 + [6]
    assert (methods.seconds > 0).all()
    reading = methods.index[0]
    assert reading == "ROTATE, gate and in"
    assert set(steering.method) == set(methods.index) - {reading}
    assert methods.loc[reading, "gain"].n == 0
    told = side_by_side.remembered(texts)
    assert set(told.method) <= set(steering.method)
    counts = side_by_side.counts(methods)
    assert counts["n_methods"] == 7
    assert counts["n_writing"] <= 6


def test_the_chance_beside_a_gain_is_at_the_same_divergence(run):
    steering = run[8]
    both = steering[steering.reached & steering.chance.notna()]
    assert len(both)
    assert (both.kl / TARGET - 1).abs().max() < 0.06


def test_the_best_method_is_told_with_what_it_has_over_chance(run):
    methods = run[-1]
    name = methods["AUROC"].map(lambda estimate: estimate.value).idxmax()
    told = side_by_side.best(methods, "AUROC")
    assert told.startswith(f"{name} (AUROC {methods['AUROC'][name]}; over")
    assert side_by_side.best(methods.iloc[:0], "gain") == "none"


def test_labels_of_every_method_that_learns(run):
    model, offers = run[0], run[6]
    table = offering.labelled(offers, model, LAYER, n_null=40, seed=0)
    assert table.share.between(0, 1).all()
    assert "out weights, unrotated" in set(table.method)
    assert not table.method.str.startswith("ROTATE").any()
    neurons = model.written(LAYER, model.neurons(LAYER, "out").vectors)
    beside = table[table.null == "the neurons'"].set_index("method").share
    sae = next(each.candidates for each in offers if each.candidates.method == "SAE")
    vectors, u = sae.write.vectors, model.vocabulary(LAYER, side="unembedding")
    alone = label(vectors, u, like=neurons, null=40, progress=False)
    assert beside["SAE"] == alone.significant(), "one null for all is the null of each"
    hidden = Writing("hidden", torch.eye(model.d_mlp)[:3])
    out = model.neurons(LAYER, "out", range(3)).vectors
    assert torch.allclose(offering.written_directions(hidden, model, LAYER), out, atol=1e-6)
    points = dataclasses.replace(Writing("residual", torch.randn(5, 4)), pull=True)
    assert offering.written_directions(points, model, LAYER).mean(0).abs().max() < 1e-6


def test_the_papers_tests_have_channels_latents_and_chance(run):
    model, network, _, seen, channels, saes, *_ = run
    table = paper_tests(model, network, seen["mlp_in"], channels, saes)
    assert set(table.test) >= {"input: completeness", "output: AUROC", "output: completeness"}
    assert table.groupby("test").what.nunique().max() == 3
    again = paper_tests(model, network, seen["mlp_in"], channels, saes)
    assert table["mean"].map(str).tolist() == again["mean"].map(str).tolist()


def test_a_record_is_read_back_and_drawn(run, tmp_path):
    model, *_, found, steering, _, methods = run
    assert side_by_side.recorded(tmp_path / "none.json") is None
    write_results(
        "15_side_by_side",
        metrics={
            "methods": methods.rename_axis("method").reset_index(),
            "detection": found,
            "steering": steering,
        },
        parameters={"side_layer": LAYER},
        model=model,
        seconds=1.0,
        folder=tmp_path,
    )
    read = side_by_side.recorded(tmp_path / "15_side_by_side.json")
    assert (read.model, read.layer) == (model.name, LAYER)
    assert side_by_side.counts(read.methods) == side_by_side.counts(methods)
    pd.testing.assert_frame_equal(read.found[found.columns], found, check_dtype=False)
    toward = side_by_side.at(read.steering, TARGET)
    axes = figures.both_tasks(read.found, toward, read.methods, panels(2))
    assert [label.get_text() for label in axes[0].get_yticklabels()] == list(methods.index)
