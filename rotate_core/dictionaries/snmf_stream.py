"""snmf_stream(): factors of activations that never fit in memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.dictionaries import hals, resumed
from rotate_core.dictionaries.checks import check_factors, checked, within
from rotate_core.dictionaries.factors import Factors, finished
from rotate_core.dictionaries.settings import FactorSettings
from rotate_core.dictionaries.snmf import best_start, neuron_scale
from rotate_core.rotation.threads import team

if TYPE_CHECKING:
    from rotate_core.text.labelled import Activations

ROUNDS = 20
"""Rounds over a token's coefficients, which begin at zero in a stream."""


def snmf_stream(
    batches: Iterable[Tensor | Activations] | Callable[[int], Iterable[Tensor | Activations]],
    n_features: int,
    *,
    settings: FactorSettings | None = None,
    folder: str | Path | None = None,
    every: int = 10,
    seed: int = 0,
    device: str | torch.device | None = None,
    history: bool = False,
    progress: bool = True,
    **overrides: Any,
) -> Factors:
    """Factorise a stream of activations, each batch seen once.

    The first batches, ``start_tokens`` a feature, are held for the start of :func:`.snmf`: they set
    the neurons' scale and the bound on norms. Features need of the tokens only ``Y^T A`` and
    ``Y^T Y``: each batch joins these sums, which forget, the t-th weighing ``(t + 2)^-0.7``, and
    the features follow. Moves are not made; memory is that of the start and of one batch.

    Args:
        batches: tokens, in an order that mixes documents; or a function that gives them from
            batch i on, so that what is resumed need not be computed again.
        n_features: k.
        settings: of :func:`.snmf`; solver "hals".
        folder: where the state is kept. A run that was killed goes on from there, given the same
            batches, settings and seed: those that were folded in are passed over.
        every: batches between two states on disk.
        seed: of the start.
        device: where to compute; None: where the batches are.
        history: keep the share of each batch that was not explained, before it was folded in.
        progress: show a bar.
        overrides: any field of :class:`.FactorSettings`.

    Returns:
        The factors, without coefficients: :meth:`.Factors.encode` gives those of any tokens.
        ``explained`` is that of the last batches, weighed as the sums are; ``n_iter`` counts
        batches, and ``converged`` says that the stream came to its end.

    Raises:
        ValueError: as :func:`.snmf`; the multiplicative solver; a state of other settings, or
            damaged.

    Source: Mairal et al. (2010), JMLR 11:19, for learning from the two sums.
    """
    s = dataclasses.replace(settings or FactorSettings(), **overrides)
    if s.solver != "hals":
        raise ValueError(f"solver={s.solver!r}: a stream is factorised by hals")
    file = None if folder is None else Path(folder) / resumed.STATE
    asked = {"settings": dataclasses.asdict(s), "n_features": n_features, "seed": seed}
    state = resumed.read(file, asked, device, _State.of)
    source = resumed.from_batch(batches, state.n_batches if state else 0)
    if state is None:
        state = _begin(source, n_features, s, seed, device)
        state.keep(file, asked)
    with team(state.z.device), tqdm(unit="batch", disable=not progress, leave=False) as bar:
        for batch in source:
            bar.set_postfix_str(f"{1 - state.step(batch, s):.1%} explained")
            bar.update()
            if state.n_batches % every == 0:
                state.keep(file, asked)
    state.keep(file, asked)
    return finished(
        state.z,
        state.scale if s.scale_neurons else None,
        n_kept=state.n_kept(s),
        explained=1 - state.rest,
        n_outliers=state.n_outliers,
        n_revived=state.n_revived,
        n_iter=state.n_batches,
        converged=True,
        settings=s,
        seed=seed,
        history=tuple(state.history) if history else None,
    )


