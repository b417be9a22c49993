"""An atlas goes to a hub and comes back: whole, by layer, from a branch; a server stands in."""

from __future__ import annotations

import fnmatch
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from atlas_builds import ONE_GROUP, tree
from stand_in_hub import StandIn, stand_in_hub
from typer.testing import CliRunner

from rotate_core.atlas import Atlas
from rotate_core.atlas.hub import card
from rotate_core.cli import app
from rotate_core.models import Model

NAME = "someone/atlas"


@pytest.fixture(scope="module")
def atlas(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    options = ONE_GROUP | {"layers": [0, 1]}
    return Atlas.build(tmp_path_factory.mktemp("here") / "atlas", model, **options)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with stand_in_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def test_there_and_back(atlas: Atlas, hub: StandIn) -> None:
    assert atlas.push_to_hub(NAME).endswith("/datasets/someone/atlas")
    assert hub.private == [True]
    files = hub.branches[f"datasets/{NAME}", "main"]
    beside = {"README.md", "atlas.html"}
    assert {path: files[path] for path in files if path not in beside} == tree(atlas.folder)
    address = b"/datasets/someone/atlas/resolve/main/"
    assert re.search(b'data-atlas="http://[^"]*' + address + b'"', files["atlas.html"])
    back = Atlas.open(NAME)
    assert back.folder != atlas.folder
    assert back.manifest == atlas.manifest
    assert back.verify() == []
    pd.testing.assert_frame_equal(back.table(), atlas.table())


def test_a_layer_alone(atlas: Atlas, hub: StandIn) -> None:
    atlas.push_to_hub(NAME)
    back = Atlas.open(NAME, layers=[1])
    assert {path.partition("/")[0] for path in hub.sent} == {
        "layer-01", "manifest.json", "tokens.json", "tokens.sha256",
    }  # fmt: skip
    pd.testing.assert_frame_equal(back.table(), atlas.table(layer=1))
    with pytest.raises(ValueError, match="layer 0, out: planned, and not there"):
        back.channels(layer=0, kind="out")


def test_a_branch_of_its_own(atlas: Atlas, hub: StandIn) -> None:
    atlas.push_to_hub(NAME, revision="v2")
    assert hub.branches[f"datasets/{NAME}", "main"] == {}
    assert len(Atlas.open(NAME, revision="v2").table()) == len(atlas.table())
    text = hub.branches[f"datasets/{NAME}", "v2"]["README.md"].decode()
    assert 'Atlas.open("someone/atlas", revision="v2")' in text
    with pytest.raises(FileNotFoundError, match="someone/atlas has no revision 'v3'"):
        Atlas.open(NAME, revision="v3")
    with pytest.raises(FileNotFoundError, match="no such dataset on the hub"):
        Atlas.open("someone/else")


def test_revision_and_layers_are_a_hubs(atlas: Atlas) -> None:
    with pytest.raises(ValueError, match="is no hub's atlas: revision and layers choose"):
        Atlas.open(atlas.folder, layers=[1])


def test_what_is_not_whole_is_not_pushed(atlas: Atlas, hub: StandIn, tmp_path: Path) -> None:
    shutil.copytree(atlas.folder, tmp_path / "copy")
    next((tmp_path / "copy").rglob("neurons-*.parquet")).write_bytes(b"")
    with pytest.raises(ValueError, match="copy is not whole"):
        Atlas.open(tmp_path / "copy").push_to_hub(NAME)
    assert hub.private == []


def test_the_card_names_tables_that_are_there(atlas: Atlas) -> None:
    text = card(atlas.folder, atlas.manifest, NAME)
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "other"
    assert [config["config_name"] for config in front["configs"]] == [
        "neurons", "null", "calibration", "index",
    ]  # fmt: skip
    for config in front["configs"]:
        assert any(fnmatch.fnmatch(path, config["data_files"]) for path in tree(atlas.folder))
    assert atlas.manifest.checksum in text
    assert "| matched vectors of each layer and kind | 9 |" in text
    first = min(atlas.channels(layer=1, kind="out").indices)
    assert f'layer=1, kind="out", neuron={first})' in text


def test_the_card_of_an_atlas_without_a_null_says_so(model: Model, tmp_path: Path) -> None:
    built = Atlas.build(tmp_path / "atlas", model, **ONE_GROUP | {"null": 0})
    text = card(built.folder, built.manifest, NAME, licence="mit")
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "mit"
    assert [config["config_name"] for config in front["configs"]] == ["neurons", "index"]
    assert "this atlas has no null" in text


def test_by_the_command(atlas: Atlas, hub: StandIn) -> None:
    result = CliRunner().invoke(app, ["push", str(atlas.folder), NAME, "--public"])
    assert (result.exit_code, hub.private) == (0, [False]), result.output
    assert result.output.endswith("/datasets/someone/atlas\n")
