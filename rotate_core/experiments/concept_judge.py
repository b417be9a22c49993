"""Steered text rated by a language model, where one is configured (chapter 15, second tier).

Two questions of each continuation, each answered by 0, 1 or 2: how much of the concept is in it,
and how fluent it is. A text's score is the harmonic mean of the two, so that it is 0 where either
is. The judge sees no method's name, and of a concept the same words whoever steered: those of the
sentences that candidates were chosen on.

Source: the questions and the mean as the steering experiments of arXiv:2506.10920 and of AxBench
(arXiv:2501.17148) have them, by notes; the wording is ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.experiments.descriptions.endpoint import Endpoint

_TEXT = 'A text begins with "{prompt}" and goes on with:\n\n"{text}"\n\n'
_SCALE = "Answer with one number: 0 (not at all), 1 (somewhat) or 2 (clearly)."
_CONCEPT = _TEXT + "How much is what it goes on with about {concept} (such as {words})? " + _SCALE
_FLUENT = _TEXT + "How fluent is what it goes on with, as a piece of text? " + _SCALE


def ratings(
    endpoint: Endpoint, texts: pd.DataFrame, words: Mapping[str, str], *, progress: bool = True
) -> pd.DataFrame:
    """Both ratings of each steered continuation. Interrupted, it goes on from the answers on disk.

    Args:
        endpoint: who judges.
        texts: as :func:`.side_by_side.continued` makes them; those without a concept are left out.
        words: of each concept, for the judge.
        progress: show a bar.

    Returns:
        The rows, with the columns about and fluent (0, 1, 2; NaN where the answer was none of
        them) and score (their harmonic mean, 0 to 2).
    """
    told = texts[texts.concept.notna()]
    rows = tqdm(list(told.itertuples()), unit="text", disable=not progress, leave=False)
    answers = [
        [
            rating(endpoint.ask(question.format(
                prompt=row.prompt, text=row.text, concept=row.concept,
                words=words.get(row.concept, row.concept),
            )))
            for question in (_CONCEPT, _FLUENT)
        ]
        for row in rows
    ]  # fmt: skip
    about, fluent = zip(*answers, strict=True) if answers else ((), ())
    score = [harmonic_mean(a, f) for a, f in answers]
    return told.assign(about=about, fluent=fluent, score=score)


def rating(said: str) -> float:
    """The number that an answer begins or ends with, if it is 0, 1 or 2; NaN for any other."""
    numbers = re.findall(r"\d+(?:\.\d+)?", said)
    plain = {n for n in numbers[:1] + numbers[-1:] if n in ("0", "1", "2")}
    return float(plain.pop()) if len(plain) == 1 and len(set(numbers)) == 1 else math.nan


def harmonic_mean(about: float, fluent: float) -> float:
    """Of two ratings; 0 where one of them is."""
    return 2 * about * fluent / (about + fluent) if about + fluent else 0.0
