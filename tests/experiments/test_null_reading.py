"""What a neuron reads at its channel's tokens: planted, random, upside down, too rare."""

import dataclasses

import pytest
import torch

from rotate_core import Vocabulary, decompose
from rotate_core.experiments.null_reading import reading_at_tails

D_MODEL, D_VOCAB, N_TOKENS = 24, 600, 30


@pytest.fixture(scope="module")
def channels():
    """Neurons along the first axis (up, and down), where 30 tokens of the vocabulary are."""
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(D_MODEL, D_VOCAB, generator=generator)
    projection[0, :N_TOKENS] += 9
    w = torch.eye(D_MODEL)[0] * torch.tensor([[1.0], [-1.0]])
    w = w + 0.05 * torch.randn(2, D_MODEL, generator=generator)
    vocabulary = Vocabulary(projection, torch.ones(D_VOCAB))
    return decompose(w, vocabulary, n_channels=1, threshold=3.0, progress=False)


def text(means_it):
    """Positions whose x holds its token's direction, or nothing but noise."""
    generator = torch.Generator().manual_seed(1)
    token = torch.randint(0, D_VOCAB, (4000,), generator=generator)
    x = torch.randn(4000, D_MODEL, generator=generator)
    if means_it:
        x[token < N_TOKENS, 0] += 10
    return x, token


def test_a_neuron_that_reads_its_tokens_is_far_out_there(channels):
    table = reading_at_tails(channels, *text(True))
    assert (table.z > 3).all(), "the second neuron looks for their absence, and is as far out below"
    assert (table.n_positions > 100).all()


def test_where_text_and_channel_have_nothing_in_common_it_is_not(channels):
    table = reading_at_tails(channels, *text(False))
    assert (table.z.abs() < 0.3).all()


def test_the_wrong_side_is_below_zero(channels):
    wrong = dataclasses.replace(channels, polarity=-channels.polarity)
    wrong = dataclasses.replace(wrong, vectors=-channels.vectors)
    assert (reading_at_tails(wrong, *text(True)).z < -3).all()


def test_too_few_positions_are_no_answer(channels):
    x, token = text(True)
    table = reading_at_tails(channels, x, token, least=10_000)
    assert table.z.isna().all()
