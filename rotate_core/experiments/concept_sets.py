"""Sentences of fourteen concepts, in two halves that share neither words nor templates (ours).

A concept's sentences and those of the others have the same templates, so that nothing but the
concept's word tells them apart; JavaScript and French are told by their form instead. The calendar
is another set, for groups within a group: every day and every month in the same sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.text import Activations, activations, at_sites
from rotate_core.text.corpus import Windows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rotate_core.models import Model

WORDS = {
    "weekdays": ("Monday Wednesday Friday Sunday", "Tuesday Thursday Saturday"),
    "months": ("January March June October", "February April August December"),
    "numbers": ("seven twelve forty ninety", "three eleven thirty eighty"),
    "colours": ("red yellow purple white", "blue green orange black"),
    "animals": ("dogs horses rabbits eagles", "cats cows lions whales"),
    "countries": ("France Japan Brazil Egypt", "Germany China Canada Kenya"),
    "professions": ("doctors farmers lawyers painters", "teachers nurses engineers bakers"),
    "foods": ("bread cheese soup apples", "rice butter pasta oranges"),
    "vehicles": ("cars trains bicycles ships", "trucks buses planes boats"),
    "body parts": ("hands eyes knees shoulders", "feet ears elbows fingers"),
    "instruments": ("violins drums flutes trumpets", "pianos guitars cellos harps"),
    "emotions": ("anger joy fear pride", "sadness hope envy grief"),
}
"""Of each half."""
TEMPLATES = (
    (
        "For a long time we talked about {} and nothing else.",
        "She wrote a short poem about {} last year.",
        "When I hear the word {}, I remember my childhood.",
    ),
    (
        "He has always had a strong opinion on {}, as you know.",
        "There was a question about {} in the exam today.",
        "Nobody in the room wanted to mention {} again.",
    ),
)
FORMS = {
    "JavaScript": (
        (
            "const total = items.map(item => item.price);",
            "function add(a, b) { return a + b; }",
            "if (user === null) { console.log('missing'); }",
        ),
        (
            "let names = people.filter(p => p.age > 30);",
            "document.getElementById('menu').remove();",
            "export default class Button extends Widget {}",
        ),
    ),
    "French": (
        (
            "Nous avons parlé de la ville pendant une heure.",
            "Elle a écrit une lettre à son frère hier soir.",
            "Je ne comprends pas pourquoi il est parti si vite.",
        ),
        (
            "Il faut que tu viennes avec nous demain matin.",
            "Les enfants jouent dans le jardin depuis midi.",
            "On dit que cette maison est très ancienne.",
        ),
    ),
}
"""Of each half; every sentence stands for itself."""
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
CALENDAR_TEMPLATES = (
    "The letter arrived on a cold {} morning, as everyone had hoped.",
    "They were married in {}, and nobody was surprised.",
    "All of the shops will be closed next {} because of the storm.",
    "I will never forget that {} when we first met.",
    "By {} the work was done, and we could leave.",
    "It was late {} before the answer came from the office.",
)


@dataclass(frozen=True)
class Sentence:
    """A sentence of a concept."""

    concept: str
    text: str


def sentences(half: int) -> list[Sentence]:
    """The sentences of one half, 0 or 1: as many templates for each word of each concept."""
    made = [
        Sentence(concept, template.format(word))
        for concept, words in WORDS.items()
        for word in words[half].split()
        for template in TEMPLATES[half]
    ]
    return made + [Sentence(name, text) for name, halves in FORMS.items() for text in halves[half]]


def told(concept: str) -> str:
    """What a concept is, for people: its words of the first half, or its sentences."""
    if concept in WORDS:
        return ", ".join(WORDS[concept][0].split())
    return " / ".join(FORMS[concept][0])


def calendar() -> list[Sentence]:
    """Every day and every month in the same sentences; the concept is the day or the month."""
    return [
        Sentence(word, template.format(word))
        for word in DAYS + MONTHS
        for template in CALENDAR_TEMPLATES
    ]


def spoken(
    model: Model, given: Iterable[Sentence], layers: Iterable[int], *, device: Any = None
) -> dict[int, Activations]:
    """Activations of neurons at the tokens of sentences, by layer; a document is a sentence."""
    there = padded(given, model.tokenizer)
    found = activations(model, there, layers=layers, site="hidden", device=device, progress=False)
    return {layer: unpadded(x) for layer, x in found.items()}


def spoken_at_sites(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    given: Iterable[Sentence],
    layer: int,
) -> dict[str, Activations]:
    """The same at every site of one layer, by site, of a loaded model."""
    found = at_sites(network, padded(given, tokenizer), layer=layer)
    return {site: unpadded(x) for site, x in found.items()}


def padded(given: Iterable[Sentence], tokenizer: PreTrainedTokenizerBase) -> Windows:
    """One window per sentence, padded behind: what follows a token does not change it.

    The first token is one that does not count: the start token, or a line break.
    """
    given = list(given)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    start = start or tokenizer("\n", add_special_tokens=False).input_ids
    rows = [start + tokenizer(s.text, add_special_tokens=False).input_ids for s in given]
    length = max(map(len, rows)) + 1
    tokens = torch.full((len(rows), length), start[0])
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    titles = tuple(s.text for s in given)
    return Windows(tokens, torch.arange(len(rows)), titles, tokenizer, source="sentences")


def unpadded(x: Activations) -> Activations:
    """The tokens of the sentences alone, of activations of :func:`padded` windows."""
    tokens = x.windows.tokens
    length = tokens.shape[1] - (tokens == tokens[0, 0]).long().flip(1).cumprod(1).sum(1)
    return x.take(x.place < length[x.window])


def strongest(
    coefficients: Float[Tensor, "n_tokens k"], x: Activations
) -> Float[Tensor, "n_sentences k"]:
    """The largest value over the tokens of each sentence."""
    sentence: Int[Tensor, " n_tokens"] = x.document
    largest = coefficients.new_full((len(x.windows), coefficients.shape[1]), -torch.inf)
    index = sentence.unsqueeze(1).expand_as(coefficients)
    return largest.scatter_reduce(0, index, coefficients, "amax")
