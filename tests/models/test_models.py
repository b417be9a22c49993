"""A name finds a model, a model finds its vocabulary; a wrong name says what was meant."""

from __future__ import annotations

import contextlib
import gc
import json
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import D_MLP, D_MODEL, FAMILIES, N_LAYERS, VOCAB_SIZE, edit_config

from rotate_core import load_model


@pytest.fixture(params=FAMILIES)
def model(request, checkpoints):
    return load_model(checkpoints(request.param))


def test_a_directory_is_a_model(model) -> None:
    assert model.name == model.path.name == f"tiny-{model.model_type}"
    assert (model.n_layers, model.d_model, model.d_mlp) == (N_LAYERS, D_MODEL, D_MLP)
    ungated = model.model_type in ("gpt2", "gpt_neox")
    assert model.kinds == (("in", "out") if ungated else ("gate", "in", "out"))
    assert model.origin == {}


@torch.no_grad()
def test_the_vocabulary_gives_the_models_logits(model) -> None:
    vocabulary = model.vocabulary(N_LAYERS - 1)
    assert vocabulary.projection.dtype == torch.float32
    x = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(2))
    logits = model.transformers().get_output_embeddings()(x)
    torch.testing.assert_close(x @ vocabulary.projection, logits[:, : vocabulary.d_vocab])


@torch.no_grad()
def test_folding_the_norm_gives_the_logits_after_it(model) -> None:
    theirs = model.transformers()
    names = model.checkpoint.architecture
    norm = theirs.get_submodule(names.final_norm.removesuffix(".weight"))
    x = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(2))
    seen = norm(x)
    if getattr(norm, "bias", None) is not None:
        seen = seen - norm.bias
        x = x - x.mean(dim=1, keepdim=True)
    normalised = x / x.pow(2).mean(dim=1, keepdim=True).sqrt()
    vocabulary = model.vocabulary(N_LAYERS - 1, fold_norm=True)
    expected = theirs.get_output_embeddings()(seen)[:, : vocabulary.d_vocab]
    torch.testing.assert_close(normalised @ vocabulary.projection, expected, rtol=1e-3, atol=1e-4)
    assert vocabulary.name == "unembedding, norm folded in"


def test_the_embedding_is_cut_at_the_tokenizer(model) -> None:
    vocabulary = model.vocabulary(0)
    n_tokens = len(model.tokenizer)
    assert n_tokens < VOCAB_SIZE
    assert model.d_vocab == vocabulary.d_vocab == n_tokens
    assert len(vocabulary.tokens) == len(vocabulary.token_weights) == n_tokens
    assert vocabulary.token_weights[0] == vocabulary.token_weights[1] == 0
    assert vocabulary.tokens[:2] == ("<|endoftext|>", "<|reserved_special_token_0|>")


def test_the_tokenizer_is_cut_at_the_embedding(make_checkpoint) -> None:
    vocabulary = load_model(make_checkpoint("llama", vocab_size=200)).vocabulary(0)
    assert vocabulary.d_vocab == len(vocabulary.tokens) == len(vocabulary.token_weights) == 200


def test_early_layers_of_an_untied_model_use_the_embedding(make_checkpoint) -> None:
    model = load_model(make_checkpoint("llama", num_hidden_layers=8))  # the share of 12 in 32 is 3
    assert not model.tied
    assert [model.vocabulary(layer).name for layer in (0, 3, 4, 7)] == [
        "embedding",
        "embedding",
        "unembedding",
        "unembedding",
    ]
    embedding = model.vocabulary(7, side="embedding")
    rows = model.transformers().get_input_embeddings().weight[: embedding.d_vocab]
    assert torch.equal(embedding.projection, rows.T)
    assert not torch.equal(embedding.projection, model.vocabulary(7).projection)
    folded = model.vocabulary(7, side="embedding", fold_norm=True)
    assert torch.equal(embedding.projection, folded.projection)


def test_a_tied_model_has_one_matrix(make_checkpoint, checkpoints) -> None:
    for directory in (checkpoints("gemma2"), make_checkpoint("qwen2", tie_word_embeddings=True)):
        model = load_model(directory)
        assert model.tied
        assert "lm_head.weight" not in model.checkpoint.files
        assert model.vocabulary(0).name == "unembedding"
        embedding = model.vocabulary(0, side="embedding")
        assert torch.equal(embedding.projection, model.vocabulary(0).projection)


def test_an_untied_model_without_its_unembedding_is_named(damaged) -> None:
    tensors = load_file(damaged / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, damaged / "model.safetensors")
    with pytest.raises(ValueError, match=r"no tensor 'lm_head\.weight'"):
        load_model(damaged).vocabulary(2)


def test_a_vocabulary_is_read_once_and_lives_as_long_as_its_model(checkpoints) -> None:
    model = load_model(checkpoints("gemma"))
    vocabulary = model.vocabulary(0)
    assert model.vocabulary(2) is vocabulary
    seen = weakref.ref(vocabulary)
    del vocabulary
    gc.collect()
    assert seen() is not None
    del model
    gc.collect()
    assert seen() is None


def test_bad_vocabularies(checkpoints) -> None:
    model = load_model(checkpoints("llama"))
    with pytest.raises(ValueError, match=r"side is 'both'; choose from \('auto', 'embedding'"):
        model.vocabulary(0, side="both")
    with pytest.raises(IndexError, match="layer is 3; the model has layers 0 to 2"):
        model.vocabulary(3)


