"""The two solvers side by side, and the geodesic one against the limit of the machine.

    python benchmarks/solver.py [startup latency limit growth memory comparison ...]

Each part updates its entry of benchmarks/solver.json, with the hardware and the time of day it was
measured on. The comparison runs the paper's solver to its own stopping rule: that alone takes ten
minutes on two cores. A GPU: benchmarks/gpu.py.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from measured import SHAPES, compared, keep, timed
from torch import Tensor

from rotate_core import (
    PAPER,
    Channels,
    ConvergenceWarning,
    Settings,
    Vocabulary,
    decompose,
    load_model,
)
from rotate_core.null.evidence import statistics
from rotate_core.rotation import sphere as geodesic
from rotate_core.rotation.moments import Sample, centred_logits, joint_moments, moments_along
from rotate_core.rotation.threads import team

OUTPUT = Path(__file__).with_suffix(".json")
LAYER, KIND = 20, "gate"
HELD_OUT = {
    group: range(700, 724) for group in ((9, "gate"), (22, "out"), (15, "in"), (28, "gate"))
}
"""Neurons of some layers and kinds that nothing about the solver was chosen on."""


def synthetic(d_model: int, d_vocab: int, n: int) -> tuple[Tensor, Vocabulary]:
    """Gaussian weights and a Gaussian vocabulary of a real model's shape, seeded."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(d_vocab, d_model, generator=generator)
    return torch.randn(n, d_model, generator=generator), Vocabulary(rows.T)


def comparison() -> dict[str, Any]:
    """Seconds until the geodesic solver's mean objective is where the householder solver ends.

    The householder solver ends by its own stopping rule, or after its 10,000 steps; the ratio says
    nothing without the share of neurons that end lower, beside it for each number of starts.
    """
    model = load_model("smollm2-135m")
    vocabulary = model.vocabulary(LAYER)
    rows = {}
    for n in (8, 64):
        w = model.neurons(LAYER, KIND, list(range(n))).vectors
        slow, paper = timed(
            lambda w=w: decompose(w, vocabulary, n_channels=1, settings=PAPER, progress=False)
        )
        target = paper.objective.mean().item()

        def solve(max_iter: int, w: Tensor = w) -> Any:
            options = {"moments": "scaled", "max_iter": max_iter, "progress": False}
            return decompose(w, vocabulary, n_channels=1, history=True, **options)

        # A neuron that has left keeps its last value.
        curve = pd.DataFrame(solve(200).history[:, 0].T.numpy()).ffill().mean(axis=1)
        n_iter = int((curve >= target).to_numpy().argmax())
        assert curve[n_iter] >= target, "the geodesic solver never reached the householder solver"
        seconds = median(timed(lambda n=n_iter: solve(n))[0] for _ in range(3))
        row = {
            "paper_seconds": slow,
            "paper_objective": target,
            "paper_steps": paper.n_iter[:, 0].tolist(),
            "paper_converged": paper.converged[:, 0].tolist(),
            "seconds_to_target": seconds,
            "iterations_to_target": n_iter,
            "times_sooner": slow / seconds,
            "curve": curve.tolist(),
        }
        row |= {f"starts_{r}": beside(paper, w, vocabulary, r) for r in (1, 2, 4)}
        rows[f"{n} neurons"] = row
    return rows


def beside(paper: Channels, w: Tensor, vocabulary: Vocabulary, restarts: int) -> dict[str, Any]:
    """First channels of the geodesic solver from so many starts, and where they end lower."""
    options = {"moments": "scaled", "restarts": restarts, "progress": False}
    seconds, ours = timed(lambda: decompose(w, vocabulary, n_channels=1, **options))
    gain = (ours.objective - paper.objective)[:, 0]
    return {
        "seconds": seconds,
        "objective": ours.objective.mean().item(),
        "share_not_lower_by_0.01": (gain >= -0.01).double().mean().item(),
        "share_higher_by_0.01": (gain > 0.01).double().mean().item(),
        "lowest_gain": gain.min().item(),
        "neurons_lower_by_0.01": (gain < -0.01).nonzero().flatten().tolist(),
    }


