"""Trials of known truth: the right description wins, a wrong one is chance, a look at ties."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rotate_core.experiments.descriptions.contests import contests, means, sensitivity
from rotate_core.experiments.descriptions.exemplars import Text, from_activations
from rotate_core.experiments.descriptions.head_to_head import (
    DescribedNeurons,
    best_of,
    coverage,
    draw_trials,
    score_descriptions,
    score_token_frequency,
    validation_score,
)
from rotate_core.experiments.descriptions.kernels import Kernels
from rotate_core.experiments.descriptions.methods import on_another_text
from rotate_core.experiments.descriptions.order import count_orders, order_in_words, orders
from rotate_core.experiments.descriptions.trials import (
    HeldOut,
    Trial,
    auroc,
    balanced_accuracy,
    best_threshold,
    draw_trial,
    pearson,
    win_ratio,
    wins,
)
from rotate_core.experiments.descriptions.weights import Description
from rotate_core.text.corpus import Windows

V, FIRING = 400, 20
WORDS = [f" Word{i}" for i in range(V - 2)] + [" cat", "Cat"]
RIGHT = Description(tuple(range(FIRING)), (1.0,) * FIRING, tuple(WORDS[:FIRING]))
WRONG = Description(tuple(range(100, 120)), (1.0,) * FIRING, tuple(WORDS[100:120]))
EMPTY = Description((), (), ())


def text(seed):
    """Two neurons: one fires at 20 tokens, and below 0 at 20 others; the other is noise."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, V, (300, 52), generator=generator)
    windows = Windows(tokens, torch.arange(300), ("",) * 300)
    gate = torch.ones(300, 52, 2)
    in_ = 0.1 * torch.randn(300, 52, 2, generator=generator)
    in_[..., 0] += 5 * (tokens < FIRING) - 5 * ((tokens >= 100) & (tokens < 120))
    in_[..., 1] = in_[..., 1].clamp(-0.01, 0.01)
    return Text(windows, windows.counted(gate * in_), windows.counted(gate))


@pytest.fixture(scope="module")
def texts():
    return {split: text(i) for i, split in enumerate(("train", "validation", "test"))}


@pytest.fixture(scope="module")
def kernels(texts):
    return Kernels.learn(texts["train"].windows.tokens, WORDS, n_dimensions=20)


@pytest.fixture(scope="module")
def described(texts):
    words = {"channels": [RIGHT, EMPTY], "MaxAct": [WRONG, EMPTY]}
    return [
        DescribedNeurons(3, polarity, (7, 9), texts, draw_trials(texts, polarity, layer=3), words)
        for polarity in ("positive", "negative")
    ]


def test_a_true_description_wins_and_anothers_is_chance(described, kernels):
    table = score_descriptions(described, kernels).set_index(
        ["neuron", "polarity", "method", "kernel"]
    )
    for neurons, method in zip(described, ("channels", "MaxAct"), strict=True):
        trial, polarity = neurons.trials[0].test, neurons.polarity
        correlation = table.loc[7, polarity, method, "exact"].pearson
        best = pearson(trial.label.float(), trial.activation)  # not 1: a is below 0, too
        assert correlation == pytest.approx(best)
        assert table.loc[7, polarity, method, "related"].pearson > 0.8 * best
    for kernel in ("exact", "related"):
        right = table.loc[7, "positive", "channels", kernel]
        assert right.auroc > 0.95
        assert right.accuracy > 0.95
        assert 0.35 < table.loc[7, "positive", "MaxAct", kernel].auroc < 0.65
        negative = table.loc[7, "negative", "MaxAct", kernel]
        assert negative.auroc > 0.95, "the wrong one of one polarity is the right one of the other"
        assert 0.35 < table.loc[7, "negative", "channels", kernel].auroc < 0.65


def test_an_empty_description_tells_nothing(described, kernels, texts):
    trials = draw_trials(texts, "positive", layer=0, quantile=0.9)
    words = {"none": [EMPTY, EMPTY]}
    row = score_descriptions(
        [DescribedNeurons(3, "positive", (7, 9), texts, trials, words)], kernels
    ).iloc[0]
    assert (row.auroc, row.accuracy, row.pearson) == (0.5, 0.5, 0)
    assert row["empty"]


def test_frequency_knows_no_neuron_when_tokens_are_alike(described):
    table = score_token_frequency(described)
    part = table[(table.neuron == 7) & (table.kernel == "exact")]
    assert len(part) == 2
    assert part.auroc.between(0.3, 0.7).all()


