"""Verdicts follow from results by rule: made-up results of each, and results that flatter."""

import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rotate_core.verdicts.claims import (
    ABSTRACT,
    BASELINES,
    CLAIMS,
    SECOND_HAND,
    Claim,
    on_the_scoreboard,
)
from rotate_core.verdicts.intervals import Estimate
from rotate_core.verdicts.record import write_results
from rotate_core.verdicts.rules import VERDICTS, Outcome, deciding_n, verdict
from rotate_core.verdicts.scoreboard import (
    baselines,
    collect,
    over_models,
    recorded,
    shown,
    table,
)
from rotate_core.verdicts.wording import finding, sentence, sentences

FIGURE = Claim("A figure.", "06_reconstruction", (0.9, 0.95))
DIRECTION = Claim("A direction.", "05_kurtosis")
PROXY = Claim("A stand-in.", "10_descriptions", proxy=True)
OPEN = Claim("More than.", "06_reconstruction", (0.95, math.inf))
OTHER_SCALE = Claim("Another scale.", "09_output_ablation", (0.9, 0.95), paper_measure="a share")
NAN = math.nan


def estimate(value, width, neurons=25):
    return Estimate(value, value - width, value + width, 4 * neurons, neurons)


def outcome(ours, over, width=0.02, over_width=None, neurons=25):
    """Made up: ours and ours less the null with the half widths of their intervals."""
    over_null = estimate(over, width if over_width is None else over_width, neurons)
    null = estimate(ours - over, width, neurons)
    return Outcome(estimate(ours, width, neurons), null, over_null, "chance", "a model")


TINY = SimpleNamespace(
    name="tiny", checksum="abc", kinds=("in", "out"), n_layers=3, d_mlp=5, d_model=7
)
NOTHING = Estimate(NAN, NAN, NAN, 0, 0)
CASES = [
    (FIGURE, outcome(0.93, 0.3), "reproduced", "reaches the paper's figure, above its null"),
    (FIGURE, outcome(0.99, 0.3), "reproduced", "above its null"),
    (FIGURE, outcome(0.80, 0.3), "not reproduced", "below the paper's figure"),
    (FIGURE, outcome(0.93, 0.001), "not reproduced", "not above its null"),
    (FIGURE, outcome(0.93, -0.3), "not reproduced", "not above its null"),
    (FIGURE, outcome(0.5, -0.3), "not reproduced", "below the paper's figure, not above"),
    (FIGURE, outcome(0.5, 0.1, over_width=0.6), "not reproduced", "below the paper's figure"),
    (FIGURE, outcome(0.93, 0.01, over_width=0.6), "inconclusive", "may be none, or all that"),
    (FIGURE, outcome(0.91, 0.3), "inconclusive", "holds the paper's figure (an n of 100"),
    (FIGURE, outcome(0.885, 0.3), "inconclusive", "holds the paper's figure (an n of 45 instead"),
    (FIGURE, outcome(0.9, 0.3), "inconclusive", "no practical number"),
    (FIGURE, outcome(0.91, 0.001), "not reproduced", "not above its null"),
    (OPEN, outcome(0.97, 0.0, width=0.01), "not reproduced", "not above its null"),
    (OPEN, outcome(0.97, 0.1), "reproduced", "reaches"),
    (DIRECTION, outcome(0.1, 0.1), "reproduced", "in the paper's direction"),
    (DIRECTION, outcome(0.1, 0.0), "not reproduced", "not above its null"),
    (DIRECTION, outcome(0.1, 0.02, width=0.1), "inconclusive", "an n of 278 instead of 25"),
    (OTHER_SCALE, outcome(0.6, 0.1), "reproduced", "in the paper's direction"),
    (OTHER_SCALE, outcome(0.6, 0.0), "not reproduced", "not above its null"),
    (PROXY, outcome(0.99, 0.5), "proxy", "above its null"),
    (PROXY, outcome(0.1, -0.5), "proxy", "not above its null"),
    (PROXY, outcome(0.6, 0.02, width=0.2), "proxy", "inconclusive: its difference"),
    (PROXY, outcome(0.99, 0.5, neurons=7), "proxy", "inconclusive: too few neurons"),
    (FIGURE, None, "not run", "no result"),
    (FIGURE, Outcome(NOTHING, NOTHING, NOTHING, "chance", "m"), "not run", "no values"),
    (PROXY, Outcome(NOTHING, NOTHING, NOTHING, "chance", "m"), "not run", "no values"),
    (FIGURE, outcome(0.93, 0.3, width=NAN), "inconclusive", "no interval"),
    (FIGURE, outcome(0.93, 0.3, over_width=NAN), "inconclusive", "no interval"),
    (FIGURE, outcome(0.93, 0.3, neurons=7), "inconclusive", "too few neurons for an interval (7"),
    (FIGURE, outcome(0.5, 0.3), "not reproduced", "below the paper's figure"),
    (
        FIGURE,
        replace(outcome(0.5, 0.3), whole=False),
        "inconclusive",
        "below the paper's figure, and of less than is claimed",
    ),
    (FIGURE, replace(outcome(0.93, 0.3), whole=False), "reproduced", "reaches the paper's figure"),
    (FIGURE, replace(outcome(0.5, -0.3), whole=False), "not reproduced", "not above its null"),
    (
        FIGURE,
        replace(outcome(0.93, 0.3), null=NOTHING, over_null=NOTHING),
        "inconclusive",
        "nothing to compare with",
    ),
    (
        FIGURE,
        replace(outcome(0.93, 0.3), null=estimate(0.5, 0.02, neurons=3)),
        "inconclusive",
        "too few neurons for an interval (3",
    ),
]


