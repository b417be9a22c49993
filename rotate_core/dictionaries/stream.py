"""mfa_stream(): regions of activations that never fit in memory, by stepwise EM."""

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

from rotate_core.dictionaries import em, resumed
from rotate_core.dictionaries.checks import check, checked, floor_of
from rotate_core.dictionaries.mfa import parameters
from rotate_core.dictionaries.mixture import Mixture, mean_log_prob, orthogonal
from rotate_core.dictionaries.regions import Regions
from rotate_core.dictionaries.settings import RegionSettings
from rotate_core.dictionaries.start import best_start

if TYPE_CHECKING:
    from rotate_core.text.labelled import Activations


def mfa_stream(
    batches: Iterable[Tensor | Activations] | Callable[[int], Iterable[Tensor | Activations]],
    n_regions: int,
    *,
    settings: RegionSettings | None = None,
    folder: str | Path | None = None,
    every: int = 10,
    seed: int = 0,
    device: str | torch.device | None = None,
    memory: float | None = None,
    history: bool = False,
    progress: bool = True,
    **overrides: Any,
) -> Regions:
    """Fit a mixture of factor analyzers to a stream of activations, each batch seen once.

    The first batches, ``start_tokens`` a region, are held for the start of :func:`.mfa`: they set
    the mean, the bound on norms and the least noise, and a share of them stays unseen, to measure
    by. Then each batch is one step of EM on sums that forget: the t-th weighs ``(t + 2)^-0.7``.
    Wanted are batches of many tokens a region; memory is that of the start and of one batch.

    Args:
        batches: tokens, in an order that mixes documents; or a function that gives them from
            batch i on, so that what is resumed need not be computed again.
        n_regions: K.
        settings: of :func:`.mfa`; ``top=16`` makes thousands of regions cheap.
        folder: where the state is kept. A run that was killed goes on from there, given the same
            batches, settings and seed: those that were folded in are passed over.
        every: batches between two states on disk.
        seed: of the start.
        device: where to compute; None: where the batches are.
        memory: bytes that the work may take beside them.
        history: keep the log likelihood of each batch, before it was folded in.
        progress: show a bar.
        overrides: any field of :class:`RegionSettings`.

    Returns:
        The regions; ``log_likelihood`` is that of the last batches, weighed as the sums are;
        ``n_iter`` counts batches, and ``converged`` says that the stream came to its end.

    Raises:
        ValueError: as :func:`.mfa`; solver="gradient"; a state of other settings, or damaged.

    Source: Cappé and Moulines (2009), J. R. Statist. Soc. B 71:593.
    """
    s = dataclasses.replace(settings or RegionSettings(), **overrides)
    if s.solver != "em":
        raise ValueError(f"solver={s.solver!r}: a stream is fitted by em")
    file = None if folder is None else Path(folder) / resumed.STATE
    asked = {"settings": dataclasses.asdict(s), "n_regions": n_regions, "seed": seed}
    state = resumed.read(file, asked, device, _State.of)
    source = resumed.from_batch(batches, state.n_batches if state else 0)
    if state is None:
        state = _begin(source, n_regions, s, seed, device, memory)
        state.keep(file, asked)
    with tqdm(unit="batch", disable=not progress, leave=False) as bar:
        for batch in source:
            bar.set_postfix_str(f"{state.step(batch, s, memory):.2f} nats a token")
            bar.update()
            if state.n_batches % every == 0:
                state.keep(file, asked)
    state.keep(file, asked)
    mixture = orthogonal(state.mixture)
    return Regions(
        **parameters(mixture.shifted(state.mean.double()), state.mean.dtype),
        n_tokens=(state.sums.counts * state.n_tokens).round().long().cpu(),
        log_likelihood=float(state.sums.log_likelihood),
        held_out=mean_log_prob(state.unseen, mixture, memory),
        n_outliers=state.n_outliers,
        n_reseeded=state.n_reseeded,
        n_iter=state.n_batches,
        converged=True,
        settings=s,
        seed=seed,
        history=tuple(state.history) if history else None,
    )


