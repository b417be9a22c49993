"""The rehearsal's models are laid out as the paper's, and nothing is concluded from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from book import rehearse
from rotate_core import load_model
from rotate_core.verdicts.claims import CLAIMS
from rotate_core.verdicts.intervals import Estimate
from rotate_core.verdicts.rules import RANDOM_WEIGHTS, Outcome, verdict
from rotate_core.verdicts.wording import sentence

PROFILES = Path(__file__).parents[2] / "notebooks" / "profiles"
each_profile = pytest.mark.parametrize("profile", rehearse.ARCHITECTURES)


@pytest.mark.real_model
@each_profile
def test_the_checkpoint_has_the_layout_of_the_papers_model(profile, tmp_path):
    model = load_model(rehearse.random_checkpoint(profile, tmp_path / "model"))
    assert model.model_type == rehearse.ARCHITECTURES[profile]["model_type"]
    assert len(set(model.checkpoint.files.values())) > 1, "the weights are in several files"
    config = json.loads((model.path / "config.json").read_text())
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert model.tied == (profile == "paper-gemma")
    if model.tied:
        assert (config["attn_logit_softcapping"], config["final_logit_softcapping"]) == (50, 30)
    else:
        assert config["rope_parameters"]["rope_type"] == "llama3"
        assert model.vocabulary(0).name == "embedding"
    n = model.n_layers - 1
    assert model.vocabulary(n).d_vocab == len(model.tokenizer) == config["vocab_size"]


@each_profile
def test_a_profile_keeps_its_layers_and_takes_quick_sizes(profile):
    paper, quick = (
        yaml.safe_load((PROFILES / f"{name}.yaml").read_text()) for name in (profile, "quick")
    )
    values = rehearse.rehearsed(paper, quick, "a model")
    assert values["model"] == "a model"
    assert values["atlas_neurons"] == quick["atlas_neurons"] < paper["atlas_neurons"]
    for name in ("layers", "side_layer", "threshold", "exceptions", "explorer_groups", "run"):
        assert values[name] == paper[name]
    n_layers = rehearse.ARCHITECTURES[profile]["num_hidden_layers"]
    assert max(*values["layers"], values["side_layer"], values["region_layer"]) < n_layers
    d_mlp = rehearse.SIZES["intermediate_size"]
    assert all(neuron < d_mlp for *_, neuron in values["explorer_tour"])
    assert values["neuron"] < d_mlp


def test_nothing_is_concluded_from_random_weights():
    high, low = (Estimate(x, x - 0.01, x + 0.01, 100, 50) for x in (0.99, 0.1))
    claim = CLAIMS["reconstruction_cosine"]
    for name, wanted in (("a model", "reproduced"), (f"{RANDOM_WEIGHTS}-llama, all", "not run")):
        outcome = Outcome(high, low, high, "chance", name)
        assert verdict(claim, outcome)[0] == wanted
    assert sentence(claim, outcome) == "Not judged: the weights are random."


def test_the_scoreboard_comes_last(tmp_path):
    *others, last = (notebook.stem for notebook in rehearse.stage(tmp_path))
    assert last == rehearse.SCOREBOARD
    assert others == sorted(others)