def hills() -> dict[str, Any]:
    """Where both solvers end on layers and neurons that nothing was chosen on; ten minutes.

    Of those where one start ends lower, how far the channel's tokens stand out in the neuron
    itself: do higher hills say less of it?
    """
    model, rows, cores = load_model("smollm2-135m"), {}, []
    for (layer, kind), indices in HELD_OUT.items():
        w, vocabulary = model.neurons(layer, kind, indices).vectors, model.vocabulary(layer)
        options = {"n_channels": 1, "progress": False}
        paper = decompose(w, vocabulary, settings=PAPER, **options)
        starts = {f"starts_{r}": beside(paper, w, vocabulary, r) for r in (1, 2, 4)}
        rows[f"{layer}/{kind}"] = {"paper_objective": paper.objective.mean().item(), **starts}
        lower = starts["starts_1"]["neurons_lower_by_0.01"]
        ours = decompose(w, vocabulary, moments="scaled", **options)
        both = [statistics(ends, ("core",))["core"][lower, 0] for ends in (ours, paper)]
        cores.append(torch.stack(both))
    core = torch.cat(cores, 1)
    shares = {
        name: mean([row[name]["share_not_lower_by_0.01"] for row in rows.values()])
        for name in starts
    }
    return {
        "neurons": len(rows) * len(w),
        "share_not_lower_by_0.01": shares,
        "core_where_lower": dict(zip(("geodesic", "householder"), core.tolist(), strict=True)),
        "rows": rows,
    }


def summits() -> dict[str, Any]:
    """How high F gets if the search may leave the neuron's surroundings, and whose hill that is.

    Candidates are first channels of random vectors, which know nothing of any neuron. Each neuron
    climbs on from the best point of all great circles through it and one of them.
    """
    model, settings, rows = load_model("smollm2-135m"), Settings(), {}
    vocabulary = model.vocabulary(0)
    drawn = torch.randn(96, model.d_model, generator=torch.Generator().manual_seed(0))
    options = {"n_channels": 1, "progress": False}
    pool = decompose(drawn, vocabulary, **options).vectors[:, 0]
    pool = torch.cat([pool, -pool])
    w = torch.cat([model.neurons(*group, i).vectors for group, i in HELD_OUT.items()])
    start = _towards_best(w, pool, vocabulary, settings)
    near = decompose(w, vocabulary, **options)
    with patch.object(geodesic, "begin", partial(_from, start, geodesic.begin)):
        far = decompose(w, vocabulary, start="weight", **options)
    for name, channels in {"from the neuron": near, "anywhere": far}.items():
        rows[name] = {
            "objective": channels.objective[:, 0].tolist(),
            "cosine": channels.cosine[:, 0].tolist(),
            "core": statistics(channels, ("core",))["core"][:, 0].tolist(),
            **_most_alike(channels),
        }
    return {"neurons": len(w), "candidates": len(drawn), "rows": rows}


def _towards_best(w: Tensor, pool: Tensor, vocabulary: Vocabulary, settings: Settings) -> Tensor:
    """The highest point of the great circles from each vector towards those of the pool."""
    unit = torch.nn.functional.normalize(w, dim=1)
    weights = vocabulary.token_weights.expand(len(w), -1)
    sample = Sample.of(vocabulary.projection, weights, settings.moments)
    a, _, _ = centred_logits(unit, sample)
    best, height = unit, torch.full((len(w),), -math.inf, dtype=torch.float64)
    one, zero = torch.ones_like(height), torch.zeros_like(height)
    for candidate in pool:
        towards = geodesic.tangent(candidate.expand_as(unit), unit)
        towards = torch.nn.functional.normalize(towards, dim=1)
        _, moments = joint_moments(a, towards, sample)
        t = geodesic.line_search(moments, one, zero, settings)
        m2, m4 = (m.squeeze(1) for m in moments_along(moments, t.unsqueeze(1)))
        value = settings.objective(m4 / m2**2 - 3, torch.cos(t))
        point = torch.cos(t).unsqueeze(1) * unit + torch.sin(t).unsqueeze(1) * towards
        best = torch.where((value > height).unsqueeze(1), point.to(unit), best)
        height = torch.maximum(value, height)
    return best


