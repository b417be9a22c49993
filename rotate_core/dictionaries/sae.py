"""A sparse autoencoder of some activations: the one result type, in memory."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.dictionaries import hals, sae_formats
from rotate_core.dictionaries.factors import top_rows
from rotate_core.dictionaries.learned import Learned
from rotate_core.dictionaries.settings import SAESettings

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.text.labelled import Activations

LAYER_NORM_EPSILON = 1e-5
"""Added to a standard deviation, as SAELens does."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SAE(Learned):
    """k latents of activations: ``codes = act(E x + e)``, ``x = codes D + b``.

    Trained here by :func:`.topk_sae`, or someone else's by :meth:`read`. The encoder reads, the
    decoder writes. Every tensor is on the CPU, in float32 at least; a function given activations
    works in their precision, where they are. A latent is strongest where its code is largest.
    """

    encoder: Float[Tensor, "k d"]
    """E, one row a latent."""
    encoder_bias: Float[Tensor, " k"]
    """e."""
    decoder: Float[Tensor, "k d"]
    """D: what each latent writes; of length 1 where it was trained here."""
    decoder_bias: Float[Tensor, " d"]
    """b."""
    activation: str
    """"relu"; "topk": the ``n_active`` largest of a token, where above 0; or "jumprelu": what is
    above 0 and above the latent's ``threshold``."""
    n_active: int | None = None
    threshold: Float[Tensor, " k"] | None = None
    centred: bool = True
    """Whether b is taken from what the encoder reads (SAELens: ``apply_b_dec_to_input``)."""
    normalisation: str = "none"
    """What each token is brought to before all else, and back from in the end: "none"; "norm", a
    length of sqrt(d); or "layer_norm", mean 0 and standard deviation 1."""
    explained: float = math.nan
    """1 - |A - codes D - b|^2 / |A|^2 of the tokens of the fit."""
    active: Float[Tensor, " k"] | None = None
    """Share of the tokens of the fit, or of :meth:`seen_on`, that each latent is in."""
    weight: Float[Tensor, " k"] | None = None
    """Share of the energy of all that latents write there, ``(code |D|)^2``."""
    settings: SAESettings | None = None
    """Of the training; None: it was not trained here."""

    what = "latents"

    @staticmethod
    def read(
        path: str | Path,
        folder: str | None = None,
        *,
        commit: str | None = None,
        model: str | None = None,
        layer: int | None = None,
        site: str | None = None,
        input_scale: float | None = None,
    ) -> SAE:
        """Read what :meth:`write` wrote, or an SAE in one of two formats. Nothing is unpickled.

        *SAELens*: cfg.json and sae_weights.safetensors. *Gemma Scope*: params.npz. Their hook names
        are of TransformerLens: ``hook_resid_pre`` of a layer is "residual" of the one before it.
        TransformerLens may centre what a model with LayerNorm writes (GPT-2's residual stream is
        then its own less the mean of each token); it is for the caller to know.

        Args:
            path: a folder; or a repository on the hub, "organisation/name".
            folder: within it, such as "layer_20/width_16k/average_l0_71".
            commit: of a repository; None: the newest.
            model: of the activations, where the file does not say, or to say it in other words.
            layer: from 0; the same. Needs ``site``.
            site: one of :data:`rotate_core.text.sites.SITES`; the same. Needs ``layer``.
            input_scale: what SAELens calls the norm scaling factor: sqrt(d) over the mean norm of
                the activations, for an SAE that was trained on scaled ones and does not hold it.

        Raises:
            FileNotFoundError: there is no such folder, or no SAE in it.
            ValueError: it is damaged, of an unknown architecture, or of a hook that is no site.
            PermissionError, ConnectionError: of the hub, as :func:`rotate_core.load_model`.
        """
        where = sae_formats.located(path, folder, commit)
        known: dict[str, Any] = {"model": model, "layer": layer, "site": site}
        return SAE(**sae_formats.read(where, SAE, f"{path}/{folder or ''}", known, input_scale))

    @property
    def n_latents(self) -> int:
        """K."""
        return len(self.encoder)

    n_parts = n_latents

    @property
    def vectors(self) -> Float[Tensor, "k d"]:
        """What latents write: the decoder."""
        return self.decoder

    # --- Reading and writing --------------------------------------------------------------------

    def encode(self, x: Float[Tensor, "n d"] | Activations) -> Float[Tensor, "n k"]:
        """The codes of any tokens, where and as precise as x."""
        values = self._checked(x)
        return torch.cat([self._codes(values[part]) for part in hals.chunks(values)] or [
            values.new_zeros(0, self.n_latents)
        ])  # fmt: skip

    def reconstruct(
        self, codes: Float[Tensor, "n k"], of: Float[Tensor, "n d"] | Activations | None = None
    ) -> Float[Tensor, "n d"]:
        """``codes D + b``, in the activations' own unit.

        Args:
            codes: of some tokens.
            of: the tokens; needed where each was brought to a length of its own first.
        """
        written = codes @ self.decoder.to(codes) + self.decoder_bias.to(codes)
        if self.normalisation == "none":
            return written
        if of is None:
            raise ValueError(
                f"normalisation={self.normalisation!r}: what the codes are of is lost in them: "
                "wanted the tokens, as of="
            )
        _, shift, scale = self._normalised(self._checked(of))
        return written * scale + shift

    def energy_explained(
        self,
        x: Float[Tensor, "n d"] | Activations,
        *,
        about: Float[Tensor, " d"] | None = None,
    ) -> float:
        """1 - |A - codes D - b|^2 / |A|^2 of any tokens, as :attr:`explained`.

        Args:
            x: tokens.
            about: where their energy is counted from; None: 0. The mean makes it a share of their
                variance.
        """
        values = self._checked(x)
        total, loss = 0.0, 0.0
        for part in hals.chunks(values):
            rest = values[part] - self.reconstruct(self._codes(values[part]), values[part])
            energy = values[part] if about is None else values[part] - about.to(values)
            loss += float(rest.double().square().sum())
            total += float(energy.double().square().sum())
        return 1 - loss / total if total else math.nan

    def seen_on(self, x: Activations) -> SAE:
        """The same SAE, which knows in how many of some tokens each latent is, and where most.

        All codes are in memory for a moment, n times k values.
        """
        codes = self.encode(x).cpu()
        energy = codes.double().square().sum(0) * self.decoder.double().square().sum(1)
        rows = top_rows(codes)
        return dataclasses.replace(
            self,
            active=(codes > 0).float().mean(0),
            weight=(energy / energy.sum()).float(),
            top_rows=rows,
            contexts=x.contexts(rows),
        )

    def _checked(self, x: Tensor | Activations) -> Tensor:
        values = x if isinstance(x, Tensor) else x.values
        if values.ndim != 2 or values.shape[1] != self.encoder.shape[1]:
            raise ValueError(
                f"activations of shape {tuple(values.shape)}: wanted (n_tokens, "
                f"{self.encoder.shape[1]})"
            )
        return values.to(torch.promote_types(values.dtype, torch.float32))

    def _codes(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        read, _, _ = self._normalised(x)
        if self.centred:
            read = read - self.decoder_bias.to(x)
        before = read @ self.encoder.to(x).T + self.encoder_bias.to(x)
        if self.activation == "topk":
            assert self.n_active is not None
            best = before.topk(self.n_active, dim=1)
            return torch.zeros_like(before).scatter_(1, best.indices, best.values.relu())
        codes = before.relu()
        if self.threshold is not None:
            codes = codes * (before > self.threshold.to(x))
        return codes

    def _normalised(
        self, x: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n d"], Tensor, Float[Tensor, "n 1"]]:
        """Tokens as the encoder takes them; shift and scale that lead back."""
        zero, one = x.new_zeros(1, 1), x.new_ones(1, 1)
        if self.normalisation == "norm":
            scale = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
            return x / scale, zero, scale
        if self.normalisation == "layer_norm":
            mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True)
            return (x - mean) / (deviation + LAYER_NORM_EPSILON), mean, deviation
        return x, zero, one

    # --- Showing --------------------------------------------------------------------------------

    def table(self, k: int = 5) -> pd.DataFrame:
        """One row per latent, the largest first; k tokens of its top positions, each once.

        ``weight`` is the share of the energy written that is this latent's, ``active`` the share of
        tokens that it is in, ``cosine`` that of what it reads with what it writes.
        """
        import pandas as pd

        columns: dict[str, Any] = {"latent": range(self.n_latents)}
        for name in ("weight", "active"):
            if (value := getattr(self, name)) is not None:
                columns[name] = value.numpy()
        columns["cosine"] = torch.cosine_similarity(self.encoder, self.decoder, dim=1).numpy()
        if (tokens := self.top_tokens(k)) is not None:
            columns["top_tokens"] = tokens
        frame = pd.DataFrame(columns)
        if "weight" in frame:
            frame = frame.sort_values("weight", ascending=False, ignore_index=True)
        return frame

    @property
    def n_dead(self) -> int | None:
        """Latents that are in no token that was seen; None: nothing was."""
        return None if self.active is None else int((self.active == 0).sum())

    def _title(self) -> str:
        k, d = self.encoder.shape
        kind = {"topk": f"{self.n_active} active in a token"}.get(self.activation, self.activation)
        shown = f"{self._origin()}{k} latents in {d} dimensions, {kind}"
        if self.explained == self.explained:
            shown += f"; {self.explained:.1%} of the energy explained; {self.n_iter} passes"
        return shown if self.n_dead is None else f"{shown}; {self.n_dead} dead"
