"""Descriptions of planted neurons: the right tokens, from the right place, with the right sign."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tiny_models import D_MLP, D_VOCAB, TOKENS, tiny

from rotate_core import Vocabulary, decompose
from rotate_core.experiments.descriptions.exemplars import (
    Text,
    exemplar_texts,
    exemplars,
    from_activations,
    from_clamping,
    optimised,
    read_texts,
    token_change,
)
from rotate_core.experiments.descriptions.kernels import Kernels
from rotate_core.experiments.descriptions.methods import (
    GROUPS,
    chosen_by_validation,
    from_weights,
)
from rotate_core.experiments.descriptions.weights import (
    BUDGET,
    Description,
    describe,
    from_projection,
    from_rotations,
    merge,
    product_polarity,
)
from rotate_core.text.corpus import Windows
from rotate_core.text.sites import mlp_of

V = 800
WORDS = [f" Word{i}" for i in range(V - 2)] + [" cat", "Cat"]


@pytest.fixture(scope="module")
def channels():
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(24, V, generator=generator)
    projection[0, :20] += 9
    projection[0, 20:30] -= 9
    w = torch.eye(24)[:2] + 0.05 * torch.randn(2, 24, generator=generator)
    vocabulary = Vocabulary(projection, torch.ones(V), WORDS)
    return decompose(w, vocabulary, n_channels=2, threshold=4.0, progress=False)


@pytest.fixture(scope="module")
def windows():
    """Random text: 200 windows of 52 tokens, two a document."""
    tokens = torch.randint(0, V, (200, 52), generator=torch.Generator().manual_seed(1))
    return Windows(tokens, torch.arange(200) // 2, ("",) * 100)


def noise(windows, n=1):
    generator = torch.Generator().manual_seed(2)
    return 0.1 * torch.randn(len(windows.current), n, generator=generator)


def test_describe_takes_supported_channels_only(channels):
    q = torch.tensor([[0.01, 0.9], [0.9, 0.9]])
    calibrated = dataclasses.replace(channels, p_value=q, q_value=q)
    first, second = describe(calibrated)
    assert set(first.ids) <= set(range(20))
    assert len(first.ids) > 10
    assert first.weights[0] == max(first.weights) == 1
    assert second.ids == ()
    assert str(second) == ""
    assert all(d.ids for d in describe(calibrated, level=1))
    assert first.first(3).ids == first.ids[:3]


def test_describe_without_a_null_wants_support(channels):
    first, _ = describe(channels)
    assert len(set(first.ids) & set(range(20))) > 10
    with pytest.raises(ValueError, match="polarity"):
        describe(channels, polarity="both")


def test_projection_keeps_the_polarities_apart(channels):
    w, vocabulary = torch.eye(24)[:1], channels.vocabulary
    assert set(from_projection(w, vocabulary)[0].first(15).ids) <= set(range(20))
    negative = from_projection(w, vocabulary, polarity="negative")[0]
    assert set(negative.first(8).ids) <= set(range(20, 30))


def test_rotations_give_as_many_tokens_and_only_what_their_cosine_gives(channels):
    real, rotated = describe(channels, level=1), from_rotations(channels)
    for a, b in zip(real, rotated, strict=True):
        assert abs(len(a.ids) - len(b.ids)) <= channels.n_channels  # tokens of both count once
        assert b.ids
    orthogonal = channels.weight_vectors.roll(1, dims=1)[:, None].expand_as(channels.vectors)
    away = dataclasses.replace(channels, vectors=orthogonal)
    shared = set(from_rotations(away)[0].ids) & set(range(20))
    assert len(shared) < 5, "at cosine 0 nothing is left of w"


def test_products_have_the_polarities_with_which_a_gated_neuron_fires():
    """By brute force: of all signs of g.x and u.x, which give the largest and smallest a."""
    silu = torch.nn.SiLU()
    products = torch.tensor([[g, u] for g in (-3.0, 3.0) for u in (-3.0, 3.0)])
    a = silu(products[:, 0]) * products[:, 1]
    for polarity, at in (("positive", a.argmax()), ("negative", a.argmin())):
        for kind, value in zip(("gate", "in"), products[at], strict=True):
            assert product_polarity(kind, polarity) == ("positive" if value > 0 else "negative")
    assert product_polarity("out", "negative") == "negative"
    with pytest.raises(ValueError, match="polarity"):
        product_polarity("gate", "both")


def test_methods_read_gate_by_one_polarity_and_in_by_the_activations(channels):
    gate = channels
    in_ = dataclasses.replace(channels, weight_vectors=channels.weight_vectors)
    out = torch.eye(24)[:2]
    for polarity, wanted in (("positive", range(20)), ("negative", range(20, 30))):
        pair = {"gate": gate, "in": in_}
        by_method = from_weights(pair, pair, out, polarity=polarity)
        assert set(by_method["projection, gate"][0].first(8).ids) <= set(range(20))
        assert set(by_method["projection, in"][0].first(8).ids) <= set(wanted)
        assert set(by_method["projection, out"][0].first(8).ids) <= set(wanted)
        assert by_method["another neuron"] == by_method["channels"][::-1]
        assert all(len(lists) == 2 for lists in by_method.values())
        assert all(len(d.ids) <= BUDGET for lists in by_method.values() for d in lists)


def test_rotations_of_one_layer_are_not_those_of_another(channels):
    """A second draw from the same seed is the same draw: its errors do not average out."""
    rotated = []
    for layer in (3, 3, 4):
        of_layer = {"in": dataclasses.replace(channels, layer=layer)}
        by_method = from_weights(of_layer, of_layer, torch.eye(24)[:2], polarity="positive")
        rotated.append(by_method["matched rotation"])
    assert rotated[0] == rotated[1]
    assert rotated[0] != rotated[2]


def test_the_best_projection_and_maxact_share_one_budget_in_turns():
    """The token 0 is where the neuron fires: the projection of `in` is chosen, then joined."""
    from rotate_core.experiments.descriptions.trials import HeldOut, Trial

    def words(*ids):
        return [Description(ids, tuple(1 - i / 10 for i in range(len(ids))), ("x",) * len(ids))]

    token = torch.tensor([0] * 10 + [1] * 10)
    label = torch.tensor([1] * 10 + [0] * 10)
    judged = Trial(torch.arange(20), label, label.float(), token, token)
    kernels = Kernels(torch.arange(20), torch.zeros(20, 1))
    methods = {
        "projection, gate": words(5, 6, 7),
        "projection, in": words(0, 2, 3),
        "projection, out": words(1, 2),
        "MaxAct": words(9, 2, 8),
    }
    trials = [HeldOut(judged, judged)]
    chosen = chosen_by_validation(methods, trials, kernels)
    assert chosen["projection, best"] == methods["projection, in"]
    assert chosen["MaxAct+VocabProj"][0].ids == (9, 0, 2, 8, 3)
    methods["MaxAct"] = words(9, 2, 8, *range(100, 200))
    joined = chosen_by_validation(methods, trials, kernels)["MaxAct+VocabProj"][0]
    assert joined.ids[:6] == (9, 0, 2, 8, 3, 100)
    assert len(joined.ids) == BUDGET
    assert "MaxAct+VocabProj" in {name for names in GROUPS.values() for name in names}


def test_merging_takes_turns():
    a = Description((1, 2), (1.0, 0.5), ("a", "b"))
    b = Description((3, 2), (1.0, 0.9), ("c", "b"))
    assert merge([a], [b])[0].ids == (1, 3, 2)


def test_a_text_has_the_activations_of_the_running_model():
    model, seen = tiny("llama"), []
    mlp = mlp_of(model, 1)
    mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    model(TOKENS)
    windows = Windows(TOKENS, torch.arange(2), ("",) * 2)
    kinds = {
        kind: SimpleNamespace(weight_vectors=rows.weight[:3].detach())
        for kind, rows in (("gate", mlp.gate_proj), ("in", mlp.up_proj))
    }
    text = read_texts(model, {"train": windows}, {1: kinds})[1]["train"]
    torch.testing.assert_close(text.activation, windows.counted(seen[0][..., :3]))
    products = text.activation / torch.nn.functional.silu(text.gate)
    plain = read_texts(model, {"train": windows}, {1: {"in": kinds["in"]}})[1]["train"]
    assert plain.gate is None
    torch.testing.assert_close(plain.activation, torch.nn.functional.silu(products))


@pytest.mark.parametrize(("polarity", "wanted"), [("positive", range(5)), ("negative", {7, 8})])
def test_activations_give_the_tokens_that_fire(windows, polarity, wanted):
    a = noise(windows)
    a[windows.current < 5] += 5
    a[(windows.current == 7) | (windows.current == 8)] -= 5
    description = from_activations(Text(windows, a), WORDS, polarity=polarity)[0]
    assert set(description.ids) == set(wanted)


def test_exemplars_are_one_a_document_the_strongest_first():
    a = torch.tensor([[1.0, 9.0], [8.0, 0.0], [3.0, 0.0], [7.0, 2.0]])
    assert exemplars(a, torch.tensor([0, 0, 1, 2]), 2).tolist() == [0, 3]
    assert exemplars(a, torch.tensor([0, 0, 1, 2]), 9).tolist() == [0, 3, 2]


def test_exemplar_texts_mark_where_the_neuron_fires(windows):
    a = noise(windows)
    a[windows.current == 3] += 5
    texts = exemplar_texts(Text(windows, a), WORDS, n=4, around=2)[0]
    assert len(texts) == 4
    assert all("« Word3»" in text for text in texts)
    assert all(text.count(" Word") <= 5 for text in texts)


@pytest.mark.parametrize("after", [False, True])
def test_optimised_looks_back_where_the_neuron_fires_after_a_token(windows, after):
    from rotate_core.experiments.descriptions.trials import auroc, draw_trial

    token = windows.previous if after else windows.current
    a = noise(windows)
    a[token < 5] += 5
    kernels = Kernels(torch.arange(V), torch.zeros(V, 1))
    trial = draw_trial(a[:, 0], windows.current, windows.previous, 1.0)

    def score(description):
        predicted = kernels.predict(description, trial.token, trial.previous, "exact")
        return auroc(predicted, trial.label)

    text = Text(windows, a)
    best = optimised(text, WORDS, [score], n_subsets=10)[0]
    assert any(best.back) == after
    plain = from_activations(text, WORDS)[0]
    assert score(best) > 0.9
    assert (score(plain) < 0.75) == after
    if after:
        assert "…" in str(best)


def test_neurons_and_polarities_that_are_alike_do_not_share_the_sets_of_exemplars(windows):
    """Where the exemplars are the same, one seed for all would try the same sets of them."""
    a = noise(windows)
    a[windows.current < 40] += torch.rand(int((windows.current < 40).sum()), 1) + 1
    tried = {key: [] for key in ("positive", "again", "negative", "neighbour")}

    def run(activation, keys, polarity="positive"):
        def keep(key, description):
            tried[key].append(description.ids)
            return 0.0

        scores = [partial(keep, key) for key in keys]
        optimised(Text(windows, activation), WORDS, scores, polarity=polarity, n_subsets=3)

    run(a, ["positive"])
    run(a.repeat(1, 2), ["again", "neighbour"])
    run(-a, ["negative"], polarity="negative")
    assert tried["positive"] == tried["again"]
    assert tried["positive"] != tried["negative"]
    assert tried["positive"] != tried["neighbour"]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_token_change_is_that_of_a_clamped_model_that_is_run_again(family):
    model = tiny(family)
    mlp = mlp_of(model, 0)
    down = mlp.down_proj if family == "llama" else mlp.c_proj
    weight = down.weight.T if family == "llama" else down.weight  # (d_mlp, d_model)
    neurons = [3, D_MLP - 1]
    target = torch.tensor([4.0, -2.0])
    seen = []

    def look(_, args):
        seen.append(args[0][0, -1, neurons])

    def run(row):
        with torch.no_grad():
            return model(row[None]).logits[0, -1]

    expected = torch.zeros(2, D_VOCAB)
    for row in TOKENS:
        handle = down.register_forward_pre_hook(look)
        before = run(row)
        handle.remove()
        for k, neuron in enumerate(neurons):

            def clamp(_, args, neuron=neuron, k=k):
                x = args[0].clone()
                x[:, -1, neuron] = target[k]
                return (x,)

            handle = down.register_forward_pre_hook(clamp)
            expected[k] += (run(row) - before) / len(TOKENS)
            handle.remove()
    change = token_change(model, 0, TOKENS, torch.stack(seen), target, weight[neurons].detach())
    torch.testing.assert_close(change, expected, atol=1e-4, rtol=1e-3)


def test_clamping_names_the_tokens_that_a_neuron_promotes_in_each_polarity():
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight[:3] += 6 * torch.eye(16)[0]
        model.lm_head.weight[3:6] -= 6 * torch.eye(16)[0]
    windows = Windows(TOKENS.repeat(1, 2), torch.arange(2), ("",) * 2)
    a = torch.linspace(-2, 2, 2 * 10)[:, None]
    words = [str(i) for i in range(D_VOCAB)]
    vocabulary = Vocabulary(model.lm_head.weight.detach().T, torch.ones(D_VOCAB), words)
    clamped = from_clamping(
        model, 1, Text(windows, a), 3 * torch.eye(16)[:1], vocabulary, n_contexts=2, length=6
    )
    assert set(clamped["positive"][0].first(3).ids) == {0, 1, 2}
    assert set(clamped["negative"][0].first(3).ids) == {3, 4, 5}
