"""Only what is asked for is read, whatever the layout; damaged files are named."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import D_MLP, D_MODEL, edit_config

from rotate_core import load_model
from rotate_core.models.checkpoint import open_checkpoint
from rotate_core.models.convert import requantise

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip_from_any_precision(make_checkpoint, checkpoints, dtype) -> None:
    stored = open_checkpoint(make_checkpoint("llama", dtype=dtype)).tensor(UP)
    exact = open_checkpoint(checkpoints("llama")).tensor(UP)
    assert stored.dtype == torch.float32
    assert torch.equal(stored, exact.to(dtype).float())


def test_rows_and_columns(checkpoints) -> None:
    checkpoint = open_checkpoint(checkpoints("llama"))
    whole = checkpoint.tensor(UP)
    assert checkpoint.shape(UP) == whole.shape == (D_MLP, D_MODEL)
    assert torch.equal(checkpoint.tensor(UP, lambda stored: stored[[5, 2]]), whole[[5, 2]])
    assert torch.equal(checkpoint.tensor(UP, lambda stored: stored[3:9]), whole[3:9])
    assert torch.equal(checkpoint.tensor(UP, lambda stored: stored[:, [7, 0]]), whole[:, [7, 0]])


def test_a_tensor_is_no_view_of_its_file(damaged) -> None:
    before = open_checkpoint(damaged).tensor(UP)
    before.zero_()
    assert open_checkpoint(damaged).tensor(UP).any()


def test_shards_hold_the_same_and_only_the_one_needed_is_opened(
    make_checkpoint, checkpoints
) -> None:
    directory = make_checkpoint("llama", shard_size="20KB")
    sharded, single = open_checkpoint(directory), open_checkpoint(checkpoints("llama"))
    assert len(set(sharded.files.values())) > 3
    assert set(sharded.files) == set(single.files)
    for shard in directory.glob("*.safetensors"):
        if shard.name != sharded.files[UP]:
            shard.write_bytes(b"not opened")
    assert torch.equal(sharded.tensor(UP), single.tensor(UP))


LARGE = """
import json, re, resource, sys
from pathlib import Path
from rotate_core import load_model

