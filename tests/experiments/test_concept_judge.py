"""Ratings of steered text: what counts as an answer, and what is asked."""

import math

import pandas as pd
import pytest

from rotate_core.experiments import concept_judge


class Judge:
    """A mock of an endpoint: it finds what is French fluent, and two words of it telling."""

    def __init__(self):
        self.asked = []

    def ask(self, prompt):
        self.asked.append(prompt)
        if "fluent" in prompt:
            return "2"
        return "1" if "bonjour" in prompt else "no idea"


def test_both_questions_are_asked_of_each_steered_text():
    texts = pd.DataFrame(
        {
            "method": ["x", "y", "the model itself"],
            "concept": ["French", "French", None],
            "prompt": ["It is", "It is", "It is"],
            "text": [" bonjour", " grey {words}", " so"],
        }
    )
    judge = Judge()
    rated = concept_judge.ratings(judge, texts, {"French": "le, la"}, progress=False)
    assert rated.method.tolist() == ["x", "y"]
    assert len(judge.asked) == 4
    assert "about French (such as le, la)" in judge.asked[0]
    assert not any(method in asked for asked in judge.asked for method in ("method", " y "))
    assert rated.score.iloc[0] == pytest.approx(2 * 1 * 2 / 3)
    assert math.isnan(rated.score.iloc[1])
    assert len(concept_judge.ratings(judge, texts[2:], {}, progress=False)) == 0


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("2", 2),
        ("0.", 0),
        ("Answer: 1", 1),
        ("**2**", 2),
        ("3", None),
        ("1 or 2", None),
        ("", None),
    ],
)
def test_an_answer_is_one_of_three_numbers_or_none(said, number):
    found = concept_judge.rating(said)
    assert math.isnan(found) if number is None else found == number


def test_the_mean_is_zero_where_either_is():
    assert concept_judge.harmonic_mean(0, 2) == concept_judge.harmonic_mean(0, 0) == 0
    assert concept_judge.harmonic_mean(2, 2) == 2
