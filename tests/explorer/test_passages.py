"""Passages of a toy neuron whose activation without a channel is known in closed form."""

import base64
import dataclasses
import json

import numpy as np
import pytest
import torch

from rotate_core import Explorer, Vocabulary, decompose
from rotate_core.experiments.input_ablation import ReadingNeurons
from rotate_core.explorer.passages import LENGTH, N_PASSAGES, passages
from rotate_core.text import activations
from rotate_core.text.corpus import Windows

D, V, N_WINDOWS, WINDOW = 8, 60, 30, 40
N_DOCUMENTS = 15
E = torch.eye(D)
READ = 3 * E[0] + 4 * E[1]  # its channels are E[0] and E[1], so what each holds is known


@pytest.fixture(scope="module")
def channels():
    """Two orthogonal channels that make up an in vector."""
    projection = torch.randn(D, V, generator=torch.Generator().manual_seed(0))
    found = decompose(READ[None], Vocabulary(projection), n_channels=2, progress=False)
    vectors = 5 * E[:2].unsqueeze(0)
    return dataclasses.replace(found, vectors=vectors, layer=0, kind="in", indices=(7,))


@pytest.fixture(scope="module")
def neuron():
    """a = x_2 (3 x_0 + 4 x_1) on two windows of each document."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, V, (N_WINDOWS, WINDOW), generator=generator)
    document = torch.arange(N_WINDOWS) // (N_WINDOWS // N_DOCUMENTS)
    titles = tuple(f"document {i}" for i in range(N_DOCUMENTS))
    x = torch.randn(N_WINDOWS * (WINDOW - 2), D, generator=generator)
    windows = Windows(tokens, document, titles, source="toy")
    return ReadingNeurons(windows, x, {"gate": E[2:3], "in": READ[None]}, torch.nn.Identity())


def whole(text):
    return np.frombuffer(base64.b64decode(text), "<i2").reshape(-1, LENGTH)


def rows(neuron, told):
    """The positions of the passages, found again by their tokens."""
    counted = neuron.windows.current.unfold(0, LENGTH, 1)
    strings = [[neuron.windows.strings[i] for i in ids] for ids in counted.tolist()]
    starts = torch.tensor([strings.index(passage["tokens"]) for passage in told["passages"]])
    return starts[:, None] + torch.arange(LENGTH)


def test_passages_are_the_extremes_one_of_a_document(channels, neuron):
    told = json.loads(json.dumps(passages(channels, neuron), allow_nan=False))
    assert len(told["passages"]) == N_PASSAGES
    peaks = [row[p["peak"]] for row, p in zip(whole(told["before"]), told["passages"], strict=True)]
    a = neuron.activation().view(N_DOCUMENTS, -1)  # two windows of a document are in a row
    for sign, shown in ((1, peaks[:5]), (-1, peaks[5:])):
        wanted = (sign * a).amax(1).sort(descending=True).values[:5]
        half = 0.51 * told["scale"]  # of a step
        np.testing.assert_allclose(
            np.multiply(shown, sign * told["scale"]), wanted, rtol=1e-6, atol=half
        )
    for side in (told["passages"][:5], told["passages"][5:]):
        assert len({passage["title"] for passage in side}) == 5


def test_activations_without_a_channel_are_those_of_the_closed_form(channels, neuron):
    told = passages(channels, neuron)
    x = neuron.x[rows(neuron, told)].double()
    at = np.arange(N_PASSAGES), [passage["peak"] for passage in told["passages"]]
    before = x[..., 2] * (3 * x[..., 0] + 4 * x[..., 1])
    half = 0.51 * told["scale"]
    np.testing.assert_allclose(whole(told["before"]) * told["scale"], before, rtol=1e-5, atol=half)
    for channel, after in zip(told["channels"], (4 * x[..., 1], 3 * x[..., 0]), strict=True):
        after = x[..., 2] * after
        np.testing.assert_allclose(
            whole(channel["after"]) * told["scale"], after, rtol=1e-5, atol=half
        )
        left = (after[at] * before[at].sign()).sum() / before[at].abs().sum()
        assert channel["left"] == pytest.approx(float(left), rel=1e-3)
    assert sum(channel["left"] for channel in told["channels"]) == pytest.approx(1, abs=1e-3)


def test_a_random_direction_takes_its_share_and_no_more(channels, neuron):
    """At cosines near 1 it is the neuron itself, and nothing is left; at 0 it takes nothing."""
    alone = dataclasses.replace(channels, vectors=READ.view(1, 1, -1))
    (told,) = passages(alone, neuron)["channels"]
    assert (told["left"], told["random"]) == pytest.approx((0, 0), abs=1e-5)
    aside = dataclasses.replace(channels, vectors=5 * E[5].view(1, 1, -1))
    (told,) = passages(aside, neuron)["channels"]
    assert (told["left"], told["random"]) == pytest.approx((1, 1), abs=1e-5)


def test_an_out_vector_writes_less_and_fires_as_before(channels, neuron):
    told = passages(dataclasses.replace(channels, kind="out"), neuron)
    assert told["before"]
    u = channels.vocabulary.projection
    for k, channel in enumerate(told["channels"]):
        assert "after" not in channel
        ids = [channels.vocabulary.tokens.index(token) for token in channel["tokens"]]
        assert ids[0] == channels.top_ids[0, k, 0]
        towards = u[:, ids].mean(1) - u.mean(1)
        parts = (3 * towards[0], 4 * towards[1])
        wanted = [float(sum(parts)), float(parts[1 - k])]
        assert channel["writes"][:2] == pytest.approx(wanted, rel=1e-3)


def test_one_side_alone_has_all_passages(channels, neuron):
    one_sided = dataclasses.replace(neuron, act=torch.nn.ReLU(), vectors={"in": READ[None]})
    told = passages(channels, one_sided)
    assert len(told["passages"]) == N_PASSAGES
    assert whole(told["before"]).min() == 0


def test_a_neuron_that_never_fires_and_a_short_text_say_so(channels, neuron):
    silent = dataclasses.replace(neuron, x=torch.zeros_like(neuron.x))
    told = passages(channels, silent)
    assert (told["passages"], told["channels"]) == ([], [])
    short = neuron.windows
    short = dataclasses.replace(short, tokens=short.tokens[:2, :10], document=short.document[:2])
    told = passages(channels, dataclasses.replace(neuron, windows=short, x=neuron.x[:16]))
    assert told["nArticles"] == 1
    assert {len(passage["tokens"]) for passage in told["passages"]} == {8}
    assert len(told["passages"]) == 2


@pytest.fixture(scope="module")
def inputs(model):
    windows = Windows(torch.arange(4 * 30).view(4, 30), torch.arange(4), tuple("abcd"), source="t")
    return activations(model, windows, layers=[0, 1], site="mlp_in", progress=False)


def test_an_explorer_shows_its_neurons_of_these_layers_on_text(model, inputs):
    neurons = [(0, "gate", 5), (1, "out", 3), (2, "in", 1)]
    content = Explorer(model, neurons=neurons, n_channels=2, inputs=inputs).content
    gate, out, without = (neuron["text"] for neuron in content["neurons"])
    assert without is None, "no inputs of that layer"
    assert len(gate["channels"]) == len(out["channels"]) == 2
    network = model.transformers()
    with torch.no_grad():  # what the model itself multiplies
        mlp = network.model.layers[0].mlp
        x = inputs[0].values
        a = (mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))[:, 5]
    assert gate["scale"] * 32_767 >= float(a.abs().max()) * 0.999


def test_inputs_of_another_site_are_refused(model):
    windows = Windows(torch.arange(30).view(1, 30), torch.zeros(1).long(), ("a",))
    read = activations(model, windows, layers=[0], site="residual", progress=False)
    with pytest.raises(ValueError, match="inputs at residual: wanted mlp_in"):
        Explorer(model, neurons=[(0, "gate", 5)], n_channels=1, inputs=read)