def _most_alike(channels: Channels) -> dict[str, Any]:
    """How many have half of their top ten tokens in common with the most popular; its tokens."""
    top = channels.top_ids[:, 0, :10]
    common = (top[:, None, :, None] == top[None, :, None, :]).any(3).sum(2)
    n_alike = (common >= top.shape[1] / 2).sum(1)
    tokens = [channels.vocabulary.tokens[i] for i in top[n_alike.argmax()].tolist()]
    return {"n_alike": int(n_alike.max()), "alike": tokens}


def _from(start: Tensor, begin: Any, w: Tensor, point: Tensor, *rest: Any) -> Any:
    """:func:`.sphere.begin` from ``start``, where it would begin at the neurons themselves."""
    return begin(w, start if len(w) == len(start) else point, *rest)


def latency() -> dict[str, float]:
    """Seconds a channel with the default settings, the curvature known."""
    model = load_model("smollm2-135m")
    vocabulary = model.vocabulary(25)
    figures = {}
    for name, n, n_channels in (
        ("one neuron, first channel", 1, 1),
        ("64 neurons, 5 channels", 64, 5),
    ):
        neurons = model.neurons(25, "out", list(range(n)))

        def run(neurons: Any = neurons, n_channels: int = n_channels) -> Any:
            return decompose(neurons, vocabulary, n_channels=n_channels, progress=False)

        run()
        seconds = median(timed(run)[0] for _ in range(3))
        figures[name] = seconds / (n * n_channels)
    return figures


def contention() -> dict[str, dict[str, float]]:
    """Two channels alone, and beside one endless loop of normal priority: seconds, worst ratio."""
    model = load_model("smollm2-135m")
    vocabulary, rows = model.vocabulary(25), {}
    for n in (1, 8, 25, 100):
        neurons = model.neurons(25, "out", list(range(n)))

        def run(neurons: Any = neurons) -> float:
            return timed(lambda: decompose(neurons, vocabulary, n_channels=2, progress=False))[0]

        run()
        alone = [run() for _ in range(5)]
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
            beside = [run() for _ in range(5)]
            busy.kill()
        rows[str(n)] = {
            "alone": median(alone),
            "beside_a_busy_loop": median(beside),
            "worst_ratio": max(beside) / median(alone),
        }
    return rows


FORWARD = """
import time, torch
from rotate_core import load_model
network, tokens = load_model("smollm2-135m").transformers(), torch.arange(512)[None]
with torch.no_grad():
    for _ in range(4):
        start = time.perf_counter()
        network(tokens)
        print(time.perf_counter() - start)
"""


def waiting() -> dict[str, dict[str, float]]:
    """Seconds of an eigendecomposition, by what waiting threads do; alone, and beside two loops.

    The longest of some processes: it depends on which cores their threads come to. And of a forward
    pass of 512 tokens alone, the shortest: what sleeping costs.
    """
    code = (
        "import time, torch; a = torch.randn(576, 576); a = a @ a.T; torch.linalg.eigh(a)\n"
        "start = time.perf_counter(); torch.linalg.eigh(a); print(time.perf_counter() - start)"
    )

    def run(code: str, environment: dict[str, str]) -> list[float]:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, check=True, capture_output=True)
        return [float(seconds) for seconds in done.stdout.split()]

    ways = {
        "spinning": {},
        "sleeping": {"OMP_WAIT_POLICY": "passive"},
        "briefly spinning": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"},
    }
    own = set().union(*ways.values())
    plain = {name: value for name, value in os.environ.items() if name not in own}
    rows = {}
    for name, more in ways.items():
        environment = {**plain, **more}
        rows[name] = {
            "alone": max(run(code, environment)[0] for _ in range(4)),
            "forward_pass": min(min(run(FORWARD, environment)) for _ in range(2)),
        }
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
        beside = max(run(code, environment)[0] for _ in range(12))
        for loop in busy:
            loop.kill()
            loop.wait()
        rows[name]["beside_two_busy_loops"] = beside
    return rows


