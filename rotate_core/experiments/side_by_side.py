"""Every way to take a layer apart on one task, with one budget and one null (chapter 15)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rotate_core.dictionaries.candidates import Sites, Writing
from rotate_core.experiments import concept_steering
from rotate_core.experiments.concept_steering import continuations
from rotate_core.experiments.detection import detection
from rotate_core.experiments.offers import Offer
from rotate_core.experiments.steering_task import SteeringTask
from rotate_core.verdicts.intervals import Estimate, interval

if TYPE_CHECKING:
    import pandas as pd

Concepts = Sequence[Sequence[str]]
"""Of the sentences of each half."""


def detected(
    offers: Sequence[Offer],
    halves: Sequence[Sites],
    concepts: Concepts,
    *,
    n_chance: int,
    seed: int,
) -> pd.DataFrame:
    """:func:`.detection` of every method, one below the other."""
    import pandas as pd

    tables = (
        detection(offer.candidates, halves, concepts, n_chance=n_chance, seed=seed)
        for offer in offers
    )
    return pd.concat(tables, ignore_index=True)


def steered(
    on: SteeringTask,
    offers: Sequence[Offer],
    found: pd.DataFrame,
    *,
    targets: Sequence[float],
    signs: Sequence[int],
    seed: int,
) -> pd.DataFrame:
    """Steering with the candidates that were chosen for detection: there is no second choice.

    All that is written at a site by the same rule passes the model together.

    Args:
        on: the model, its prompts and words.
        offers: those that write are steered with.
        found: by :func:`detected`.
        targets: nats.
        signs: each is given a strength of its own.
        seed: that :func:`detected` had: of the random candidates.

    Returns:
        As :func:`.concept_steering.steering`, with the columns method, candidate and chance: the
        gain of the random candidate at the same divergence.
    """
    import pandas as pd

    together: dict[tuple[str, bool], list[tuple[Tensor, pd.DataFrame]]] = {}
    for offer in offers:
        ours = offer.candidates
        if ours.write is None:
            continue
        own = found[found.method == ours.method]
        for what, each, column in (
            ("gain", ours, "candidate"), ("chance", ours.chance(seed), "chance_candidate")
        ):  # fmt: skip
            assert each.write is not None
            rows = own[["method", "concept"]].assign(what=what, candidate=own[column])
            vectors = each.write.vectors[rows.candidate.tolist()]
            together.setdefault((ours.write.site, ours.write.pull), []).append((vectors, rows))
    key = ["method", "concept", "sign", "target"]
    tables = []
    for (site, pull), parts in together.items():
        writing = Writing(site, torch.cat([vectors for vectors, _ in parts]), pull)
        chosen = pd.concat([rows for _, rows in parts], ignore_index=True)
        table = concept_steering.steering(
            on, writing, chosen.concept.tolist(), targets=targets, signs=signs
        )
        table = table.join(chosen.drop(columns="concept"), on="row").drop(columns="row")
        real, chance = (part for _, part in table.groupby("what", sort=False))
        beside = chance.rename(columns={"gain": "chance"})[[*key, "chance"]]
        tables.append(real.drop(columns="what").merge(beside, on=key))
    return pd.concat(tables, ignore_index=True)


def continued(
    on: SteeringTask,
    offers: Sequence[Offer],
    steering: pd.DataFrame,
    *,
    target: float,
    n_prompts: int,
    n_tokens: int,
) -> pd.DataFrame:
    """Continuations of the first prompts towards each concept, by every method that writes.

    Returns:
        One row per method, concept and prompt: method, concept, gain, prompt, text, loss (nats a
        token, of the model itself). The model as it is comes last, with no concept.
    """
    import pandas as pd

    tables = []
    size: dict[str, Any] = {"n_prompts": n_prompts, "n_tokens": n_tokens}
    for offer in offers:
        method, write = offer.candidates.method, offer.candidates.write
        rows = at(steering, target)
        rows = rows[(rows.method == method) & rows.reached].reset_index(drop=True)
        if write is not None and len(rows):
            table = continuations(on, write, rows.candidate.tolist(), rows.alpha.tolist(), **size)
            told = rows.loc[table.row, ["concept", "gain"]].reset_index(drop=True)
            tables.append(
                pd.concat([table.drop(columns="row"), told], axis=1).assign(method=method)
            )
    plain = continuations(on, None, [0], [0.0], **size).drop(columns="row")
    own = plain.assign(method="the model itself", concept=None, gain=math.nan)
    return pd.concat([*tables, own], ignore_index=True)


def at(steering: pd.DataFrame, target: float, sign: int = 1) -> pd.DataFrame:
    """The rows of one target and sign."""
    return steering[(steering.target == target) & (steering.sign == sign)]


def summary(
    offers: Sequence[Offer],
    found: pd.DataFrame,
    steering: pd.DataFrame,
    texts: pd.DataFrame,
    *,
    target: float,
    seed: int,
) -> pd.DataFrame:
    """One row per method: what it needs, what it detects, what it steers.

    Returns:
        By method: candidates, tokens, labels, seconds; AUROC, AUROC over chance; S_CD (median), and
        undefined (of how many concepts); gain, gain over chance (nats, at the target), and out of
        reach (concepts); loss (nats a token of steered continuations, less that of the model's
        own). Estimates are over concepts.
    """
    import pandas as pd

    def over_concepts(values: pd.Series, names: pd.Series) -> Any:
        return interval(values, names, seed=seed)

    own = texts[texts.method == "the model itself"].loss.mean()
    rows = {}
    for offer in offers:
        name = offer.candidates.method
        read, wrote = found[found.method == name], at(steering, target)
        wrote, text = wrote[wrote.method == name], texts[texts.method == name]
        rows[name] = {
            "candidates": len(offer.candidates),
            "tokens": offer.n_tokens,
            "labels": offer.n_labels,
            "seconds": offer.seconds,
            "AUROC": over_concepts(read.held_out, read.concept),
            "AUROC over chance": over_concepts(read.held_out - read.chance, read.concept),
            "S_CD": float(read.score.median()),
            "undefined": int(read.score.isna().sum()),
            "gain": over_concepts(wrote.gain, wrote.concept),
            "gain over chance": over_concepts(wrote.gain - wrote.chance, wrote.concept),
            "out of reach": int((~wrote.reached).sum()),
            "loss": over_concepts(text.loss - own, text.concept),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def counts(methods: pd.DataFrame) -> dict[str, int]:
    """How many methods are above chance: n_find of n_methods detect, n_steer of n_writing steer.

    Args:
        methods: of :func:`summary`.
    """
    writing = methods[methods["gain"].map(lambda gain: gain.n > 0)]
    return {
        "n_find": sum(over.low > 0 for over in methods["AUROC over chance"]),
        "n_methods": len(methods),
        "n_steer": sum(over.low > 0 for over in writing["gain over chance"]),
        "n_writing": len(writing),
    }


def best(methods: pd.DataFrame, column: str) -> str:
    """The method of the largest mean in words, with what it has over random candidates.

    Args:
        methods: of :func:`summary`.
        column: "AUROC" or "gain".
    """
    values = methods[column].map(lambda estimate: estimate.value).dropna()
    if values.empty:
        return "none"
    name = values.idxmax()
    own, over = methods.loc[name, [column, f"{column} over chance"]]
    return f"{name} ({column} {own}; over random candidates {over})"


def per_concept(table: pd.DataFrame, method: str, column: str) -> pd.Series:
    """A method's figure of each concept."""
    part = table[table.method == method].set_index("concept")
    return part[column]


def remembered(texts: pd.DataFrame) -> pd.DataFrame:
    """For each method the concept whose words gain most, and its first continuation."""
    told = texts[texts.concept.notna()]
    best = told.loc[told.groupby("method", sort=False).gain.idxmax()]
    return best[["method", "concept", "gain", "prompt", "text"]]


@dataclass(frozen=True)
class Recorded:
    """The chapter's tables of another run, out of its record."""

    model: str
    layer: int
    found: pd.DataFrame
    steering: pd.DataFrame
    methods: pd.DataFrame


def recorded(file: str | Path) -> Recorded | None:
    """A run that this chapter left as JSON; None: there is no such file."""
    import pandas as pd

    file = Path(file)
    if not file.is_file():
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    tables = {
        name: pd.DataFrame(record["metrics"][name]) for name in ("detection", "steering", "methods")
    }
    methods = tables["methods"].set_index("method")
    for column in ("AUROC", "AUROC over chance", "gain", "gain over chance", "loss"):
        methods[column] = methods[column].map(Estimate.of)
    return Recorded(
        record["model"]["name"],
        record["parameters"]["side_layer"],
        tables["detection"],
        tables["steering"],
        methods,
    )