@pytest.mark.parametrize(("claim", "found", "expected", "why"), CASES)
def test_each_verdict(claim, found, expected, why):
    decision, reason = verdict(claim, found)
    assert decision == expected
    assert decision in VERDICTS
    assert why in reason


def test_each_verdict_has_a_case_and_a_colour():
    assert {decision for _, _, decision, _ in CASES} == set(VERDICTS)


OURS = (0.85, 0.89, 0.9, 0.91, 0.93, 0.99)
OVER = (-0.3, -0.01, 0.0, 0.01, 0.04, 0.06, 0.3)
WIDTHS = (0.001, 0.02, 0.05, 0.2, 1.0, NAN)


@pytest.mark.parametrize("claim", [FIGURE, OPEN, DIRECTION, OTHER_SCALE])
def test_nothing_gains_from_a_wider_or_a_missing_interval(claim):
    steps = list(itertools.product(range(len(WIDTHS)), repeat=2))
    seen = set()
    for ours, over in itertools.product(OURS, OVER):
        found = {
            (i, j): verdict(claim, outcome(ours, over, WIDTHS[i], WIDTHS[j]))[0] for i, j in steps
        }
        seen |= set(found.values())
        for (i, j), before in found.items():
            wider = {found[k, m] for k, m in steps if k >= i and m >= j}
            assert before == "reproduced" or "reproduced" not in wider, (ours, over)
    assert seen == {"reproduced", "not reproduced", "inconclusive"}


def test_the_n_that_would_decide_does():
    before = outcome(0.91, 0.3, width=0.04)
    n = deciding_n(before.ours, 0.9)
    assert n == 400
    width = 0.04 * (25 / n) ** 0.5
    assert verdict(FIGURE, outcome(0.91, 0.3, width=width - 1e-9))[0] == "reproduced"
    assert verdict(FIGURE, outcome(0.91, 0.3, width=1.01 * width))[0] == "inconclusive"
    assert deciding_n(estimate(0.02, 0.1), 0, 0.05) == 278, "of the boundary that it leaves first"
    assert deciding_n(estimate(0.0, 0.1), 0.0) is None
    assert deciding_n(estimate(0.0001, 0.1), 0.0) is None, "25 million neurons are not practical"


def test_what_the_paper_claims_over_the_null_is_its_figure_less_the_nulls():
    found = outcome(0.93, 0.01, width=0.02, over_width=0.2)  # null 0.92: above the paper's 0.9
    assert "not above" not in verdict(FIGURE, found)[1], "0.21 is more than the least effect, 0.05"
    low_null = replace(found, null=estimate(0.5, 0.02))  # the paper's figure would be 0.4 above
    assert verdict(FIGURE, low_null) == ("not reproduced", "not above its null")


