"""Regions of activation space: are there any, do they recur, what do they carry (chapter 13).

Every figure stands beside the same figure of a Gaussian with the activations' own mean and
covariance, in which there is nothing to find.

Source: arXiv:2602.02464 for the method and its claims. The measures and nulls are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.dictionaries import Regions, RegionSettings, mfa
from rotate_core.dictionaries.mixture import Mixture, read, readers
from rotate_core.models.tokens import visible
from rotate_core.null.matched import own_seed
from rotate_core.text import Activations
from rotate_core.verdicts.agreement import adjusted_rand_index

if TYPE_CHECKING:
    import pandas as pd

DATA, SURROGATE = "activations", "Gaussian surrogate"
LEAST = 30
"""Unseen tokens that a region has to have before it is read closely."""


def within_norm(x: Activations, most: float = 10.0) -> Activations:
    """The tokens of a norm of at most so many times the median, as fits drop the others."""
    norms = x.values.norm(dim=1)
    return x.take(norms <= most * norms.median())


def equal_rank(n_regions: int, rank: int, d: int) -> int:
    """The rank that gives one component as many parameters as so many regions of a rank.

    K (R + 1) - 1, at most d / 2: one component is then any Gaussian at all.
    """
    return min(n_regions * (rank + 1) - 1, d // 2)


def one_component(x: Float[Tensor, "n d"], rank: int, *, n_iter: int = 20) -> Mixture:
    """The maximum likelihood factor analysis of a rank, in float64: one region.

    Loadings given the noise are in closed form, from the eigenvectors of the covariance in units of
    noise; noise given the loadings is what they leave. EM needs hundreds of passes at such ranks.

    Source: Joreskog (1967), Psychometrika 32:443; as scikit-learn's FactorAnalysis.
    """
    values = x.double()
    covariance = torch.cov(values.T, correction=0)
    variance = covariance.diagonal()
    noise, floor = variance.clone(), RegionSettings().floor * variance.mean()
    for _ in range(n_iter):
        scale = noise.sqrt()
        lengths, vectors = torch.linalg.eigh(covariance / scale / scale.unsqueeze(1))
        beyond = (lengths[-rank:] - 1).clamp_min(0).sqrt()
        loadings = scale.unsqueeze(1) * vectors[:, -rank:] * beyond
        noise = (variance - loadings.square().sum(1)).clamp_min(floor)
    weights = torch.ones(1, dtype=torch.float64)
    return Mixture(weights, values.mean(0, keepdim=True), loadings.unsqueeze(0), noise)


def likelihoods(
    texts: dict[str, tuple[Activations, Activations]],
    sizes: Sequence[int],
    *,
    rank: int,
    seed: int,
) -> tuple[pd.DataFrame, dict[tuple[str, int], Regions]]:
    """Held-out likelihood over the number of regions, beside one component of as many parameters.

    Args:
        texts: by what they are: tokens to fit, and tokens of other documents.
        sizes: numbers of regions.
        rank: of the regions.
        seed: of the fits.

    Returns:
        One row per kind of token, number of regions and held-out document: mixture, one (mean nats
        a token) and gain (their difference, a dimension). And the fits, by kind and number.
    """
    import pandas as pd

    rows, fits = [], {}
    for what, (train, test) in texts.items():
        d = train.values.shape[1]
        ones: dict[int, Tensor] = {}
        for k in sizes:
            fits[what, k] = mfa(train, k, rank=rank, held_share=0.0, seed=seed, progress=False)
            wide = equal_rank(k, rank, d)
            if wide not in ones:
                one = one_component(train.values, wide)
                ones[wide] = read(test.values.double(), readers(one, one.noise))[0][:, 0]
            each = pd.DataFrame(
                {"document": test.document, "mixture": fits[what, k].log_prob(test)}
            ).assign(one=ones[wide].numpy())
            means = each.groupby("document", as_index=False).mean()
            means["gain"] = (means["mixture"] - means["one"]) / d
            rows.append(means.assign(what=what, n_regions=k, rank_of_one=wide))
    return pd.concat(rows, ignore_index=True), fits


def explained(fit: Regions, x: Activations, *, parts: str) -> float:
    """Share of the squared distance from the mean that a reconstruction explains."""
    left = x.values - fit.reconstruct(x, parts=parts)
    return float(1 - left.square().sum() / (x.values - x.values.mean(0)).square().sum())


def agreement(first: Regions, second: Regions, test: Activations) -> pd.DataFrame:
    """Adjusted Rand index of two fits' regions, in each held-out document."""
    import pandas as pd

    a, b = (fit.responsibilities(test).argmax(1) for fit in (first, second))
    rows = []
    for document in test.document.unique().tolist():
        here = test.document == document
        rows.append({"document": document, "ari": adjusted_rand_index(a[here], b[here])})
    return pd.DataFrame(rows)


