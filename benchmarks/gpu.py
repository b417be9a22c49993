"""What a GPU makes of the method: its share of the peak, a whole layer, the authors' AdamW beside.

    python benchmarks/gpu.py [peak layer precision paper agreement ...]

Each part updates its entry of benchmarks/gpu.json with the hardware it was measured on; in all they
take less than eight minutes on an H100. Without a GPU a part is left as it is, or "not measured".
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measured import SHAPES, compared, keep, timed
from torch import Tensor

from rotate_core import PAPER, Channels, ConvergenceWarning, Vocabulary, decompose, load_model
from rotate_core.decomposition import ARRAYS_PER_NEURON
from rotate_core.models.fetch import cache_directory
from rotate_core.null import tail_evidence

OUTPUT = Path(__file__).with_suffix(".json")
REAL = "smollm2-135m"
N_CHANNELS = 50
"""Channels of a neuron in the projection to a whole layer, as many as the paper finds."""


@dataclass(frozen=True)
class Sizes:
    """How much is computed, and on which device."""

    device: str
    shapes: dict[str, tuple[int, int]]  # d_model and d_vocab, the paper's model first
    d_mlp: dict[str, int]  # neurons of a layer
    n_neurons: int  # in a batch
    n_channels: int
    n_paper: int  # neurons that take `paper_steps` of the paper's solver
    paper_steps: int
    n_ended: int  # neurons that take the paper's solver to its own end
    max_iter: int
    n_agree: int


WHOLE = Sizes(
    device="cuda",
    shapes={name: SHAPES[name] for name in ("gemma-2-2b", "llama-3.1-8b")},
    d_mlp={"gemma-2-2b": 9216, "llama-3.1-8b": 14_336, REAL: 1536},
    n_neurons=1024,
    n_channels=10,
    n_paper=5000,
    paper_steps=50,
    n_ended=16,
    max_iter=PAPER.max_iter,
    n_agree=16,
)
TINY = Sizes(
    device="cuda" if torch.cuda.is_available() else "cpu",
    shapes={"tiny": (32, 960)},
    d_mlp={"tiny": 64},
    n_neurons=4,
    n_channels=2,
    n_paper=6,
    paper_steps=10,
    n_ended=2,
    max_iter=120,
    n_agree=3,
)


# --- What is measured on ------------------------------------------------------------------------


def synthetic(d_model: int, d_vocab: int, n_neurons: int, device: str) -> tuple[Tensor, Vocabulary]:
    """Weights and vocabulary of a real model's shape, with channels in them; seeded.

    A token belongs to four families of some 64 others each, with strengths drawn from an
    exponential distribution, beside noise of its own; a neuron to eight. Coordinates shrink as
    rank^-0.45: on a sphere the solver would need a quarter of the iterations that it needs on real
    embeddings, and so it needs nearly as many. Each row says how many, for the rate goes with it.
    """
    generator = torch.Generator(device).manual_seed(0)
    families = torch.randn(d_vocab // 64, d_model, generator=generator, device=device)

    def members(n: int) -> Tensor:
        return families[torch.randint(len(families), (n,), generator=generator, device=device)]

    rows = torch.randn(d_vocab, d_model, generator=generator, device=device)
    for _ in range(4):
        strength = torch.empty(d_vocab, 1, device=device).exponential_(generator=generator)
        rows += members(d_vocab).mul_(strength / 2)
    w = torch.randn(n_neurons, d_model, generator=generator, device=device)
    for rank in range(1, 9):
        w += members(n_neurons) / rank**0.5
    scale = torch.arange(1, d_model + 1, device=device) ** -0.45
    return w * scale, Vocabulary(rows.mul_(scale).T)


def weights(name: str, n: int, sizes: Sizes) -> tuple[Tensor, Vocabulary]:
    """Neurons and vocabulary: synthetic ones of a shape, or the real ones of SmolLM2."""
    if name != REAL:
        return synthetic(*sizes.shapes[name], n, sizes.device)
    model = load_model(REAL)
    neurons = model.neurons(20, "gate", range(min(n, model.d_mlp)))
    return neurons.vectors.to(sizes.device), model.vocabulary(20).to(sizes.device)


def names(sizes: Sizes) -> list[str]:
    """The shapes, and the real model where it was fetched before."""
    is_here = sizes == WHOLE and (cache_directory() / REAL).is_dir()
    return [*sizes.shapes, *([REAL] if is_here else [])]


def two_products(w: Tensor, u: Tensor, precision: str = "float32") -> float:
    """Median seconds of ``U^T w`` and of its transpose's product, and nothing else."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    w, u = w.to(dtype), u.to(dtype)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        times = [timed(lambda: (w @ u) @ u.T)[0] for _ in range(6)]
    finally:
        torch.set_float32_matmul_precision(before)
    return statistics.median(times[1:])


