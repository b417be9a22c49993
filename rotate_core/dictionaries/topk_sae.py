"""topk_sae(): from activations to a small sparse autoencoder, for want of someone else's large one.

No library: of those that train on activations that are there, sae-lens (6.54) fits beside
transformers 5 and brings 43 more packages (a tracker and its telemetry, a plotting library, a
second loader of models, ...) for what is a hundred lines; dictionary-learning wants nnsight below
0.4, and overcomplete a Python below 3.13. sparsify (EleutherAI) runs the model by itself.
"""

from __future__ import annotations

import dataclasses
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
    have length 1 after every step, and the encoder begins as the decoder. Latents that no token of
    the pass before had are taught what the others leave (AuxK, the paper's section A.2). Tokens are
    centred and brought to a mean square of 1 first, all by one number, so that a learning rate is
    good for any layer; weights are given in the activations' own unit.

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
    run = _Training((tokens - mean) / scale, n_latents, s, seed)
    with tqdm(total=s.passes, unit="pass", disable=not progress, leave=False) as bar:
        for error in run.passes():
            bar.set_postfix_str(f"{error:.1%} unexplained")
            bar.update()
    sae = SAE(
        encoder=run.encoder.detach().cpu(),
        encoder_bias=(run.encoder_bias.detach() * scale).cpu(),
        decoder=run.decoder.detach().cpu(),
        decoder_bias=(run.decoder_bias.detach() * scale + mean).cpu(),
        activation="topk",
        n_active=s.n_active,
        n_outliers=int((~kept).sum()),
        n_iter=s.passes,
        converged=True,  # by its schedule: the learning rate ends at 0
        seed=seed,
        history=tuple(run.history) if history else None,
        settings=s,
    )
    sae = dataclasses.replace(sae, explained=sae.energy_explained(tokens))
    if isinstance(x, Tensor):
        return sae
    sae = dataclasses.replace(sae, model=x.model, layer=x.layer, site=x.site)
    return sae.seen_on(x)


class _Training:
    """A training under way: its parameters, and which latents are dead."""

    def __init__(self, x: Float[Tensor, "n d"], n_latents: int, s: SAESettings, seed: int) -> None:
        self.x, self.s = x, s
        self.generator = torch.Generator().manual_seed(seed)
        # Not tokens: each is a sum of latents, and to come apart again takes long.
        rows = normalize(torch.randn(n_latents, x.shape[1], generator=self.generator).to(x))
        parts = rows.clone(), x.new_zeros(n_latents), rows, x.new_zeros(x.shape[1])
        self.parts = [part.requires_grad_() for part in parts]
        self.encoder, self.encoder_bias, self.decoder, self.decoder_bias = self.parts
        self.dead = torch.zeros(n_latents, dtype=torch.bool, device=x.device)
        self.history: list[float] = []

    def _order(self) -> Int[Tensor, " n"]:
        return torch.randperm(len(self.x), generator=self.generator).to(self.x.device)

    def passes(self) -> Any:
        """One pass after another; the error of each."""
        s = self.s
        adam = torch.optim.Adam(self.parts, lr=s.learning_rate)
        for i in range(s.passes):
            fired, error = torch.zeros_like(self.dead), 0.0
            batches = self._order().split(s.batch)
            for j, rows in enumerate(batches):
                left = 1 - (i + j / len(batches)) / s.passes
                adam.param_groups[0]["lr"] = s.learning_rate * min(1.0, 2 * left)
                y = self.x[rows]
                loss, squared, used = self._loss(y)
                adam.zero_grad()
                loss.backward()
                adam.step()
                with torch.no_grad():
                    self.decoder.copy_(normalize(self.decoder))
                fired[used] = True
                error += float(squared)
            self.dead = ~fired
            self.history.append(error / self.x.numel())
            yield self.history[-1]

    def _loss(self, y: Float[Tensor, "b d"]) -> tuple[Tensor, Tensor, Int[Tensor, " m"]]:
        """What is lowered; the squared error; the latents that were used."""
        before = (y - self.decoder_bias) @ self.encoder.T + self.encoder_bias
        best = before.topk(self.s.n_active, dim=1)
        codes = best.values.relu()
        rest = y - self.decoder_bias - self._decoded(best.indices, codes)
        squared = rest.square().sum()
        loss = squared / y.numel()
        if self.s.aux and (n_dead := int(self.dead.sum())):
            n = min(n_dead, y.shape[1] // 2)
            spare = before.masked_fill(~self.dead, -torch.inf).topk(n, dim=1)
            error = rest.detach() - self._decoded(spare.indices, spare.values.relu())
            loss = loss + self.s.aux * error.square().sum() / rest.detach().square().sum()
        return loss, squared.detach(), best.indices[codes > 0]

    def _decoded(self, latents: Int[Tensor, "b a"], codes: Float[Tensor, "b a"]) -> Tensor:
        """``codes D``, of the latents that there are alone."""
        return embedding_bag(latents, self.decoder, per_sample_weights=codes, mode="sum")
