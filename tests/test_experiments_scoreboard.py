"""Verdicts follow from results by rule: made-up results of each, and results that flatter."""

import json
import math
from types import SimpleNamespace

import pytest

from rotate_core.experiments.readings import finding, reading, readings
from rotate_core.experiments.record import write_results
from rotate_core.experiments.scoreboard import (
    CLAIMS,
    VERDICTS,
    Claim,
    Outcome,
    collect,
    over_null_rows,
    paper_rows,
    shown,
    table,
    verdict,
)
from rotate_core.experiments.statistics import Estimate

FIGURE = Claim("A figure.", "06_reconstruction", (0.9, 0.95))
DIRECTION = Claim("A direction.", "05_kurtosis")
PROXY = Claim("A stand-in.", "10_descriptions", proxy=True)
OPEN = Claim("More than.", "06_reconstruction", (0.95, math.inf))


def outcome(ours, over, width=0.02, neurons=25):
    def estimate(x):
        return Estimate(x, x - width, x + width, 100, neurons)

    return Outcome(estimate(ours), estimate(ours - over), estimate(over), "chance", "a model")


@pytest.mark.parametrize(
    ("claim", "found", "expected", "why"),
    [
        (FIGURE, outcome(0.92, 0.3), "reproduced", "above its null"),
        (FIGURE, outcome(0.99, 0.3), "reproduced", "above its null"),
        (FIGURE, outcome(0.885, 0.3), "reproduced", "reaches"),
        (FIGURE, outcome(0.80, 0.3), "not reproduced", "below the paper's figure"),
        (FIGURE, outcome(0.92, 0.01), "not reproduced", "not above its null"),
        (FIGURE, outcome(0.92, -0.3), "not reproduced", "not above its null"),
        (FIGURE, outcome(0.5, -0.3), "not reproduced", "below the paper's figure, not above"),
        (OPEN, outcome(0.97, 0.0), "not reproduced", "not above its null"),
        (OPEN, outcome(0.97, 0.1), "reproduced", "reaches"),
        (DIRECTION, outcome(0.1, 0.1), "reproduced", "in the paper's direction"),
        (DIRECTION, outcome(0.1, 0.0), "not reproduced", "not above its null"),
        (PROXY, outcome(0.99, 0.5), "proxy", "above its null"),
        (PROXY, outcome(0.1, -0.5), "proxy", "not above its null"),
        (FIGURE, None, "not run", "no result"),
        (FIGURE, outcome(0.92, 0.3, width=math.nan), "not run", "too few neurons"),
        (FIGURE, outcome(0.92, 0.3, neurons=7), "not run", "too few neurons"),
    ],
)
def test_each_verdict(claim, found, expected, why):
    decision, reason = verdict(claim, found)
    assert decision == expected
    assert decision in VERDICTS
    assert why in reason


def test_table_has_a_row_for_each_claim_whether_it_ran_or_not():
    rows = table({"input_faithfulness": outcome(0.6, 0.5)})
    assert len(rows) == len(CLAIMS)
    assert rows.verdict.value_counts().to_dict() == {"not run": len(CLAIMS) - 1, "reproduced": 1}
    assert rows.paper[rows.verdict == "reproduced"].item() == "0.46 to 0.71"
    assert table({}, ["stability_cosine"]).paper.item() == "0.9"
    with pytest.raises(KeyError, match="no claims"):
        table({"made_up": outcome(1, 1)})


def test_a_chapter_shows_its_claims_in_full():
    page = shown({"input_faithfulness": outcome(0.6, 0.5)}).to_html()
    assert CLAIMS["input_faithfulness"].text in page
    assert "reproduced" in page
    assert CLAIMS["stability_cosine"].text not in page
    page = shown({}, ["input_faithfulness"]).to_html()
    assert "not run" in page


def test_outcomes_survive_the_file(tmp_path):
    model = SimpleNamespace(name="tiny", checksum="abc")
    found = {"stability_cosine": outcome(0.9, 0.1, width=math.nan)}
    write_results(
        "06_reconstruction",
        metrics={"x": math.inf, "y": [1, 2]},
        parameters={"seed": 0},
        model=model,
        seconds=1.23,
        claims=found,
        folder=tmp_path,
    )
    stored = json.loads((tmp_path / "06_reconstruction.json").read_text())
    assert stored["metrics"] == {"x": None, "y": [1, 2]}
    assert stored["model"]["checksum"] == "abc"
    back = collect(tmp_path)["stability_cosine"]
    assert back.ours.value == 0.9
    assert math.isnan(back.ours.low)
    assert collect(tmp_path, checksum="abc").keys() == {"stability_cosine"}
    assert collect(tmp_path, checksum="another model's") == {}
    assert [path.name for path in tmp_path.iterdir()] == ["06_reconstruction.json"]


def test_rows_of_the_figure_have_percentiles_as_shares():
    rows = over_null_rows({"concept_percentile": outcome(92, 40, width=2)})
    assert rows[0][0] == "concept percentile"
    assert rows[0][1].value == pytest.approx(0.4)
    assert rows[0][2] == "reproduced"
    name, ours, null, paper = paper_rows({"concept_percentile": outcome(92, 40, width=2)})[0]
    assert name == "concept percentile"
    assert (ours.value, null.value) == pytest.approx((0.92, 0.52))
    assert paper == pytest.approx((0.9, 0.95))
    assert paper_rows({"kurtosis_by_depth": outcome(1, 1)}) == [], (
        "the paper gives a direction only"
    )


@pytest.mark.parametrize(
    ("claim", "found", "expected"),
    [
        (FIGURE, outcome(0.92, 0.3), ["stands out from its null, chance"]),
        (FIGURE, outcome(0.92, 0.01), ["As good as the paper's", "does not stand out", "n = 25"]),
        (FIGURE, outcome(0.92, -0.3), ["As good as the paper's", "falls below its null"]),
        (FIGURE, outcome(0.5, 0.3), ["weaker", "stands out", "not one of the paper's"]),
        (FIGURE, outcome(0.5, 0.0), ["Weaker", "does not stand out", "not one of the paper's"]),
        (DIRECTION, outcome(0.1, 0.0), ["does not stand out", "We think"]),
        (PROXY, outcome(0.99, 0.5), ["stand-in", "stands out"]),
        (FIGURE, None, ["Not judged: no result"]),
        (FIGURE, outcome(0.92, 0.3, neurons=7), ["Not judged: too few neurons"]),
    ],
)
def test_each_reading_follows_from_the_figures(claim, found, expected):
    text = reading(claim, found)
    assert all(part in text for part in expected), text
    assert ("We think" in text) == (verdict(claim, found)[0] == "not reproduced")


def test_a_paper_model_is_not_blamed_for_its_size():
    found = outcome(0.5, 0.3)
    known = Outcome(found.ours, found.null, found.over_null, "chance", "google/gemma-2-2b-it")
    assert "our measure" in reading(FIGURE, known)
    assert len(readings({})) == len(CLAIMS)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.3, "more"), (-0.1, 0.3, "alike"), (-0.3, -0.1, "less"), (math.nan, math.nan, "alike")],
)
def test_a_finding_is_what_the_interval_says(low, high, expected):
    difference = Estimate(0.0, low, high, 10, 10)
    assert finding(difference, above="more", around="alike", below="less") == expected