@dataclasses.dataclass(eq=False)
class _State:
    """All that a stream's fit knows; what is on disk between two batches."""

    mixture: Mixture
    sums: em.Statistics
    """A token's means."""
    mean: Float[Tensor, " d"]
    """What is subtracted from every token."""
    unseen: Float[Tensor, "m d"]
    floor: float
    bound: float
    """Largest norm of a token that is not an outlier."""
    n_batches: int
    n_steps: int
    n_tokens: int
    n_outliers: int
    n_reseeded: int
    history: list[float]

    def step(self, batch: Tensor | Activations, s: RegionSettings, memory: float | None) -> float:
        """Fold a batch in; its log likelihood a token, under the mixture that it met."""
        x = checked(batch, self.mean.device).to(self.mean)
        kept = x.norm(dim=1) <= self.bound
        x = x[kept] - self.mean
        self.n_batches += 1
        self.n_outliers += int((~kept).sum())
        if not len(x):
            return math.nan
        sums, each = em.expect(x, self.mixture, top=s.top, memory=memory)
        self.n_steps += 1
        self.n_tokens += len(x)
        self.sums = self.sums.blended(sums.per_token(), resumed.step_size(self.n_steps))
        self.mixture = em.maximise(self.sums, self.mixture, noise=s.noise, floor=self.floor)
        dead = (self.sums.counts * self.n_tokens < 1).nonzero().flatten()[: len(x)]
        if len(dead):
            worst = x[each.topk(len(dead), largest=False).indices]
            self.mixture = em.reseed(self.mixture, dead, worst, 1 / self.n_tokens)
            self.n_reseeded += len(dead)
        self.history.append(float(sums.log_likelihood / sums.n))
        return self.history[-1]

    def keep(self, file: Path | None, asked: dict[str, Any]) -> None:
        """Write the state, whole or not at all."""
        tensors = {"mean": self.mean, "unseen": self.unseen}
        for part in (self.mixture, self.sums):
            tensors |= {f"{type(part).__name__}.{k}": v for k, v in vars(part).items()}
        plain = {k: v for k, v in vars(self).items() if isinstance(v, (int, float, list))}
        resumed.keep(file, asked, tensors, plain)

    @staticmethod
    def of(tensors: dict[str, Tensor], plain: dict[str, Any]) -> _State:
        """The state that :meth:`keep` wrote."""
        return _State(
            mixture=Mixture(**_part(tensors, "Mixture")),
            sums=em.Statistics(**_part(tensors, "Statistics")),
            mean=tensors["mean"],
            unseen=tensors["unseen"],
            **plain,
        )


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _begin(
    source: Iterator[Tensor | Activations],
    n_regions: int,
    s: RegionSettings,
    seed: int,
    device: str | torch.device | None,
    memory: float | None,
) -> _State:
    """The state behind the first batches."""
    held = resumed.first_batches(source, s.start_tokens * n_regions)
    x = torch.cat([checked(batch, device) for batch in held])
    norms = x.norm(dim=1)
    bound = math.inf if s.outliers is None else float(s.outliers * norms.median())
    kept = x[norms <= bound]
    generator = torch.Generator().manual_seed(seed)
    kept = kept[torch.randperm(len(kept), generator=generator).to(x.device)]
    n_unseen = int(s.held_share * len(kept))
    check(kept[n_unseen:], n_regions, s)
    mean = kept.mean(0)
    kept = kept - mean
    seen, unseen = kept[n_unseen:], kept[:n_unseen]
    mixture = best_start(seen, unseen, n_regions, s, generator, memory)
    sums, _ = em.expect(seen, mixture, top=s.top, memory=memory)
    floor = floor_of(seen, s)
    return _State(
        mixture=em.maximise(sums, mixture, noise=s.noise, floor=floor),
        sums=sums.per_token(),
        mean=mean,
        unseen=unseen,
        floor=floor,
        bound=bound,
        n_batches=len(held),
        n_steps=0,
        n_tokens=len(seen),
        n_outliers=len(x) - len(kept),
        n_reseeded=0,
        history=[],
    )
