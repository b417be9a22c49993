"""Interchange of the subject's number: what of a token's activation carries it (chapter 13).

"The old keys" goes on with " are", "The old key" with " is". At one layer and the noun's position,
a part of the activation is replaced by the same part of a prompt of another noun and the other
number. Where the model then prefers the other verb, that part carries the number.

Source: interchange interventions as of arXiv:2602.02464's evaluation; templates and nouns are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rotate_core.experiments.steering_task import last_logits
from rotate_core.null.matched import own_seed
from rotate_core.text import steer
from rotate_core.text.sites import read_site

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rotate_core.dictionaries import Regions

LEAST_ACCURACY = 0.9
"""Share of the prompts that a model has to go on with rightly, or nothing is tested on it."""
TEMPLATES = ("The old {}", "Nobody knows where the {}", "In the end, the {}", "I think that the {}")
VERBS = ((" is", " are"), (" was", " were"), (" has", " have"))
_PAIRS = """
key/keys book/books car/cars dog/dogs cat/cats tree/trees house/houses river/rivers
window/windows door/doors picture/pictures letter/letters garden/gardens road/roads
bridge/bridges machine/machines computer/computers teacher/teachers student/students
doctor/doctors player/players writer/writers king/kings soldier/soldiers farmer/farmers
child/children man/men woman/women bird/birds horse/horses star/stars stone/stones ship/ships
train/trains island/islands mountain/mountains village/villages song/songs story/stories
city/cities
"""
NOUNS = tuple(tuple(pair.split("/")) for pair in _PAIRS.split())
"""In the singular and the plural."""
Part = Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d"]]


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts that end in a noun, in both numbers; grouped by template, all of one length."""

    tokens: tuple[Int[Tensor, "n_nouns 2 length"], ...]
    """One group for each template."""
    verbs: Int[Tensor, "n_verbs 2"]
    nouns: tuple[str, ...]
    """Those whose both numbers are one token."""

    def split(self) -> tuple[Prompts, Prompts]:
        """The prompts of every other noun, and those of the rest: to fit to, and to test on."""
        first, second = (
            replace(self, tokens=tuple(g[i::2] for g in self.tokens), nouns=self.nouns[i::2])
            for i in (0, 1)
        )
        return first, second


def prompts(tokenizer: PreTrainedTokenizerBase, *, n_templates: int = len(TEMPLATES)) -> Prompts:
    """The prompts of the first templates, as a model reads them."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text).input_ids)

    single = [n for n in NOUNS if len({len(ids(TEMPLATES[0].format(w))) for w in ("key", *n)}) == 1]
    return Prompts(
        tokens=tuple(
            torch.tensor([[ids(t.format(word)) for word in pair] for pair in single])
            for t in TEMPLATES[:n_templates]
        ),
        verbs=torch.tensor(
            [[tokenizer(v, add_special_tokens=False).input_ids[0] for v in pair] for pair in VERBS]
        ),
        nouns=tuple(pair[0] for pair in single),
    )


@torch.no_grad()
def prefers_plural(
    network: PreTrainedModel, tokens: Int[Tensor, "n length"], verbs: Int[Tensor, "n_verbs 2"]
) -> Bool[Tensor, " n"]:
    """Whether plural verbs are likelier next: by the sum of their log-odds against the singular."""
    logits = last_logits(network, tokens)
    return (logits[:, verbs[:, 1]] - logits[:, verbs[:, 0]]).sum(1) > 0


def accuracy(network: PreTrainedModel, given: Prompts) -> float:
    """Share of the prompts whose number the model's verb agrees with."""
    right = [
        prefers_plural(network, group[:, number], given.verbs) == bool(number)
        for group in given.tokens
        for number in (0, 1)
    ]
    return float(torch.cat(right).double().mean())


def interchange(
    network: PreTrainedModel, given: Prompts, layer: int, parts: Mapping[str, Part]
) -> pd.DataFrame:
    """Which parts of the noun's activation swap the verb.

    Each noun gets the part of the next noun in the list, in the other number.

    Args:
        network: a loaded model.
        given: prompts.
        layer: behind which the residual stream is changed, at the last position.
        parts: by name: of activations, the part that is swapped.

    Returns:
        One row per part, template, noun and direction: swapped (1 or 0); only where the model goes
        on rightly with both prompts.
    """
    import pandas as pd

    rows = []
    for template, group in zip(TEMPLATES, given.tokens, strict=False):
        numbers = [group[:, number] for number in (0, 1)]
        is_right = [
            prefers_plural(network, tokens, given.verbs) == bool(number)
            for number, tokens in enumerate(numbers)
        ]
        at_noun = [
            read_site(network, tokens, [layer], site="residual")[layer][:, -1] for tokens in numbers
        ]
        for number, base in enumerate(numbers):
            right = is_right[number] & is_right[1 - number].roll(-1, 0)
            states = at_noun[number], at_noun[1 - number].roll(-1, 0)
            for name, part in parts.items():
                new = states[0] - part(states[0]) + part(states[1])
                with steer(network, layer, _at_the_end(new)):
                    plural = prefers_plural(network, base, given.verbs)
                swapped = (plural != bool(number)).double()
                rows += [
                    {"part": name, "template": template, "noun": noun, "swapped": value}
                    for noun, value, use in zip(
                        given.nouns, swapped.tolist(), right.tolist(), strict=True
                    )
                    if use
                ]
    return pd.DataFrame(rows)


def parts_of(
    regions: Regions, singular: Float[Tensor, "n d"], plural: Float[Tensor, "n d"], *, seed: int
) -> dict[str, Part]:
    """What an interchange swaps: a ceiling, what regions say, one supervised direction, a floor.

    Args:
        regions: of the layer.
        singular: activations at other nouns' positions, to take a difference of means from.
        plural: the same in the plural.
        seed: of the random subspaces, which have the dimension of the regions' part above them.
    """
    difference = plural.mean(0) - singular.mean(0)
    d, rank = regions.loadings.shape[1:]
    k = min(regions.n_regions, d - rank - 1)
    return {
        "whole": lambda x: x,
        "centroid + local": lambda x: regions.reconstruct(x),
        "centroid": lambda x: regions.reconstruct(x, parts="centroid"),
        "local": lambda x: regions.reconstruct(x, parts="local"),
        "difference of means": _onto(difference.unsqueeze(1)),
        f"random, {k + rank} dimensions": _onto(_random(d, k + rank, seed)),
        f"random, {rank} dimensions": _onto(_random(d, rank, seed)),
    }


def _random(d: int, n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(own_seed(seed, "subspace", n))
    return torch.randn(d, n, generator=generator)


def _onto(vectors: Float[Tensor, "d n"]) -> Part:
    """The projection on a span."""
    basis = torch.linalg.qr(vectors)[0]
    return lambda x: x @ basis.to(x) @ basis.to(x).T


def _at_the_end(new: Float[Tensor, "n d"]) -> Callable[[Tensor], Tensor]:
    def replaced(x: Tensor) -> Tensor:
        return torch.cat([x[:, :-1], new.to(x).unsqueeze(1)], 1)

    return replaced
