"""Rehearse the book of a paper's profile: its architecture at toy widths, with random weights.

    python -m book.rehearse paper-gemma

The paper's own models want a GPU and hours. What can break there is not their size: it is a layout
that the embedded model does not have (a cap on logits, norms behind the MLP, shared keys, scaled
rotary positions, two embeddings, weights in several files) and samples in which nothing is found.
Random weights give both in minutes. Every chapter runs, in order, in a folder of its own; what
comes out is about no model, and the scoreboard judges none of it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import papermill
import torch
import yaml

from book.execute import execute, on_this_machine
from rotate_core import load_model
from rotate_core.models.tokens import TOKENIZER_FILES
from rotate_core.verdicts.rules import RANDOM_WEIGHTS

ROOT = Path(__file__).parents[1]
SIZES = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
"""Toy widths. The number of layers is the real one: a profile names layers by number."""
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "paper-gemma": {
        "model_type": "gemma2",
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 16,
        "sliding_window": 4096,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
    },
    "paper-llama": {
        "model_type": "llama",
        "num_hidden_layers": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "hidden_act": "silu",
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": False,
    },
}
"""config.json of google/gemma-2-2b-it and meta-llama/Llama-3.1-8B-Instruct, but for widths and
numbers of heads (as many queries share a key, two and four); a head's width sets Gemma's scale."""
TOKENIZER = "smollm2-135m"
"""Whose tokenizer: a real one. Gemma's is five times as large, and asks for terms; the profile
gemma3-270m runs the book with it."""
SCOREBOARD = "11_scoreboard"
"""The last chapter that is run: it reads what all others leave."""


def random_checkpoint(profile: str, directory: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint of a profile's architecture, in bfloat16 and in several files.

    Args:
        profile: a key of :data:`ARCHITECTURES`.
        directory: a folder that does not exist yet.
        seed: of the weights: normal ones, and gains of norms around 1.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    source = load_model(TOKENIZER)
    tokenizer = source.tokenizer
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    config = AutoConfig.for_model(
        **ARCHITECTURES[profile] | SIZES | special, vocab_size=source.d_vocab
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config)
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.data += 0.1 * torch.randn_like(parameter)
    network.to(torch.bfloat16).save_pretrained(directory, max_shard_size="4MB")
    for name in TOKENIZER_FILES:
        if (file := source.path / name).is_file():
            shutil.copy(file, directory)
    return directory


def rehearsed(paper: dict[str, Any], quick: dict[str, Any], model: str) -> dict[str, Any]:
    """A profile with the paper's layers, kinds and thresholds, and the quick one's sizes.

    Args:
        paper: values of the profile that is rehearsed.
        quick: of the one with small samples.
        model: the folder of the checkpoint.
    """
    sizes = {
        name: value
        for name, value in quick.items()
        if name not in paper or (isinstance(value, int) and not name.endswith("layer"))
    }
    d_mlp = SIZES["intermediate_size"]  # where a neuron's number would be beyond, another is taken
    values = {**paper, **sizes, "model": model}
    values["neuron"] = values.get("neuron", 0) % d_mlp
    values["explorer_tour"] = [[a, kind, n % d_mlp] for a, kind, n in values["explorer_tour"]]
    return values


def stage(folder: Path) -> list[Path]:
    """A bare copy of what chapters read, so that their ``..`` is the folder; their notebooks."""
    for files in ("notebooks/*.ipynb", "benchmarks/*.json", "book/recorded/**/*.json"):
        for file in ROOT.glob(files):
            copy = folder / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    notebooks = (folder / "notebooks").glob("*.ipynb")
    return sorted(notebooks, key=lambda notebook: (notebook.stem == SCOREBOARD, notebook))


def rehearse(profile: str, folder: Path, chapters: Sequence[str] = ()) -> dict[str, str]:
    """Run all chapters of a profile anew, or some of them in the folder as it is.

    Args:
        profile: a key of :data:`ARCHITECTURES`.
        folder: of the notebooks' copies, of the model and of all results.
        chapters: how the names of some begin.

    Returns:
        What went wrong, by chapter: the last line of its error.
    """
    if folder.exists() and not chapters:
        shutil.rmtree(folder)
    notebooks = stage(folder)
    paper, quick = (
        yaml.safe_load((ROOT / "notebooks" / "profiles" / f"{name}.yaml").read_text("utf-8"))
        for name in (profile, "quick")
    )
    model = folder / f"{RANDOM_WEIGHTS}-{ARCHITECTURES[profile]['model_type']}"
    if not model.exists():
        random_checkpoint(profile, model)
    values = on_this_machine(rehearsed(paper, quick, str(model.resolve())))
    failed: dict[str, str] = {}
    for notebook in notebooks:
        if chapters and not notebook.stem.startswith(tuple(chapters)):
            continue
        start = time.perf_counter()
        try:
            execute(notebook, folder / "executed" / notebook.name, values)
        except papermill.PapermillExecutionError as error:
            failed[notebook.stem] = f"{error.ename}: {error.evalue}"
        seconds = time.perf_counter() - start
        print(f"{notebook.stem}: {seconds:.0f} s {failed.get(notebook.stem, '')}", flush=True)
    return failed


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", choices=ARCHITECTURES)
    parser.add_argument("chapters", nargs="*", help="such as 04 09; all of them where none is said")
    arguments = parser.parse_args()
    folder = ROOT / "book" / "rehearsed" / arguments.profile
    failed = rehearse(arguments.profile, folder, arguments.chapters)
    if failed:
        sys.exit(f"{len(failed)} chapters failed; how far they came is in {folder}/executed")


if __name__ == "__main__":
    main()
