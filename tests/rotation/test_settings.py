"""Settings are resolved once: equal runs have equal settings, and bad values are named."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest

from rotate_core import PAPER, Settings

NUMBERS = {field.name for field in dataclasses.fields(Settings) if field.type in ("float", "int")}
COUNTS = {field.name for field in dataclasses.fields(Settings) if field.type == "int"}


def test_what_follows_is_what_was_meant():
    assert Settings(solver="householder", moments="scaled") == PAPER
    assert (PAPER.masked_weight, PAPER.max_iter) == (0.01, 10_000)
    assert (Settings().masked_weight, Settings().max_iter) == (1e-6, 200)
    explicit = Settings(masked_weight=1e-6, max_iter=200, threshold=4)
    assert explicit == Settings()
    assert hash(explicit) == hash(Settings())
    assert repr(explicit) == repr(Settings())
    assert Settings(masked_weight=None, max_iter=None) == Settings()


def test_what_follows_changes_with_what_it_follows_from():
    scaled = dataclasses.replace(Settings(), moments="scaled")
    assert scaled.masked_weight == 0.01
    assert dataclasses.replace(scaled, moments="weighted") == Settings()
    assert dataclasses.replace(Settings(), solver="householder", moments="scaled") == PAPER
    again = Settings(**json.loads(json.dumps(dataclasses.asdict(Settings()))))  # as in a manifest
    assert dataclasses.replace(again, moments="scaled") == scaled
    for way in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        assert dataclasses.replace(way(Settings()), moments="scaled") == scaled


def test_what_was_given_stays():
    given = Settings(masked_weight=0.5, max_iter=7)
    changed = dataclasses.replace(given, moments="scaled", solver="householder")
    assert (changed.masked_weight, changed.max_iter) == (0.5, 7)
    both = dataclasses.replace(Settings(), moments="scaled", masked_weight=1e-6)
    assert both.masked_weight == 1e-6


def test_a_manifest_gets_numbers():
    written = json.loads(json.dumps(dataclasses.asdict(Settings())))
    assert (written["masked_weight"], written["max_iter"]) == (1e-6, 200)


def test_numbers_of_other_libraries_become_plain_ones():
    settings = Settings(threshold=np.float32(4), restarts=np.int64(2))
    assert (type(settings.threshold), type(settings.restarts)) == (float, int)
    json.dumps(dataclasses.asdict(settings))


@pytest.mark.parametrize("name", sorted(NUMBERS))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, True, "4", 1j])
def test_no_number_of_any_field_is_nonsense(name, value):
    with pytest.raises(ValueError, match=f"^{name}="):
        Settings(**{name: value})


@pytest.mark.parametrize("name", sorted(COUNTS))
@pytest.mark.parametrize("value", [2.5, 3.0, 0])
def test_a_count_is_a_whole_number(name, value):
    with pytest.raises(ValueError, match=rf"^{name}={value}: wanted a whole number of at least 1"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("precondition", 1), ("joint", "yes"), ("raise_masked", None), ("masked_weight", 1.5),
     ("masked_weight", 0), ("learning_rate", 0), ("solver", None), ("moments", "centred")],
)  # fmt: skip
def test_other_bad_values_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name}="):
        Settings(**{name: value})
