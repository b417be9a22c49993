"""Interchange of the subject's number: what the whole and nothing swap."""

from __future__ import annotations

import pytest
import torch

from rotate_core.dictionaries import mfa
from rotate_core.experiments import interchange
from rotate_core.models import load_model


def test_parts_add_up() -> None:
    x = torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    regions = mfa(x, 2, rank=2, progress=False)
    parts = interchange.parts_of(regions, x[:5], x[5:10] + 1, seed=0)
    total = parts["centroid"](x) + parts["local"](x)
    assert torch.allclose(parts["centroid + local"](x), total, atol=1e-5)
    direction = parts["difference of means"](x)
    assert torch.linalg.matrix_rank(direction) == 1
    assert torch.allclose(parts["difference of means"](direction), direction, atol=1e-5)
    assert torch.linalg.matrix_rank(parts["random, 4 dimensions"](x)) == 4


@pytest.mark.slow
def test_the_whole_swaps_and_nothing_does_not() -> None:
    model = load_model("smollm2-135m")
    network = model.transformers()
    given = interchange.prompts(model.tokenizer, n_templates=1)
    assert interchange.accuracy(network, given) >= interchange.LEAST_ACCURACY
    first, second = given.split()
    assert not set(first.nouns) & set(second.nouns)
    parts = {"whole": lambda x: x, "nothing": torch.zeros_like}
    swapped = interchange.interchange(network, first, 15, parts).groupby("part").swapped.mean()
    assert swapped["whole"] > 0.9
    assert swapped["nothing"] == 0
