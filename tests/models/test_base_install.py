"""The base install reads and decomposes checkpoints; what needs more says what to install."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from pathlib import Path

EXTRAS = {
    "accelerate", "gguf", "huggingface_hub", "ipywidgets", "matplotlib", "pandas", "pyarrow",
    "seaborn", "transformers", "typer",
}

class Refuse:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse)

import torch
from rotate_core import Vocabulary, decompose, load_model

generator = torch.Generator().manual_seed(0)
w, U = torch.randn(2, 16, generator=generator), torch.randn(16, 200, generator=generator)
channels = decompose(w, Vocabulary(U), n_channels=2, progress=False)
assert channels.vectors.shape == (2, 2, 16)

directory, cache = map(Path, sys.argv[1:])
model = load_model(directory)
neurons = model.neurons(1, "out", [5, 9])
vocabulary = model.vocabulary(1)
channels = decompose(neurons, vocabulary, n_channels=2, progress=False)
assert channels.vectors.shape == (2, 2, model.d_model)
assert len(channels.top_tokens(neuron=1, channel=0)) == 10
assert "pip install" in repr(channels)
assert vocabulary.tokens[0] == "<|endoftext|>" and vocabulary.token_weights[0] == 0

def message(call):
    try:
        call()
    except ModuleNotFoundError as error:
        return str(error)

(cache / "tiny.gguf").write_bytes(b"")
print(message(lambda: load_model(cache / "tiny.gguf", cache=cache)))
print(message(lambda: load_model("smollm2-135m", cache=cache)))
print(message(lambda: model.tokenizer))
print(message(model.transformers))
(directory / "tokenizer.json").unlink()
print(message(lambda: load_model(directory).vocabulary(1)))
assert not EXTRAS & {name.partition(".")[0] for name in sys.modules}
"""


def test_a_checkpoint_is_decomposed_without_any_extra(damaged, tmp_path) -> None:
    script = [sys.executable, "-c", SCRIPT, str(damaged), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    install = ': pip install "rotate-core[notebooks]"'
    assert done.stdout.splitlines() == [
        "converting a GGUF file needs gguf" + install,
        "converting a GGUF file needs gguf" + install,
        f"the tokenizer of {damaged} needs transformers" + install,
        f"running {damaged.name} needs transformers" + install,
        f"the tokenizer of {damaged} needs transformers" + install,
    ]