# --- Parts --------------------------------------------------------------------------------------


def peak(sizes: Sizes) -> dict[str, Any]:
    """TFLOP/s of bare products at the shapes of U, by precision."""
    rows = {}
    for name in sizes.shapes:
        w, vocabulary = weights(name, sizes.n_neurons, sizes)
        u = vocabulary.projection
        work = 4 * len(w) * u.numel() / 1e12
        rows[name] = {p: work / two_products(w, u, p) for p in ("float32", "tf32", "bfloat16")}
    return rows


def layer(sizes: Sizes) -> dict[str, Any]:
    """A batch of neurons, its iterations against bare products, and a whole layer at its rate."""
    rows = {}
    for name in names(sizes):
        w, vocabulary = weights(name, sizes.n_neurons, sizes)
        u = vocabulary.projection

        def run(w: Tensor = w, vocabulary: Vocabulary = vocabulary, **options: Any) -> Any:
            options = {"n_channels": 1, "progress": False} | options
            return timed(lambda: decompose(w, vocabulary, **options))

        run()  # what is paid once
        few, more = (
            statistics.median(run(tolerance=0.0, max_iter=n)[0] for _ in range(3)) for n in (2, 12)
        )
        if sizes.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        seconds, channels = run(n_channels=sizes.n_channels)
        beside = torch.cuda.max_memory_allocated() - held
        bare = two_products(w, u)
        n_iter = float(channels.n_iter.sum()) / len(w)
        rate = len(w) * sizes.n_channels / seconds
        rows[name] = {
            "neurons": len(w),
            "channels": sizes.n_channels,
            "iteration": (more - few) / 10,
            "products": bare,
            "ratio": (more - few) / 10 / bare,
            "seconds": seconds,
            "evidence_seconds": timed(lambda c=channels: tail_evidence(c))[0],
            "iterations_a_channel": n_iter / sizes.n_channels,
            "converged": channels.converged.double().mean().item(),
            "median_kurtosis": channels.kurtosis.median().item(),
            "share_of_float32_products": n_iter * bare / seconds,
            "neuron_channels_per_second": rate,
            "layer_neurons": sizes.d_mlp[name],
            "layer_minutes": sizes.d_mlp[name] * N_CHANNELS / rate / 60,
            "projection_bytes": 4 * u.numel(),
            "peak_bytes_beside_it": beside,
            "bytes_accounted_for": 4 * ARRAYS_PER_NEURON * len(w) * sum(u.shape),
        }
    return rows


def precision(sizes: Sizes) -> dict[str, Any]:
    """First channels with rounded products on the way, and with fused passes: against neither."""
    ways: dict[str, dict[str, Any]] = {"full": {}, "bfloat16": {"precision": "bfloat16"}}
    if sizes.device == "cuda":
        ways |= {f"{name}, fused": way | {"compile": True} for name, way in ways.items()}
    rows = {}
    for name in names(sizes):
        w, vocabulary = weights(name, sizes.n_neurons, sizes)
        found: dict[str, Channels] = {}
        for way, options in ways.items():
            run = partial(decompose, w, vocabulary, n_channels=1, progress=False, **options)
            run()  # what is paid once
            seconds, found[way] = timed(run)
            rows[f"{name}, {way}"] = {"seconds": seconds} | compared(found[way], found["full"])
    return rows


