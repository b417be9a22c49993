"""U with its weights and strings: what it takes, what it refuses, where the weights start."""

from __future__ import annotations

import pytest
import torch

from rotate_core import Vocabulary
from rotate_core.models.vocabulary import norm_token_weights


def unit_columns(d_vocab: int = 200, d_model: int = 8) -> torch.Tensor:
    projection = torch.randn(d_model, d_vocab, generator=torch.Generator().manual_seed(0))
    return projection / projection.norm(dim=0)


def test_what_is_not_given_is_filled_in() -> None:
    vocabulary = Vocabulary(unit_columns())
    assert (vocabulary.d_model, vocabulary.d_vocab) == (8, 200)
    assert torch.equal(vocabulary.token_weights, norm_token_weights(vocabulary.projection))
    assert (vocabulary.tokens[0], vocabulary.tokens[199]) == ("0", "199")
    assert vocabulary.name == ""


def test_what_is_given_is_kept() -> None:
    projection, weights = unit_columns(3), torch.tensor([1, 0, 1])
    vocabulary = Vocabulary(projection, weights, [" a", "b", ""], name="unembedding")
    assert vocabulary.projection is projection
    assert vocabulary.token_weights.tolist() == [1.0, 0.0, 1.0]
    assert vocabulary.tokens == (" a", "b", "")
    shown = (
        "Vocabulary('unembedding', d_model=8, d_vocab=3, 1 tokens excluded, 0 with reduced weight)"
    )
    assert repr(vocabulary) == shown


def test_large_columns_start_small_and_excluded_ones_at_zero() -> None:
    projection = unit_columns()
    projection[:, [3, 4]] *= 2  # 2 of 200 are above the 99th percentile
    weights = norm_token_weights(projection, excluded=torch.tensor([4, 9]))
    expected = torch.ones(200)
    expected[3], expected[4], expected[9] = 1e-4, 0, 0
    assert torch.equal(weights, expected)


def test_columns_of_one_length_all_count() -> None:
    assert torch.equal(norm_token_weights(torch.eye(5)), torch.ones(5))


def test_to_changes_the_precision_of_u_alone() -> None:
    vocabulary = Vocabulary(unit_columns())
    half = vocabulary.to(dtype=torch.float16)
    assert (half.projection.dtype, half.token_weights.dtype) == (torch.float16, torch.float32)
    assert half.tokens == vocabulary.tokens
    assert vocabulary.to("cpu") is vocabulary
    assert Vocabulary(unit_columns().double()).token_weights.dtype == torch.float64


@pytest.mark.parametrize(
    ("projection", "error", "message"),
    [
        ([[1.0]], TypeError, "projection is a list; give a torch.Tensor"),
        (torch.zeros(3), ValueError, r"shape \(3,\); give \(d_model, d_vocab\)"),
        (torch.zeros(3, 0), ValueError, r"shape \(3, 0\); give"),
        (torch.zeros(3, 4, dtype=torch.int64), ValueError, "dtype torch.int64, .*; give a dense"),
        (torch.tensor([[1.0, torch.nan, 2.0]]), ValueError, "column 1 of the projection holds inf"),
        (torch.tensor([[1.0, -torch.inf]]), ValueError, "column 1 of the projection holds inf"),
        (torch.tensor([[torch.inf], [-torch.inf]]), ValueError, "column 0 of the projection"),
    ],
)
def test_bad_projections(projection, error, message) -> None:
    with pytest.raises(error, match=message):
        Vocabulary(projection)


def test_a_column_may_sum_to_more_than_its_precision_holds() -> None:
    assert Vocabulary(torch.full((4, 2), 6e4, dtype=torch.float16)).d_vocab == 2


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1.0, 1.0], TypeError, "token_weights is a list; give a torch.Tensor or None"),
        (torch.ones(3), ValueError, r"shape \(3,\), U has 2 columns; give shape \(2,\)"),
        (torch.tensor([0.5, 1.5]), ValueError, r"token_weights\[1\] is 1.5; give weights in"),
        (torch.tensor([-1.0, 1.0]), ValueError, r"token_weights\[0\] is -1.0"),
        (torch.tensor([1.0, torch.nan]), ValueError, r"token_weights\[1\] is nan"),
        (torch.zeros(2), ValueError, "zero for every token"),
    ],
)
def test_bad_weights(weights, error, message) -> None:
    with pytest.raises(error, match=message):
        Vocabulary(torch.eye(2), weights)


def test_bad_tokens() -> None:
    with pytest.raises(ValueError, match="tokens has 1 strings, U has 2 columns"):
        Vocabulary(torch.eye(2), tokens=["a"])
    with pytest.raises(TypeError, match=r"tokens\[1\] is b'b', a bytes; give a str"):
        Vocabulary(torch.eye(2), tokens=["a", b"b"])


def test_bad_starting_weights() -> None:
    with pytest.raises(IndexError, match="excluded holds token 5; U has tokens 0 to 4"):
        norm_token_weights(torch.eye(5), excluded=torch.tensor([5]))