WORK = """
import time, torch
from rotate_core import decompose, load_model
u = torch.randn(576, 49_152)
v, model = torch.randn(100, 576), load_model("smollm2-135m")
neurons, vocabulary = model.neurons(25, "out", range(25)), model.vocabulary(25)
network, tokens = model.transformers(), torch.arange(512)[None]
works = (
    lambda: v @ u,
    lambda: decompose(neurons, vocabulary, n_channels=2, progress=False),
    lambda: network(tokens),
)
with torch.no_grad():
    for work in works:
        times = []
        for _ in range(4):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        print(min(times))
"""


def instructions() -> dict[str, dict[str, float]]:
    """The shortest of some runs, with all instructions that the processor has, and with AVX2 alone.

    Each library is asked in its own way; MKL does not ask on processors of all makers.
    """
    avx2 = {"ATEN_CPU_CAPABILITY": "avx2"}
    avx2 |= dict.fromkeys(("MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA"), "AVX2")
    rows = {}
    for row, values in {"all": {}, "AVX2": avx2}.items():
        out = subprocess.run(
            [sys.executable, "-c", WORK], env=os.environ | values, check=True, capture_output=True
        )
        seconds = map(float, out.stdout.split())
        rows[row] = dict(zip(("product", "decompose", "forward_pass"), seconds, strict=True))
    return rows


def throughput() -> dict[str, dict[str, float]]:
    """Channels a second, five of each neuron, by both starts."""
    model = load_model("smollm2-135m")
    vocabulary, rows = model.vocabulary(25), {}
    for n in (25, 100):
        neurons = model.neurons(25, "out", list(range(n)))
        rows[str(n)] = {}
        for start in ("weight", "tails"):
            seconds, channels = timed(
                lambda neurons=neurons, start=start: decompose(
                    neurons, vocabulary, n_channels=5, start=start, progress=False
                )
            )
            rows[str(n)][start] = n * 5 / seconds
            rows[str(n)][f"{start}_objective"] = channels.objective.mean().item()
    return rows


def curvature() -> dict[str, Any]:
    """First channels preconditioned by how F curves down, against the covariance to the end."""
    model, found = load_model("smollm2-135m"), {"curvature": [], "covariance": []}
    rows = {name: {"seconds": 0.0} for name in found}
    for layer, kind in ((3, "gate"), (12, "in"), (22, "out"), (27, "gate")):
        w, vocabulary = model.neurons(layer, kind, range(200, 248)).vectors, model.vocabulary(layer)
        run = partial(decompose, w, vocabulary, n_channels=1, progress=False)
        run()
        for name, channels in found.items():
            always = geodesic.BOLD if name == "curvature" else Settings().max_iter
            with patch.object(geodesic, "BOLD", always):
                seconds, ends = timed(run)
            rows[name]["seconds"] += seconds
            channels.append(ends)
    ours, covariance = (
        {key: torch.cat([getattr(part, key) for part in parts]) for key in ("objective", "n_iter")}
        for parts in found.values()
    )
    for row, ends in zip(rows.values(), (ours, covariance), strict=True):
        row.update({name: values.double().mean().item() for name, values in ends.items()})
    gain = ours["objective"] - covariance["objective"]
    shares = {"higher_by_0.01": gain > 0.01, "lower_by_0.01": gain < -0.01}
    shares = {name: share.double().mean().item() for name, share in shares.items()}
    return {"channels": len(gain), **rows, **shares}


