"""The explorer's Python half: what it embeds, what it answers, how it stops."""

from __future__ import annotations

import base64
import json
import threading

import numpy as np
import pytest
import torch

from rotate_core.explorer import book
from rotate_core.explorer.describe import encode, histogram
from rotate_core.explorer.jobs import Cancelled, Jobs

anywidget = pytest.importorskip("anywidget")


def ask(explorer, what, /, **content):
    """Send a request and wait for its result."""
    content.setdefault("id", what)
    explorer._receive(None, {"type": what, **content}, None)

    def answers():
        return [m for m in explorer.sent if m["id"] == content["id"] and m["type"] != "progress"]

    with explorer.came:
        assert explorer.came.wait_for(answers, timeout=60)
    return answers()[0]


SETTINGS = {
    "lambda_kurtosis": 0.3,
    "lambda_fidelity": 1.0,
    "threshold": 2.5,
    "solver": "geodesic",
    "moments": "weighted",
    "n_channels": 2,
}


def test_all_that_a_page_needs_is_embedded_as_json(explorer, model):
    content = json.loads(json.dumps(explorer.content, allow_nan=False))
    assert content["info"]["model"] == model.name
    assert content["settings"]["n_channels"] == 2
    first, second = content["neurons"]
    assert (first["layer"], first["kind"], first["index"]) == (1, "out", 3)
    assert (second["layer"], second["kind"], second["index"]) == (0, "gate", 5)
    w = np.frombuffer(base64.b64decode(first["w"]), "<f4")
    np.testing.assert_array_equal(w, model.neurons(1, "out", [3]).vectors[0].numpy())
    assert len(first["channels"]) == 2
    for name in ("histogram", "positive", "negative", "kurtosis"):
        assert first[name]
    assert sum(first["histogram"]["counts"]) == model.d_vocab


def test_no_neuron_named_shows_one_of_the_middle(model):
    from rotate_core import Explorer

    (neuron,) = Explorer(model, n_channels=1).content["neurons"]
    assert (neuron["layer"], neuron["kind"], neuron["index"]) == (1, "out", 0)


def test_without_an_atlas_there_are_p_values_and_no_q_values(model):
    from rotate_core import Explorer

    (neuron,) = Explorer(model, neurons=[(1, "in", 2)], n_channels=2, null=5).content["neurons"]
    assert all(0 < channel["p"] <= 1 for channel in neuron["channels"])
    assert [channel["q"] for channel in neuron["channels"]] == [None, None]
    assert neuron["nNull"] == 5
    assert "no q-value: nothing to adjust over" in neuron["source"]


def test_a_neuron_that_there_is_not_is_named(model):
    from rotate_core import Explorer

    with pytest.raises(IndexError, match="no neuron 999"):
        Explorer(model, neurons=[(1, "out", 999)])


def test_hello_is_answered(explorer):
    assert ask(explorer, "hello") == {"type": "result", "id": "hello"}


def test_any_neuron_is_rotated_with_any_settings(explorer):
    neuron = {"layer": 2, "kind": "in", "index": 7}
    stored = ask(explorer, "stored", **neuron)["neuron"]
    assert (stored["index"], len(stored["channels"])) == (7, 2)
    answer = ask(explorer, "decompose", **neuron, settings=SETTINGS | {"n_channels": 3})
    assert len(answer["neuron"]["channels"]) == 3
    assert [m["fraction"] for m in explorer.sent if m["id"] == "decompose" and "fraction" in m][
        -1
    ] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_channels": 1000}, "n_channels=1000"),
        ({"threshold": -1}, "threshold=-1"),
        ({"solver": "magic"}, "solver='magic'"),
        ({"limit": 4}, "unknown setting 'limit'"),
    ],
)
def test_bad_settings_are_answered_in_one_sentence(explorer, change, message):
    answer = ask(explorer, "decompose", layer=1, kind="out", index=3, settings=SETTINGS | change)
    assert answer["type"] == "error"
    assert message in answer["text"]


def test_a_layer_that_there_is_not_is_answered_in_one_sentence(explorer):
    answer = ask(explorer, "stored", layer=99, kind="out", index=0)
    assert answer["type"] == "error"
    assert "layer is 99" in answer["text"]


def test_a_search_ranks_the_layers_neurons_by_their_own_z_score(explorer, model):
    answer = ask(explorer, "search", token="THE", layer=1, kind="out", index=0)
    best = answer["hits"][0]
    vocabulary = model.vocabulary(1)
    logits = model.neurons(1, "out").vectors @ vocabulary.projection
    z = (logits - logits.mean(1, keepdim=True)) / logits.std(1, unbiased=False, keepdim=True)
    i = vocabulary.tokens.index(best["token"])
    assert best["z"] == pytest.approx(float(z[best["index"], i]), rel=1e-3)
    assert (
        "no token"
        in ask(explorer, "search", token="zzzz", layer=1, kind="out", index=0, id="2")["text"]
    )


