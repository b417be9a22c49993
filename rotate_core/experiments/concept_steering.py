"""Steering towards a concept, every method at the same cost to the model (chapter 15).

How far a vector moves a model depends on its length and on the layer. So each candidate is given
the strength at which the next-token distribution of neutral prompts moves by the same divergence.
What counts is whether a concept's words gain: those of its held-out half, over words of the other
concepts that the model gives the same probability, and over what a random candidate of the method's
own covariance gives them at the same divergence. No judge is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.dictionaries.candidates import Writing
from rotate_core.experiments.output_divergence import divergence_of
from rotate_core.experiments.steering_task import SteeringTask, last_logits
from rotate_core.text.sites import hook_at
from rotate_core.text.steering import steer, widened

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 0.05
"""A divergence counts as reached where it is within this share of its target."""
MOST_STEPS = 10
"""Strengths tried for a target. The divergence grows about as their square: three or four do."""
START = 0.3
"""First strength that is tried: of the length of what passes the site, or of the way to a point."""
FARTHEST = 100.0
"""Times its start that a strength is raised at most."""
BATCH = 128
"""Variants of a prompt that pass the model together."""


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
    own = on.before.log_softmax(1)
    for part in torch.arange(len(rows)).split(BATCH):
        function = writing.function(rows[part], alphas[part])
        for prompt, log_p in zip(on.prompts, own, strict=True):
            with hook_at(on.network, on.layer, writing.site, widened(function)):
                change = last_logits(on.network, prompt[None]).log_softmax(1) - log_p
            kl[part] += divergence_of(log_p, change) / len(on.prompts)
            gain[part] += change[:, on.all_words] / len(on.prompts)
    return kl, gain


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
    writing: Writing,
    concepts: Sequence[str],
    *,
    targets: Sequence[float],
    signs: Sequence[int] = (1, -1),
) -> pd.DataFrame:
    """What vectors that were chosen for concepts give these concepts' words at equal divergence.

    Args:
        on: the model, its prompts and words.
        writing: one vector for each of ``concepts``.
        concepts: what each vector is meant to steer to; a concept may come again.
        targets: nats.
        signs: each is given a strength of its own.

    Returns:
        One row per vector, sign and target: row (of the vector), concept, sign, target, alpha, kl,
        reached and gain (nats; NaN where the target is out of reach).
    """
    import pandas as pd

    tables = []
    for sign in signs:
        table = strengths(on, writing, range(len(concepts)), targets=targets, sign=sign)
        named = [concepts[i] for i in table.row]
        gains = [
            gained(on, concept, torch.as_tensor(gain)) if reached else float("nan")
            for concept, gain, reached in zip(named, table.gain, table.reached, strict=True)
        ]
        tables.append(table.assign(concept=named, sign=sign, gain=gains))
    order = ["row", "concept", "sign", "target", "alpha", "kl", "reached", "gain"]
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