def precision() -> dict[str, Any]:
    """First channels with products in bfloat16 on the way, against full precision, in one run.

    How long the solver goes by full precision at first was chosen on other neurons.
    """
    model, both = load_model("smollm2-135m"), {"full": [], "bfloat16": []}
    seconds, processor_seconds = dict.fromkeys(both, 0.0), dict.fromkeys(both, 0.0)
    for layer in (3, 12, 22, 27):
        vectors = [model.neurons(layer, k, range(200, 224)).vectors for k in ("gate", "in", "out")]
        w, vocabulary = torch.cat(vectors), model.vocabulary(layer)
        run = partial(decompose, vocabulary=vocabulary, n_channels=1, progress=False)
        run(w[:1])  # what is paid once
        for name, found in both.items():
            before = time.process_time()
            one, channels = timed(partial(run, w, precision=name))
            seconds[name] += one
            processor_seconds[name] += time.process_time() - before
            found.append(channels)
    rows = [compared(*pair) for pair in zip(both["bfloat16"], both["full"], strict=True)]
    return {
        "avx512_bf16": torch.cpu.get_capabilities().get("avx512_bf16", False),
        "channels": sum(row["channels"] for row in rows),
        "share_equal": mean(row["share_equal"] for row in rows),
        "largest_difference_in_F_of_these": max(
            row["largest_difference_in_F_of_these"] for row in rows
        ),
        "seconds": seconds,
        "processor_seconds": processor_seconds,  # of all threads: a busy machine matters less
        "full_over_bfloat16": processor_seconds["full"] / processor_seconds["bfloat16"],
    }


def fused() -> dict[str, Any]:
    """Two channels with elementwise passes as they are, and compiled: once for all, then again."""
    model = load_model("smollm2-135m")
    neurons, vocabulary = model.neurons(25, "out", range(8)), model.vocabulary(25)

    run = partial(decompose, neurons, vocabulary, n_channels=2, progress=False)
    run()
    first, _ = timed(partial(run, compile=True))
    plain, reference = timed(run)
    compiled, channels = timed(partial(run, compile=True))
    figures = {"first": first, "plain": plain, "compiled": compiled}
    return figures | {"plain_over_compiled": plain / compiled} | compared(channels, reference)


def iterations(w: Tensor, vocabulary: Vocabulary, repeats: int) -> tuple[float, float]:
    """Median seconds of one iteration, and of two bare products with U of the same size."""
    projection = vocabulary.projection
    weights = vocabulary.token_weights.expand(len(w), -1).contiguous()
    settings = Settings()
    unit = w / w.norm(dim=1, keepdim=True)
    state = geodesic.begin(unit, unit, projection, weights, settings)

    def iteration() -> None:
        with team(projection.device):
            geodesic.advance(state, geodesic.gradient(state, settings), settings, None)

    def products() -> None:
        (state.s @ projection) @ projection.T

    times = []
    for function in (iteration, products):
        function()
        times.append(median(timed(function)[0] for _ in range(repeats)))
    return times[0], times[1]


def limit() -> dict[str, Any]:
    """An iteration against two bare products, at real and at synthetic shapes."""
    rows = {}
    for shape, (d_model, d_vocab) in SHAPES.items():
        for n in (1, 8, 64, 256) if shape == "smollm2-135m" else (64,):
            w, vocabulary = synthetic(d_model, d_vocab, n)
            ours, bare = iterations(w, vocabulary, 7 if shape == "smollm2-135m" else 3)
            rows[f"{shape}, {n} neurons"] = {
                "iteration": ours,
                "products": bare,
                "ratio": ours / bare,
            }
    return rows


