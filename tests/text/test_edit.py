"""Channels are taken out of a model exactly, and put back exactly, for every family."""

import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors import safe_open
from tiny_models import D_MLP, D_MODEL, LAYERS, TOKENS, tiny

import rotate_core
from rotate_core.models import Model, load_model
from rotate_core.models.architectures import ARCHITECTURES
from rotate_core.models.checkpoint import open_checkpoint
from rotate_core.text.edit import ablate, contributions, save_ablated


@pytest.fixture(scope="module", params=ARCHITECTURES)
def saved(request, tmp_path_factory):
    """(the model, its directory) of each family, in several shards."""
    path = tmp_path_factory.mktemp(request.param) / "original"
    model = tiny(request.param)
    model.save_pretrained(path, max_shard_size="8KB")
    (path / "tokenizer.json").write_text("{}")
    return model, path


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def vector(seed):
    return torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))


def everywhere(model):
    """One vector for a neuron of each kind in each layer."""
    kinds = ARCHITECTURES[model.config.model_type].kinds
    places = [(layer, 5 + layer, kind) for layer in range(LAYERS) for kind in kinds]
    return [(*place, vector(seed)) for seed, place in enumerate(places)]


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("mode", ["subtract", "project"])
def test_ablation_edits_the_named_vectors_only_and_restores_every_bit(saved, mode, tmp_path):
    model, _ = saved
    before, before_logits = bits(model), logits(model)
    asked = everywhere(model)
    with ablate(model, asked, mode=mode) as same_model:
        assert same_model is model
        assert not torch.allclose(logits(model), before_logits)
        model.save_pretrained(tmp_path)
    assert same(bits(model), before)
    assert torch.equal(logits(model), before_logits)

    old, new = load_model(saved[1]), load_model(tmp_path)
    for layer, neuron, kind, c in asked:
        was = old.neurons(layer, kind).vectors
        now = new.neurons(layer, kind).vectors
        unit = c / c.norm()
        expected = was[neuron] - (c if mode == "subtract" else unit * (unit @ was[neuron]))
        torch.testing.assert_close(now[neuron], expected)
        others = torch.arange(D_MLP) != neuron
        assert torch.equal(now[others], was[others])


@pytest.mark.parametrize("mode", ["subtract", "project"])
def test_saved_checkpoint_has_the_logits_of_the_context_and_all_other_bytes(saved, mode, tmp_path):
    model, path = saved
    asked = everywhere(model)
    target = save_ablated(Model("tiny", open_checkpoint(path)), asked, tmp_path / "new", mode=mode)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(target, attn_implementation="eager")
    with ablate(model, asked, mode=mode):
        assert torch.equal(logits(loaded.eval()), logits(model))

    checkpoint = open_checkpoint(path)
    edited = {
        checkpoint.resolve(checkpoint.architecture.weight(kind).name.format(layer=layer))
        for layer, _, kind, _ in asked
    }
    assert {p.name for p in target.iterdir()} == {p.name for p in path.iterdir()} | {"README.md"}
    for file in path.iterdir():
        if file.suffix != ".safetensors":
            assert (target / file.name).read_bytes() == file.read_bytes()
            continue
        with safe_open(file, "pt") as old, safe_open(target / file.name, "pt") as new:
            assert old.metadata() == new.metadata()
            for name in old.keys():  # noqa: SIM118, no dict
                assert torch.equal(old.get_tensor(name), new.get_tensor(name)) == (
                    name not in edited
                )
    assert not list(tmp_path.glob(".*"))


def test_contexts_nest():
    model = tiny("llama")
    before = bits(model)
    with ablate(model, [(0, 3, "out", vector(0))]):
        outer = bits(model)
        with ablate(model, [(0, 3, "out", vector(1)), (1, 2, "gate", vector(2))]):
            assert not same(bits(model), outer)
        assert same(bits(model), outer)
    assert same(bits(model), before)


def test_exception_restores_every_context():
    model = tiny("llama")
    before = bits(model)
    outer, inner = (ablate(model, [(0, 3, "out", vector(seed))]) for seed in (0, 1))
    with pytest.raises(RuntimeError, match="stop"), outer, inner:
        raise RuntimeError("stop")
    assert same(bits(model), before)


def test_bad_entry_leaves_the_model_as_it_was():
    model = tiny("llama")
    before = bits(model)
    good = (0, 3, "out", vector(0))
    with (
        pytest.raises(IndexError, match="neuron is 99"),
        ablate(model, [good, (0, 99, "in", vector(1))]),
    ):
        pass
    assert same(bits(model), before)


