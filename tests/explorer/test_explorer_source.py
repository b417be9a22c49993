"""What the explorer shows is made as its atlas is: settings, side, folding; and what q is over.

Each neuron of the tiny model has 32 dimensions and 300 tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control
from test_explorer import ask

from rotate_core import PAPER, Atlas, Settings, decompose
from rotate_core.explorer.describe import decode
from rotate_core.explorer.source import unlike_defaults
from rotate_core.null.calibration import p_values, q_values
from rotate_core.null.evidence import statistics
from rotate_core.null.matched import matched_vectors, own_seed

pytest.importorskip("anywidget")

GROUP = {"layers": [1], "kinds": ["in"], "neurons": [2, 4, 9], "n_channels": 3, "null": 7}
OURS = Settings(threshold=2.5)
unconverged = pytest.mark.filterwarnings("ignore::rotate_core.decomposition.ConvergenceWarning")
QUICK_PAPER = dataclasses.replace(PAPER, threshold=2.5, max_iter=200)


@pytest.fixture(scope="module")
def atlases(model, tmp_path_factory):
    """A function that gives the atlas of some settings, made once."""
    made: dict[Any, Atlas] = {}

    def get(settings: Settings = OURS, **options: Any) -> Atlas:
        key = (settings, *options.items())
        if key not in made:
            folder = tmp_path_factory.mktemp("atlas")
            everything = GROUP | options
            made[key] = Atlas.build(folder, model, settings=settings, progress=False, **everything)
        return made[key]

    return get


@pytest.fixture
def live(explorer):
    """A function that makes an explorer whose answers :func:`ask` can wait for."""

    def make(model: Any, atlas: Atlas | None = None, **options: Any) -> Any:
        widget = type(explorer)(model, atlas, neurons=[(1, "in", 2)], **options)
        widget.sent, widget.came = explorer.sent, explorer.came
        widget._jobs = explorer._jobs
        return widget

    return make


def vectors(neuron: dict[str, Any]) -> torch.Tensor:
    return torch.stack([decode(channel["vector"]) for channel in neuron["channels"]])


def by_hand(model, settings, index=2, n=2, **vocabulary):
    """A neuron decomposed without the explorer."""
    fold = vocabulary.get("fold_norm", False)
    neuron = model.neurons(1, "in", [index], fold_norm=fold)
    u = model.vocabulary(1, **vocabulary)
    return decompose(neuron, u, n_channels=n, settings=settings, progress=False)


# --- Settings -----------------------------------------------------------------------------------


def test_settings_without_a_slider_reach_the_solver(model, live):
    settings = Settings(threshold=2.5, restarts=3, skewness_threshold=1.0)
    asked = dataclasses.replace(settings, lambda_fidelity=0.5)
    thrice, once = (
        decompose(
            model.neurons(1, "in"),
            model.vocabulary(1),
            n_channels=2,
            settings=dataclasses.replace(asked, restarts=restarts),
            progress=False,
        ).vectors
        for restarts in (3, 1)
    )
    cosine = torch.cosine_similarity(thrice[:, 0], once[:, 0], dim=1)
    index = int(cosine.argmin())
    assert cosine[index] < 0.9, "three starts end where one does: nothing is tested"

    widget = live(model, settings=settings, n_channels=2)
    sliders = widget.content["settings"] | {"lambda_fidelity": 0.5}
    answer = ask(widget, "decompose", layer=1, kind="in", index=index, settings=sliders)["neuron"]
    assert torch.cosine_similarity(vectors(answer), thrice[index], dim=1).min() > 0.999
    assert "restarts=3" in answer["source"]
    assert widget.content["python"]["decompose"] == {"skewness_threshold": 1.0, "restarts": 3}


def test_an_atlas_of_other_settings_is_not_shown_as_if_it_were_alike(model, atlases, live):
    settings = Settings(threshold=3)
    widget = live(model, atlases(), settings=settings, n_channels=2)
    (embedded,) = widget.content["neurons"]
    stored = ask(widget, "stored", layer=1, kind="in", index=2)["neuron"]
    for neuron in (embedded, stored):
        torch.testing.assert_close(vectors(neuron), by_hand(model, settings).vectors[0])
        assert neuron["made"]["threshold"] == widget.content["settings"]["threshold"] == 3
        assert [channel["q"] for channel in neuron["channels"]] == [None, None]
        assert "the atlas was made otherwise (threshold: 2.5 -> 3.0)" in neuron["source"]
    answer = ask(widget, "search", token="the", layer=1, kind="in", index=2)
    assert all(hit["channel"] is None for hit in answer["hits"]), "channels of the atlas"


def test_channels_say_what_the_sliders_would_for_them(model, atlases, live):
    widget = live(model, atlases(), n_channels=2)
    (neuron,) = widget.content["neurons"]
    assert neuron["made"] == widget.content["settings"]
    moved = neuron["made"] | {"threshold": 3.5, "n_channels": 1}
    answer = ask(widget, "decompose", layer=1, kind="in", index=2, settings=moved)["neuron"]
    assert answer["made"] == moved
    assert answer["channels"][0]["p"] is None, "the null has other settings"


def test_more_channels_than_the_atlas_has_are_made_like_it(model, atlases, live):
    widget = live(model, atlases(), n_channels=4)
    (neuron,) = widget.content["neurons"]
    assert len(neuron["channels"]) == 4
    held = atlases().channels(layer=1, kind="in", neuron=2)
    q = [channel["q"] for channel in neuron["channels"]]
    assert q[:3] == pytest.approx(held.q_value[0].tolist(), rel=1e-3)
    assert q[3] is None


@unconverged
def test_a_channel_is_switched_off_without_solving_again(model, atlases, live, monkeypatch):
    widget = live(model, atlases(QUICK_PAPER), n_channels=2)
    neuron = {"layer": 1, "kind": "in", "index": 2}

    def solved(*_: Any, **__: Any) -> None:
        raise AssertionError("AdamW was called")

    monkeypatch.setattr("rotate_core.rotation.reflection.solve", solved)
    shown = ask(widget, "stored", **neuron)["neuron"]
    request = {
        "text": "The cat",
        "channel": 1,
        "vectors": [channel["vector"] for channel in shown["channels"]],
        "settings": widget.content["settings"],
    }
    answer = ask(widget, "prompt", **neuron, **request)
    assert answer["type"] == "result", answer.get("text")
    assert answer["after"] != pytest.approx(answer["before"])


@unconverged
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, ""),
        ({"restarts": 3}, "restarts=3"),
        ({"start": "weight"}, "start='weight'"),
        ({"solver": "householder", "max_iter": 100}, "solver='householder'"),
    ],
)
def test_a_browser_is_not_asked_for_what_its_solver_cannot_do(model, live, change, word):
    file = {"path": "u.bin", "bytes": 1, "checksum": "", "vocabulary": "unembedding"}
    settings = Settings(threshold=2.5, **change)
    content = live(model, settings=settings, n_channels=1, file=file).content
    assert word in content["refusal"]
    assert content["file"] == (None if word else file)


def test_what_follows_from_the_sliders_is_no_setting_of_its_own():
    chosen = Settings(solver="householder", threshold=6, moments="scaled")
    assert list(unlike_defaults(chosen)) == ["solver", "moments", "threshold"]
    assert unlike_defaults(dataclasses.replace(chosen, restarts=3))["restarts"] == 3
    assert unlike_defaults(Settings()) == {}


# --- Side and folding ---------------------------------------------------------------------------


def test_what_a_folded_atlas_lacks_is_decomposed_folded(model, atlases, live):
    folded = atlases(fold_norm=True, side="unembedding", seed=3)
    widget = live(model, folded, n_channels=2)
    (neuron,) = widget.content["neurons"]
    w = model.neurons(1, "in", [2], fold_norm=True).vectors[0]
    torch.testing.assert_close(decode(neuron["w"]), w)
    lacking = ask(widget, "stored", layer=1, kind="in", index=5)["neuron"]
    wanted = by_hand(
        model, folded.manifest.settings, index=5, side="unembedding", fold_norm=True
    ).vectors[0]
    torch.testing.assert_close(vectors(lacking), wanted)
    assert neuron["vocabulary"] == lacking["vocabulary"] == "unembedding, norm folded in"
    assert "fold_norm=True" in lacking["source"]
    assert widget.content["python"]["vocabulary"] == {"side": "unembedding", "fold_norm": True}


def test_a_search_in_a_layer_is_folded_where_the_atlas_is(model, atlases, live):
    widget = live(model, atlases(fold_norm=True), settings=Settings(threshold=3), n_channels=1)
    best = ask(widget, "search", token="the", layer=1, kind="in", index=2)["hits"][0]
    vocabulary = model.vocabulary(1, fold_norm=True)
    logits = model.neurons(1, "in", fold_norm=True).vectors @ vocabulary.projection
    z = (logits - logits.mean(1, keepdim=True)) / logits.std(1, unbiased=False, keepdim=True)
    token = vocabulary.tokens.index(best["token"])
    assert best["z"] == pytest.approx(float(z[best["index"], token]), rel=1e-3)


@pytest.mark.parametrize("kind", ["gate", "in"])
def test_a_folded_channel_is_switched_off_in_the_raw_weights(model, atlases, live, kind):
    """A neuron that is one channel loses all that it reads: gate and in make its activation 0."""
    widget = live(model, atlases(fold_norm=True, kinds=("gate", "in")), n_channels=1)
    whole = ask(widget, "stored", layer=1, kind=kind, index=2)["neuron"]["w"]
    answer = ask(
        widget, "prompt", text="The cat", layer=1, kind=kind, index=2, channel=0, vectors=[whole]
    )
    assert np.abs(answer["before"]).max() > 1e-4
    assert answer["after"] == pytest.approx([0] * len(answer["before"]), abs=1e-6)


def test_an_atlas_of_another_model_is_refused(make_checkpoint, atlases):
    from rotate_core import Explorer, load_model

    other = load_model(make_checkpoint("llama", num_hidden_layers=2))
    with pytest.raises(ValueError, match="the atlas is of tiny-llama with checksum"):
        Explorer(other, atlases())


# --- q-values -----------------------------------------------------------------------------------


def test_a_stored_neuron_has_its_stored_q_value(model, atlases, live):
    (neuron,) = live(model, atlases(), n_channels=2).content["neurons"]
    held = atlases().channels(layer=1, kind="in", neuron=2)
    q = [channel["q"] for channel in neuron["channels"]]
    assert q == pytest.approx(held.q_value[0, :2].tolist(), rel=1e-3)
    assert "q over 3 neurons, p against 7 matched vectors" in neuron["source"]


def test_another_neuron_gets_its_q_value_among_the_atlas(model, atlases, live):
    from rotate_core import Explorer

    atlas = atlases()
    alone = Explorer(model, atlas, neurons=[(1, "in", 5)], n_channels=2).content["neurons"][0]
    many = [(1, "in", index) for index in (5, 6, 7, 2)]
    among = Explorer(model, atlas, neurons=many, n_channels=2).content["neurons"][0]
    asked = ask(live(model, atlas, n_channels=2), "stored", layer=1, kind="in", index=5)["neuron"]

    ours = by_hand(model, atlas.manifest.settings, index=5)
    drawn = matched_vectors(model.neurons(1, "in").vectors, 7, seed=own_seed(0, 1, "in"))
    null = decompose(
        drawn, model.vocabulary(1), n_channels=2, settings=ours.settings, progress=False
    )
    p = p_values(*(statistics(channels, ("core",))["core"] for channels in (ours, null)))
    others = atlas.channels(layer=1, kind="in").p_value[:, :2]
    wanted = false_discovery_control(torch.cat([p, others]).numpy(), axis=0)[0]
    for neuron in (alone, among, asked):
        assert [c["p"] for c in neuron["channels"]] == pytest.approx(p[0].tolist(), rel=1e-3)
        assert [c["q"] for c in neuron["channels"]] == pytest.approx(wanted, rel=1e-3)
        assert "with this one added" in neuron["source"]


def test_one_small_p_value_among_many_is_no_small_q_value():
    others = torch.linspace(0.1, 1, 9, dtype=torch.float64).unsqueeze(1)
    p = torch.tensor([[0.01]]).double()
    assert q_values(p, others).tolist() == [pytest.approx([0.1])]
    assert q_values(p, others[:0]).tolist() == [pytest.approx([0.01])]


def test_a_group_that_the_atlas_lacks_has_p_values_only(model, atlases):
    from rotate_core import Explorer

    choices = [(0, "in", 1), (1, "in", 2)]
    lacking, held = Explorer(model, atlases(), neurons=choices, n_channels=2, null=5).content[
        "neurons"
    ]
    assert (lacking["nNull"], held["nNull"]) == (5, 7)
    assert all(c["q"] is None and c["p"] is not None for c in lacking["channels"])
    assert all(c["q"] is not None for c in held["channels"])
