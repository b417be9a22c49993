"""A plan that failed or was mistyped blocks nothing, and nobody's work is planned away."""

from __future__ import annotations

from pathlib import Path

import pytest
from atlas_builds import ONE_GROUP as OPTIONS
from atlas_builds import tree

from rotate_core import Settings
from rotate_core.atlas import Atlas
from rotate_core.atlas.workers import ENGINES, at_work, run_local
from rotate_core.models import Model


@pytest.fixture
def interrupted(model: Model, monkeypatch: pytest.MonkeyPatch):
    """A function that builds up to some number of shards, and is then interrupted."""

    def build(folder: Path, n_shards: int, **options: object) -> None:
        def some(work, shards, *rest):
            yield from run_local(work, shards[:n_shards], *rest)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setitem(ENGINES, "local", some)
            with pytest.raises(KeyboardInterrupt):
                Atlas.build(folder, model, **OPTIONS | options)

    return build


@pytest.mark.parametrize(
    "mistyped",
    [
        {"settings": Settings(threshold=3.5)},
        {"n_channels": 3, "null": 20, "seed": 7},
        {"layers": [0, 1, 2], "kinds": None, "neurons": None},
    ],
)
def test_a_first_run_without_a_shard_leaves_the_folder_free(
    model: Model, tmp_path: Path, interrupted, mistyped
) -> None:
    interrupted(tmp_path / "atlas", 0, **mistyped)
    found = Atlas.build(tmp_path / "atlas", model, **OPTIONS)
    fresh = Atlas.build(tmp_path / "fresh", model, **OPTIONS)
    assert (
        found.channels(layer=1, kind="out")
        .table()
        .equals(fresh.channels(layer=1, kind="out").table())
    )
    if "layers" not in mistyped:  # elsewhere the plan stays
        assert tree(found.folder) == tree(fresh.folder)


def test_neurons_without_a_shard_may_be_other_ones(
    model: Model, tmp_path: Path, interrupted, caplog
) -> None:
    small = {"memory": 12 * (model.d_vocab + model.d_model) * 4 * 9}
    interrupted(tmp_path, 2, neurons=None, **small)  # matched vectors, and one shard of neurons
    begun = Atlas.open(tmp_path)
    (shard,) = begun.shards()
    atlas = Atlas.build(tmp_path, model, **OPTIONS)
    assert "5 shards that are not there are planned anew" in caplog.text
    neurons = atlas.channels(layer=1, kind="out")
    assert set(shard.indices) < set(neurons.indices)
    assert neurons.q_value is not None
    assert atlas.verify() == []


def test_the_same_command_keeps_its_plan(model: Model, tmp_path: Path, interrupted) -> None:
    small = {"neurons": None, "memory": 12 * (model.d_vocab + model.d_model) * 4 * 9}
    interrupted(tmp_path / "atlas", 3, **small)
    Atlas.build(tmp_path / "atlas", model, **OPTIONS | small)
    Atlas.build(tmp_path / "whole", model, **OPTIONS | small)
    assert tree(tmp_path / "atlas") == tree(tmp_path / "whole")


def test_what_another_process_is_at_stays_planned(
    model: Model, tmp_path: Path, interrupted
) -> None:
    interrupted(tmp_path, 0, neurons=range(20))
    planned = Atlas.open(tmp_path).manifest.shards
    with at_work(tmp_path):  # as another process would be
        with pytest.raises(ValueError, match=r"made otherwise \(threshold: 2\.5 -> 3\.5\)"):
            Atlas.build(tmp_path, model, **OPTIONS | {"settings": Settings(threshold=3.5)})
        atlas = Atlas.build(tmp_path, model, **OPTIONS | {"neurons": range(20, 26)})
        assert atlas.manifest.shards[: len(planned)] == planned
        assert atlas.verify() == ["layer 1, out: 2 of 3 shards are there"]
    assert not list((tmp_path / ".locks").glob("run-*"))
