"""Tables of neurons beside their matched vectors, and a text as a neuron reads it."""

import dataclasses
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from rotate_core import Vocabulary, decompose
from rotate_core.channels import take
from rotate_core.experiments.input_ablation import ReadingNeurons, snippet
from rotate_core.text.corpus import Windows
from rotate_core.verdicts.comparison import (
    MATCHED,
    NEURONS,
    beside_matched,
    by_certainty,
    estimates,
    group_means,
    outcome,
    paired_outcome,
)
from rotate_core.verdicts.intervals import Estimate, interval

D, V = 16, 60


@pytest.fixture(scope="module")
def channels():
    generator = torch.Generator().manual_seed(0)
    vocabulary = Vocabulary(
        torch.randn(D, V, generator=generator), torch.ones(V), tuple(f" {i}" for i in range(V))
    )
    w = torch.randn(5, D, generator=generator)
    return decompose(w, vocabulary, n_channels=2, threshold=2.0, progress=False)


def test_matched_vectors_take_the_places_of_the_first_neurons(channels):
    matched = dataclasses.replace(take(channels, [4, 3, 2]), indices=(0, 1, 2))
    there = dataclasses.replace(take(channels, [1, 0, 4, 2, 3]), layer=7, kind="gate")
    seen = []

    def measure(part, neurons):
        seen.append((part.indices, neurons))
        empty = pd.DataFrame({"neuron": []})
        return pd.DataFrame({"neuron": part.indices, "value": 1.0}), empty

    def atlas_of(neurons):
        return SimpleNamespace(channels=lambda *, null=False, **_: matched if null else neurons)

    table, empty = beside_matched(atlas_of(there), [7], ["gate"], measure)
    assert seen == [((1, 0, 4, 2, 3),) * 2, ((0, 1, 2), (1, 0, 4))]
    assert table.what.tolist() == [NEURONS] * 5 + [MATCHED] * 3
    assert set(table.layer) == {7}
    assert set(table.kind) == {"gate"}
    assert table.cluster[0] == "7/1"
    assert not len(empty)
    few, _ = beside_matched(atlas_of(take(there, [1])), [7], ["gate", "in"], measure)
    assert few.what.tolist() == [NEURONS, MATCHED] * 2, "no more matched vectors than places"


