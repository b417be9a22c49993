"""An atlas held against its null: by ranks alone, by position, in text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rotate_core import Settings, load_model
from rotate_core.atlas import Atlas
from rotate_core.experiments.null_power import LEVEL, share_by_position
from rotate_core.experiments.null_reading import (
    GROUPS,
    MATCHED,
    over_matched_vectors,
    reading_of_first_channels,
)
from rotate_core.experiments.null_validity import certified_by_rank
from rotate_core.models import Model
from rotate_core.null.calibration import SIGNIFICANT, p_values, q_values
from rotate_core.null.evidence import statistics
from rotate_core.text import activations
from rotate_core.text.corpus import Windows

LAYERS, KINDS, N_CHANNELS = [0, 2], ["gate", "out"], 2


@pytest.fixture(scope="module")
def model(checkpoints) -> Model:
    return load_model(checkpoints("llama"))


@pytest.fixture(scope="module")
def atlas(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return Atlas.build(
        tmp_path_factory.mktemp("atlas"), model, layers=LAYERS, kinds=KINDS, neurons=6,
        n_channels=N_CHANNELS, null=20, settings=Settings(threshold=2.5), progress=False,
    )  # fmt: skip


def test_ranks_certify_what_their_q_values_say(atlas: Atlas) -> None:
    shares = certified_by_rank(atlas)
    assert set(shares.index) == {(layer, kind) for layer in LAYERS for kind in KINDS}
    for (layer, kind), share in shares.items():
        real, null = (atlas.channels(layer=layer, kind=kind, null=null) for null in (False, True))
        core, null_core = (statistics(x, ["core"])["core"][:, :1] for x in (real, null))
        q = q_values(p_values(core, null_core, extrapolate=False))
        assert share == (q < SIGNIFICANT).double().mean().item()


def test_shares_by_position_are_means_over_layers_and_kinds(atlas: Atlas) -> None:
    one_layer = share_by_position(atlas, [0], ["core", "cosine"])
    assert list(one_layer) == ["core", "cosine"]
    p = torch.stack([atlas.channels(layer=0, kind=kind).p_value for kind in KINDS])
    np.testing.assert_allclose(one_layer.core, (p < LEVEL).double().mean((0, 1)))
    layers = [share_by_position(atlas, [layer], ["core"]) for layer in LAYERS]
    every_layer = share_by_position(atlas, LAYERS, ["core"])
    np.testing.assert_allclose(every_layer, sum(layers) / len(LAYERS))


def test_text_is_read_at_the_token_of_the_layer_and_beside_the_null(
    atlas: Atlas, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(model), "kinds", property(lambda _: KINDS))
    tokens = torch.randint(1, 256, (40, 32), generator=torch.Generator().manual_seed(0))
    windows = Windows(tokens, torch.arange(40), tuple(map(str, range(40))))
    inputs = activations(model, windows, layers=LAYERS, site="mlp_in", progress=False)
    table = reading_of_first_channels(atlas, model, inputs)
    assert set(table.kind) == {"gate"}
    assert set(table.channel) == {0}
    null = table[table.what == MATCHED]
    assert len(null) > 20
    np.testing.assert_allclose(null.groupby("layer").over.mean(), 0, atol=1e-6)

    estimates = over_matched_vectors(table, seed=0)
    assert list(estimates) == list(GROUPS)
    assert estimates[MATCHED]["over matched vectors"].value == pytest.approx(0, abs=1e-6)
    only_null = over_matched_vectors(null, seed=0)
    assert all(np.isnan(only_null[what]["z"].value) for what in GROUPS if what != MATCHED)
    assert only_null[MATCHED]["z"].value == pytest.approx(null.z.mean())
