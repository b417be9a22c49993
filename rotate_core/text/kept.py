"""Activations kept in a folder: one file for each model, text, site and layer.

A file is safetensors. What it was made with stands in its header, as JSON; nothing is unpickled.
The digest of that is in the file's name, so what was made with something else is another file.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rotate_core.storage import versions, write_whole

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Kept:
    """The files of one model on one text."""

    folder: Path
    model: str
    checksum: str
    """Of the model's weights."""
    tokens: Int[Tensor, "n_windows length"]
    """The text as the model reads it: that stands for source, split, tokenizer and window."""
    dtype: torch.dtype
    """The model's precision."""

    def read(
        self, site: str, layer: int, shape: tuple[int, int]
    ) -> Float[Tensor, "n_tokens width"] | None:
        """What was kept; None where there is nothing, or nothing whole: that is a warning."""
        made_with, path = self._file(site, layer)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata, values = file.metadata() or {}, file.get_tensor("values")
            if values.shape == shape and metadata.get("manifest") == _manifest(made_with, values):
                return values
            reason: object = "it does not hold what its name says"
        except (SafetensorError, OSError) as error:
            reason = error
        log.warning("%s is damaged (%s) and is computed anew", path, reason)
        return None

    def write(self, site: str, layer: int, values: Float[Tensor, "n_tokens width"]) -> None:
        """Keep values; a whole file or none."""
        made_with, path = self._file(site, layer)
        write_whole(path, save({"values": values}, {"manifest": _manifest(made_with, values)}))

    def _file(self, site: str, layer: int) -> tuple[dict[str, Any], Path]:
        """What a file is made with, and the file."""
        made_with = {
            "model": self.model,
            "checksum": self.checksum,
            "tokens": _sha256(self.tokens),
            "shape": list(self.tokens.shape),
            "site": site,
            "layer": layer,
            "dtype": str(self.dtype),
            "versions": versions("rotate_core", "torch", "transformers"),
        }
        digest = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()
        name = f"{self.model.replace('/', '--')}-{site}-{layer}-{digest[:12]}.safetensors"
        return made_with, self.folder / name


def _manifest(made_with: dict[str, Any], values: Tensor) -> str:
    return json.dumps(made_with | {"sha256": _sha256(values)}, sort_keys=True)


def _sha256(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().data).hexdigest()