def paper(sizes: Sizes) -> dict[str, Any]:
    """First channels of many neurons by both solvers, both with the paper's scaled moments.

    The paper's solver takes a bounded number of steps on all of them, and a few neurons go on to
    its own stopping rule: the seconds of a step, times the mean number of steps of these few, is
    what all of them would take.
    """
    w, vocabulary = weights(next(iter(sizes.shapes)), sizes.n_paper, sizes)

    def ours(w: Tensor) -> Channels:
        return decompose(w, vocabulary, n_channels=1, moments="scaled", progress=False)

    def theirs(w: Tensor, max_iter: int) -> Channels:
        options: dict[str, Any] = {"n_channels": 1, "settings": PAPER, "max_iter": max_iter}
        return decompose(w, vocabulary, progress=False, **options)

    ours(w)  # what is paid once
    theirs(w, 2)
    seconds, _ = timed(lambda: ours(w))
    bounded, _ = timed(lambda: theirs(w, sizes.paper_steps))
    few = w[: sizes.n_ended]
    own_seconds, ended = timed(lambda: theirs(few, sizes.max_iter))
    gain = (ours(few).objective - ended.objective)[:, 0]
    steps = ended.n_iter.double().mean().item()
    projected = bounded / sizes.paper_steps * steps
    return {
        "shape": next(iter(sizes.shapes)),
        "neurons": len(w),
        "seconds": seconds,
        "paper_steps_measured": sizes.paper_steps,
        "paper_seconds_measured": bounded,
        "paper_neurons_ended": len(few),
        "paper_seconds_of_these": own_seconds,
        "paper_steps_to_its_end": steps,
        "paper_converged": ended.converged.double().mean().item(),
        "paper_seconds_projected": projected,
        "times_sooner": projected / seconds,
        "mean_gain_in_objective": gain.mean().item(),
        "share_not_lower_by_0.01": (gain >= -0.01).double().mean().item(),
    }


def agreement(sizes: Sizes) -> dict[str, Any]:
    """The same neurons on the device and on the CPU: cosine of the channels, difference in F."""
    shape = SHAPES[REAL] if sizes == WHOLE else next(iter(sizes.shapes.values()))
    cases = {f"synthetic, {shape[0]} x {shape[1]}": synthetic(*shape, sizes.n_agree, sizes.device)}
    if REAL in names(sizes):
        cases[REAL] = weights(REAL, sizes.n_agree, sizes)
    rows = {}
    for name, (w, vocabulary) in cases.items():
        options: dict[str, Any] = {"n_channels": min(3, sizes.n_channels), "progress": False}
        there = decompose(w, vocabulary, **options)
        here = decompose(w.cpu(), vocabulary.to("cpu"), **options)
        cosine = torch.cosine_similarity(there.vectors, here.vectors, dim=-1)
        difference = (there.objective - here.objective).abs()
        rows[name] = {
            "channels": cosine.numel(),
            "median_cosine": cosine.median().item(),
            "share_with_cosine_above_0.999": (cosine > 0.999).double().mean().item(),
            "median_difference_in_objective": difference.median().item(),
            "largest_difference_in_objective": difference.max().item(),
        }
    return rows


PARTS: dict[str, Callable[[Sizes], dict[str, Any]]] = {
    f.__name__: f for f in (peak, layer, precision, paper, agreement)
}


def main() -> None:
    """Run the parts that were asked for, and keep what the others measured before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, on a CPU if need be")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="the table")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(unknown)}: wanted {', '.join(PARTS)}")
    sizes = TINY if asked.tiny else WHOLE
    warnings.simplefilter("ignore", ConvergenceWarning)  # bounded steps are the point
    before = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    for name in asked.parts or PARTS:
        if sizes.device == "cpu" or torch.cuda.is_available():
            keep(asked.out, name, {"device": sizes.device, "rows": PARTS[name](sizes)})
        elif name not in before:
            keep(asked.out, name, "not measured")


if __name__ == "__main__":
    main()
