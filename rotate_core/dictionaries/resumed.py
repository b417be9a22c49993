"""Streams that go on where they were: what is on disk between two batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from rotate_core.storage import write_whole

if TYPE_CHECKING:
    from rotate_core.text.labelled import Activations

State = TypeVar("State")
STATE = "state.safetensors"
DECAY = 0.7
"""Of the step sizes ``(t + 2)^-DECAY``: within (1/2, 1] they converge."""


def from_batch(
    batches: Iterable[Tensor | Activations] | Callable[[int], Iterable[Tensor | Activations]],
    first: int,
) -> Iterator[Tensor | Activations]:
    """The batches from one on: asked for, or those before passed over."""
    return iter(batches(first) if callable(batches) else islice(batches, first, None))


def first_batches(source: Iterator[Tensor | Activations], n: int) -> list[Tensor | Activations]:
    """As many batches as hold n tokens; fewer where there are no more.

    Raises:
        ValueError: there is none.
    """
    held: list[Tensor | Activations] = []
    for batch in source:
        held.append(batch)
        if sum(map(len, held)) >= n:
            break
    if not held:
        raise ValueError("the stream is empty: wanted at least one batch")
    return held


def step_size(t: int) -> float:
    """What the t-th batch weighs; the sums before it weigh the rest."""
    return float((t + 2) ** -DECAY)


def keep(
    file: Path | None, asked: dict[str, Any], tensors: dict[str, Tensor], plain: dict[str, Any]
) -> None:
    """Write a state, whole or not at all; nothing where there is no file."""
    if file is None:
        return
    content = {k: v.cpu().contiguous() for k, v in tensors.items()}
    write_whole(file, save(content, {"asked": json.dumps(asked), "plain": json.dumps(plain)}))


def read(
    file: Path | None,
    asked: dict[str, Any],
    device: str | torch.device | None,
    make: Callable[[dict[str, Tensor], dict[str, Any]], State],
) -> State | None:
    """A state, made of its tensors and numbers; None: there is none yet.

    Raises:
        ValueError: it is damaged, or of something else.
    """
    if file is None or not file.exists():
        return None
    try:
        with safe_open(file, "pt") as opened:
            labels = opened.metadata() or {}
        tensors = {k: v.to(device or "cpu") for k, v in load(file.read_bytes()).items()}
        known, plain = dict(json.loads(labels["asked"])), dict(json.loads(labels["plain"]))
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise _damaged(file, error) from error
    if differences := [k for k in asked if known.get(k) != asked[k]]:
        seen, wanted = ({k: d.get(k) for k in differences} for d in (known, asked))
        raise ValueError(
            f"{file} is of a run with {seen}, asked is {wanted}: wanted the same, or another folder"
        )
    try:
        return make(tensors, plain)
    except (TypeError, KeyError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ValueError:
    """What is raised of a file that is none of ours, or was changed."""
    return ValueError(f"{file} is damaged: {error}. Delete it to begin again")
