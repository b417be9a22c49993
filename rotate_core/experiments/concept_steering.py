"""Steering towards a concept, every method at the same cost to the model (chapter 15).

How far a vector moves a model depends on its length and on the layer. So each candidate is given
the strength at which the next-token distribution of neutral prompts moves by the same divergence.
What counts is whether a concept's words gain: those of its held-out half, over words of the other
concepts that the model gives the same probability, and over what a random candidate of the method's
own covariance gives them at the same divergence. No judge is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.dictionaries.candidates import Candidates, Writing
from rotate_core.experiments.output_divergence import kl_divergence
from rotate_core.models.tokens import token_strings
from rotate_core.text.sites import SITES, hook_at, read_sites
from rotate_core.text.steering import steer

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rotate_core.experiments.concept_sets import Sentence
    from rotate_core.text.corpus import Windows

TOLERANCE = 0.05
"""A divergence counts as reached where it is within this share of its target."""
MOST_STEPS = 10
"""Strengths tried for a target. The divergence grows about as their square: three or four do."""
START = 0.3
"""First strength that is tried: of the length of what passes the site, or of the way to a point."""
FARTHEST = 100.0
"""Times its start that a strength is raised at most."""
N_SIBLINGS = 5
"""Words of other concepts beside each word."""
BATCH = 64
"""Variants of a prompt that pass the model together."""


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
    before = torch.cat([_last_logits(network, prompt[None]) for prompt in prompts])
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


# --- What steering does ---------------------------------------------------------------------------


@torch.no_grad()
def effects(
    on: SteeringTask, writing: Writing, rows: Int[Tensor, " m"], alphas: Float[Tensor, " m"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, "m n_words"]]:
    """Divergence at the prompts' ends, and what each word gains; means over prompts.

    The divergence is KL of the steered distribution from the model's own, in nats; the gain is of
    log-probabilities, in nats, of ``on.all_words``. A prompt runs once up to the layer, and from
    there on once for each variant.
    """
    kl = torch.zeros(len(rows))
    gain = torch.zeros(len(rows), len(on.all_words))
    for part in torch.arange(len(rows)).split(BATCH):
        function = writing.function(rows[part], alphas[part])
        for prompt, before in zip(on.prompts, on.before, strict=True):
            with hook_at(on.network, on.layer, writing.site, _in_float(function)):
                after = _last_logits(on.network, prompt[None])
            kl[part] += kl_divergence(before, after) / len(on.prompts)
            change = after.log_softmax(1) - before.log_softmax(0)
            gain[part] += change[:, on.all_words] / len(on.prompts)
    return kl, gain


def _last_logits(
    network: PreTrainedModel, tokens: Int[Tensor, "n length"]
) -> Float[Tensor, "m d_vocab"]:
    """Logits behind the last token, in float32 on the CPU."""
    out = network(tokens.to(network.device), use_cache=False, logits_to_keep=1)
    return out.logits[:, -1].float().cpu()


def _in_float(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x.float()).to(x.dtype)


def strengths(
    on: SteeringTask,
    writing: Writing,
    rows: Sequence[int],
    *,
    targets: Sequence[float],
    sign: int = 1,
) -> pd.DataFrame:
    """The strength of each candidate that gives a divergence, and what words gain by it.

    Args:
        on: the model and its prompts.
        writing: of the candidates.
        rows: which of them.
        targets: nats.
        sign: +1, or -1 to steer away.

    Returns:
        One row per candidate and target: row (its place in ``rows``), target, alpha, kl, reached
        and gain (of every word, an array). What is out of reach has ``reached`` False, and the
        figures of the largest strength that was tried.
    """
    import pandas as pd

    start = START * (1.0 if writing.pull else on.sizes[writing.site])
    farthest = 1.0 if writing.pull and sign > 0 else FARTHEST * start
    n, m = len(rows), len(targets)
    numbers = torch.tensor(list(rows)).repeat_interleave(m)
    wanted = torch.tensor(targets, dtype=torch.float32).repeat(n).log()
    first, gain = effects(on, writing, torch.tensor(list(rows)), torch.full((n,), sign * start))
    alpha = torch.full((n * m,), start).log()
    kl = first.clamp_min(1e-12).log().repeat_interleave(m)
    gain = gain.repeat_interleave(m, 0)
    power = torch.full((n * m,), 2.0)
    for _ in range(MOST_STEPS):
        open_ = (kl - wanted).abs() > TOLERANCE
        # a bounded one that is short of its target at its bound stays there
        step = ((wanted - kl) / power).clamp(-2.3, 2.3)
        new = (alpha + step).clamp_max(torch.tensor(farthest).log())
        open_ &= (new - alpha).abs() > 1e-6
        if not open_.any():
            break
        measured, gain[open_] = effects(on, writing, numbers[open_], sign * new[open_].exp())
        now = measured.clamp_min(1e-12).log()
        slope = (now - kl[open_]) / (new[open_] - alpha[open_])
        power[open_] = slope.nan_to_num(2.0).clamp(0.5, 4.0)
        alpha[open_], kl[open_] = new[open_], now
    return pd.DataFrame(
        {
            "row": [i for i in range(n) for _ in targets],
            "target": list(targets) * n,
            "alpha": (sign * alpha.exp()).tolist(),
            "kl": kl.exp().tolist(),
            "reached": ((kl - wanted).abs() <= TOLERANCE).tolist(),
            "gain": list(gain.numpy()),
        }
    )


def gained(on: SteeringTask, concept: str, gain: Float[Tensor, " n_words"]) -> float:
    """What a concept's words gain over their siblings, in nats; the mean over the words."""
    place = {word: i for i, word in enumerate(on.all_words)}
    over = [
        gain[place[word]] - gain[[place[w] for w in on.siblings[word]]].mean()
        for word in on.words[concept]
    ]
    return float(torch.stack(over).mean())