@dataclasses.dataclass(eq=False)
class _State:
    """All that a stream's fit knows; what is on disk between two batches."""

    z: Float[Tensor, "k d"]
    b: Float[Tensor, "k d"]
    g: Float[Tensor, "k k"]
    """The sums, a token."""
    scale: Float[Tensor, " d"]
    bound: float
    """Largest norm of a token that is not an outlier."""
    rest: float
    """The share of the energy that is not explained, weighed as the sums are."""
    n_batches: int
    n_steps: int
    n_outliers: int
    n_revived: int
    history: list[float]

    def n_kept(self, s: FactorSettings) -> int:
        """Entries of a feature."""
        return math.ceil(s.share * self.z.shape[1])

    def step(self, batch: Tensor | Activations, s: FactorSettings) -> float:
        """Fold a batch in; what the features that it met leave of it, as a share."""
        x = checked(batch, self.z.device).to(self.z)
        kept = x.norm(dim=1) <= self.bound
        x = x[kept] / self.scale
        self.n_batches += 1
        self.n_outliers += int((~kept).sum())
        if not x.any():
            return math.nan
        sums, rest = self.folded(x)
        self.n_steps += 1
        rate = resumed.step_size(self.n_steps)
        self.b += rate * (sums.b / len(x) - self.b)
        self.g += rate * (sums.g / len(x) - self.g)
        self.rest += rate * (rest - self.rest)
        self.follow(x, s)
        self.history.append(rest)
        return rest

    def folded(self, x: Float[Tensor, "n d"]) -> tuple[hals.Sums, float]:
        """The sums of some tokens, and the share of their energy that is not explained."""
        zero = x.new_zeros(len(self.z), len(x))
        _, sums, gained = hals.folded(x, self.z, zero, rounds=ROUNDS)
        return sums, 1 - gained / float(x.double().square().sum())

    def follow(self, x: Float[Tensor, "n d"], s: FactorSettings) -> None:
        """The features of the sums; those without a token go where x is explained worst."""
        n_kept = self.n_kept(s)
        self.z = hals.features(hals.Sums(self.b, self.g), self.z, n_kept)
        dead = (~(self.z != 0).any(1)).nonzero().flatten()[: len(x)]
        if len(dead):
            y = hals.encode(x, self.z).T
            rows = hals.unexplained(x, self.z, y).topk(len(dead)).indices
            self.z[dead] = hals.largest(hals.left(x, self.z, y, rows), n_kept)
            self.n_revived += len(dead)

    def keep(self, file: Path | None, asked: dict[str, Any]) -> None:
        """Write the state, whole or not at all."""
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        plain = {k: v for k, v in vars(self).items() if k not in tensors}
        resumed.keep(file, asked, tensors, plain)

    @staticmethod
    def of(tensors: dict[str, Any], plain: dict[str, Any]) -> _State:
        """The state that :meth:`keep` wrote."""
        return _State(**tensors, **plain)


def _begin(
    source: Iterator[Tensor | Activations],
    n_features: int,
    s: FactorSettings,
    seed: int,
    device: str | torch.device | None,
) -> _State:
    """The state behind the first batches."""
    held = resumed.first_batches(source, s.start_tokens * n_features)
    values = torch.cat([checked(batch, device) for batch in held])
    norms = values.norm(dim=1)
    kept = within(values, s.outliers)
    bound = math.inf if s.outliers is None else float(s.outliers * norms.median())
    scale = torch.ones_like(values[0])
    if s.scale_neurons:
        scale = neuron_scale(values[kept])
    x = values[kept] / scale
    check_factors(x, n_features)
    n_kept = math.ceil(s.share * x.shape[1])
    z = best_start(x, n_features, n_kept, s, torch.Generator().manual_seed(seed))
    state = _State(
        z=z, b=torch.zeros_like(z), g=z.new_zeros(len(z), len(z)), scale=scale, bound=bound,
        rest=1.0, n_batches=len(held), n_steps=0, n_outliers=int((~kept).sum()), n_revived=0,
        history=[],
    )  # fmt: skip
    sums, state.rest = state.folded(x)
    state.b, state.g = sums.b / len(x), sums.g / len(x)
    state.follow(x, s)
    return state
