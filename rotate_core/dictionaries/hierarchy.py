"""hierarchy(): features of features, each level with the activations in view."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.dictionaries import hals
from rotate_core.dictionaries.checks import checked, origin
from rotate_core.dictionaries.factors import Factors, finished, top_rows
from rotate_core.dictionaries.snmf import snmf
from rotate_core.rotation.threads import team

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.text.labelled import Activations

ROUNDS = 5
"""Rounds over the entries of a level's coefficients each time."""


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """Levels of features, the finest first: ``A = Y_0 ... Y_l Z_l`` for every level l."""

    levels: tuple[Factors, ...]
    """``coefficients`` of a level are those of the features below it, of the first level those of
    the tokens; ``explained`` is always of the tokens."""
    history: tuple[float, ...]
    """The loss of all levels together, as a share of the energy of the tokens, after each sweep of
    tuning. It never rises."""

    def coefficients(self, level: int) -> Float[Tensor, "n k"]:
        """How much of each feature of a level is in each token: ``Y_0 ... Y_l``."""
        product = self.levels[0].coefficients
        for factors in self.levels[1 : level + 1]:
            product = product @ factors.coefficients
        return product

    def edges(self, share: float = 0.15, most: int = 4) -> pd.DataFrame:
        """What hangs on what: a parent's children hold at least a share of its largest child's.

        Args:
            share: of the largest coefficient of the parent.
            most: children of one parent, at most; one alone is no group, and is left out.

        Returns:
            One row per edge: level (of the parent), parent, child (of the level below), weight.

        Source: arXiv:2506.10920, by notes on its released code.
        """
        import pandas as pd

        rows = []
        for level, factors in enumerate(self.levels[1:], start=1):
            for parent, column in enumerate(factors.coefficients.T):
                values, children = column.topk(min(most, len(column)))
                kept = values >= share * values[0].clamp_min(torch.finfo(values.dtype).tiny)
                if kept.sum() > 1:
                    pairs = zip(children[kept].tolist(), values[kept].tolist(), strict=True)
                    rows += [(level, parent, child, weight) for child, weight in pairs]
        return pd.DataFrame(rows, columns=["level", "parent", "child", "weight"])

    def __repr__(self) -> str:
        sizes = " - ".join(str(factors.n_features) for factors in self.levels)
        explained = ", ".join(f"{factors.explained:.1%}" for factors in self.levels)
        return f"Hierarchy({sizes} features; {explained} of the energy explained)"


def hierarchy(
    factors: Factors,
    sizes: Sequence[int],
    *,
    activations: Float[Tensor, "n d_mlp"] | Activations | None = None,
    tune: int = 50,
    seed: int = 0,
    progress: bool = True,
) -> Hierarchy:
    """Factorise features into fewer features, again and again (arXiv:2506.10920).

    Each level is first :func:`.snmf` of the features below. Then all levels are tuned together, for
    the mean over levels of ``|A - Y_0 ... Y_l Z_l|^2``: one block after another, with all else
    fixed, by steps that cannot raise it. Coefficients stay nonnegative, and features their neurons.

    Ours: the authors tune the last level alone, by Adam, which keeps neither.

    Args:
        factors: the finest level.
        sizes: numbers of features of the levels above, ever fewer.
        activations: A, the tokens that ``factors`` were fitted to; None: what the factors make of
            them.
        tune: sweeps of tuning; 0: none.
        seed: of the fits.
        progress: show a bar.

    Raises:
        ValueError: sizes that do not fall, other activations, or factors that know no tokens.
    """
    every = (factors.n_features, *sizes)
    if len(every) < 2 or any(b >= a or b < 1 for a, b in pairwise(every)):
        raise ValueError(f"sizes={tuple(sizes)} above {every[0]} features: wanted ever fewer")
    wanted = (len(factors.coefficients), factors.vectors.shape[1])
    if activations is None:
        values = factors.reconstruct(factors.coefficients)
    else:
        values = checked(activations, None)
    if not wanted[0] or values.shape != wanted:
        raise ValueError(
            f"activations of shape {tuple(values.shape)}: wanted the tokens of the fit, {wanted}"
        )
    with team(values.device):
        blocks = _Blocks(factors.scaled(values), factors)
        settings = dataclasses.replace(factors.settings, outliers=None, scale_neurons=False)
        for size in sizes:
            unit = blocks.z[-1] / blocks.z[-1].norm(dim=1, keepdim=True)
            blocks.add(snmf(unit, size, settings=settings, seed=seed, progress=False))
        history = [blocks.loss()]
        for _ in tqdm(range(tune), unit="sweep", disable=not progress, leave=False):
            blocks.sweep()
            history.append(blocks.loss())
        levels = tuple(blocks.levels(factors, values, activations))
    return Hierarchy(levels, tuple(history))


