"""Seconds, and a part of a benchmark's table, kept with what it was measured on."""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rotate_core import Channels
from rotate_core.storage import hardware, versions, write_whole
from rotate_core.verdicts.record import PACKAGES

SHAPES = {
    "smollm2-135m": (576, 49_152),
    "gemma-2-2b": (2304, 256_000),
    "llama-3.1-8b": (4096, 128_256),
}
"""Rows and columns of U in real models."""


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of one call, the work that it left to a GPU included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def compared(channels: Channels, reference: Channels) -> dict[str, float]:
    """How many channels are another's, cosine 0.9999 or more, and how F differs where they are."""
    cosine = torch.cosine_similarity(channels.vectors, reference.vectors, dim=-1)
    difference = (channels.objective / reference.objective - 1).abs()
    return {
        "channels": cosine.numel(),
        "share_equal": (cosine >= 0.9999).double().mean().item(),
        "largest_difference_in_F_of_these": difference[cosine >= 0.9999].max().item(),
    }


def keep(file: Path, part: str, figures: dict[str, Any]) -> None:
    """Put figures into a table of parts; what others measured before stays. And print them."""
    results = json.loads(file.read_text()) if file.exists() else {}
    results[part] = {
        "figures": figures,
        "hardware": hardware(),
        "load_average": os.getloadavg()[0],
        "versions": versions(*PACKAGES),
        "measured": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
    }
    write_whole(file, (json.dumps(results, indent=1) + "\n").encode())
    print(f"{part}: {json.dumps(figures, indent=1)}", flush=True)
