"""What a profile needs before it begins: what is fetched, memory, disk and time.

    python -m book.needs notebooks/profiles/paper-gemma.yaml

says so, and ends with an error where this machine has too little memory or disk: better now than in
hour two. What nobody has measured is said not to be.
"""

from __future__ import annotations

import ast
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import psutil
import yaml
from tqdm import tqdm

from book.execute import parameters_cell
from rotate_core import Model, load_model

ROOT = Path(__file__).parents[1]
FLOAT = 4
"""Bytes of a number in memory and in an atlas."""
WORK, BASE = 1.5, 2_000_000_000
"""Memory of a chapter over that of its model and U, and what Python and its packages take."""
CPU_SIZE = 576 * 49_152
"""Numbers in U of the model that benchmarks/solver.json times; a channel's time grows with them."""


@dataclass(frozen=True)
class Needs:
    """Of the largest chapter (memory), and of all of them."""

    fetched: int
    """Bytes of weights that are not here yet."""
    memory: int
    """Bytes."""
    disk: int
    """Bytes: what is fetched, the atlas, and activations of all texts, which are kept, at most."""
    neuron_channels: int
    """Channels of the atlas, those of matched vectors included."""

    def missing(self, memory: int, disk: int) -> list[str]:
        """What there is too little of, in words."""
        return [
            f"{size(wanted)} of {what}, and {size(there)} are there"
            for what, wanted, there in (("memory", self.memory, memory), ("disk", self.disk, disk))
            if wanted > there
        ]


def needs(values: dict[str, Any], model: Model, weights: dict[str, int], here: set[str]) -> Needs:
    """From a profile's values, its model's sizes, and its files' bytes.

    Args:
        values: of the parameters, the notebooks' own included.
        model: its config.json is enough.
        weights: bytes of each file of weights.
        here: names of those that need not be fetched.
    """
    config = model.checkpoint.config
    stored = 2 if "16" in str(config.get("dtype", config.get("torch_dtype"))) else FLOAT
    parameters = sum(weights.values()) // stored
    vocabularies = (1 if model.tied else 2) * model.d_model * int(config["vocab_size"])
    each = len(model.kinds) * len(values["layers"]) * values["atlas_channels"]
    channels = each * (values["atlas_neurons"] + values["atlas_null"])
    tokens = sum(n for name, n in values.items() if name.endswith("_tokens") and n)
    kept = tokens * len(values["layers"]) * max(model.d_mlp, model.d_model)
    fetched = sum(n for name, n in weights.items() if name not in here)
    return Needs(
        fetched=fetched,
        memory=BASE + int(WORK * FLOAT * (parameters + vocabularies)),
        disk=fetched + FLOAT * (channels * model.d_model + kept),
        neuron_channels=channels,
    )


def hours(channels: int, model: Model, device: str | None) -> float | None:
    """Hours of the atlas, by the benchmarks; None: nobody has measured that on such a device."""
    if device and device != "cpu":
        rows = _benchmark("gpu").get("layer", {}).get("figures", "not measured")
        if isinstance(rows, str):
            return None
        named = [row for name, row in rows["rows"].items() if name in model.name]
        return channels / named[0]["neuron_channels_per_second"] / 3600 if named else None
    rate = _benchmark("solver").get("throughput", {}).get("figures", {}).get("100", {}).get("tails")
    size = model.d_model * int(model.checkpoint.config["vocab_size"])
    return channels * size / CPU_SIZE / rate / 3600 if rate else None


def weights_of(model: Model) -> tuple[dict[str, int], set[str]]:
    """Bytes of each file of a model's weights, and which of them are here."""
    if model.commit is None:
        files = {path.name: path.stat().st_size for path in model.path.glob("*.safetensors")}
        return files, set(files)
    from huggingface_hub import HfApi, try_to_load_from_cache

    info = HfApi().model_info(model.name, revision=model.commit, files_metadata=True)
    files = {
        file.rfilename: file.size or 0
        for file in info.siblings or ()
        if file.rfilename.endswith(".safetensors")
    }
    cached = (try_to_load_from_cache(model.name, name, revision=model.commit) for name in files)
    return files, {name for name, path in zip(files, cached, strict=True) if path}


def size(n: int) -> str:
    """Bytes, to read."""
    return tqdm.format_sizeof(n, "B", 1000)


def defaults() -> dict[str, Any]:
    """All notebooks' parameters."""
    values: dict[str, Any] = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for line in ast.parse(parameters_cell(nbformat.read(path, as_version=4)).source).body:
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                values[line.targets[0].id] = ast.literal_eval(line.value)
    return values


def _benchmark(name: str) -> dict[str, Any]:
    file = ROOT / "benchmarks" / f"{name}.json"
    measured: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return measured


def main() -> None:
    """Say what the profile needs; exit with a sentence where it is not there."""
    profile = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    values = defaults() | profile
    model = load_model(values["model"])
    wanted = needs(values, model, *weights_of(model))
    took = hours(wanted.neuron_channels, model, values["device"])
    time = "its time on such a device is not measured"
    if took is not None:
        time = f"{took:.1f} hours" if took >= 1 else f"{60 * took:.0f} minutes"
    print(
        f"{model.name}: {size(wanted.fetched)} to fetch, {size(wanted.memory)} of memory, "
        f"{size(wanted.disk)} of disk; the atlas has {wanted.neuron_channels:,} channels: {time}.",
        flush=True,
    )
    memory, disk = psutil.virtual_memory().total, shutil.disk_usage(ROOT).free
    if missing := wanted.missing(memory, disk):
        raise SystemExit(f"This profile wants {' and '.join(missing)}. Nothing was begun.")


if __name__ == "__main__":
    main()