class _Blocks:
    """The coefficients and features of all levels, and the sums that they are tuned by."""

    def __init__(self, x: Float[Tensor, "n d"], factors: Factors) -> None:
        self.x = x
        self.z = [factors.scaled(factors.vectors).to(x)]
        """Features, (k_l, d)."""
        self.y = [factors.coefficients.T.to(x).contiguous()]
        """Coefficients, (k_l, k_{l-1}), of the first level (k_0, n)."""
        self.kept = [self.z[0] != 0]

    def add(self, above: Factors) -> None:
        """One more level, of the last one's features at length 1."""
        norm = self.z[-1].norm(dim=1, keepdim=True)
        self.z[-1], self.y[-1] = self.z[-1] / norm, self.y[-1] * norm
        self.z.append(above.vectors.to(self.x))
        self.y.append(above.coefficients.T.to(self.x).contiguous())
        self.kept.append(self.z[-1] != 0)

    def sums(self) -> list[hals.Sums]:
        """``Y^T A`` and ``Y^T Y`` of each level, Y the coefficients of the tokens in it."""
        sums = [hals.Sums(self.y[0] @ self.x, self.y[0] @ self.y[0].T)]
        for y in self.y[1:]:
            sums.append(hals.Sums(y @ sums[-1].b, y @ sums[-1].g @ y.T))
        return sums

    def loss(self) -> float:
        """The mean over levels of what is not explained, as a share of the energy."""
        total = float(self.x.double().square().sum())
        gained = [
            2 * (s.b * z).sum(dtype=torch.float64) - (s.g * (z @ z.T)).sum(dtype=torch.float64)
            for s, z in zip(self.sums(), self.z, strict=True)
        ]
        return 1 - float(sum(gained)) / total / len(gained)

    def sweep(self) -> None:
        """Each block once, the finest first; no step raises the loss."""
        for level in range(len(self.z)):
            below, q = self._above(level)
            if level == 0:
                for part in hals.chunks(self.x):
                    p = below @ self.x[part].T
                    self.y[0][:, part] = hals.nonnegative(p, q, self.y[0][:, part], ROUNDS)
            else:
                s = self.sums()[level - 1]
                c, y = s.b @ below.T, self.y[level].T.contiguous()
                for i in (s.g.diagonal() > 0).nonzero().flatten().tolist():
                    p = (c[i] - s.g[i] @ y @ q) / s.g[i, i] + y[i] @ q
                    y[i] = hals.nonnegative(p.unsqueeze(1), q, y[i].unsqueeze(1), ROUNDS)[:, 0]
                self.y[level] = y.T.contiguous()
            self._features(level)

    def _above(self, level: int) -> tuple[Float[Tensor, "k d"], Float[Tensor, "k k"]]:
        """What a level's features stand for in its own and each level above: sum, sum of squares.

        ``D_l = Y_{level+1} ... Y_l Z_l``; the sum of all D, and of all ``D D^T``.
        """
        each = []
        for top in range(level, len(self.z)):
            d = self.z[top]
            for y in reversed(self.y[level + 1 : top + 1]):
                d = y.T @ d
            each.append(d)
        return torch.stack(each).sum(0), torch.stack([d @ d.T for d in each]).sum(0)

    def _features(self, level: int) -> None:
        """Each feature's best values in the neurons that it has."""
        s, z = self.sums()[level], self.z[level]
        for j in (s.g.diagonal() > 0).nonzero().flatten().tolist():
            step = torch.addmv(s.b[j], z.T, s.g[j], alpha=-1) / s.g[j, j]
            z[j] = (z[j] + step) * self.kept[level][j]

    def levels(
        self, first: Factors, values: Tensor, x: Tensor | Activations | None
    ) -> Iterator[Factors]:
        """The levels as factors, features of length 1."""
        below = torch.ones(self.y[0].shape[1], 1)
        tokens: Tensor | None = None
        for z, y in zip(self.z, self.y, strict=True):
            scaled = z if first.scale is None else z * first.scale.to(z)
            norm = scaled.norm(dim=1).clamp_min(torch.finfo(z.dtype).tiny).cpu()
            coefficients = y.T.cpu() * norm / below
            tokens = coefficients if tokens is None else tokens @ coefficients
            rows = top_rows(tokens)
            factors = finished(
                z, first.scale, n_kept=first.support.shape[1], n_outliers=first.n_outliers,
                n_revived=0, n_iter=first.n_iter, converged=first.converged,
                settings=first.settings, seed=first.seed,
            )  # fmt: skip
            yield dataclasses.replace(
                factors,
                coefficients=coefficients,
                explained=factors.energy_explained(values, tokens.to(values)),
                top_rows=rows,
                **origin(values if x is None else x, rows),
            )
            below = norm.unsqueeze(1)
