"""The tail of a channel: the tokens beyond the threshold on its heavy side, or on both.

z-scores are of the channel's unweighted projection ``U^T c`` over all tokens. A channel's
*polarity* is +1 or -1 where its tail is on that side only, 0 where it is on both.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .moments import Sample, centred_logits


def z_scores(
    vectors: Float[Tensor, "n d_model"], projection: Float[Tensor, "d_model d_vocab"]
) -> Float[Tensor, "n d_vocab"]:
    """The vectors' projections, centred and scaled over the whole vocabulary; at least float32."""
    sample = Sample.uniform(projection)
    z, m2, _ = centred_logits(vectors.to(sample.projection), sample)
    return z.div_(m2.sqrt().to(z.dtype).unsqueeze(1))


def polarity_of(skewness: Float[Tensor, " n"], threshold: float) -> Int[Tensor, " n"]:
    """+1 or -1 where the skewness is beyond the threshold on that side, else 0; int8."""
    return (skewness > threshold).to(torch.int8) - (skewness < -threshold).to(torch.int8)


def sides(z: Float[Tensor, "n width"], polarity: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
    """The side that each token would be in the tail on, +1 or -1; 0 for a z-score of 0 on both."""
    polarity = polarity.to(z).unsqueeze(1)
    return torch.where(polarity == 0, z.sign(), polarity)


def outward(z: Float[Tensor, "n width"], polarity: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
    """z-scores counted outward, on the side that counts: in the tail if beyond the threshold."""
    return z * sides(z, polarity)