def test_frequency_chooses_its_way_on_validation_text():
    """A neuron of rare tokens: predicting frequent ones would score below 0.5."""

    def text_of(seed):
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(0, V, (300, 52), generator=generator)
        common = torch.rand(300, 52, generator=generator) < 0.9
        windows = Windows(torch.where(common, tokens % 10, tokens), torch.arange(300), ("",) * 300)
        return Text(windows, (windows.current >= 10)[:, None].float() + 0.0)

    texts = {split: text_of(i) for i, split in enumerate(("train", "validation", "test"))}
    trials = draw_trials(texts, "positive", layer=0, quantile=0.5)
    assert trials[0]
    table = score_token_frequency([DescribedNeurons(0, "positive", (0,), texts, trials, {})])
    assert (table.auroc > 0.6).all()


def test_too_few_positives_are_skipped_and_counted(texts):
    texts = {split: Text(full.windows, full.activation.clone()) for split, full in texts.items()}
    texts["test"].activation[:, 1] = 0
    trials = draw_trials(texts, "positive", layer=0)
    assert [bool(pair) for pair in trials] == [True, False]
    row = coverage([DescribedNeurons(0, "positive", (1, 2), texts, trials, {})]).iloc[0]
    assert (row.judged, row.skipped) == (1, 1)
    assert row["gate > 0"] is None


def test_coverage_tells_how_gate_goes(texts):
    trials = draw_trials(texts, "positive", layer=0)
    row = coverage([DescribedNeurons(0, "positive", (1, 2), texts, trials, {})]).iloc[0]
    assert row["gate > 0"] == 1


def test_the_next_token_is_read_where_the_neuron_fires_before_it(texts, kernels):
    generator, shifted = torch.Generator().manual_seed(0), {}
    for split, current_text in texts.items():
        a = 0.1 * torch.randn(len(current_text.windows.current), 1, generator=generator)
        a[current_text.windows.next < FIRING] += 5
        shifted[split] = Text(current_text.windows, a)
    rows = {}
    for read in ("current", "next"):
        trials = draw_trials(shifted, "positive", layer=0, read=read)
        table = score_descriptions(
            [DescribedNeurons(0, "positive", (0,), shifted, trials, {"x": [RIGHT]})], kernels
        )
        rows[read] = table[table.kernel == "exact"].iloc[0]
    assert rows["next"].auroc > 0.95
    assert 0.35 < rows["current"].auroc < 0.65
    assert rows["next"].told == pytest.approx(1 / 3, abs=0.01)


def test_the_best_on_validation_text_is_chosen(described, kernels):
    trials = described[0].trials[:1]
    assert validation_score(kernels, trials[0], RIGHT) > 0.95
    assert best_of([[WRONG], [EMPTY], [RIGHT]], trials, kernels) == [RIGHT]


def test_neurons_splits_and_layers_do_not_share_draws(texts):
    """Where as many positions are below the median, one seed would take the same ones of them."""
    same = {split: Text(texts["test"].windows, texts["test"].activation) for split in texts}
    same = {k: Text(v.windows, v.activation[:, [0, 0]]) for k, v in same.items()}
    first, second = draw_trials(same, "positive", layer=0)
    (other_layer, _) = draw_trials(same, "positive", layer=1)
    drawn = [first.validation, first.test, second.validation, second.test, other_layer.test]
    chosen = [frozenset(trial.position[50:100].tolist()) for trial in drawn]
    assert len(set(chosen)) == 5
    overlap = [len(a & b) for i, a in enumerate(chosen) for b in chosen[:i]]
    assert max(overlap) < 10, "50 of 7,500 by chance: hardly any in common"
    again = draw_trials(same, "positive", layer=0)[1]
    assert torch.equal(again.test.position, second.test.position)


@pytest.fixture(scope="module")
def moved(texts):
    """Another source: at all but two of its tokens the first neuron fires half as strongly."""
    other = text(7)
    a = other.activation.clone()
    a[other.windows.current >= 2, 0] /= 2
    return {**texts, "elsewhere": Text(other.windows, a, other.gate)}


def test_firing_means_the_same_on_another_text(moved):
    limit = moved["train"].activation[:, 0].quantile(0.99).item()
    assert moved["elsewhere"].activation[:, 0].quantile(0.99) < 0.7 * limit
    pair = draw_trials(moved, "positive", layer=0, tested="elsewhere")[0]
    assert pair
    assert pair.test.activation[pair.test.label == 1].min() > limit
    assert set(pair.test.token[pair.test.label == 1].tolist()) == {0, 1}


def test_another_text_judges_the_same_descriptions(moved, described, kernels):
    neurons = replace(described[0], text=moved).using({"oracle": [WRONG] * 2})
    other = on_another_text(neurons, "elsewhere", WORDS)
    kept = {name: other.descriptions[name] for name in described[0].descriptions}
    assert kept == described[0].descriptions
    assert other.descriptions["oracle"] == from_activations(moved["elsewhere"], WORDS)
    for before, after in zip(neurons.trials, other.trials, strict=True):
        if before and after:
            assert torch.equal(before.validation.position, after.validation.position)
    table = score_descriptions([other], kernels)
    assert set(table.text) == {"elsewhere"}
    assert coverage([other]).judged.sum() == sum(map(bool, other.trials))
    assert table[(table.neuron == 7) & (table.method == "channels")].auroc.min() > 0.95