directory = Path(sys.argv[1])
n_layers, d_model, d_mlp = 48, 2048, 8192
tensors, end = {}, 0
for layer in range(n_layers):
    for name in ("gate", "up", "down"):
        shape = (d_model, d_mlp) if name == "down" else (d_mlp, d_model)
        start, end = end, end + 2 * d_mlp * d_model
        key = f"model.layers.{layer}.mlp.{name}_proj.weight"
        tensors[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
header = json.dumps(tensors).encode()
with open(directory / "model.safetensors", "wb") as file:
    file.write(len(header).to_bytes(8, "little") + header)
    file.truncate(8 + len(header) + end)  # zeros that take no room on the disk
config = {"num_hidden_layers": n_layers, "hidden_size": d_model, "intermediate_size": d_mlp}
(directory / "config.json").write_text(json.dumps({"model_type": "llama", **config}))

def peak():
    if sys.platform == "linux":  # where getrusage's includes the process that started this one
        return 1024 * int(re.search("VmHWM:(.*)kB", Path("/proc/self/status").read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

model = load_model(directory)
before = peak()
model.neurons(30, "in", [1, 5000])
rows = peak()
model.neurons(30, "out")
print(end, rows - before, peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs sparse files")
def test_one_layer_of_a_large_file_does_not_load_the_file(tmp_path) -> None:
    script = [sys.executable, "-c", LARGE, str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    n_bytes, two_neurons, layer = map(int, done.stdout.split())
    assert n_bytes > 4e9
    assert two_neurons < 10e6
    assert 30e6 < layer < 300e6  # 34 MB in the file, and 67 MB twice in float32


def test_other_prefixes_are_found(damaged, checkpoints) -> None:
    mapped = load_file(damaged / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in mapped.items()}  # the file is overwritten
    expected = open_checkpoint(checkpoints("llama")).tensor(UP)
    for prefix in ("", "model.language_model."):
        renamed = {prefix + name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        save_file(renamed, damaged / "model.safetensors")
        assert torch.equal(open_checkpoint(damaged).tensor(UP), expected)


def test_the_text_part_of_a_multimodal_configuration(damaged) -> None:
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": config}))
    assert open_checkpoint(damaged).sizes.d_model == D_MODEL


def test_sha256_is_that_of_the_file_or_of_the_list_of_files(make_checkpoint, tmp_path) -> None:
    def sha256sum(directory, *names: str) -> str:
        command = ["sha256sum", *names]
        return subprocess.run(command, cwd=directory, capture_output=True, text=True).stdout

    single = make_checkpoint("llama")
    assert open_checkpoint(single).sha256 == sha256sum(single, "model.safetensors").split()[0]
    sharded = make_checkpoint("llama", shard_size="20KB")
    names = sorted(file.name for file in sharded.glob("*.safetensors"))
    (tmp_path / "list").write_text(sha256sum(sharded, *names))
    assert open_checkpoint(sharded).sha256 == sha256sum(tmp_path, "list").split()[0]


def test_a_missing_tensor_is_named_with_its_file_and_the_nearest(damaged) -> None:
    tensors = load_file(damaged / "model.safetensors")
    save_file(
        {k.replace("up_proj", "upproj"): v for k, v in tensors.items()},
        damaged / "model.safetensors",
    )
    wanted = rf"no tensor '{UP}' in .*model.safetensors; the nearest are 'model.layers.1.mlp.upproj"
    with pytest.raises(ValueError, match=wanted):
        open_checkpoint(damaged).tensor(UP)


def test_a_shard_that_lacks_what_the_index_promises(make_checkpoint) -> None:
    directory = make_checkpoint("llama", shard_size="20KB")
    checkpoint = open_checkpoint(directory)
    save_file({"other": torch.zeros(1)}, directory / checkpoint.files[UP])
    with pytest.raises(ValueError, match=rf"lacks '{UP}', which .*index.json says it holds"):
        checkpoint.tensor(UP)
    (directory / checkpoint.files[UP]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"has no {checkpoint.files[UP]}"):
        checkpoint.tensor(UP)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not safetensors at all", None])
def test_a_damaged_file(damaged, content) -> None:
    file = damaged / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] if content is None else content)
    with pytest.raises(
        ValueError, match=r"model.safetensors \([\d,]+ bytes\) is no whole safetensors"
    ):
        open_checkpoint(damaged).tensor(UP)


def test_a_pickle_is_not_opened(damaged) -> None:
    (damaged / "model.safetensors").unlink()
    (damaged / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin, a pickle; .* is not read"):
        open_checkpoint(damaged).tensor(UP)
    assert not (damaged / "opened").exists()


def test_a_quantised_tensor_is_refused(damaged) -> None:
    tensors = load_file(damaged / "model.safetensors")
    tensors[UP] = tensors[UP].to(torch.int8)
    save_file(tensors, damaged / "model.safetensors")
    with pytest.raises(ValueError, match=r"is stored as I8; .* save a dequantised checkpoint"):
        open_checkpoint(damaged).tensor(UP)


def test_no_weights(damaged) -> None:
    (damaged / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model.safetensors nor .*index.json"):
        open_checkpoint(damaged).tensor(UP)


def test_no_configuration(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"model_type": ', "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[1]", "a list"),
    ],
)
def test_a_damaged_configuration(damaged, content, message) -> None:
    (damaged / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_checkpoint(damaged)


def test_an_index_without_a_map(make_checkpoint) -> None:
    directory = make_checkpoint("llama", shard_size="20KB")
    (directory / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="has no weight_map"):
        open_checkpoint(directory).tensor(UP)


def test_an_unknown_architecture_is_named_with_the_known(damaged) -> None:
    edit_config(damaged, model_type="mamba")
    with pytest.raises(ValueError, match=r"model_type 'mamba'; known are llama, mistral, .*gpt2"):
        open_checkpoint(damaged)


@pytest.mark.parametrize("size", [None, 0, "32", True])
def test_a_size_that_is_missing_or_wrong(damaged, size) -> None:
    edit_config(damaged, hidden_size=size)
    with pytest.raises(ValueError, match=r"config.json has hidden_size: .*positive integer"):
        _ = open_checkpoint(damaged).sizes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": ["llama"]}, r"config.json has model_type: \['llama'\]; a str is needed"),
        ({"tie_word_embeddings": "yes"}, "has tie_word_embeddings: 'yes'; a bool is needed"),
        ({"rotate_core": [1]}, r"has rotate_core: \[1\]; a dict is needed"),
        ({"rotate_core": {"quantization": 1}}, "has quantization: 1; a dict is needed"),
        ({"rotate_core": {"quantization": {"in": {"Q4": "4"}}}}, "bits wanted"),
        ({"model_type": "x", "text_config": 3}, "has text_config: 3; a dict is needed"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: 1000000000; a positive integer"),
        ({"num_hidden_layers": 4}, r"no tensor 'model.layers.3.mlp.down_proj.weight' in .*nearest"),
        (
            {"intermediate_size": D_MLP + 1},
            r"shape \(48, 32\); by config.json it has \(49, 32\)",
        ),
        ({"hidden_size": D_MODEL + 1}, r"has shape \(48, 32\); by config.json it has \(48, 33\)"),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_its_file(damaged, changes, message) -> None:
    edit_config(damaged, **changes)
    with pytest.raises(ValueError, match=message):
        load_model(damaged).neurons(0, "in")


def test_a_nested_configuration_ends(damaged) -> None:
    (damaged / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        open_checkpoint(damaged)


def test_a_norm_of_another_size_is_named(damaged) -> None:
    file = damaged / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = torch.ones(D_MODEL + 1)
    tensors["model.layers.0.post_attention_layernorm.weight"] = torch.ones(1)
    save_file(tensors, file)
    model = load_model(damaged)
    with pytest.raises(ValueError, match=r"'model.norm.weight' of .* has shape \(33,\)"):
        model.vocabulary(0, side="unembedding", fold_norm=True)
    with pytest.raises(ValueError, match=r"post_attention_layernorm.weight' of .* shape \(1,\)"):
        model.neurons(0, "in", fold_norm=True)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_weights_are_rounded_to_eight_bits_of_a_block(make_checkpoint, family, tmp_path):
    """Of 32 values the largest stands for 127; the step is kept in float16, 11 bits of it."""
    width = "n_inner" if family == "gpt2" else "intermediate_size"
    model = load_model(make_checkpoint(family, **{width: 64}))
    rounded = load_model(requantise(model.checkpoint, tmp_path / "q8"))
    for kind in model.kinds:
        weight = model.checkpoint.architecture.weight(kind)
        old, new = (x.checkpoint.tensor(weight.name.format(layer=1)) for x in (model, rounded))
        blocks = old.reshape(-1, 32)
        step = blocks.abs().amax(1, keepdim=True) / 127
        off = (new.reshape(-1, 32) - blocks).abs()
        assert (off <= (0.5 + 127 / 2**11) * step).all()
        assert off.max() > 0
    assert torch.equal(model.vocabulary(0).projection, rounded.vocabulary(0).projection)
    with pytest.raises(ValueError, match="quantization='Q9': wanted one of F32, F16, Q4_0"):
        requantise(model.checkpoint, tmp_path / "q9", "Q9")
