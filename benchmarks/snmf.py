"""Factors by exact steps and by the paper's multiplicative update, on real activations.

    python benchmarks/snmf.py

Updates benchmarks/snmf.json, with the hardware and the time of day it was measured on. The update
gets the paper's random start and as many iterations as are given; the target is what it explains at
the end. Ours is timed as it is called: three starts, moves and the end included.
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from measured import keep

from rotate_core import load_model, text
from rotate_core.dictionaries import hals, multiplicative, snmf
from rotate_core.dictionaries.factor_start import start
from rotate_core.rotation.threads import team

OUTPUT = Path(__file__).with_suffix(".json")
SHARES = (0.01, 0.05)


def race(n_tokens: int, n_features: int, n_iter: int, n_sweeps: int) -> dict[str, Any]:
    """Seconds to the same loss, and the loss at the end, for each share."""
    model = load_model("smollm2-135m")
    x = text.activations(
        model, "gensim-wikipedia", layers=[15], site="hidden", n_tokens=n_tokens, progress=False
    )[15].values
    total = float(x.double().square().sum())
    rows: dict[str, Any] = {"shape": [*x.shape, n_features]}
    for share in SHARES:
        n_kept = math.ceil(share * x.shape[1])
        generator = torch.Generator().manual_seed(0)
        y = torch.rand(n_features, len(x), generator=generator)
        paper = curve(multiplicative.fit(x, y, n_kept), n_iter, total)
        with team(x.device):
            begun = time.perf_counter()
            z = start(x, n_features, n_kept, how="tokens", generator=generator)
            seconds = time.perf_counter() - begun
            one = [(seconds + s, e) for s, e in curve(hals.fit(x, z, n_kept), n_sweeps, total)]
        target = max(explained for _, explained in paper)
        reached = next((s for s, explained in one if explained >= target), math.nan)
        when = next(s for s, explained in paper if explained >= target)
        begun = time.perf_counter()
        whole = snmf(x, n_features, share=share, progress=False)
        rises = sum(b < a - 1e-9 for (_, a), (_, b) in pairwise(paper))
        rows[f"share {share}"] = {
            "multiplicative": {
                "iterations": n_iter, "seconds": paper[-1][0], "best_explained": target,
                "seconds_to_best": when, "rises": rises,
            },
            "one_start": {
                "seconds_to_the_same": reached, "start_seconds": seconds,
                "times_sooner": when / reached, "explained_at_the_end": one[-1][1],
            },
            "snmf": {
                "seconds": time.perf_counter() - begun, "explained": whole.explained,
                "sweeps": whole.n_iter, "converged": whole.converged,
            },
        }  # fmt: skip
    return rows


def curve(sweeps: Any, n: int, total: float) -> list[tuple[float, float]]:
    """(seconds so far, explained energy) after each sweep."""
    begun = time.perf_counter()
    return [(time.perf_counter() - begun, 1 - s.loss / total) for s in islice(sweeps, n)]


def main() -> None:
    """Run the race and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=1000, help="of the update")
    parser.add_argument("--sweeps", type=int, default=100, help="of one start of ours")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the figures go")
    a = parser.parse_args()
    keep(a.output, "race", race(a.tokens, a.features, a.iterations, a.sweeps))


if __name__ == "__main__":
    main()