def two_texts(gaps, other_gaps):
    """Scores of methods a and b on 20 neurons; the second text lacks the last."""
    import pandas as pd

    rows = []
    for name, values in (("one", gaps), ("two", other_gaps[:-1])):
        for i, gap in enumerate(values):
            for method, score in (("a", 0.6 + gap), ("b", 0.6)):
                for kernel in ("exact", "related"):
                    row = {"text": name, "kernel": kernel, "cluster": i, "polarity": "positive"}
                    rows.append(row | {"method": method, "auroc": score})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("other", "order", "said"),
    [
        (0.1, "kept", "does not change where it is clear on both"),
        (-0.1, "reversed", "changes with the text: of 1 pairs, 1 have"),
        (None, "open", "is clear for no pair on both texts, so whether it changes is not known"),
    ],
)
def test_the_order_of_methods_is_kept_reversed_or_open(other, order, said):
    wave = [0.05 * (-1) ** i for i in range(20)]
    gaps = [0.1 + 0.1 * w for w in wave]
    other_gaps = wave if other is None else [other + 0.1 * w for w in wave]
    ordered = orders(two_texts(gaps, other_gaps), ["b", "a"])
    exact = ordered.set_index("kernel").loc["exact"]
    assert (exact.better, exact.worse, exact.order, exact.n) == ("a", "b", order, 19)
    counted = count_orders(ordered)
    assert counted.loc["exact", order] == counted.loc["exact"].sum() == 1
    assert said in order_in_words(counted, "one", "two")
    unclear = orders(two_texts(wave, other_gaps), ["b", "a"])
    assert set(unclear.order) == {"unclear"}
    with pytest.raises(ValueError, match=r"1 texts \['one'\]: wanted two"):
        orders(two_texts(gaps, other_gaps)[lambda t: t.text == "one"], ["a", "b"])


def test_means_are_of_each_text_by_itself():
    table = two_texts([0.1] * 20, [-0.1] * 20)
    table = table.assign(accuracy=0.5, pearson=0.0, empty=False, told=1.0)
    rows = means(table, ["b", "a"])
    assert rows.method.tolist() == ["b", "b", "a", "a"] * 2
    assert rows.text.tolist() == ["one", "two"] * 4
    a = rows[(rows.method == "a") & (rows.kernel == "exact")].AUROC.tolist()
    assert [(round(e.value, 9), e.n) for e in a] == [(0.7, 20), (0.5, 19)]


def test_contests_are_held_on_each_text():
    results = contests(two_texts([0.1] * 20, [-0.1] * 20), [("a", "b")])
    assert results.groupby("text", sort=False).won.sum().tolist() == [40, 0]
    assert results.groupby("text", sort=False).lost.sum().tolist() == [0, 38]
    assert (results.holm >= results.p).all()


def test_a_trial_has_what_the_protocol_says(texts):
    test = texts["test"]
    a = test.activation[:, 0]
    drawn = draw_trial(a, test.windows.current, test.windows.next, 1.0)
    assert drawn.label.sum() == 50
    assert len(drawn) == 150
    assert (drawn.activation[drawn.label == 1] > 1).all()
    assert (drawn.activation[drawn.label == 0] <= a.median()).all()
    assert len(set(drawn.position.tolist())) == 150
    assert torch.equal(drawn.token, test.windows.current[drawn.position])
    none = draw_trial(torch.zeros_like(a), test.windows.current, test.windows.next, 1.0)
    assert len(none) == 0


def test_hard_negatives_are_as_frequent_as_positives():
    """Firing at common tokens only: half of the negatives then have common tokens as well."""
    generator = torch.Generator().manual_seed(0)
    common = torch.rand(40_000, generator=generator) < 0.1
    token = torch.where(common, torch.randint(0, 3, common.shape, generator=generator), 3)
    token = torch.where(token == 3, torch.randint(3, V, common.shape, generator=generator), token)
    a = 0.1 * torch.randn(len(token), generator=generator)
    a[token == 0] += 5
    drawn = draw_trial(a, token, token, 1.0)
    negatives = drawn.token[drawn.label == 0]
    assert (negatives[:50] < 3).float().mean() < 0.3
    assert (negatives[50:] < 3).float().mean() > 0.9