def test_claims_say_where_their_figures_are_from():
    assert {name for name, claim in CLAIMS.items() if claim.source == ABSTRACT} == {"descriptions"}
    assert {claim.source for claim in CLAIMS.values()} == {ABSTRACT, SECOND_HAND}
    for figure in ("faithfulness", "completeness"):
        sides = [CLAIMS[f"{side}_{figure}"].paper for side in ("input", "output")]
        assert sides[0] == sides[1] is not None, "the note names no side"
    rows = table({}).set_index("notebook")
    assert rows.paper["10_descriptions"].startswith("2 to 3 (wins for each loss")
    assert rows.source["10_descriptions"] == ABSTRACT
    assert "one_reflection_is_enough" not in CLAIMS, "an ablation of ours"
    assert CLAIMS["output_faithfulness"].judged_on is None, "an AUROC is on another scale"
    assert CLAIMS["output_completeness"].judged_on == (0.49, 0.60)


def test_the_papers_baselines_are_named_and_run_once_there_are_figures(tmp_path):
    rows = baselines(tmp_path).set_index("baseline")
    assert list(rows.index) == [baseline.name for baseline in BASELINES]
    assert set(rows.state) == {"not run"}
    assert "output completeness" in rows.beside["SAEs (Gemma Scope, Llama Scope)"]
    assert all(name in CLAIMS for baseline in BASELINES for name in baseline.claims)
    write_results(
        "10_descriptions",
        metrics={"scores": [{"method": "MaxAct+VocabProj", "AUROC": "0.7"}]},
        parameters={},
        model=TINY,
        seconds=1,
        claims={"descriptions": outcome(0.6, 0.1)},
        folder=tmp_path,
    )
    rows = baselines(tmp_path, checksum="abc").set_index("baseline")
    assert rows.state.to_dict() == dict.fromkeys(rows.index, "not run") | {
        "MaxAct+VocabProj": "run"
    }
    assert rows["where or why"]["MaxAct+VocabProj"] == "10_descriptions"
    assert set(baselines(tmp_path, checksum="another model's").state) == {"not run"}


def test_table_has_a_row_for_each_claim_whether_it_ran_or_not():
    rows = table({"input_faithfulness": outcome(0.6, 0.3)})
    assert len(rows) == len(on_the_scoreboard([]))
    assert rows.verdict.value_counts().to_dict() == {
        "not run": len(on_the_scoreboard([])) - 1,
        "reproduced": 1,
    }
    assert rows.paper[rows.verdict == "reproduced"].item() == "0.46 to 0.71"
    assert rows.source[rows.verdict == "reproduced"].item() == SECOND_HAND
    assert table({}).paper["stability_cosine"] == "0.9"
    with pytest.raises(KeyError, match="no claims"):
        table({"made_up": outcome(1, 1)})


def test_a_chapter_shows_its_claims_in_full():
    page = shown({"input_faithfulness": outcome(0.6, 0.5)})._repr_html_()
    assert CLAIMS["input_faithfulness"].text in page
    assert "reproduced" in page
    assert CLAIMS["stability_cosine"].text not in page


def test_outcomes_survive_the_file(tmp_path):
    found = {"stability_cosine": outcome(0.9, 0.1, width=math.nan)}
    write_results(
        "06_reconstruction",
        metrics={"x": math.inf, "y": [1, 2]},
        parameters={"seed": 0},
        model=TINY,
        seconds=1.23,
        claims=found,
        folder=tmp_path,
    )
    stored = json.loads((tmp_path / "06_reconstruction.json").read_text())
    assert stored["metrics"] == {"x": None, "y": [1, 2]}
    assert stored["model"] == {"name": "tiny", "checksum": "abc", "mlp_parameters": 2 * 3 * 5 * 7}
    back = collect(tmp_path)["stability_cosine"]
    assert back.ours.value == 0.9
    assert math.isnan(back.ours.low)
    assert collect(tmp_path, checksum="abc").keys() == {"stability_cosine"}
    assert collect(tmp_path, checksum="another model's") == {}
    assert [path.name for path in tmp_path.iterdir()] == ["06_reconstruction.json"]


