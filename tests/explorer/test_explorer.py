"""The explorer's Python half: what it embeds, what it answers, how it stops."""

from __future__ import annotations

import base64
import gzip
import json
import threading

import numpy as np
import pytest
import torch

from rotate_core.explorer import book, pack
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


# --- Steering -----------------------------------------------------------------------------------

STEERED = {"layer": 1, "kind": "out", "index": 3, "text": "The cat"}


def written(model):
    return encode(model.neurons(1, "out", [3]).vectors[0])


def test_a_strength_of_0_is_the_model_itself_to_the_bit(explorer, model):
    answer = ask(explorer, "steer", **STEERED, vector=written(model), strength=0)
    assert answer["before"] == answer["after"]
    assert answer["divergence"] == 0
    assert all(row["before"] == row["after"] for row in answer["next"])
    plain = ask(explorer, "prompt", **STEERED)
    assert [row["token"] for row in answer["next"]] == [row["token"] for row in plain["next"]]
    network, tokenizer = explorer._texts._transformers, model.tokenizer
    ids = tokenizer("The cat", return_tensors="pt").input_ids
    for _ in range(12):
        logits = network(ids).logits[0, -1]
        ids = torch.cat([ids, logits.argmax().view(1, 1)], 1)
        if ids[0, -1] == tokenizer.eos_token_id:
            break
    assert answer["before"] == tokenizer.decode(ids[0])[len("The cat") :]


def test_steering_adds_the_direction_at_its_length_to_every_position(explorer, model):
    answer = ask(explorer, "steer", **STEERED, vector=written(model), strength=-0.5)
    network = explorer._texts._transformers
    ids = model.tokenizer("The cat", return_tensors="pt").input_ids
    with torch.no_grad():
        stream = network(ids, output_hidden_states=True).hidden_states[2][0]
        before = network(ids).logits[0, -1].softmax(0)
    vector = model.neurons(1, "out", [3]).vectors[0]
    by = -0.5 * stream.norm(dim=1).median() * vector / vector.norm()
    hook = network.model.layers[1].register_forward_hook(lambda m, a, out: out + by)
    with torch.no_grad():
        after = network(ids).logits[0, -1].softmax(0)
    hook.remove()
    tokens = model.vocabulary(1).tokens
    for row in answer["next"]:
        i = tokens.index(row["token"])
        assert row["before"] == pytest.approx(float(before[i]), rel=1e-4)
        assert row["after"] == pytest.approx(float(after[i]), rel=1e-4)
    kl = (before * (before / after).log()).sum()
    assert answer["divergence"] == pytest.approx(float(kl), rel=1e-3)
    again = ask(explorer, "steer", **STEERED, vector=written(model), strength=0, id="again")
    assert again["after"] == answer["before"]  # nothing is left behind


def test_any_length_of_the_vector_steers_alike(explorer, model):
    vector = 100 * model.neurons(1, "out", [3]).vectors[0]
    one, other = (
        ask(explorer, "steer", **STEERED, vector=text, strength=1, id=str(i))
        for i, text in enumerate((written(model), encode(vector)))
    )
    assert one["divergence"] == pytest.approx(other["divergence"], rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "gate"}, "gate weights read, and write nothing"),
        ({"strength": 1.5}, "strength=1.5: wanted -1.0 to 1.0"),
        ({"strength": "nan"}, "strength=nan"),
        ({"vector": ""}, "vector of shape (0,): wanted 32 finite numbers"),
        ({"vector": encode(torch.zeros(32))}, "not all 0"),
        ({"text": ""}, "the text has no token"),
        ({"layer": 9}, "9"),
    ],
)
def test_what_cannot_be_steered_is_answered_in_one_sentence(explorer, model, change, message):
    request = STEERED | {"vector": written(model), "strength": 0.5} | change
    answer = ask(explorer, "steer", **request)
    assert answer["type"] == "error"
    assert message in answer["text"]


def test_the_newest_strength_wins_in_the_middle_of_a_text(explorer, model, monkeypatch):
    """The first is stopped between two tokens, and its hook is gone when the second begins."""
    texts, begun, go_on = explorer._texts, threading.Event(), threading.Event()
    steps: list[float] = []

    def slow(job):
        progress = job.progress

        def told(fraction):
            steps.append(fraction)
            if fraction and len(steps) > 16:  # steered, some tokens on
                begun.set()
                go_on.wait(60)
            progress(fraction)

        monkeypatch.setattr(job, "progress", told)
        return texts.steer(STEERED | {"vector": written(model), "strength": 1.0}, job)

    explorer._jobs.start("first", slow)
    assert begun.wait(60)
    second = STEERED | {"vector": written(model), "strength": 0, "id": "second"}
    explorer._receive(None, {"type": "steer", **second}, None)
    go_on.set()
    with explorer.came:
        assert explorer.came.wait_for(
            lambda: any(m["id"] == "second" and m["type"] == "result" for m in explorer.sent),
            timeout=60,
        )
    assert not [m for m in explorer.sent if m["id"] == "first" and m["type"] != "progress"]
    assert not any(m._forward_hooks for m in texts._transformers.modules())


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
    packed = gzip.decompress((tmp_path / f"{model.name}.bin").read_bytes())
    assert packed == pack.pack(model.vocabulary(2))


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
