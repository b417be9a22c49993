"""Cards of claims: what is drawn where, for one model, several and none."""

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from rotate_core.figures.style import COLOURS
from rotate_core.verdicts.cards import MARGIN, STYLE, WIDTH, Axis
from rotate_core.verdicts.claims import CLAIMS, Claim
from rotate_core.verdicts.intervals import Estimate
from rotate_core.verdicts.rules import VERDICTS, Outcome
from rotate_core.verdicts.scoreboard import shown

FIGURE = Claim("A figure.", "06_reconstruction", (0.9, 0.95))
OPEN = Claim("More than.", "06_reconstruction", (0.95, math.inf))
OTHER_SCALE = replace(FIGURE, paper_measure="a share")
NAN = math.nan


def estimate(value, width=0.02):
    return Estimate(value, value - width, value + width, 100, 25)


def outcome(ours=0.6, null=0.1, model="a model"):
    return Outcome(estimate(ours), estimate(null), estimate(ours - null), "chance", model)


def page(outcomes, **options):
    """The cards as XML, without their style."""
    text = shown(outcomes, **options)._repr_html_().split("</style>")[1]
    return ElementTree.fromstring(text.replace("<br>", "<br/>"))


def test_an_axis_holds_all_that_is_drawn():
    axis = Axis.of(FIGURE, [outcome(0.5, 0.2)])
    assert axis.low < 0.18
    assert axis.high > 0.95
    assert MARGIN < axis.x(0.18) < axis.x(0.95) < WIDTH - MARGIN
    assert axis.x(math.inf) == WIDTH - MARGIN
    assert all(axis.low < tick < axis.high for tick in axis.ticks())
    assert Axis.of(OTHER_SCALE, [outcome(0.5, 0.2)]).high < 0.6
    nothing = Estimate(NAN, NAN, NAN, 0, 0)
    assert Axis.of(OTHER_SCALE, [Outcome(nothing, nothing, nothing, "chance", "")]) is None


@pytest.mark.parametrize("scale", [1e-4, 0.013, 1.0, 7.3, 90.0])
def test_ticks_are_few_and_round(scale):
    ticks = Axis(-0.3 * scale, 0.7 * scale).ticks()
    assert 2 <= len(ticks) <= 6
    assert 0 in ticks


def test_the_papers_range_is_drawn_where_it_is_on_our_scale():
    def band(claim):
        strip = Axis.of(claim, [outcome(0.5, 0.2)]).strip(claim, outcome(0.5, 0.2))
        return ElementTree.fromstring(strip).find(".//rect")

    assert band(OTHER_SCALE) is None
    assert band(replace(FIGURE, paper=None)) is None
    right = float(band(OPEN).get("x")) + float(band(OPEN).get("width"))
    assert right == pytest.approx(WIDTH - MARGIN), "an open range has no end"
    assert float(band(replace(FIGURE, paper=(0.9, 0.9))).get("width")) >= 4, "one figure is seen"


def test_a_card_has_a_row_for_each_model_and_one_axis():
    both = [outcome(0.6, 0.1, "small"), outcome(0.3, 0.2, "large <b>")]
    (card,) = page({"input_faithfulness": both})
    rows = card.findall("details/div")
    badges = [row.find("p/span").text for row in rows]
    assert badges == ["reproduced", "not reproduced"]
    folded = card.findall("details/summary/span[@class='short']/span")
    assert [badge.text for badge in folded] == badges, "a folded card has its verdicts"
    assert ["small" in "".join(row.itertext()) for row in rows] == [True, False]
    assert "large <b>" in "".join(rows[1].itertext()), "names are escaped"
    bands = {row.find(".//rect").get("x") for row in rows}
    assert len(bands) == 1


def test_what_was_not_run_has_a_card_without_a_strip():
    (card,) = page({"stability_cosine": None})
    assert card.find(".//svg") is None
    assert "not run" in "".join(card.itertext())
    assert CLAIMS["stability_cosine"].text in "".join(card.itertext())


def test_a_missing_interval_is_a_point_alone():
    bare = replace(outcome(), ours=Estimate(0.6, NAN, NAN, 4, 1))
    (card,) = page({"input_faithfulness": bare})
    ours = card.find(".//g[@class='ours']")
    assert ours.find("path") is None
    assert ours.find("circle") is not None
    assert "nan" not in ElementTree.tostring(card, encoding="unicode")


def test_links_lead_where_the_page_says():
    claims = {"input_faithfulness": outcome()}
    (card,) = page(claims, link="{}.ipynb")
    assert card.find(".//a").get("href") == "08_input_ablation.ipynb"
    assert page(claims).find(".//a") is None


def test_the_sentence_can_be_left_out():
    claims = {"input_faithfulness": outcome()}
    assert "stands out" in "".join(page(claims).itertext())
    assert "stands out" not in "".join(page(claims, reading=False).itertext())


def test_style_has_the_figures_colours_and_each_verdict():
    style = STYLE.read_text(encoding="utf-8")
    rules = dict(re.findall(r"\.claims \.([\w-]+) \{\n  (?:fill|background): (#\w+)", style))
    assert rules["ours"] == COLOURS["neuron"].lower()
    assert rules["paper"] == COLOURS["masked"].lower()
    assert {verdict.replace(" ", "-") for verdict in VERDICTS} <= set(rules)