def breadth(regions: Regions, x: Activations, *, seed: int) -> pd.DataFrame:
    """How many different tokens, and how many articles, each region holds.

    Both are effective numbers: exp of the entropy, in bits of no unit. A region's articles are held
    against those of as many tokens drawn from all of x.

    Returns:
        One row per region: n, tokens, articles, articles_of_as_many, label (its densest tokens),
        and narrow (articles over articles_of_as_many).
    """
    import pandas as pd

    member = regions.responsibilities(x).argmax(1)
    generator = torch.Generator().manual_seed(own_seed(seed, "breadth"))
    rows: list[dict[str, Any]] = []
    labels = regions.table(k=3).set_index("region")["top_tokens"]
    for k in range(regions.n_regions):
        here = (member == k).nonzero().flatten()
        if not len(here):
            continue
        drawn = torch.randperm(len(x), generator=generator)[: len(here)]
        articles = effective_number(x.document[here])
        as_many = effective_number(x.document[drawn])
        row = {
            "region": k,
            "n": len(here),
            "tokens": effective_number(x.token_ids[here]),
            "articles": articles,
            "articles_of_as_many": as_many,
            "label": " ".join(visible(token.strip()) for token in labels[k]),
        }
        rows.append(row | {"narrow": articles / as_many})
    return pd.DataFrame(rows)


def effective_number(labels: Int[Tensor, " n"]) -> float:
    """Exp of the entropy of the labels' shares: how many equally frequent ones would do."""
    share = labels.unique(return_counts=True)[1].double() / len(labels)
    return float((-share * share.log()).sum().exp())


def read_closely(table: pd.DataFrame, *, least: int = LEAST) -> dict[str, int]:
    """Three regions by rule: of fewest tokens, of fewest articles for its size, of most tokens.

    Fewer, where fewer have enough tokens.

    Args:
        table: of :func:`breadth`.
        least: tokens that a region has at least.
    """
    big = table[table["n"] >= least].set_index("region")
    chosen: dict[str, int] = {}
    for what, order in (
        ("fewest different tokens", big["tokens"]),
        ("fewest articles for its size", big["narrow"]),
        ("most different tokens", -big["tokens"]),
    ):
        left = order.drop(list(chosen.values()))
        if len(left):
            chosen[what] = int(left.idxmin())
    return chosen


def sums_of_factors(
    *, n_factors: int = 16, d: int = 64, rank: int = 2, n: int = 6000, seed: int = 0
) -> pd.DataFrame:
    """R^2 of planted factors, several of which add up in a token, from a mixture's regions.

    A factor is active in a token with a probability of 3 / n_factors. It is read from all regions:
    from ``r_k`` and ``r_k z_k``, the mixture's own account of a token; and from the coordinates of
    the token in the same subspaces, fitted together by least squares, so that they may add up. Each
    reading is a regression in one half of the tokens, scored in the other.

    Returns:
        One row per factor: mixture, additive (R^2).
    """
    import pandas as pd

    g = torch.Generator().manual_seed(own_seed(seed, "factors"))
    bases = torch.linalg.qr(torch.randn(n_factors, d, rank, generator=g, dtype=torch.float64))[0]
    active = torch.rand(n, n_factors, generator=g) < 3 / n_factors
    z = 3 * torch.randn(n, n_factors, rank, generator=g, dtype=torch.float64)
    z = z * active.unsqueeze(2)
    noise = 0.3 * torch.randn(n, d, generator=g, dtype=torch.float64)
    x = torch.einsum("tfr,fdr->td", z, bases) + noise
    regions = mfa(x, n_factors, rank=rank, seed=seed, progress=False, tolerance=1e-4)
    r = regions.responsibilities(x)
    local = [r[:, k : k + 1] * regions.local(x, k) for k in range(n_factors)]
    spans = regions.loadings.permute(1, 0, 2).flatten(1)  # (d, n_factors * rank)
    together = torch.linalg.lstsq(spans, x.T, driver="gelsd").solution.T
    readings = {"mixture": torch.cat([r, *local], 1), "additive": together}
    rows = [
        {"factor": factor} | {name: _r2(part, z[:, factor]) for name, part in readings.items()}
        for factor in range(n_factors)
    ]
    return pd.DataFrame(rows)


def _r2(x: Tensor, y: Tensor) -> float:
    """Of a linear fit to the first half, in the second."""
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    half = len(x) // 2
    weights = torch.linalg.lstsq(x[:half], y[:half], driver="gelsd").solution
    error = (y[half:] - x[half:] @ weights).square().sum()
    return float(1 - error / (y[half:] - y[half:].mean(0)).square().sum())