def test_a_text_is_run_with_and_without_a_channel(explorer, model):
    neuron = {"layer": 1, "kind": "gate", "index": 3}
    plain = ask(explorer, "prompt", text="The cat", **neuron)
    assert plain["after"] is None
    assert "".join(plain["tokens"]) == "The cat"
    assert len(plain["before"]) == len(plain["tokens"])
    likeliest = [row["before"] for row in plain["next"]]
    assert len(likeliest) == 10
    assert likeliest == sorted(likeliest, reverse=True)
    channels = ask(explorer, "decompose", **neuron, settings=SETTINGS)["neuron"]["channels"]
    vectors = [channel["vector"] for channel in channels]
    off = ask(explorer, "prompt", text="The cat", channel=0, vectors=vectors, **neuron, id="2")
    assert off["before"] == pytest.approx(plain["before"])
    assert off["after"] != pytest.approx(off["before"])
    assert any(row["before"] != row["after"] for row in off["next"])
    again = ask(explorer, "prompt", text="The cat", **neuron, id="3")
    assert again["before"] == plain["before"]  # the weights were put back


@pytest.mark.parametrize(
    ("vectors", "message"),
    [([], "vectors of 0"), ([torch.ones(3)], "wanted 32"), ([torch.full((32,), torch.nan)], "32")],
)
def test_a_channel_that_is_not_there_is_answered_in_one_sentence(explorer, vectors, message):
    neuron = {"layer": 1, "kind": "gate", "index": 3, "text": "The cat", "channel": 0}
    answer = ask(explorer, "prompt", **neuron, vectors=[encode(vector) for vector in vectors])
    assert answer["type"] == "error"
    assert message in answer["text"]


def test_the_newest_job_wins_and_a_stopped_one_is_silent():
    sent, begun, go_on = [], threading.Event(), threading.Event()
    done = threading.Event()
    jobs = Jobs(sent.append)

    def slow(job):
        begun.set()
        go_on.wait()
        job.progress(0.5)
        raise AssertionError("progress should have stopped this")

    first = jobs.start("first", slow)
    begun.wait()
    second = jobs.start("second", lambda job: {"value": 1})
    go_on.set()
    second.wait()
    assert sent == [{"type": "result", "value": 1, "id": "second"}]
    with pytest.raises(Cancelled):
        first.progress(1)
    jobs.start("third", lambda job: done.set() or {}).wait()
    jobs.cancel("nobody")
    assert done.is_set()


def test_a_failure_is_one_sentence():
    sent = []
    Jobs(sent.append).start("x", lambda job: {}["missing"]).wait()
    assert sent == [{"type": "error", "text": "Python failed: KeyError: 'missing'", "id": "x"}]


def test_the_books_files_are_described(model, tmp_path, monkeypatch):
    assert book.served_file(model, tmp_path) is None
    monkeypatch.setattr(book, "MOST_BYTES", 100)
    book.write_files(model, tmp_path)
    assert book.served_file(model, tmp_path) is None, "too large"
    monkeypatch.undo()
    book.write_files(model, tmp_path)
    file = book.served_file(model, tmp_path)
    assert file["path"] == f"_static/explorer/{model.name}.bin"
    assert file["bytes"] == (tmp_path / f"{model.name}.bin").stat().st_size
    assert file["vocabulary"] == model.vocabulary(2).name


def test_a_page_without_jupyter_is_one_safe_script(explorer, tmp_path):
    explorer.content = explorer.content | {"neurons": [{"note": "</script><b>\u2028"}]}
    explorer.save(tmp_path / "explorer.js")
    script = (tmp_path / "explorer.js").read_text()
    assert script.isascii()
    assert "<" not in script
    data, _ = explorer._repr_mimebundle_()
    assert "<" not in data["text/html"].removeprefix("<script>").removesuffix("</script>")
    assert "application/vnd.jupyter.widget-view+json" in data


def test_histograms_count_every_token():
    counted = histogram(torch.tensor([-1.0, 0.2, 0.3, 0.6]))
    assert counted == {"from": -1.0, "step": 0.5, "counts": [1, 0, 2, 1]}


def test_vectors_are_little_endian_float32():
    assert base64.b64decode(encode(torch.tensor([1.5, -2]))) == np.array([1.5, -2], "<f4").tobytes()
