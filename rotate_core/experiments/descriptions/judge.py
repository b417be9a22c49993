"""Descriptions in prose, and a language model that judges them in pairs (chapter 10, second tier).

Any server that speaks OpenAI's protocol writes and judges; the environment names it, and every
answer is kept (:mod:`~rotate_core.experiments.descriptions.endpoint`). It writes one sentence from
each method's tokens, all methods by the same words, and then says which of two sentences tells
better where the neuron fires in held-out text. It sees no method's name, judges each pair in both
orders, and may call a tie. Only a verdict that both orders agree on counts for a method.

Ours: the paper's evaluation code is not public, so prompts and rules are our own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from rotate_core.experiments.descriptions.endpoint import Endpoint
from rotate_core.experiments.descriptions.weights import Description

if TYPE_CHECKING:
    import pandas as pd

ANSWERS = ("A", "B", "tie", "invalid")
"""What a judge may say; invalid is whatever else it said."""
N_WORDS = 40
"""Words of a description in prose; what a model writes beyond them is cut."""
_PROSE = """\
A neuron of a language model is associated with the tokens below. Each has a weight from 0 to 1, \
the most telling first.

{evidence}

Say in one sentence of at most 30 words what makes this neuron fire. \
Answer with that sentence only."""
_NO_PROSE = "(no description was found)"
_JUDGE = """\
A neuron of a language model fires in the excerpts below, most strongly at the tokens marked «so».

{excerpts}

Here are two descriptions of what makes this neuron fire.

A: {first}
B: {second}

Which of them tells better where this neuron fires? Answer with one word: A, B or tie."""
_VERDICT = re.compile(
    r"(?:the )?(?:(?:better )?(?:answer|verdict|description)(?: is)?:? )?(a|b|tie)"
)


def write_prose(endpoint: Endpoint, evidence: Description) -> str:
    """One sentence on what makes a neuron fire, from a method's tokens; "" where it has none.

    All methods get the same words, and :data:`N_WORDS` words at most.
    """
    if not evidence.ids:
        return ""
    back = evidence.back or (0,) * len(evidence.ids)
    lines = [
        f"{json.dumps(token, ensure_ascii=False)}{' as the token before' * before}: {weight:.2f}"
        for token, weight, before in zip(evidence.tokens, evidence.weights, back, strict=True)
    ]
    answer = endpoint.ask(_PROSE.format(evidence="\n".join(lines)))
    return " ".join(answer.split()[:N_WORDS])


def judge_pair(
    endpoint: Endpoint, exemplars: Sequence[str], first: str, second: str
) -> tuple[str, str]:
    """A judge's choice between two descriptions of where a neuron fires, in one order.

    Args:
        endpoint: who judges.
        exemplars: held-out excerpts, tokens where it fires marked: :func:`.exemplar_texts`.
        first: shown as A.
        second: shown as B.

    Returns:
        One of :data:`ANSWERS`, and what was said.
    """
    excerpts = "\n".join(f"{n}. {' '.join(text.split())}" for n, text in enumerate(exemplars, 1))
    first, second = first or _NO_PROSE, second or _NO_PROSE
    said = endpoint.ask(_JUDGE.format(excerpts=excerpts, first=first, second=second))
    return parse(said), said


def parse(said: str) -> str:
    """A judge's answer as one of :data:`ANSWERS`: by its first or its last line, no other."""
    answers = set()
    lines = [line for line in said.splitlines() if line.strip()]
    for line in (*lines[:1], *lines[-1:]):
        plain = " ".join(re.sub(r"[^\w\s:]", " ", line).lower().split()).strip(": ")
        if match := _VERDICT.fullmatch(plain):
            answers.add("tie" if match[1] == "tie" else match[1].upper())
    return answers.pop() if len(answers) == 1 else "invalid"


def combine(forward: str, backward: str) -> str:
    """Verdict of both orders: "first", "second", "tie" or "invalid".

    Args:
        forward: :data:`ANSWERS` where the first is A.
        backward: the same where the first is B.
    """
    if "invalid" in (forward, backward):
        return "invalid"
    return {("A", "B"): "first", ("B", "A"): "second"}.get((forward, backward), "tie")


def tournament(
    endpoint: Endpoint,
    descriptions: Mapping[str, Sequence[Description]],
    exemplars: Sequence[Sequence[str]],
    pairs: Sequence[tuple[str, str]],
    *,
    names: Sequence[str],
    progress: bool = True,
) -> pd.DataFrame:
    """Judge pairs of methods on some neurons. Interrupted, it goes on from the answers on disk.

    Args:
        endpoint: who writes and judges.
        descriptions: by method, one for each neuron.
        exemplars: for each neuron, held-out excerpts (:func:`judge_pair`).
        pairs: of methods.
        names: of the neurons.
        progress: show a bar.

    Returns:
        One row per neuron and pair: neuron, first, second (methods), first_prose, second_prose,
        forward and backward (answers, with the first as A and as B), forward_said and
        backward_said (word by word), verdict (:func:`combine`), agree (the orders do; None where
        one is invalid).

    Raises:
        EndpointError: the server failed; no answer is lost.
        ValueError: numbers of neurons differ, or a method of a pair has no descriptions.
    """
    import pandas as pd

    methods = list(dict.fromkeys(method for pair in pairs for method in pair))
    for method in methods:
        n = len(descriptions.get(method, ()))
        if not n == len(names) == len(exemplars):
            raise ValueError(
                f"{method!r} has {n} descriptions, for {len(exemplars)} neurons' excerpts and "
                f"{len(names)} names: wanted one of each"
            )
    rows: list[dict[str, Any]] = []
    bar = tqdm(list(product(range(len(names)), pairs)), unit="pair", disable=not progress)
    for i, (first, second) in bar:
        row = {"neuron": names[i], "first": first, "second": second}
        # A sentence that an earlier pair wanted comes out of the endpoint's folder.
        a, b = (write_prose(endpoint, descriptions[method][i]) for method in (first, second))
        row["first_prose"], row["second_prose"] = a, b
        row["forward"], row["forward_said"] = forward = judge_pair(endpoint, exemplars[i], a, b)
        row["backward"], row["backward_said"] = backward = judge_pair(endpoint, exemplars[i], b, a)
        row["verdict"] = combine(forward[0], backward[0])
        agree = row["verdict"] != "tie" or forward[0] == backward[0] == "tie"
        rows.append(row | {"agree": None if row["verdict"] == "invalid" else agree})
    return pd.DataFrame(rows)


def summary(verdicts: pd.DataFrame) -> pd.DataFrame:
    """One row per pair of methods in a tournament: won, tied, lost and invalid verdicts.

    ``orders_agree`` is the share of valid verdicts where both orders say the same. A judge that
    goes by position has a share near 0.
    """
    import pandas as pd

    verdict_of = {"won": "first", "tied": "tie", "lost": "second", "invalid": "invalid"}
    rows = []
    for (first, second), part in verdicts.groupby(["first", "second"], sort=False):
        counts = {name: int((part.verdict == v).sum()) for name, v in verdict_of.items()}
        agree = part.agree.dropna().astype(float).mean()
        rows.append({"first": first, "second": second} | counts | {"orders_agree": agree})
    return pd.DataFrame(rows)
