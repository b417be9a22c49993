"""Regions by EM and by the paper's Adam, from the same start, and the size that a chapter fits.

    python benchmarks/mfa.py [race size]

Each part updates its entry of benchmarks/mfa.json, with the hardware and the time of day it was
measured on. Adam gets the paper's learning rate and one that is ten times larger, and is stopped
after as many passes as are given; the target is the held-out likelihood of EM when it ends.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from measured import keep
from torch import Tensor

from rotate_core import load_model, text
from rotate_core.dictionaries import RegionSettings, em, gradient, mfa
from rotate_core.dictionaries.checks import floor_of
from rotate_core.dictionaries.mixture import mean_log_prob
from rotate_core.dictionaries.start import start

OUTPUT = Path(__file__).with_suffix(".json")
RATES = (1e-3, 1e-2)
STARTS = {"principal components": "pca", "the paper's": "random"}
MARGIN = 0.001
"""Nats a token and dimension that Adam may be short of EM and still count as having reached it."""


def planted(n: int = 2560, d: int = 128, k: int = 16, rank: int = 8) -> Tensor:
    """Tokens of regions that are known: centroids three standard deviations out in a dimension."""
    g = torch.Generator().manual_seed(0)
    centroids, loadings = torch.randn(k, d, generator=g) * 3, torch.randn(k, d, rank, generator=g)
    member = torch.randint(k, (n,), generator=g)
    z = torch.randn(n, rank, generator=g)
    x = centroids[member] + torch.einsum("tdr,tr->td", loadings[member], z)
    return x + 0.5 * torch.randn(n, d, generator=g)


def race(passes: int) -> dict[str, Any]:
    """Seconds to the same held-out likelihood, from each start."""
    return {name: race_from(how, passes) for name, how in STARTS.items()}


def race_from(how: str, passes: int) -> dict[str, Any]:
    """Seconds to the same held-out likelihood, from one start."""
    x = planted()
    mean = x.mean(0)
    seen, unseen = (x - mean)[:-256], (x - mean)[-256:]
    settings = RegionSettings()
    floor = floor_of(seen, settings)
    generator = torch.Generator().manual_seed(0)
    begin = start(seen, 16, rank=8, noise="shared", floor=floor, how=how, generator=generator)

    def curve(steps: Any, n: int) -> list[tuple[float, float]]:
        """(seconds so far, held-out nats a token) after each pass; measuring is not timed."""
        points, seconds, begun = [], 0.0, time.perf_counter()
        for i, (mixture, *_) in enumerate(steps):
            seconds += time.perf_counter() - begun
            points.append((seconds, mean_log_prob(unseen, mixture, None)))
            if i == n:
                return points
            begun = time.perf_counter()
        raise AssertionError("fits do not end by themselves")

    ours = curve(em.fit(seen, begin, noise="shared", floor=floor), 20)
    target = ours[-1][1] - MARGIN * seen.shape[1]
    reached = next(seconds for seconds, value in ours if value >= target)
    rows = {}
    for rate in RATES:
        adam = gradient.fit(seen, begin, learning_rate=rate, batch=128, generator=generator)
        points = curve(adam, passes)
        when = [seconds for seconds, value in points if value >= target]
        rows[f"Adam, learning rate {rate:g}"] = {
            "seconds": when[0] if when else None,
            "seconds_at_the_end": points[-1][0],
            "held_out_at_the_end": points[-1][1],
            "times_slower_at_least": (when[0] if when else points[-1][0]) / reached,
        }
    return {
        "shape": [*seen.shape, 16, 8],
        "held_out_at_the_start": ours[0][1],
        "target": target,
        "em": {"seconds": reached, "held_out_at_the_end": ours[-1][1]},
        **rows,
    }


def size() -> dict[str, Any]:
    """Seconds for 32 regions of rank 8 of the embedded model's layer 15, 20,000 tokens."""
    model = load_model("smollm2-135m")
    x = text.activations(model, "gensim-wikipedia", layers=[15], site="residual", n_tokens=20_000)
    begun = time.perf_counter()
    regions = mfa(x[15], 32, rank=8, progress=False)
    seconds = time.perf_counter() - begun
    assert math.isfinite(regions.held_out)
    return {
        "tokens": len(x[15]),
        "d": x[15].values.shape[1],
        "seconds": seconds,
        "passes": regions.n_iter,
        "held_out": regions.held_out,
        "converged": regions.converged,
    }


def main() -> None:
    """Run the parts that were asked for, and keep what the others measured before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="race, size; none: both")
    parser.add_argument("--passes", type=int, default=200, help="of Adam")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the figures go")
    arguments = parser.parse_args()
    parts = {"race": lambda: race(arguments.passes), "size": size}
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"unknown part {', '.join(unknown)}: wanted {', '.join(parts)}")
    for name in arguments.parts or parts:
        keep(arguments.output, name, parts[name]())


if __name__ == "__main__":
    main()