def test_subtracting_zero_is_the_identity():
    model = tiny("phi3")
    before = bits(model)
    with ablate(model, [(0, 3, "gate", torch.zeros(D_MODEL))]):
        assert same(bits(model), before)


def test_projection_removes_the_span_of_all_vectors_of_a_neuron_in_any_order():
    model = tiny("llama")
    a, b = vector(0), vector(1)
    weight = model.model.layers[1].mlp.down_proj.weight
    results = []
    for vectors in ([a, b], [b, a], [a, b, a + b]):
        with ablate(model, [(1, 4, "out", v) for v in vectors], mode="project"):
            results.append(weight[:, 4].detach().clone())
    torch.testing.assert_close(
        results[0] @ torch.stack([a, b], 1), torch.zeros(2), atol=1e-6, rtol=0
    )
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_bfloat16_checkpoint_keeps_its_precision(tmp_path):
    tiny("qwen2").to(torch.bfloat16).save_pretrained(tmp_path / "old")
    asked = [(0, 1, "in", vector(0))]
    save_ablated(Model("tiny", open_checkpoint(tmp_path / "old")), asked, tmp_path / "new")
    model, loaded = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.bfloat16)
        for name in ("old", "new")
    )
    with ablate(model, asked):
        assert torch.equal(logits(loaded), logits(model))


def test_contributions_sum_to_a_neuron_that_its_channels_span():
    generator = torch.Generator().manual_seed(0)
    channels = torch.randn(3, 4, D_MODEL, generator=generator)
    alpha = torch.tensor([2.0, -1.0, 0.5, 0.0])
    w = (alpha[:, None] * channels).sum(1)
    parts = contributions(w, channels)
    torch.testing.assert_close(parts, alpha[:, None] * channels)
    twice = torch.cat([channels, channels], 1)  # linearly dependent
    torch.testing.assert_close(contributions(w, twice).sum(1), w)


@pytest.mark.parametrize(
    ("entry", "mode", "error", "message"),
    [
        ((0, 0, "out", torch.ones(D_MODEL)), "remove", ValueError, "mode='remove'"),
        ((0, 0, "down", torch.ones(D_MODEL)), "subtract", ValueError, "kind is 'down'"),
        ((2, 0, "out", torch.ones(D_MODEL)), "subtract", IndexError, "layer is 2"),
        ((0, -1, "out", torch.ones(D_MODEL)), "subtract", IndexError, "neuron is -1"),
        ((0, 0, "out", torch.ones(3)), "subtract", ValueError, r"shape \(3,\)"),
        ((0, 0, "out", [1.0] * D_MODEL), "subtract", TypeError, "a vector is a list"),
        ((0, 0, "out", torch.full((D_MODEL,), torch.nan)), "subtract", ValueError, "inf or nan"),
        ((0, 0, "out", torch.zeros(D_MODEL)), "project", ValueError, "no direction"),
    ],
)
def test_bad_input_is_named(entry, mode, error, message):
    with pytest.raises(error, match=message), ablate(tiny("llama"), [entry], mode=mode):
        pass


def test_ungated_models_have_no_gate():
    with (
        pytest.raises(ValueError, match="not gated"),
        ablate(tiny("gpt2"), [(0, 0, "gate", vector(0))]),
    ):
        pass


def test_only_transformers_models_can_be_edited():
    with pytest.raises(TypeError, match="SimpleNamespace"), ablate(SimpleNamespace(), []):
        pass


def test_existing_directory_is_not_overwritten(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "old")
    checkpoint = open_checkpoint(tmp_path / "old")
    with pytest.raises(FileExistsError, match="exists"):
        save_ablated(Model("tiny", checkpoint), [], tmp_path / "old")


def test_failed_save_leaves_nothing(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "old")
    checkpoint = open_checkpoint(tmp_path / "old")
    shutil.move(tmp_path / "old" / "config.json", tmp_path / "elsewhere.json")
    (tmp_path / "old" / "config.json").symlink_to(tmp_path / "missing")
    with pytest.raises(shutil.Error):
        save_ablated(Model("tiny", checkpoint), [], tmp_path / "folder" / "new")
    assert not list((tmp_path / "folder").iterdir())


def test_the_package_has_them_at_hand():
    assert rotate_core.ablate is ablate
    assert rotate_core.save_ablated is save_ablated
    with pytest.raises(AttributeError, match="no attribute 'ablated'"):
        _ = rotate_core.ablated
