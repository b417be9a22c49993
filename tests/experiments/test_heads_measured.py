"""Heads on filter prompts: a head that is built to select is found, and a blind one is not."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from rotate_core.experiments import heads, heads_channels
from rotate_core.experiments.heads import BUT_CATEGORY, CATEGORY, PERMUTED, RANDOM, WHOLE
from rotate_core.experiments.heads_prompts import (
    CATEGORIES,
    FilterPrompts,
    Half,
    filter_prompts,
)
from rotate_core.heads import QueriesKeys
from rotate_core.models import load_model

D, N = 16, 100
WORD_AT = (2, 4, 6, 8, 10)


def half(seed: int) -> Half:
    """Head 0 selects: its query is the category's code, and so are keys. Head 1 has noise."""
    g = torch.Generator().manual_seed(seed)
    code = 4 * torch.linalg.qr(torch.randn(D, 5, generator=torch.Generator().manual_seed(9)))[0].T
    category = torch.arange(N) % 5
    order = torch.rand(N, 5, generator=g).argsort(1)
    asked = (order == category.unsqueeze(1)).float().argmax(1)
    tokens = torch.randint(20, (N, 14), generator=g)
    tokens[:, list(WORD_AT)] = order
    q = 0.5 * torch.randn(1, 2, N, 1, D, generator=g)
    k = 0.5 * torch.randn(1, 2, N, 14, D, generator=g)
    q[0, 0, :, 0] += code[category]
    k[0, 0][:, list(WORD_AT)] += code[order]
    read = QueriesKeys(q, k, (7,), (D**-0.5,), None)
    return Half(FilterPrompts(tokens, WORD_AT, order, asked, category), read)


@pytest.fixture(scope="module")
def halves() -> tuple[Half, Half]:
    return half(0), half(1)


def test_keys_come_with_the_word_asked_for_first(halves) -> None:
    first = halves[0]
    q, k = first.at_the_words((7, 0))
    assert ((q.unsqueeze(1) * k).sum(2).argmax(1) == 0).double().mean() > 0.95
    whole = first.read.of(7, 0)[1]
    at = WORD_AT[int(first.given.asked[3])]
    assert torch.equal(k[3, 0], whole[3, at])


def test_the_head_that_selects_is_found_and_survives(halves) -> None:
    first, second = halves
    found, parts = heads.find(first, n_permutations=39)
    assert parts[7, 0].rank == 4  # five categories less their mean
    assert parts[7, 1].rank == 0
    assert heads.choose(found, 1, length=14) == [(7, 0)]
    tested = heads.survivors(first, second, parts, seed=0).set_index("head")
    assert tested.p_value[0] < 1e-6
    assert tested.p_value[1] == 1
    assert tested.loc[0, CATEGORY] > tested.loc[0, PERMUTED] + 0.05
    assert tested.loc[0, CATEGORY] > tested.loc[0, RANDOM] + 0.2


def test_the_category_and_the_rest_are_the_whole_key(halves) -> None:
    first, second = halves
    part = heads.find(first, n_permutations=39)[1][7, 0]
    bases = heads.limits(part)
    together = torch.cat([part.key, bases[BUT_CATEGORY][0]], 1)
    torch.testing.assert_close(together @ together.T, torch.eye(D), atol=1e-5, rtol=0)
    table = heads.swaps(second, (7, 0), bases | {CATEGORY: [part.key]}, seed=0)
    change = table.groupby("part").change.mean()
    assert change[WHOLE] > 0.8
    assert change[CATEGORY] > 0.9 * change[WHOLE]
    assert abs(change[BUT_CATEGORY]) < 0.1


def test_swaps_of_no_heads_have_no_rows_and_those_of_some_have_every_part(halves) -> None:
    first, second = halves
    _, parts = heads.find(first, n_permutations=19)
    none = heads.swaps_of(first, second, [], parts, seed=0)
    assert none.empty
    table = heads.swaps_of(first, second, [(7, 0)], parts, seed=0)
    assert list(table.columns) == list(none.columns)
    names = {heads.WHOLE, heads.CATEGORY, heads.BUT_CATEGORY, heads.PERMUTED, heads.RANDOM}
    assert set(table.part) == names


def test_heads_that_look_at_the_word_are_chosen_first() -> None:
    found = pd.DataFrame(
        {
            "layer": [0, 1, 2, 3],
            "head": [5, 6, 7, 8],
            "rank": [4, 4, 4, 0],
            "attention": [0.01, 0.2, 0.3, 0.4],
            "change": [0.9, 0.3, 0.5, 0.6],
        }
    )
    assert heads.choose(found, 2, length=20) == [(2, 7), (1, 6)]
    assert heads.choose(found, 4, length=20) == [(2, 7), (1, 6), (0, 5)]


def test_a_prompt_is_split_without_a_rest(halves) -> None:
    first, second = halves
    part = heads.find(first, n_permutations=39)[1][7, 0]
    named = heads.named_parts(first, (7, 0), part)
    table = heads.over_a_prompt(second, (7, 0), named, [str(i) for i in range(20)])
    assert table.asked.sum() == 1
    assert table.loc[table.asked, CATEGORY].item() == table[CATEGORY].max()
    sums = table[[CATEGORY, heads.LISTED, "rest"]].sum(axis=1)
    logits = second.read.logits(7, 0)[:, 0, 1:]
    logits = logits - logits.mean(1, keepdim=True)
    nearest = (logits - torch.tensor(sums.to_numpy())).abs().amax(1)
    assert nearest.min() < 1e-5


def test_words_that_stand_out_are_counted_against_the_others() -> None:
    logits = torch.zeros(1, 20)
    logits[0, :2], logits[0, 2:4] = 1.0, -1.0
    z = heads_channels.contrasts(
        logits, [torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([9])]
    )
    sd = logits.std()
    torch.testing.assert_close(z[0], torch.tensor([1.5, -1.5, 0.0]) / sd)


def test_channels_of_a_head_have_a_row_for_each_side_and_category(checkpoints) -> None:
    model = load_model(checkpoints("llama"))
    first, second = half(0), half(1)
    read = QueriesKeys(first.read.q, first.read.k, (1,), (0.25,), None)
    first = Half(first.given, read)
    part = heads.find(first, n_permutations=19)[1][1, 0]
    table = heads_channels.channels(model, first, (1, 0), part, second.given, n_null=9, seed=0)
    assert table.groupby("side").size().to_dict() == {"key": 5, "query": 5}
    assert table.p_words.between(0, 1).all()


def test_a_tokenizer_without_whole_words_is_refused(byte_tokenizer) -> None:
    with pytest.raises(ValueError, match="of ours is one token: wanted a tokenizer of whole words"):
        filter_prompts(byte_tokenizer, 4, half=0, seed=0)


@pytest.mark.real_model
def test_halves_share_no_words_and_ask_for_each_category_as_often() -> None:
    tokenizer = load_model("smollm2-135m").tokenizer
    first, second = (filter_prompts(tokenizer, 20, half=h, seed=0) for h in (0, 1))
    assert not set(first.words.flatten().tolist()) & set(second.words.flatten().tolist())
    assert first.category.bincount().tolist() == [4] * len(CATEGORIES)
    text = tokenizer.decode(first.tokens[1])
    wanted = tokenizer.decode(first.words[1, first.asked[1]]).strip()
    assert "The only fruit among these words is" in text
    assert wanted in CATEGORIES["fruit"].split()
    assert torch.equal(first.tokens[:, list(first.word_at)], first.words)