@pytest.mark.parametrize(
    ("claim", "found", "expected"),
    [
        (FIGURE, outcome(0.93, 0.3), ["stands out from its null, chance"]),
        (FIGURE, outcome(0.93, 0.001), ["As good as the paper's", "does not stand out", "n = 25"]),
        (FIGURE, outcome(0.93, -0.3), ["As good as the paper's", "falls below its null"]),
        (FIGURE, outcome(0.91, -0.3), ["It falls below its null", "not there, or too weak"]),
        (FIGURE, outcome(0.5, 0.3), ["weaker", "stands out", "not one of the paper's"]),
        (FIGURE, outcome(0.5, 0.0), ["Weaker", "does not stand out", "not one of the paper's"]),
        (FIGURE, outcome(0.5, 0.1, over_width=0.6), ["Weaker", "may or may not stand out"]),
        (FIGURE, outcome(0.91, 0.3), ["cannot tell", "would decide"]),
        (FIGURE, outcome(0.93, 0.3, neurons=7), ["cannot tell: too few neurons"]),
        (DIRECTION, outcome(0.1, 0.0), ["does not stand out", "We think"]),
        (PROXY, outcome(0.99, 0.5), ["stand-in", "stands out"]),
        (PROXY, outcome(0.6, 0.02, width=0.2), ["stand-in", "cannot tell"]),
        (FIGURE, None, ["Not judged: no result"]),
    ],
)
def test_each_sentence_follows_from_the_figures(claim, found, expected):
    text = sentence(claim, found)
    assert all(part in text for part in expected), text
    assert ("We think" in text) == (verdict(claim, found)[0] == "not reproduced")


def test_a_paper_model_is_not_blamed_for_its_size():
    found = outcome(0.5, 0.3)
    known = Outcome(found.ours, found.null, found.over_null, "chance", "google/gemma-2-2b-it")
    assert "our measure" in sentence(FIGURE, known)
    assert len(sentences({})) == len(on_the_scoreboard([])) < len(CLAIMS)


WORDS = {"above": "more", "around": "no more", "below": "less", "unknown": "cannot tell"}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 0.3, "more"),
        (0.001, 0.06, "more"),
        (0.001, 0.01, "no more"),
        (-0.01, 0.04, "no more"),
        (-0.01, 0.05, "cannot tell"),
        (-0.05, 0.01, "cannot tell"),
        (-0.1, 0.3, "cannot tell"),
        (-0.3, -0.1, "less"),
        (-0.06, -0.001, "less"),
        (-0.04, -0.001, "no more"),
        (NAN, NAN, "cannot tell"),
    ],
)
def test_a_finding_is_what_the_interval_excludes(low, high, expected):
    difference = Estimate((low + high) / 2, low, high, 10, 10)
    assert finding(difference, margin=0.05, **WORDS) == expected


def test_a_finding_of_nothing_says_so():
    assert finding(NOTHING, margin=0.05, **WORDS, missing="nothing") == "nothing"
    no_interval = Estimate(0.2, NAN, NAN, 3, 1)
    assert finding(no_interval, margin=0.05, **WORDS) == "cannot tell"
    few = Estimate(0.2, 0.1, 0.3, 70, 7)
    assert finding(few, margin=0.05, **WORDS, missing="nothing") == "cannot tell"
    with pytest.raises(ValueError, match="margin=0: wanted a positive number"):
        finding(NOTHING, margin=0, **WORDS)


def test_recorded_models_stand_beside_the_one_that_ran_small_before_large(tmp_path):
    for model, size in (("large", 9), ("small", 3)):
        claims = {"concept_percentile": outcome(60, 30), "snmf_core": outcome(1, 1)}
        written = SimpleNamespace(**TINY.__dict__ | {"name": model, "checksum": model})
        written.n_layers = size
        write_results(
            "05_kurtosis", metrics={}, parameters={}, model=written, seconds=1,
            claims=claims, folder=tmp_path / model,
        )  # fmt: skip
    kept = recorded(tmp_path)
    assert list(kept) == ["small", "large"]
    assert list(recorded(tmp_path, but="small")) == ["large"]
    assert set(kept["small"]) == {"concept_percentile"}, "claims of the paper's alone"
    rows = over_models({"here": {"stability_cosine": outcome(0.9, 0.2)}} | kept)
    assert list(rows) == ["here", "small", "large"]
    assert rows["small"]["concept percentile"].value == pytest.approx(0.3), "as a share"
    assert math.isnan(rows["small"]["stability cosine"].value)
