"""The scoreboard: the paper's claims beside what the chapters found, as a table and as cards."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rotate_core.verdicts.cards import Cards
from rotate_core.verdicts.claims import BASELINES, CLAIMS, ROTATE, on_the_scoreboard
from rotate_core.verdicts.intervals import Estimate
from rotate_core.verdicts.rules import Outcome, verdict

if TYPE_CHECKING:
    import pandas as pd


def table(outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """One row per claim, by name: the paper's figure and its source, ours, its null, the verdict.

    Args:
        outcomes: by the claim's name; what is missing was not run.

    Raises:
        KeyError: an outcome of no known claim.
    """
    import pandas as pd

    if unknown := set(outcomes) - set(CLAIMS):
        raise KeyError(f"no claims {sorted(unknown)}; known are {', '.join(CLAIMS)}")
    rows = []
    claims = on_the_scoreboard(outcomes)
    for name, claim in claims.items():
        outcome = outcomes.get(name)
        decision, why = verdict(claim, outcome)
        rows.append(
            {
                "claim": claim.text,
                "paper": claim.paper_text,
                "source": claim.source,
                "ours": str(outcome.ours) if outcome else "",
                "null": f"{outcome.null} ({outcome.null_is})" if outcome else "",
                "ours less null": str(outcome.over_null) if outcome else "",
                "neurons": outcome.ours.n_clusters if outcome else 0,
                "model": outcome.model if outcome else "",
                "verdict": decision,
                "why": why,
                "notebook": claim.notebook,
            }
        )
    return pd.DataFrame(rows, index=list(claims))


def shown(
    outcomes: Mapping[str, Outcome | Sequence[Outcome] | None],
    *,
    reading: bool = True,
    link: str | None = None,
) -> Cards:
    """Claims as a chapter, the scoreboard and the first page show them: a card for each.

    Args:
        outcomes: by the claim's name; several of one claim, of a model each; None: not run.
        reading: whether a card has the sentence that follows from its figures.
        link: where a claim's chapter is, such as "{}.ipynb"; None: the card is in it.
    """
    several = {
        name: (found,) if isinstance(found, Outcome) else tuple(found or ())
        for name, found in outcomes.items()
    }
    return Cards(several, reading=reading, link=link)


def collect(folder: str | Path, *, checksum: str | None = None) -> dict[str, Outcome]:
    """The outcomes of ROTATE's claims that the chapters left in results/*.json.

    Args:
        folder: of the files.
        checksum: of a model; results of others are left out, and so count as not run.
    """
    return {
        name: Outcome.of(outcome)
        for record in _records(folder, checksum)
        for name, outcome in record.get("claims", {}).items()
        if CLAIMS[name].arxiv == ROTATE
    }


def recorded(folder: str | Path, *, but: str | None = None) -> dict[str, dict[str, Outcome]]:
    """Outcomes of the models that are kept in a folder of records, smaller models first.

    Args:
        folder: such as book/recorded, with one folder per model; see :mod:`.recorded`.
        but: the checksum of a model that is left out, as it was run here.

    Returns:
        By the model's name: its outcomes by the claim's name, of those that have any.
    """
    models = []
    for path in sorted(p for p in Path(folder).glob("*") if p.is_dir()):
        kept = [record["model"] for record in _records(path, None)]
        if kept and kept[0]["checksum"] != but and (outcomes := collect(path)):
            models.append((kept[0].get("mlp_parameters", 0), kept[0]["name"], outcomes))
    return {name: outcomes for _, name, outcomes in sorted(models, key=lambda m: m[:2])}


def over_models(models: Mapping[str, Mapping[str, Outcome]]) -> pd.DataFrame:
    """Ours less the null for each claim (row) that any model (column) has; percentiles as shares.

    Args:
        models: outcomes by the claim's name, by model.
    """
    import pandas as pd

    names = [name for name in CLAIMS if any(name in outcomes for outcomes in models.values())]
    columns = {
        model: [_as_share(name, outcomes.get(name)) for name in names]
        for model, outcomes in models.items()
    }
    return pd.DataFrame(columns, index=[_label(name) for name in names])


def baselines(folder: str | Path, *, checksum: str | None = None) -> pd.DataFrame:
    """The paper's own baselines, and whether the chapters left figures of them.

    Args:
        folder: of results/*.json.
        checksum: of a model; results of others are left out.

    Returns:
        One row per baseline: baseline, beside (claims), state ("run" or "not run"), where or why.
    """
    import pandas as pd

    where: dict[str, str] = {}
    for record in _records(folder, checksum):
        notebooks = {CLAIMS[name].notebook for name in record.get("claims", {})}
        for row in record["metrics"].get("scores", ()):
            where[row["method"]] = ", ".join(sorted(notebooks))
    rows = [
        {
            "baseline": baseline.name,
            "beside": ", ".join(_label(name) for name in baseline.claims),
            "state": "run" if baseline.name in where else "not run",
            "where or why": where.get(baseline.name, baseline.missing),
        }
        for baseline in BASELINES
    ]
    return pd.DataFrame(rows)


def _records(folder: str | Path, checksum: str | None) -> Iterator[dict[str, Any]]:
    """The records that :func:`.write_results` left, of one model or of all."""
    for file in sorted(Path(folder).glob("[0-9][0-9]_*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if checksum in (None, record["model"]["checksum"]):
            yield record


def _label(name: str) -> str:
    return name.replace("_", " ")


def _as_share(name: str, outcome: Outcome | None) -> Estimate:
    """Ours less the null, or an estimate of nothing."""
    if outcome is None:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    unit, found = (100.0 if name.endswith("_percentile") else 1.0), outcome.over_null
    ends = {part: getattr(found, part) / unit for part in ("value", "low", "high")}
    return replace(found, **ends)
