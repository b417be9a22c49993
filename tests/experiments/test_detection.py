"""Detection on planted truth: who holds the direction finds it; choosing among many is no gain."""

import numpy as np
import pytest
import torch

from rotate_core.dictionaries.candidates import linear
from rotate_core.experiments import detection
from rotate_core.text import Activations
from rotate_core.text.corpus import Windows

CONCEPTS, TOKENS = 14, 6


def sentences(seed, d, strength=8.0):
    """Activations of ten sentences for each concept; one token of each has its direction."""
    generator = torch.Generator().manual_seed(seed)
    names = [f"concept {i % CONCEPTS}" for i in range(10 * CONCEPTS)]
    values = torch.randn(len(names), TOKENS, d, generator=generator)
    for i in range(len(names)):
        values[i, i % TOKENS, i % CONCEPTS] += strength
    windows = Windows(
        torch.zeros(len(names), TOKENS).long(), torch.arange(len(names)), tuple(names)
    )
    x = Activations(
        values=values.flatten(0, 1),
        window=torch.arange(len(names)).repeat_interleave(TOKENS),
        place=torch.arange(TOKENS).repeat(len(names)),
        windows=windows,
        model="planted",
        layer=0,
        site="residual",
    )
    return {"residual": x}, names


def halves(d):
    """Activations of both halves, and the concepts of their sentences."""
    made = [sentences(seed, d) for seed in (0, 1)]
    return [x for x, _ in made], [names for _, names in made]


def test_planted_directions_find_their_concepts():
    labels = [f"direction {i}" for i in range(300)]
    planted = linear("planted", labels, torch.eye(300), site="residual")
    table = detection.detection(planted, *halves(300), n_chance=5, seed=0)
    assert table.candidate.tolist() == list(range(CONCEPTS))
    assert table.label.tolist() == labels[:CONCEPTS]
    assert table.held_out.min() > 0.99
    assert (table.held_out - table.chance).mean() > 0.3
    assert (table.score > 0.3).all()


@pytest.mark.parametrize("n", [40, 400])
def test_the_best_of_many_random_ones_is_nothing_once_chance_is_taken_off(n):
    given, over = halves(40), []
    for seed in range(8):
        drawn = torch.randn(n, 40, generator=torch.Generator().manual_seed(seed))
        random = linear("random", list(map(str, range(n))), drawn, site="residual")
        table = detection.detection(random, *given, n_chance=4, seed=100 * seed)
        assert table.held_out.mean() > 0.55  # the choice is an advantage
        over.append((table.held_out - table.chance).mean())
    assert abs(np.mean(over)) < 0.02


def test_it_is_the_same_again():
    given = halves(40)
    random = linear("random", list("abc"), torch.eye(40)[20:23], site="residual")
    one, again = (detection.detection(random, *given, n_chance=2, seed=3) for _ in range(2))
    assert one.equals(again)


def test_the_score_is_undefined_where_a_mean_is_not_above_zero():
    inside = np.array([True, True, False])
    assert detection.concept_score(np.array([2.0, 4.0, 1.0]), inside) == pytest.approx(np.log(3))
    assert np.isnan(detection.concept_score(np.array([2.0, 4.0, -1.0]), inside))
    assert np.isnan(detection.concept_score(np.array([-2.0, -4.0, 1.0]), inside))


def test_auroc_is_the_chance_to_be_above() -> None:
    values = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    area = detection.auroc(values, np.array([False, True, True]))
    assert area.tolist() == [1.0, 0.5]
