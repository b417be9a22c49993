"""Prompts and words that steering is judged by, the same for every method (chapter 15)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.models.tokens import token_strings
from rotate_core.text.sites import SITES, read_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rotate_core.experiments.concept_sets import Sentence
    from rotate_core.text.corpus import Windows

N_SIBLINGS = 5
"""Words of other concepts beside each word."""


@dataclass(frozen=True, eq=False)
class SteeringTask:
    """A model with prompts, and words whose probabilities are looked at."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layer: int
    prompts: Int[Tensor, "n_prompts length"]
    """Neutral ones; all of one length."""
    words: Mapping[str, tuple[int, ...]]
    """Of each concept: tokens that its held-out sentences have, and no other sentences."""
    before: Float[Tensor, "n_prompts d_vocab"]
    """Logits at the prompts' ends, of the model as it is."""
    siblings: Mapping[int, tuple[int, ...]]
    """Of each word: words of other concepts that are about as probable at the prompts' ends."""
    sizes: Mapping[str, float]
    """By site, the median length of what passes it: where the search for a strength begins."""

    @property
    def all_words(self) -> list[int]:
        """The words of all concepts."""
        return [word for words in self.words.values() for word in words]


@torch.no_grad()
def steering_task(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    windows: Windows,
    halves: Sequence[Sequence[Sentence]],
    *,
    n_prompts: int,
    length: int,
) -> SteeringTask:
    """Prompts out of a text, and each concept's held-out words with their siblings.

    Args:
        network: a loaded model.
        tokenizer: its own.
        layer: that is steered.
        windows: the beginnings of the last ones are the prompts: they are from within documents.
        halves: sentences that candidates are chosen on, and the others, whose words count.
        n_prompts: how many.
        length: of a prompt, in tokens.

    Raises:
        ValueError: there are fewer windows, or they are shorter.
    """
    if len(windows) < n_prompts or windows.tokens.shape[1] < length:
        n, long = windows.tokens.shape
        raise ValueError(
            f"{n} windows of {long} tokens: wanted {n_prompts} prompts of {length} tokens"
        )
    prompts = windows.tokens[-n_prompts:, :length]
    before = torch.cat([last_logits(network, prompt[None]) for prompt in prompts])
    words = own_words(halves[1], halves[0], tokenizer)
    if missing := [concept for concept, own in words.items() if not own]:
        raise ValueError(f"no word of their own for {', '.join(missing)}: give other sentences")
    likely = before.log_softmax(1).mean(0)
    siblings = equally_likely(words, likely)
    passing = read_sites(network, prompts, [(layer, site) for site in SITES])
    sizes = {site: float(x[:, 1:].norm(dim=-1).median()) for (_, site), x in passing.items()}
    return SteeringTask(network, tokenizer, layer, prompts, words, before, siblings, sizes)


def own_words(
    given: Sequence[Sentence], seen: Sequence[Sentence], tokenizer: PreTrainedTokenizerBase
) -> dict[str, tuple[int, ...]]:
    """Of each concept the tokens that set its sentences apart, in the order they come.

    A token that begins a word, is in sentences of one concept alone, and in none of the sentences
    ``seen``.
    """
    rows, old = (
        [tokenizer(each.text, add_special_tokens=False).input_ids for each in some]
        for some in (given, seen)
    )
    known = {token for row in old for token in row}
    strings = token_strings(tokenizer.backend_tokenizer, 1 + max(map(max, rows)))
    where: dict[int, set[str]] = {}
    for each, row in zip(given, rows, strict=True):
        for token in row:
            where.setdefault(token, set()).add(each.concept)
    found: dict[str, dict[int, None]] = {each.concept: {} for each in given}
    for each, row in zip(given, rows, strict=True):
        for token, in_front in zip(row, [None, *row], strict=False):
            inside = in_front is not None and strings[in_front][-1:].isalpha()
            begins = not (inside and strings[token][:1].isalpha())
            if begins and len(where[token]) == 1 and token not in known:
                found[each.concept][token] = None
    return {concept: tuple(tokens) for concept, tokens in found.items()}


def equally_likely(
    words: Mapping[str, Sequence[int]], log_probability: Float[Tensor, " d_vocab"]
) -> dict[int, tuple[int, ...]]:
    """For each word the few words of other concepts nearest in log-probability."""
    siblings = {}
    for concept, own in words.items():
        others = [w for name, some in words.items() if name != concept for w in some]
        values = log_probability[others]
        for word in own:
            nearest = (values - log_probability[word]).abs().argsort(stable=True)[:N_SIBLINGS]
            siblings[word] = tuple(others[i] for i in nearest.tolist())
    return siblings


def last_logits(
    network: PreTrainedModel, tokens: Int[Tensor, "n length"]
) -> Float[Tensor, "m d_vocab"]:
    """Logits behind the last token, in float32 on the CPU."""
    out = network(tokens.to(network.device), use_cache=False, logits_to_keep=1)
    return out.logits[:, -1].float().cpu()