def test_a_model_without_a_tokenizer_still_has_neurons(damaged) -> None:
    for file in damaged.glob("tokenizer*"):
        file.unlink()
    model = load_model(damaged)
    assert len(model.neurons(0, "in")) == D_MLP
    with pytest.raises(FileNotFoundError, match=r"tokenizer of .*: transformers cannot load it"):
        model.vocabulary(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "'mixtral' with 8 experts in a layer"),
        ({"model_type": "gemma4_text", "num_experts": 4}, "'gemma4_text' with 4 experts"),
        (
            {"model_type": "gemma4_text", "use_double_wide_mlp": True, "num_kv_shared_layers": 2},
            "its last 2 layers have twice as many neurons",
        ),
    ],
)
def test_a_layer_of_more_than_one_mlp_is_refused_by_name(damaged, changes, message) -> None:
    edit_config(damaged, **changes)
    with pytest.raises(ValueError, match=message):
        load_model(damaged)


def test_the_checksum_tells_weights_apart(make_checkpoint, checkpoints) -> None:
    model = load_model(checkpoints("llama"))
    assert model.checksum == load_model(make_checkpoint("llama")).checksum
    assert model.checksum != load_model(make_checkpoint("llama", dtype=torch.float16)).checksum
    assert len(model.checksum) == 64


def test_a_model_shows_what_it_is(checkpoints) -> None:
    model = load_model(checkpoints("gpt2"))
    assert repr(model) == "Model('tiny-gpt2', gpt2: 3 layers of 48 neurons (in, out), d_model=32)"
    shown = model._repr_html_()
    assert "<td>48 (in, out)</td>" in shown
    assert "<td>tied</td>" in shown


def test_names_are_escaped_where_they_are_shown(damaged) -> None:
    odd = damaged.rename(damaged.with_name("a<b>c"))
    assert "a&lt;b&gt;c" in load_model(odd)._repr_html_()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("smollm2-135", ValueError, r"'smollm2-135'; did you mean 'smollm2-135m'\? known are"),
        ("Gemma3-270M", ValueError, "did you mean 'gemma3-270m'"),
        (
            "zzz",
            ValueError,
            "unknown model 'zzz'; known are 'smollm2-135m', 'gemma3-270m'; or give",
        ),
        ("", ValueError, "unknown model ''"),
        ("./nowhere", FileNotFoundError, "there is no directory nowhere"),
        (Path("org/name"), FileNotFoundError, "there is no directory org/name"),
        ("/no/such/model", FileNotFoundError, "there is no directory /no/such/model"),
        ("nowhere.gguf", FileNotFoundError, "there is no file nowhere.gguf"),
    ],
)
def test_names_of_nothing(tmp_path, monkeypatch, name, error, message) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load_model(name)


def test_a_file_of_weights_is_no_model(checkpoints) -> None:
    with pytest.raises(ValueError, match="is a file; give the directory that holds it"):
        load_model(checkpoints("llama") / "model.safetensors")


def test_a_damaged_checkpoint_is_noticed_when_it_is_loaded(damaged) -> None:
    (damaged / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load_model(damaged)


def test_an_unset_tie_follows_the_family(damaged) -> None:
    edit_config(damaged, tie_word_embeddings=None)
    assert not load_model(damaged).tied
    edit_config(damaged, model_type="gemma")
    assert load_model(damaged).tied


@pytest.mark.real_model
def test_smollm2_is_itself() -> None:
    model = load_model("smollm2-135m")
    assert (model.n_layers, model.d_mlp, model.d_model, model.d_vocab) == (30, 1536, 576, 49152)
    assert model.origin["quantization"] == {
        "embedding": {"Q8_0": 8.5},
        "gate": {"Q4_1": 5.0},
        "in": {"Q4_1": 5.0},
        "out": {"Q4_1": 5.0},
    }
    vocabulary = model.vocabulary(25)
    assert repr(vocabulary).endswith("17 tokens excluded, 491 with reduced weight)")
    for i in range(0, model.d_vocab, 7):
        decoded = model.tokenizer.decode([i])
        assert vocabulary.tokens[i] == decoded or "\ufffd" in decoded
    text = "Two  spaces, a tab\t, été, 日本語 and 🙂: don't lose 3.14 of them.\n"
    assert model.tokenizer.decode(model.tokenizer(text)["input_ids"]) == text
    language_model = model.transformers()
    prompt = model.tokenizer("The capital of France is", return_tensors="pt")
    reply = language_model.generate(**prompt, max_new_tokens=2, do_sample=False)
    assert model.tokenizer.decode(reply[0]) == "The capital of France is Paris."


@pytest.mark.parametrize("part", ["tokenizer", "transformers"])
def test_no_code_of_a_checkpoint_runs(damaged, part, monkeypatch, tmp_path) -> None:
    marker = tmp_path / "it ran"
    code = f"open({str(marker)!r}, 'w').close()\nclass Own: pass\n"
    for name in ("own.py", "tokenization_own.py", "modeling_own.py"):
        (damaged / name).write_text(code)
    own = {"AutoTokenizer": ["own.Own", "own.Own"], "AutoConfig": "own.Own"}
    own |= {"AutoModelForCausalLM": "own.Own"}
    edit_config(damaged, auto_map=own)
    file = damaged / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"tokenizer_class": "Own", "auto_map": own}
    file.write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    model = load_model(damaged)
    with contextlib.suppress(FileNotFoundError):  # or there is code of transformers' own
        _ = model.tokenizer if part == "tokenizer" else model.transformers()
    _ = model.neurons(0, "out"), model.vocabulary(0)
    assert not marker.exists()