def made_up(n=40):
    generator = torch.Generator().manual_seed(0)
    rows = []
    for what, mean in ((NEURONS, 1.0), (MATCHED, 0.4)):
        for group in ("b", "a"):
            values = (mean + 0.1 * torch.randn(n, generator=generator)).tolist()
            part = pd.DataFrame({"value": values, "rotation": 0.9, "group": group, "what": what})
            part["layer"] = 0
            rows.append(part.assign(cluster=[str(i // 2) for i in range(n)]))
    return pd.concat(rows, ignore_index=True)


def test_estimates_are_those_of_the_groups():
    table = made_up()
    table.loc[0, "value"] = float("nan")
    found = estimates(table, "value", ["group"], rotation="rotation")
    assert found.group.tolist() == ["b", "a"], "in the table's order"
    assert found.n.tolist() == [39, 40]
    assert found["n matched"].tolist() == [40, 40]
    part = table[(table.group == "a") & (table.what == NEURONS)]
    alone = interval(part.value, part.cluster)
    assert (found.neurons[1].value, found.neurons[1].n) == (alone.value, alone.n)
    assert found.neurons[1].low == pytest.approx(alone.low, abs=0.005), "other draws, same interval"
    assert found.neurons[1] != alone
    assert found.equals(estimates(table, "value", ["group"], rotation="rotation")), "seeded"
    assert found.neurons[1].n_clusters == 20
    assert found.difference[1].value == pytest.approx(0.6, abs=0.1)
    assert 0.4 < found.difference[1].low < found.difference[1].value < found.difference[1].high
    assert found["less rotations"][1].value == pytest.approx(found.neurons[1].value - 0.9)
    assert "rotations" not in estimates(table, "value", ["group"])
    nothing = estimates(table[:0], "value", ["group"])
    assert list(nothing) == ["group", "n", "n matched", "neurons", "matched vectors", "difference"]
    whole = outcome(table[table.group == "a"], "value", model="a model")
    assert whole.over_null.value == found.difference[1].value
    assert whole.over_null.low == pytest.approx(found.difference[1].low, abs=0.005)
    assert isinstance(whole.ours, Estimate)
    assert whole.null_is == MATCHED


def test_a_snippet_is_where_the_neuron_is_most_active_on_the_channels_tokens(channels):
    generator = torch.Generator().manual_seed(1)
    own = int(channels.top_ids[2, 0, 0])
    tokens = torch.full((3, 20), int(channels.top_ids[2, 0].flip(0)[0]))
    tokens[1, 9] = own
    windows = Windows(tokens, torch.tensor([0, 1, 1]), ("first", "second"))
    x = torch.randn(3, 20, D, generator=generator) / 10
    x[1, 9] = channels.vectors[2, 0]
    one = dataclasses.replace(take(channels, [2]), kind="in")
    read = {"in": one.weight_vectors}
    neuron = ReadingNeurons(windows, windows.counted(x), read, torch.nn.Identity())
    assert channels.top_z[2, 0, 0].abs() > 2, "own is in the tail"
    found = snippet(neuron, one, 0, length=6)
    assert found.title == "second"
    assert len(found.words) == len(found.before) == len(found.after) == len(found.own) == 6
    at = found.words.index(f" {own}")
    assert found.own[at]
    expected = float(channels.vectors[2, 0] @ channels.weight_vectors[2])
    assert found.before[at] == pytest.approx(expected, rel=1e-4)
    assert abs(found.after[at]) < abs(found.before[at])
    assert found.left == pytest.approx(abs(found.after[at] / found.before[at]))


def test_certain_channels_stand_beside_matched_vectors_of_their_places():
    rows = []
    for layer, value in ((0, 5.0), (1, 1.0)):
        for neuron in range(6):
            at = {"layer": layer, "kind": "out", "neuron": neuron, "cluster": f"{layer}/{neuron}"}
            rows += [at | {"channel": 0, "what": NEURONS, "value": value}]
            rows += [at | {"channel": 1, "what": NEURONS, "value": 100.0}]
            rows += [at | {"channel": 0, "what": MATCHED, "value": value / 2}]
    table = pd.DataFrame(rows)
    q = table[table.what == NEURONS].drop(columns="value")
    q = q.assign(q_value=[0.01 if row.layer == 0 else 0.9 for row in q.itertuples()])
    found = by_certainty(table, "value", q, level=0.1).set_index("channels")
    assert found.loc["q < 0.1", "neurons"].value == 5
    assert found.loc["q < 0.1", "matched vectors"].value == 2.5, "of layer 0 alone"
    assert found.loc["others", "difference"].value == 0.5
    assert found["n"].tolist() == [6, 6]
    none = by_certainty(table, "value", q, level=0.001)
    assert none.channels.tolist() == ["others"]
    nothing = by_certainty(table[table.channel == 1], "value", q, level=0.1)
    assert not len(nothing)
    assert "difference" in nothing


def test_group_means_have_an_interval_over_clusters():
    rows = [("ours", w, i, float(i % 2)) for w in (NEURONS, MATCHED) for i in range(10)]
    table = pd.DataFrame(rows, columns=["change", "what", "cluster", "x"])
    means = group_means(table, ["change", "what"], ["x"], seed=1)
    assert means.index.tolist() == [("ours", NEURONS), ("ours", MATCHED)]
    estimate = means.x.iloc[0]
    assert estimate == interval([0.0, 1.0] * 5, seed=1)
    assert estimate.low < estimate.value == 0.5 < estimate.high
    assert estimate.n_clusters == 10


def test_a_paired_outcome_resamples_what_pairs_together():
    ours = pd.Series([1.0, 2.0, 3.0, 4.0])
    found = paired_outcome(ours, ours - 1, [0, 0, 1, 2], null_is="one less", model="a", seed=0)
    assert (found.ours.value, found.null.value, found.ours.n_clusters) == (2.5, 1.5, 3)
    assert (found.over_null.low, found.over_null.high) == (1, 1)