def test_the_cut_is_the_best_there_is():
    score = torch.tensor([0.1, 0.2, 0.6, 0.7, 0.9])
    label = torch.tensor([0, 0, 1, 0, 1])
    cut = best_threshold(score, label)
    tried = [balanced_accuracy(score, label, x) for x in np.linspace(0, 1, 101)]
    assert balanced_accuracy(score, label, cut) == pytest.approx(max(tried))
    assert balanced_accuracy(score, label, 0.65) == pytest.approx((0.5 + 2 / 3) / 2)
    assert auroc(score, label) == pytest.approx(5 / 6)
    assert auroc(score, torch.zeros(5)) != auroc(score, torch.zeros(5)), "NaN"


def test_pearson_is_numpys_and_0_where_nothing_is_predicted():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 30, generator=generator)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert pearson(torch.ones(30), y) == 0


def test_wins_have_a_margin():
    ours, theirs = [0.9, 0.5, 0.5, float("nan")], [0.5, 0.505, 0.9, 0.1]
    assert wins(np.subtract(ours, theirs)) == (1, 1, 1)


def test_the_ratio_of_wins_resamples_neurons():
    gaps = [0.1] * 30 + [-0.1] * 10 + [0.001] * 5 + [float("nan")]
    ratio = win_ratio(gaps, range(46))
    assert ratio.value == pytest.approx(30.5 / 10.5)
    assert 1 < ratio.low < ratio.value < ratio.high
    assert (ratio.n, ratio.n_clusters) == (45, 45)
    twice = win_ratio(gaps * 2, list(range(46)) * 2)
    assert twice.value == pytest.approx(60.5 / 20.5)
    assert twice.low < 1.1 * ratio.low, "the same neurons seen twice are not more neurons"
    assert win_ratio([0.1, 0.1], [0, 0]).low != win_ratio([0.1, 0.1], [0, 0]).low, "NaN"


def test_contests_count_and_correct(described, kernels):
    table = score_descriptions(described, kernels)
    table = table[table.neuron == 7]
    results = contests(table, [("channels", "MaxAct"), ("MaxAct", "channels")])
    assert results.won.tolist() == [1] * 4
    assert results.lost.tolist() == [1] * 4
    assert (results.holm >= results.p).all()


def test_sensitivity_changes_one_threshold_at_a_time(texts, kernels):
    from rotate_core import Vocabulary, decompose

    projection = torch.randn(24, V, generator=torch.Generator().manual_seed(0))
    projection[0, :FIRING] += 9
    w = torch.eye(24)[:2]
    vocabulary = Vocabulary(projection, torch.ones(V), WORDS)
    channels = {"in": decompose(w, vocabulary, n_channels=1, threshold=3.0, progress=False)}
    read = from_activations(texts["train"], WORDS)
    words = {"channels": [RIGHT, EMPTY], "MaxAct": read}
    neurons = DescribedNeurons(
        3, "positive", (7, 9), texts, draw_trials(texts, "positive", layer=3), words
    )
    table = sensitivity([neurons], {3: channels}, kernels)
    assert table.groupby("threshold").size().eq(3).all()
    assert table.threshold.nunique() == 5
    default = table.set_index(["threshold", "value"])["exact: gap"]
    same = [("MaxAct's share", 0.3), ("quantile of positives", 0.99), ("margin of a win", 0.01)]
    assert len({str(default[key]) for key in [*same, ("budget", 50)]}) == 1
    none = torch.empty(0, dtype=torch.long)
    untested = replace(neurons, trials=[HeldOut(Trial(*[none] * 5), Trial(*[none] * 5))] * 2)
    empty = sensitivity([untested], {3: channels}, kernels).set_index("threshold")
    has_figures = empty["exact: gap"].notna()  # other quantiles draw trials anew
    assert set(has_figures.index[has_figures]) == {"quantile of positives"}


@pytest.mark.parametrize("kernel", ["exact", "related"])
def test_a_token_is_as_like_itself_as_can_be(kernel):
    kernels = Kernels.learn(torch.arange(V).repeat(6).reshape(-1, 50), WORDS, n_dimensions=5)
    cat = Description((V - 2,), (1.0,), (" cat",))
    token = torch.tensor([V - 1, 0])
    predicted = kernels.predict(cat, token, token, kernel)
    assert predicted[0] == 1, "but for case and space"
    assert predicted[1] < 1
    with pytest.raises(ValueError, match="kernel"):
        kernels.alike(torch.tensor([0]), torch.tensor([0]), "other")


def test_related_tokens_are_those_in_the_same_company():
    generator = torch.Generator().manual_seed(0)
    topic = torch.randint(0, 2, (2000, 1), generator=generator)
    tokens = torch.randint(0, 10, (2000, 12), generator=generator) + 10 * topic
    kernels = Kernels.learn(tokens, WORDS[:20], n_dimensions=2)
    alike = kernels.vectors @ kernels.vectors.T
    assert alike[:10, :10].mean() > alike[:10, 10:].mean() + 0.3