def steering(
    on: SteeringTask,
    candidates: Candidates,
    chosen: Mapping[str, int],
    *,
    targets: Sequence[float],
    signs: Sequence[int] = (1, -1),
) -> pd.DataFrame:
    """What the candidates chosen for concepts give these concepts' words at equal divergence.

    Args:
        on: the model, its prompts and words.
        candidates: that write.
        chosen: the candidate of each concept.
        targets: nats.
        signs: each is given a strength of its own.

    Returns:
        One row per concept, sign and target: concept, candidate, sign, target, alpha, kl, reached
        and gain (nats; NaN where the target is out of reach).
    """
    import pandas as pd

    assert candidates.write is not None
    concepts, rows = list(chosen), list(chosen.values())
    tables = []
    for sign in signs:
        table = strengths(on, candidates.write, rows, targets=targets, sign=sign)
        named = [concepts[i] for i in table.row]
        gains = [
            gained(on, concept, torch.as_tensor(gain)) if reached else float("nan")
            for concept, gain, reached in zip(named, table.gain, table.reached, strict=True)
        ]
        label = {"concept": named, "candidate": [rows[i] for i in table.row], "sign": sign}
        tables.append(table.drop(columns="row").assign(**label, gain=gains))
    order = ["concept", "candidate", "sign", "target", "alpha", "kl", "reached", "gain"]
    return pd.concat(tables, ignore_index=True)[order]


# --- How it reads ---------------------------------------------------------------------------------


@torch.no_grad()
def continuations(
    on: SteeringTask,
    writing: Writing | None,
    rows: Sequence[int],
    alphas: Sequence[float],
    *,
    n_prompts: int,
    n_tokens: int,
) -> pd.DataFrame:
    """Greedy continuations of the first prompts, and how likely the model itself finds them.

    Args:
        on: the model and its prompts.
        writing: of the candidates; None: the model as it is.
        rows: which of them.
        alphas: their strengths.
        n_prompts: each is continued under each candidate.
        n_tokens: of a continuation.

    Returns:
        One row per candidate and prompt: row (its place in ``rows``), prompt, text, loss (nats a
        token, of the unsteered model).
    """
    import pandas as pd

    m = len(rows)
    prompts = on.prompts[:n_prompts].to(on.network.device).repeat(m, 1)
    if writing is None:
        steered: AbstractContextManager[Any] = nullcontext()
    else:
        each = torch.tensor(list(rows)), torch.tensor(list(alphas))
        function = writing.function(*(x.repeat_interleave(n_prompts) for x in each))
        steered = steer(on.network, on.layer, function, site=writing.site)
    with steered:
        network: Any = on.network
        whole: Tensor = network.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=n_tokens,
            min_new_tokens=n_tokens,
            do_sample=False,
            pad_token_id=on.tokenizer.eos_token_id,
        )
    logits = on.network(whole, use_cache=False, logits_to_keep=n_tokens + 1).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), whole[:, -n_tokens:], reduction="none"
    ).mean(1)
    texts = [[on.tokenizer.decode(part) for part in ids.tensor_split([-n_tokens])] for ids in whole]
    columns = {"row": [i for i in range(m) for _ in range(n_prompts)], "loss": losses.tolist()}
    return pd.DataFrame(columns).assign(prompt=[a for a, _ in texts], text=[b for _, b in texts])
