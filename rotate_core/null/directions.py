"""Directions out of someone's file: a safetensors, an .npy or an .npz; never unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS = (".safetensors", ".npy", ".npz")
UNREADABLE = (SafetensorError, OSError, EOFError, BadZipFile, ValueError, TypeError)
"""What the readers raise of a file that is damaged, or that only unpickling would read."""


def read_directions(
    path: Path, d_model: int, *, tensor: str | None = None, columns: bool = False
) -> Float[Tensor, "n d_model"]:
    """The directions in a file, a row each.

    Args:
        path: one of :data:`FORMATS`.
        d_model: how long a direction is.
        tensor: its name in the file, such as "W_dec"; None: the only one with directions in it.
        columns: that the directions are columns. Where the shape tells, that need not be said.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is damaged, of another format, or needs unpickling; there is no such tensor,
            or there are several; no side is ``d_model`` long.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: wanted a file of {', '.join(FORMATS)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        shapes, read = _opened(path)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    name = _chosen(shapes, tensor, d_model, path)
    try:
        values = read(name)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {name}: {error}") from error
    rows = values if values.ndim == 2 else values.unsqueeze(0)
    if columns or rows.shape[1] != d_model:
        rows = rows.T
    if rows.shape[1] != d_model:
        raise ValueError(
            f"{path} has directions of shape {tuple(values.shape)}: wanted {d_model} "
            f"{'rows' if columns else 'columns, or rows'}, the model's d_model"
        )
    return rows.contiguous()


def _opened(path: Path) -> tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]:
    """Shapes by name, and what reads a tensor by its name."""
    if path.suffix == ".safetensors":
        file = safe_open(path, framework="pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return shapes, file.get_tensor
    import numpy as np

    with path.open("rb") as stream:
        loaded = np.load(stream, allow_pickle=False)
        arrays = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    return {name: a.shape for name, a in arrays.items()}, lambda name: torch.as_tensor(arrays[name])


def _chosen(
    shapes: dict[str, tuple[int, ...]], tensor: str | None, d_model: int, path: Path
) -> str:
    """The name of the tensor with the directions."""
    there = ", ".join(f"{name or 'one'} {shape}" for name, shape in list(shapes.items())[:20])
    if tensor is not None:
        if tensor not in shapes:
            raise ValueError(f"{path} has no tensor {tensor!r}: it has {there or 'none'}")
        names = [tensor]
    else:
        names = [name for name, shape in shapes.items() if len(shape) == 2 and d_model in shape]
        names = names or [name for name, shape in shapes.items() if shape == (d_model,)]
    if len(names) > 1:
        raise ValueError(f"{path} has several: {there}; wanted the name of one")
    if not names or len(shapes[names[0]]) not in (1, 2):
        raise ValueError(
            f"{path} has {there or 'no tensor'}: wanted (n, {d_model}), directions as rows"
        )
    return names[0]
