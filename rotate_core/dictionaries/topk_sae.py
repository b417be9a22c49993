"""topk_sae(): from activations to a small sparse autoencoder, for want of someone else's large one.

No library: of those that train on activations that are there, sae-lens (6.54) fits beside
transformers 5 and brings 43 more packages (a tracker and its telemetry, a plotting library, a
second loader of models, ...) for what is a hundred lines; dictionary-learning wants nnsight below
0.4, and overcomplete a Python below 3.13. sparsify (EleutherAI) runs the model by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize
from tqdm.auto import tqdm

from rotate_core.dictionaries.checks import check_factors, checked, within
from rotate_core.dictionaries.sae import SAE
from rotate_core.dictionaries.settings import SAESettings

if TYPE_CHECKING:
    from rotate_core.text.labelled import Activations


def topk_sae(
    x: Float[Tensor, "n d"] | Activations,
    n_latents: int,
    *,
    settings: SAESettings | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    history: bool = False,
    progress: bool = True,
    **overrides: Any,
) -> SAE:
    """Train a TopK autoencoder (Gao et al. 2024, arXiv:2406.04093) on activations.

    Of each token the largest codes are kept, and the squared error is lowered by Adam. Decoder rows
    have length 1 after every step, and the encoder begins as the decoder. Tokens are centred and
    brought to a mean square of 1 first, all by one number, so that a learning rate is good for any
    layer; weights are given in the activations' own unit. Latents that no token of the pass before
    had are taught what the others leave (AuxK, the paper's section A.2): in a last layer, whose
    variance is in few dimensions, a quarter would be dead otherwise. To put them where the error is
    instead does less there.

    Args:
        x: one token a row. Training is in float64 if they are, else in float32.
        n_latents: k.
        settings: None for ours.
        seed: of the start and of the order of tokens.
        device: where to compute; None: where x is.
        history: keep the error of each pass, as a share of the variance, as the tokens came.
        progress: show a bar.
        overrides: any field of :class:`.SAESettings`, such as ``n_active=8``.

    Returns:
        The autoencoder, on the CPU.

    Raises:
        ValueError: shapes that do not fit, non-finite values, fewer tokens than latents, fewer
            latents than are active at once, tokens that are all the same.
        TypeError: an unknown setting.
    """
    s = dataclasses.replace(settings or SAESettings(), **overrides)
    values = checked(x, device)
    kept = within(values, s.outliers)
    tokens = values[kept]
    check_factors(tokens, n_latents)
    if s.n_active > n_latents:
        raise ValueError(f"n_active={s.n_active}: wanted at most the {n_latents} latents")
    mean = tokens.double().mean(0).to(tokens)
    scale = (tokens - mean).double().square().mean().sqrt().to(tokens)
    if not scale > 0:
        raise ValueError(f"all {len(tokens)} tokens are the same: wanted activations that vary")
    generator = torch.Generator().manual_seed(seed)
    # Not tokens: each is a sum of latents, and to come apart again takes long.
    start = normalize(torch.randn(n_latents, tokens.shape[1], generator=generator).to(tokens))
    parts = [start.clone(), start.new_zeros(n_latents), start, torch.zeros_like(mean)]
    passes = _passes(
        (tokens - mean) / scale, [part.requires_grad_() for part in parts], s, generator
    )
    errors = []
    with tqdm(total=s.passes, unit="pass", disable=not progress, leave=False) as bar:
        for error in passes:
            bar.set_postfix_str(f"{error:.1%} unexplained")
            bar.update()
            errors.append(error)
    encoder, encoder_bias, decoder, decoder_bias = (part.detach() for part in parts)
    sae = SAE(
        encoder=encoder.cpu(),
        encoder_bias=(encoder_bias * scale).cpu(),
        decoder=decoder.cpu(),
        decoder_bias=(decoder_bias * scale + mean).cpu(),
        activation="topk",
        n_active=s.n_active,
        n_outliers=int((~kept).sum()),
        n_iter=s.passes,
        converged=True,  # by its schedule: the learning rate ends at 0
        seed=seed,
        history=tuple(errors) if history else None,
        settings=s,
    )
    sae = dataclasses.replace(sae, explained=sae.energy_explained(tokens))
    if isinstance(x, Tensor):
        return sae
    sae = dataclasses.replace(sae, model=x.model, layer=x.layer, site=x.site)
    return sae.seen_on(x)


def _passes(
    x: Float[Tensor, "n d"], parts: list[Tensor], s: SAESettings, generator: torch.Generator
) -> Iterator[float]:
    """Train ``encoder, encoder_bias, decoder, decoder_bias`` in place; the error of each pass."""
    encoder, encoder_bias, decoder, decoder_bias = parts
    adam = torch.optim.Adam(parts, lr=s.learning_rate)
    dead = torch.zeros(len(encoder), dtype=torch.bool, device=x.device)
    for i in range(s.passes):
        seen, error = torch.zeros_like(dead), 0.0
        batches = torch.randperm(len(x), generator=generator).to(x.device).split(s.batch)
        for j, rows in enumerate(batches):
            left = 1 - (i + j / len(batches)) / s.passes
            adam.param_groups[0]["lr"] = s.learning_rate * min(1.0, 2 * left)
            y = x[rows] - decoder_bias
            before = y @ encoder.T + encoder_bias
            best = before.topk(s.n_active, dim=1)
            rest = y - _written(best.indices, best.values, decoder)
            squared = rest.square().sum()
            loss = squared / y.numel()
            if s.aux and (n_dead := int(dead.sum())):
                n = min(n_dead, y.shape[1] // 2)
                spare = before.masked_fill(~dead, -torch.inf).topk(n, dim=1)
                unexplained = rest.detach() - _written(spare.indices, spare.values, decoder)
                loss = loss + s.aux * unexplained.square().sum() / squared.detach()
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                decoder.copy_(normalize(decoder))
            seen[best.indices[best.values > 0]] = True
            error += float(squared.detach())
        dead = ~seen
        yield error / x.numel()


def _written(
    latents: Int[Tensor, "b a"], before: Float[Tensor, "b a"], decoder: Float[Tensor, "k d"]
) -> Float[Tensor, "b d"]:
    """``relu(before) D``, of some latents of each token."""
    return embedding_bag(latents, decoder, per_sample_weights=before.relu(), mode="sum")
