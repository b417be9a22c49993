"""The power of each statistic: channels planted in vectors that have none (ours)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.channels import Channels, VocabularyLike
from rotate_core.decomposition import ConvergenceWarning, decompose
from rotate_core.null.calibration import p_values
from rotate_core.null.evidence import STATISTICS, statistics
from rotate_core.rotation.tails import outward, z_scores

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.atlas import Atlas
    from rotate_core.rotation.settings import Settings

LEVEL = 0.05
"""A p-value that counts as found, and what chance gives."""


def token_clusters(
    vocabulary: VocabularyLike, n: int, size: int, *, seed: int = 0
) -> tuple[Int[Tensor, "n size"], Float[Tensor, "n d_model"]]:
    """Random tokens of weight 1 with their nearest neighbours by cosine, and the way they lie.

    Columns of U are centred first. The direction is the unit vector along the cluster's mean.

    Args:
        vocabulary: U.
        n: how many clusters.
        size: tokens in each, the first one included.
        seed: of the draw.
    """
    plain = (vocabulary.token_weights == 1).nonzero().flatten()
    if not 1 <= size <= len(plain):
        raise ValueError(f"size={size}: wanted 1 to {len(plain)}, the tokens of weight 1")
    columns = vocabulary.projection - vocabulary.projection.mean(1, keepdim=True)
    columns = (columns / columns.norm(dim=0))[:, plain]
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randint(len(plain), (n,), generator=generator)
    near = (columns[:, centres].T @ columns).topk(size, dim=1).indices
    direction = columns[:, near].mean(2).T
    return plain[near], direction / direction.norm(dim=1, keepdim=True)


def plant(
    vectors: Float[Tensor, "n d_model"], directions: Float[Tensor, "n d_model"], strength: float
) -> Float[Tensor, "n d_model"]:
    """Vectors with a direction added to each, ``strength`` times as long as the vector itself."""
    return vectors + strength * vectors.norm(dim=1, keepdim=True) * directions.to(vectors)


def planted_statistics(
    vectors: Float[Tensor, "n d_model"],
    vocabulary: VocabularyLike,
    *,
    sizes: Sequence[int],
    strengths: Sequence[float],
    settings: Settings | None = None,
    names: Iterable[str] = STATISTICS,
    seed: int = 0,
    device: str | None = None,
) -> pd.DataFrame:
    """The first channels of vectors with a planted direction, by every statistic.

    Args:
        vectors: matched vectors to plant in, other draws than the null's.
        vocabulary: U.
        sizes: tokens of the planted clusters.
        strengths: lengths of the planted directions, in lengths of the vector.
        settings: None for ours.
        names: of statistics, in :data:`STATISTICS`.
        seed: of the clusters.
        device: where to compute; None is the CPU.

    Returns:
        One row per size, strength and vector: size, strength, vector (its number), seen (the mean
        z-score of the planted tokens in the vector's own projection, before the rotation),
        turned_to (whether at least half of the planted tokens are in the channel's tail), and a
        column for each statistic.
    """
    import pandas as pd

    parts = []
    for size in sizes:
        tokens, directions = token_clusters(vocabulary, len(vectors), size, seed=seed)
        for strength in strengths:
            made = plant(vectors, directions, strength)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # one that stalls counts, too
                channels = decompose(
                    made, vocabulary, n_channels=1, settings=settings, device=device,
                    progress=False,
                )  # fmt: skip
            seen, after = (
                z_scores(x, vocabulary.projection).cpu().gather(1, tokens.cpu())
                for x in (made, channels.vectors[:, 0])
            )
            inside = outward(after, channels.polarity[:, 0].cpu()) > channels.settings.threshold
            columns = {
                "size": size,
                "strength": strength,
                "vector": range(len(vectors)),
                "seen": seen.mean(1).numpy(),
                "turned_to": (inside.double().mean(1) >= 0.5).numpy(),
            }
            values = {name: x[:, 0].numpy() for name, x in statistics(channels, names).items()}
            parts.append(pd.DataFrame(columns | values))
    return pd.concat(parts, ignore_index=True)


def power_table(planted: pd.DataFrame, null: Channels) -> pd.DataFrame:
    """The share of planted first channels with p at most :data:`LEVEL`, for each statistic.

    Args:
        planted: of :func:`planted_statistics`, made with the null's settings.
        null: channels of matched vectors.

    Returns:
        One row per size, strength and statistic: statistic, size, strength, power and n.
    """
    import pandas as pd

    null_values = statistics(null, [name for name in planted if name in STATISTICS])
    rows = []
    for (size, strength), part in planted.groupby(["size", "strength"]):
        for name, values in null_values.items():
            p = p_values(torch.tensor(part[name].to_numpy()).unsqueeze(1), values[:, :1])
            rows.append((name, size, strength, float((p <= LEVEL).double().mean()), len(part)))
    return pd.DataFrame(rows, columns=["statistic", "size", "strength", "power", "n"])


def share_by_position(atlas: Atlas, layers: Sequence[int], names: Sequence[str]) -> pd.DataFrame:
    """The share of an atlas's channels with p below :data:`LEVEL`, by position and statistic.

    One row per channel, one column per name in :data:`STATISTICS`: means over layers and kinds.
    """
    import pandas as pd

    parts = []
    for layer, kind in (group for group in atlas.manifest.groups() if group[0] in layers):
        real, null = (
            statistics(atlas.channels(layer=layer, kind=kind, null=null), names)
            for null in (False, True)
        )
        p = {name: p_values(values, null[name]) for name, values in real.items()}
        parts.append(pd.DataFrame({name: (x < LEVEL).double().mean(0) for name, x in p.items()}))
    return pd.concat(parts).groupby(level=0).mean()
