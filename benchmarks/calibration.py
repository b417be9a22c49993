"""Which way from a null to small p-values is valid, and which finds most: the choice, in full.

    python benchmarks/calibration.py [--vectors 2000] [--planted 200]

For six layers and kinds of the embedded model: first channels of so many matched vectors, tested
against a hundred of them over and over (rotate_core.experiments.null_validity); and for one of them
channels planted in other matched vectors, 1 or 5 among 25. Writes benchmarks/calibration.json,
which chapter 4 shows. About fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from measured import keep

from rotate_core import decompose, load_model
from rotate_core.experiments import null_validity
from rotate_core.experiments.null_power import planted_statistics
from rotate_core.null.evidence import statistics
from rotate_core.null.matched import matched_vectors

FILE = Path(__file__).with_suffix(".json")
GROUPS = [(29, "out"), (0, "in"), (15, "gate"), (22, "out"), (29, "gate"), (15, "out")]
N_NULL = 100
STRENGTHS = (0.2, 0.3, 0.4, 0.6, 0.8)
SIZE = 20
"""Tokens of a planted cluster."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=2000, help="matched vectors of each group")
    parser.add_argument("--planted", type=int, default=200, help="vectors for each strength")
    arguments = parser.parse_args()
    model = load_model("smollm2-135m")
    fresh = {}
    for layer, kind in GROUPS:
        vectors = matched_vectors(model.neurons(layer, kind).vectors, arguments.vectors, seed=77)
        channels = decompose(vectors, model.vocabulary(layer), n_channels=1)
        fresh[f"{layer} {kind}"] = statistics(channels, ("core",))["core"][:, 0].numpy()

    def others(group: str) -> list[null_validity.Values]:
        return [values[:N_NULL] for name, values in fresh.items() if name != group]

    valid = pd.concat(
        null_validity.validity(values, others(group), n_null=N_NULL).assign(group=group)
        for group, values in fresh.items()
    )
    keep(FILE, "validity", {"vectors": arguments.vectors, "rows": valid.to_dict("records")})

    layer, kind = GROUPS[0]
    table = planted_statistics(
        matched_vectors(model.neurons(layer, kind).vectors, arguments.planted, seed=78),
        model.vocabulary(layer),
        sizes=[SIZE],
        strengths=STRENGTHS,
        names=("core",),
    )
    planted = {strength: part.core.to_numpy() for strength, part in table.groupby("strength")}
    group = f"{layer} {kind}"
    power = null_validity.discoveries(fresh[group], planted, others(group), n_null=N_NULL)
    keep(FILE, "power", {"group": group, "size": SIZE, "rows": power.to_dict("records")})
    choice = null_validity.choose(valid, power).reset_index()
    keep(FILE, "choice", choice.to_dict("records"))


if __name__ == "__main__":
    main()
