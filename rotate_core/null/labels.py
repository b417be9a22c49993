"""Any directions' tokens, held against chance: is a reading in the vocabulary better than noise?

A direction may be a row of a sparse autoencoder's decoder, a probe, a difference of means, a
centroid, what a factor writes. Nothing is taken apart here: its tokens are those at the ends of
``U^T v``, and the null asks how far out they would be for a vector that means nothing.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.channels import POLARITIES, Shown, VocabularyLike
from rotate_core.decomposition import (
    check_vectors,
    checked_vocabulary,
    projection_factor,
    row_factors,
    scaled,
    vectors_of,
)
from rotate_core.models.tokens import visible
from rotate_core.null.calibration import SIGNIFICANT, Calibration, p_values, q_values
from rotate_core.null.evidence import MEMORY, N_CORE
from rotate_core.null.matched import matched_vectors, own_seed
from rotate_core.rotation.tails import z_scores

if TYPE_CHECKING:
    import pandas as pd

N_TOP = 50
"""Tokens kept of either end."""


@dataclass(frozen=True, eq=False, repr=False)
class Labels(Shown):
    """The tokens of some directions, and how likely a random vector has any as far out."""

    directions: Float[Tensor, "n d_model"]
    """As they were given; on the CPU, like everything here."""
    core: Float[Tensor, " n"]
    """Mean z-score in ``U^T v`` of the ten tokens furthest out, on the heavier side; float64."""
    polarity: Int[Tensor, " n"]
    """The heavier side, +1 or -1: what ``core`` and the p-value are of."""
    kurtosis: Float[Tensor, " n"]
    """Excess kurtosis of ``U^T v`` over the whole vocabulary; float64."""
    top_ids: Int[Tensor, "n 2 n_top"]
    """Token numbers, the furthest first: above the mean, and below it."""
    top_z: Float[Tensor, "n 2 n_top"]
    """Their z-scores, with their sign."""
    p_value: Float[Tensor, " n"]
    q_value: Float[Tensor, " n"]
    calibration: Calibration
    """What p and q are over: the number of directions, and of random vectors."""
    rank: int
    """Dimensions that the random vectors can have: at most one less than the vectors in ``like``
    (the directions, where nothing else was given), and d_model."""
    seed: int
    """Of the random vectors."""
    vocabulary: VocabularyLike

    def top_tokens(
        self, direction: int = 0, *, side: int | None = None, k: int = 10
    ) -> list[tuple[str, float]]:
        """The k tokens at one end of a direction with their z-scores, the furthest first.

        Args:
            direction: from 0.
            side: +1 above the mean, -1 below it; None: the heavier one.
            k: at most as many as were kept.
        """
        n, n_top = len(self.core), self.top_ids.shape[2]
        if not -n <= operator.index(direction) < n:
            raise IndexError(f"direction={direction}: there are {n}, counted from 0")
        if side not in (None, 1, -1) or not 1 <= operator.index(k) <= n_top:
            raise ValueError(f"side={side!r}, k={k}: wanted +1, -1 or None, and 1 to {n_top}")
        end = int((self.polarity[direction] if side is None else side) < 0)
        ids, z = self.top_ids[direction, end, :k], self.top_z[direction, end, :k]
        tokens = self.vocabulary.tokens
        return [(tokens[i], value) for i, value in zip(ids.tolist(), z.tolist(), strict=True)]

    def table(self, k: int = 10) -> pd.DataFrame:
        """One row per direction, with the k top tokens of its heavier side and of the other one."""
        import pandas as pd

        k = min(operator.index(k), self.top_ids.shape[2])
        sides = self.polarity.tolist()

        def tokens(sign: int) -> list[list[str]]:
            tops = (self.top_tokens(i, side=sign * s, k=k) for i, s in enumerate(sides))
            return [[token for token, _ in top] for top in tops]

        columns: dict[str, Any] = {"direction": range(len(sides))}
        for name in ("core", "kurtosis", "p_value", "q_value"):
            columns[name] = getattr(self, name).numpy()
        columns["polarity"] = [POLARITIES[side] for side in sides]
        columns |= {"top_tokens": tokens(1), "other_tokens": tokens(-1)}
        return pd.DataFrame(columns | {"n_null": self.calibration.n_null, "seed": self.seed})

    def by_rank(self) -> pd.DataFrame:
        """p-values from the smallest on, beside those of as many directions that mean nothing.

        ``chance`` is where the median of so many uniform values of that rank is, ``low`` and
        ``high`` where 95% of them are, rank by rank: those of a beta distribution.
        """
        import pandas as pd
        from scipy.stats import beta

        n = len(self.p_value)
        rank = torch.arange(1, n + 1).numpy()
        chance, low, high = (beta.ppf(at, rank, n + 1 - rank) for at in (0.5, 0.025, 0.975))
        p = self.p_value.sort().values.numpy()
        return pd.DataFrame({"p_value": p, "chance": chance, "low": low, "high": high})

    def significant(self) -> float:
        """Share of the directions with ``q < 0.1``."""
        return float((self.q_value < SIGNIFICANT).double().mean())

    def _title(self) -> str:
        n, d_model = self.directions.shape
        few = f"; random vectors in {self.rank} of {d_model} dimensions"
        return (
            f"{n:,} direction{'' if n == 1 else 's'}, {self.significant():.0%} with "
            f"q < {SIGNIFICANT:g}; {self.calibration}{few if self.rank < d_model else ''}"
        )

    def _display(self, most: int) -> pd.DataFrame:
        table = self.table(k=6).drop(columns=["n_null", "seed"])
        table = table.sort_values(["p_value", "core"], ascending=[True, False]).head(most)
        ps = {name: table[name].map("{:.2g}".format) for name in ("p_value", "q_value")}
        words = {
            name: table[name].map(lambda row: " ".join(map(visible, row)))
            for name in ("top_tokens", "other_tokens")
        }
        return table.round(2).assign(**ps, **words)


def label(
    directions: Any,
    vocabulary: VocabularyLike,
    *,
    like: Any = None,
    null: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> Labels:
    """Read directions in the vocabulary, with p- and q-values against random vectors.

    The statistic is the one that channels are ranked by, ``core``, for a direction as it is: the
    mean z-score of the ten tokens furthest out in ``U^T v``, on the heavier side. Tokens of weight
    0 do not count, and there is no threshold. It does not depend on the direction's length.

    The random vectors are Gaussian, with the mean and covariance of the directions, each of length
    1 first, so that no long one decides alone. What all directions share (their mean, the few
    dimensions that carry most of any activation) is in the null as well. With fewer directions than
    dimensions the covariance is singular, and is *not* made regular: random vectors are mixtures
    of the directions and share their tokens, so that a reading that is there gets too large a
    p-value, the more so the fewer directions there are (:attr:`Labels.rank` is the number of
    dimensions). For few directions give others in ``like``: vectors that are alike where these
    would mean nothing, such as the activations that they were learned from, less their mean, or the
    layer's neurons. Another choice is another question, and the answers differ much.

    Args:
        directions: (n, d_model), a tensor, an array, lists, or what has ``vectors`` of that shape.
        vocabulary: U, token weights and token strings, as for :func:`rotate_core.decompose`.
        like: vectors that the null is to have the mean and covariance of, at least two, in the
            same forms; None: the directions.
        null: random vectors.
        seed: of the random vectors.
        progress: show a bar.

    Returns:
        The labels; computed on U's device and in its precision, at least float32.

    Raises:
        ValueError: shapes that do not fit, vectors that are not finite or 0, one direction alone
            and nothing in ``like``, logits without variance, or fewer than one random vector.

    Source: ours; the paper ranks channels by none of this. :func:`rotate_core.calibrate` is for
    channels, whose null goes through the rotation.
    """
    vocabulary = checked_vocabulary(vocabulary)
    v = _checked(directions, vocabulary, "directions")
    population = v if like is None else _checked(like, vocabulary, "vectors in like")
    if len(population) < 2:
        raise ValueError("one vector has no covariance: wanted more directions, or others as like")
    unit = scaled(population, row_factors(population)).double()
    unit /= unit.norm(dim=1, keepdim=True)
    # A seed of its own: vectors that someone drew with the same seed are not their own null.
    drawn = matched_vectors(unit.to(population), null, seed=own_seed(seed, "label"))
    of_null = _read(drawn, vocabulary, progress)["core"]
    found = _read(v, vocabulary, progress)
    calibration = Calibration(len(v), null, of="direction")
    calibration.warn(stacklevel=2)
    p = p_values(found["core"].unsqueeze(1), of_null.unsqueeze(1))
    return Labels(
        directions=v,
        **found,
        p_value=p[:, 0],
        q_value=q_values(p)[:, 0],
        calibration=calibration,
        rank=min(len(population) - 1, v.shape[1]),
        seed=seed,
        vocabulary=vocabulary,
    )


def _checked(given: Any, vocabulary: VocabularyLike, what: str) -> Float[Tensor, "n d_model"]:
    v = vectors_of(given, what)
    check_vectors(v, vocabulary.projection, range(len(v)), what)
    return v.to(torch.promote_types(v.dtype, torch.float32))


def _read(
    v: Float[Tensor, "n d_model"], vocabulary: VocabularyLike, progress: bool
) -> dict[str, Tensor]:
    """The arrays of :class:`Labels` that follow from the directions alone."""
    projection = vocabulary.projection
    excluded = vocabulary.token_weights.to(projection.device) == 0
    n_allowed = int((~excluded).sum())
    if n_allowed < N_CORE:
        raise ValueError(f"{n_allowed} tokens of weight above 0: wanted {N_CORE}, a core")
    v = scaled(v, row_factors(v) * projection_factor(projection))
    each = 4 * 4 * projection.shape[1]  # z-scores, in float64 for a moment, and one more copy
    size = max(1, MEMORY["cpu" if projection.device.type == "cpu" else "cuda"] // each)
    parts = []
    for rows in tqdm(v.split(size), unit="batch", disable=not progress, leave=False):
        z = z_scores(rows, projection)
        kurtosis = z.double().pow_(4).mean(1) - 3
        ends = []
        for side in (1, -1):
            top = (z * side).masked_fill_(excluded, -torch.inf).topk(min(N_TOP, n_allowed), dim=1)
            ends.append((top.indices, top.values))
        ids, reach = (torch.stack(arrays, 1) for arrays in zip(*ends, strict=True))
        core = reach[:, :, :N_CORE].mean(2, dtype=torch.float64)
        part = {
            "core": core.amax(1),
            "polarity": (1 - 2 * core.argmax(1)).to(torch.int8),
            "kurtosis": kurtosis,
            "top_ids": ids,
            "top_z": torch.stack([reach[:, 0], -reach[:, 1]], 1),
        }
        if not kurtosis.isfinite().all():
            raise ValueError("logits without variance: wanted U to vary over what directions span")
        parts.append({name: value.cpu() for name, value in part.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
