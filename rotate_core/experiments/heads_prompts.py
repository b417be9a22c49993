"""Prompts that ask for one word of a list: what a filter head has to do (chapter 16).

"The words are dog, red, apple, bus, Italy. The only fruit among these words is": one word of each
category, and a question for one of them. A head that answers has to compare a category in its query
with one in its keys.

Source: arXiv:2602.04752 for the task. Words, template and halves that share no words are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.experiments.steering_task import last_logits
from rotate_core.heads import QueriesKeys, read_all_heads
from rotate_core.null.matched import own_seed

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEMPLATE = "The words are {words}. The only {category} among these words is"
CATEGORIES = {
    "animal": "dog cat horse lion tiger bear wolf rabbit mouse elephant monkey snake sheep goat",
    "fruit": "apple banana orange lemon grape peach cherry mango pear plum strawberry pineapple",
    "color": "red blue green yellow purple black white brown pink gray",
    "vehicle": "car truck bus train bicycle boat ship plane helicopter motorcycle van taxi tractor",
    "country": "France Germany Spain Italy Japan China India Brazil Canada Mexico Egypt Russia",
}
"""By the category's name, one token each; a word that a tokenizer cuts up is left out."""
Head = tuple[int, int]
"""Layer and head, from 0."""


@dataclass(frozen=True, eq=False)
class FilterPrompts:
    """Prompts of one length, each with one word of each category in random order."""

    tokens: Int[Tensor, "n length"]
    word_at: tuple[int, ...]
    """Positions of the words, the same in each prompt; behind each is a comma, or the stop."""
    words: Int[Tensor, "n n_words"]
    """Tokens of the words."""
    asked: Int[Tensor, " n"]
    """Which of the words is asked for."""
    category: Int[Tensor, " n"]
    """Its category; as often each."""

    def by_asked(self, x: Float[Tensor, "n n_words d"]) -> Float[Tensor, "n n_words d"]:
        """Values at the words, those of the word that is asked for first."""
        n, n_words = self.words.shape
        places = torch.arange(n_words).expand(n, -1)
        others = places[places != self.asked.unsqueeze(1)].view(n, -1)
        order = torch.cat([self.asked.unsqueeze(1), others], 1)
        return x[torch.arange(n).unsqueeze(1), order]

    def words_of(self, category: int) -> Int[Tensor, " n_words"]:
        """The words of a category that are asked for, each once."""
        rows = self.category == category
        return self.words[rows].gather(1, self.asked[rows].unsqueeze(1)).unique()

    def __len__(self) -> int:
        return len(self.tokens)


def filter_prompts(
    tokenizer: PreTrainedTokenizerBase, n: int, *, half: int, seed: int
) -> FilterPrompts:
    """Prompts of every other word of each category: half 0 and half 1 share no words.

    Raises:
        ValueError: the tokenizer cuts up so many words that a category is left without.
    """

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    words = [
        [piece[0] for word in line.split() if len(piece := ids(f" {word}")) == 1][half::2]
        for line in CATEGORIES.values()
    ]
    for name, left in zip(CATEGORIES, words, strict=True):
        if not left:
            raise ValueError(f"no {name} of ours is one token: wanted a tokenizer of whole words")
    names, marks = list(CATEGORIES), ["dog", "cat", "horse", "cow", "sheep"]
    random = np.random.default_rng(own_seed(seed, "filter prompts", half))
    tokens, drawn, asked = [], [], []
    for i in range(n):
        text = TEMPLATE.format(words=", ".join(marks), category=names[i % len(names)])
        row = list(tokenizer(text).input_ids)
        word_at = [row.index(ids(f" {mark}")[0]) for mark in marks]
        order = random.permutation(len(names))
        drawn.append([int(random.choice(words[c])) for c in order])
        asked.append(int((order == i % len(names)).argmax()))
        for at, word in zip(word_at, drawn[-1], strict=True):
            row[at] = word
        tokens.append(row)
    category = torch.arange(n) % len(names)
    return FilterPrompts(
        torch.tensor(tokens), tuple(word_at), torch.tensor(drawn), torch.tensor(asked), category
    )


@dataclass(frozen=True, eq=False)
class Half:
    """One half of the prompts, and what all heads have at them."""

    given: FilterPrompts
    read: QueriesKeys
    """The query of the last position, keys of all positions."""

    def at_the_words(self, head: Head) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n n_words d"]]:
        """A head's queries and its keys at the words, that of the word asked for first."""
        q, k = self.read.of(*head)
        return q[:, -1], self.given.by_asked(k[:, list(self.given.word_at)])

    def attention(self, head: Head) -> Float[Tensor, " n"]:
        """Of each prompt's last token to the word that is asked for."""
        a = self.read.logits(*head)[:, -1].softmax(-1)
        at = torch.tensor(self.given.word_at)[self.given.asked]
        return a.gather(1, at.unsqueeze(1)).squeeze(1)

    def scaling(self, head: Head) -> float:
        """Of the head's logits."""
        return self.read.scaling[self.read.layers.index(head[0])]


def read_half(network: PreTrainedModel, given: FilterPrompts, *, batch: int = 20) -> Half:
    """All heads at some prompts, in one pass."""
    return Half(given, read_all_heads(network, given.tokens, query_at=[-1], batch=batch))


@torch.no_grad()
def answers(network: PreTrainedModel, given: FilterPrompts, *, batch: int = 20) -> pd.DataFrame:
    """Whether the model itself can do it: of the prompt's words, is the one asked for likeliest?

    Returns:
        One row per prompt: category, right (1 or 0; 0.2 by chance), first (whether no other token
        at all is likelier).
    """
    import pandas as pd

    logits = torch.cat([last_logits(network, part) for part in given.tokens.split(batch)])
    wanted = given.words.gather(1, given.asked.unsqueeze(1)).squeeze(1)
    right = logits.gather(1, given.words).argmax(1) == given.asked
    names = list(CATEGORIES)
    return pd.DataFrame(
        {
            "category": [names[c] for c in given.category],
            "right": right.double(),
            "first": (logits.argmax(1) == wanted).double(),
        }
    )
