"""What the chapters read most: a whole model's kurtosis, and activations on text.

    python benchmarks/experiments.py [kurtosis activations] [--neurons N] [--tokens N]

Each part updates its entry of benchmarks/experiments.json, with the hardware and the time of day it
was measured on. At full size, which is the default, on two cores: the kurtosis of every neuron of
the embedded model should take less than three minutes, and activations of 100 neurons over 200,000
tokens, in one pass, less than five.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import torch
from measured import keep

from rotate_core import load_model
from rotate_core.experiments.kurtosis import kurtosis_table
from rotate_core.text import corpus
from rotate_core.text.sites import at_every_position

OUTPUT = Path(__file__).with_suffix(".json")
LAYERS, NEURONS_A_LAYER, WINDOW = (0, 15, 22, 29), 25, 128


def kurtosis(n_neurons: int | None) -> dict[str, Any]:
    """Seconds for the kurtosis of the neurons of all layers and kinds, without matched vectors."""
    model = load_model("smollm2-135m")
    vocabulary = model.vocabulary(0, side="unembedding")  # held, so that reading it is not timed
    begun = time.perf_counter()
    table = kurtosis_table(model, n_neurons=n_neurons, n_null=2, progress=False)
    seconds = time.perf_counter() - begun
    n = int((~table.null).sum())
    whole = model.n_layers * len(model.kinds) * model.d_mlp
    return {
        "vectors": n,
        "tokens": vocabulary.projection.shape[1],
        "seconds": seconds,
        "is_whole_model": n == whole,
    }


def activations(n_tokens: int) -> dict[str, Any]:
    """Seconds and growth of the peak memory for 100 neurons over so many tokens, in one pass."""
    model = load_model("smollm2-135m")
    lm = model.transformers()
    documents = corpus.read_documents(corpus.WIKIPEDIA.name)
    cut = corpus.windows(documents, model.tokenizer, length=WINDOW, n_tokens=n_tokens)
    numbers = list(range(NEURONS_A_LAYER))
    rows = {
        layer: torch.cat([model.neurons(layer, kind, numbers).vectors for kind in ("gate", "in")])
        for layer in LAYERS
    }
    at_every_position(lm, cut.tokens[:8], LAYERS, rows=rows, progress=False)  # warm
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    values = at_every_position(lm, cut.tokens, LAYERS, rows=rows, progress=False)
    seconds = time.perf_counter() - begun
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    n = cut.tokens.numel()
    return {
        "neurons": NEURONS_A_LAYER * len(LAYERS),
        "layers": list(LAYERS),
        "tokens": n,
        "seconds": seconds,
        "seconds_of_200000_tokens": seconds * 200_000 / n,
        "bytes_of_results": sum(part.nbytes for part in values.values()),
        "peak_growth": 1024 * growth,
    }


def main() -> None:
    """Run the parts that were asked for, and keep what the others measured before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="kurtosis, activations; none: all")
    parser.add_argument("--neurons", type=int, help="of each layer; all unless it is given")
    parser.add_argument("--tokens", type=int, default=200_000, help="of text")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the figures go")
    arguments = parser.parse_args()
    parts = {
        "kurtosis": lambda: kurtosis(arguments.neurons),
        "activations": lambda: activations(arguments.tokens),
    }
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"unknown part {', '.join(unknown)}: wanted {', '.join(parts)}")
    for name in arguments.parts or parts:
        keep(arguments.output, name, parts[name]())


if __name__ == "__main__":
    main()
