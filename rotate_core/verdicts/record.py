"""The record of a chapter: results/NN_claim.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rotate_core.storage import hardware, versions, write_whole

if TYPE_CHECKING:
    from rotate_core.models import Model
    from rotate_core.verdicts.rules import Outcome

PACKAGES = ("rotate_core", "torch", "transformers", "numpy", "scipy", "mwparserfromhell")


def write_results(
    name: str,
    *,
    metrics: Mapping[str, Any],
    parameters: Mapping[str, Any],
    model: Model,
    seconds: float,
    claims: Mapping[str, Outcome] | None = None,
    folder: str | Path,
) -> None:
    """Write a chapter's figures with all that they depend on; a whole file or none.

    Args:
        name: of the notebook, NN_claim.
        metrics: figures by name: numbers, strings, estimates, tables, lists and dictionaries.
        parameters: the chapter's parameters, seed included.
        model: whose checksum goes with the figures.
        seconds: that the chapter took.
        claims: outcomes by the claim's name.
        folder: where to; made if need be.
    """
    content = {
        "metrics": metrics,
        "claims": claims or {},
        "parameters": parameters,
        "model": {
            "name": model.name,
            "checksum": model.checksum,
            "mlp_parameters": len(model.kinds) * model.n_layers * model.d_mlp * model.d_model,
        },
        "versions": versions(*PACKAGES),
        "hardware": hardware(),
        "date": date.today().isoformat(),
        "seconds": round(seconds, 1),
    }
    text = json.dumps(_plain(content), indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_whole(Path(folder) / f"{name}.json", text.encode())


def _plain(value: Any) -> Any:
    """A value as JSON has it: tables as lists of rows, estimates as dictionaries, NaN as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if hasattr(value, "columns"):
        return _plain(value.to_dict("records"))
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
