"""Steering on planted truth: what writes a concept's words gains them, and nothing else does."""

import dataclasses

import pytest
import torch
from tiny_models import D_MODEL, D_VOCAB, tiny

from rotate_core.dictionaries.candidates import Writing, linear
from rotate_core.experiments import concept_steering as steering
from rotate_core.experiments import steering_task as tasks
from rotate_core.experiments.concept_sets import Sentence
from rotate_core.text.sites import read_site

TARGETS = (0.05, 0.25)
WORDS = {"first": (4, 5, 6), "second": (14, 15, 16), "third": (24, 25, 26)}


@pytest.fixture(scope="module")
def on():
    network = tiny("llama")
    prompts = torch.randint(0, D_VOCAB, (5, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network(prompts).logits[:, -1]
    siblings = tasks.equally_likely(WORDS, before.log_softmax(1).mean(0))
    sizes = {"residual": 4.0}
    return tasks.SteeringTask(network, None, 1, prompts, WORDS, before, siblings, sizes)


def planted(on):
    """Behind the last layer, what the unembedding reads as a concept's words."""
    u = on.network.lm_head.weight.detach() * on.network.model.norm.weight.detach()
    vectors = torch.stack([u[list(words)].mean(0) for words in WORDS.values()]) - u.mean(0)
    return linear("planted", list(WORDS), vectors, site="residual")


def is_bare(network):
    return not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_planted_directions_gain_their_words_and_random_ones_nothing(on):
    candidates = planted(on)
    table = steering.steering(on, candidates.write, [*WORDS], targets=TARGETS)
    assert table.reached.all()
    toward, away = (table[table.sign == sign] for sign in (1, -1))
    assert (toward.gain > 0.2).all()
    assert (away.gain < 0).all()
    more = toward.pivot(index="concept", columns="target", values="gain")
    assert (more[0.25] > more[0.05]).all()
    random = []
    for seed in range(20):
        drawn = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(seed))
        nothing = linear("random", list(WORDS), drawn, site="residual")
        found = steering.steering(on, nothing.write, [*WORDS], targets=TARGETS, signs=(1,))
        random.append(found.gain.mean())
    assert abs(sum(random) / len(random)) < 0.2 * toward.gain.mean()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_target_is_met_and_the_strength_gives_it_again(on, sign):
    writing = planted(on).write
    table = steering.strengths(on, writing, [2, 0], targets=TARGETS, sign=sign)
    assert table.reached.all()
    assert table.target.tolist() == [0.05, 0.25, 0.05, 0.25]
    assert (table.alpha * sign > 0).all()
    kl, _ = steering.effects(
        on, writing, torch.tensor([2, 2, 0, 0]), torch.tensor(table.alpha.tolist())
    )
    assert torch.allclose(kl, torch.tensor(table.kl.tolist()), rtol=1e-3)
    assert (table.kl / table.target - 1).abs().max() < 0.06


def test_what_cannot_be_reached_is_a_row(on):
    """A pull that ends where the residual stream is already moves nothing."""
    token = on.prompts[:1, :1]
    there = read_site(on.network, token, [1], site="residual")[1][0]
    with torch.no_grad():
        before = on.network(token).logits[:, -1]
    alone = dataclasses.replace(on, prompts=token, before=before)
    writing = Writing("residual", there, pull=True)
    table = steering.strengths(alone, writing, [0], targets=TARGETS)
    assert not table.reached.any()
    assert (table.alpha <= 1).all()
    rows = steering.steering(alone, writing, ["first"], targets=TARGETS)
    assert len(rows) == 4
    assert rows[rows.sign > 0].gain.isna().all()


def test_steering_leaves_nothing_behind_and_changes_nothing_at_zero(on):
    writing = planted(on).write
    kl, gain = steering.effects(on, writing, torch.tensor([0, 1]), torch.zeros(2))
    assert kl.abs().max() < 1e-9
    assert gain.abs().max() < 1e-5
    assert is_bare(on.network)
    broken = dataclasses.replace(writing, vectors=torch.ones(3, 7))
    with pytest.raises(RuntimeError):
        steering.effects(on, broken, torch.tensor([0]), torch.ones(1))
    assert is_bare(on.network)


def test_siblings_are_of_other_concepts_and_as_likely():
    likely = -torch.arange(D_VOCAB).float()
    siblings = tasks.equally_likely(WORDS, likely)
    assert siblings[5] == (14, 15, 16, 24, 25)
    assert siblings[15] == (6, 24, 5, 25, 4)


def test_what_a_concept_gains_is_over_its_siblings(on):
    gain = torch.zeros(9)
    gain[:3] = 3.0
    assert steering.gained(on, "first", gain) == pytest.approx(3.0)
    assert steering.gained(on, "first", torch.ones(9)) == pytest.approx(0.0)
    assert steering.gained(on, "second", gain) < 0


def test_own_words_are_of_one_concept_and_unseen(byte_tokenizer):
    given = [Sentence("a", "the cat sat"), Sentence("b", "the dog sat"), Sentence("b", "a dog")]
    seen = [Sentence("a", "the sat"), Sentence("b", "the a")]
    words = tasks.own_words(given, seen, byte_tokenizer)
    told = {name: [byte_tokenizer.decode([w]) for w in own] for name, own in words.items()}
    assert set(told) == {"a", "b"}
    assert all("dog".startswith(w.strip()) or w.strip() in "dog" for w in told["b"])
    assert not set(words["a"]) & set(words["b"])


def test_continuations_of_the_model_itself_are_the_likeliest(on):
    network = on.network
    there = dataclasses.replace(on, tokenizer=_Plain())
    plain = steering.continuations(there, None, [0], [0.0], n_prompts=2, n_tokens=3)
    assert len(plain) == 2
    writing = planted(on).write
    same = steering.continuations(there, writing, [1], [0.0], n_prompts=2, n_tokens=3)
    assert same.text.tolist() == plain.text.tolist()
    assert same.loss.tolist() == pytest.approx(plain.loss.tolist())
    far = steering.continuations(there, writing, [1], [100.0], n_prompts=2, n_tokens=3)
    assert far.text.tolist() != plain.text.tolist()
    assert far.loss.mean() > plain.loss.mean()
    assert is_bare(network)


class _Plain:
    """A stand-in for a tokenizer: tokens are written as their numbers."""

    eos_token_id = 2

    def decode(self, ids):
        return " ".join(map(str, ids.tolist()))