def growth() -> dict[str, dict[str, float]]:
    """Seconds of ten iterations a channel against the number of neurons, tokens and channels."""
    model = load_model("smollm2-135m")
    w = model.neurons(LAYER, KIND, list(range(256))).vectors
    whole = model.vocabulary(LAYER)

    warnings.simplefilter("ignore", ConvergenceWarning)  # ten iterations are the point

    def seconds(n: int = 64, d_vocab: int = whole.d_vocab, n_channels: int = 1) -> float:
        vocabulary = Vocabulary(whole.projection[:, :d_vocab], whole.token_weights[:d_vocab])
        options = {"n_channels": n_channels, "tolerance": 0.0, "max_iter": 10, "progress": False}
        decompose(w[:1], vocabulary, **options)  # the curvature is paid once a vocabulary
        return median(timed(lambda: decompose(w[:n], vocabulary, **options))[0] for _ in range(3))

    return {
        "n_neurons": {str(n): seconds(n=n) for n in (16, 32, 64, 128, 256)},
        "d_vocab": {str(v): seconds(d_vocab=v) for v in (6144, 12_288, 24_576, 49_152)},
        "n_channels": {str(c): seconds(n_channels=c) for c in (1, 2, 4, 8)},
    }


MEMORY_CHILD = """
import pathlib, re, warnings
import torch
from rotate_core import Vocabulary, decompose
warnings.simplefilter("ignore")
process = pathlib.Path("/proc/self")  # getrusage's peak includes the process that started this one
def peak():
    return 1024 * int(re.search("VmHWM:(.*)kB", (process / "status").read_text())[1])
generator = torch.Generator().manual_seed(0)
vocabulary = Vocabulary(torch.randn(49_152, 64, generator=generator).T)
w = torch.randn({n}, 64, generator=generator)
options = dict(n_channels=2, max_iter=2, solver="{solver}", progress=False)
decompose(w[:1], vocabulary, **options)
(process / "clear_refs").write_text("5")  # the peak is what is held now
before = peak()
decompose(w, vocabulary, memory={budget}, **options)
print(peak() - before)
"""


def memory() -> dict[str, Any]:
    """Growth of the peak resident memory against the budget, each in a process of its own."""
    budget, rows = 256 * 2**20, {}
    for solver in ("geodesic", "householder"):
        for n in (64, 512):
            code = MEMORY_CHILD.format(n=n, solver=solver, budget=budget)
            out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            rows[f"{solver}, {n} neurons"] = {"budget": budget, "peak_growth": int(out.stdout)}
    return rows


START = """
from rotate_core import decompose, load_model
model = load_model("smollm2-135m")
decompose(model.neurons(25, "out", [460]), model.vocabulary(25), n_channels=5, progress=False)
"""
PROCESSES = {
    "import torch": ["-c", "import torch"],  # the floor
    "import rotate_core": ["-c", "import rotate_core"],
    "import decompose": ["-c", "from rotate_core import decompose, load_model"],
    "rotate --help": ["-m", "rotate_core", "--help"],
    "five channels of one neuron": ["-c", START],
}


def startup() -> dict[str, float]:
    """Seconds of a process of its own, its files in the system's cache; the median of five."""

    def run(arguments: list[str]) -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    return {
        name: median(timed(lambda a=arguments: run(a))[0] for _ in range(5))
        for name, arguments in PROCESSES.items()
    }


ALL = (
    startup, latency, contention, waiting, instructions, throughput, curvature, precision, fused,
    limit, growth, memory, comparison, hills, summits,
)  # fmt: skip
PARTS = {f.__name__: f for f in ALL}


def main() -> None:
    """Run the parts that were asked for, and keep what the others measured before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; none: all"
    )
    chosen = parser.parse_args().parts or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"unknown part {', '.join(unknown)}: wanted {', '.join(PARTS)}")
    for name in chosen:
        keep(OUTPUT, name, PARTS[name]())


if __name__ == "__main__":
    main()
