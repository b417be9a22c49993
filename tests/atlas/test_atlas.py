"""The atlas: what is stored comes back, half a shard never shows, errors say what to do."""

from __future__ import annotations

import dataclasses
import errno
import json
import resource
import shutil
import threading
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock

from rotate_core import Settings, decompose, load_model
from rotate_core.atlas import Atlas
from rotate_core.atlas.index import CHANNEL
from rotate_core.atlas.manifest import Manifest, format_indices, parse_indices
from rotate_core.atlas.manifest_file import read_manifest
from rotate_core.atlas.shards import SCHEMA, is_there
from rotate_core.atlas.workers import Work, lock
from rotate_core.models import Model
from rotate_core.null.calibration import calibrate
from rotate_core.null.matched import matched_vectors, own_seed
from rotate_core.storage import write_whole

OPTIONS = {
    "layers": [0, 2],
    "kinds": ["gate", "out"],
    "neurons": 6,
    "n_channels": 2,
    "null": 9,
    "settings": Settings(threshold=2.5),
    "progress": False,
}


@pytest.fixture(scope="module")
def built(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return Atlas.build(tmp_path_factory.mktemp("atlas"), model, **OPTIONS)


@pytest.fixture
def atlas(built: Atlas, tmp_path: Path) -> Atlas:
    """An atlas of one's own, to damage."""
    shutil.copytree(built.folder, tmp_path / "atlas")
    return Atlas.open(tmp_path / "atlas")


def vectors_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}


def tables_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.parquet")}


# --- What comes back ----------------------------------------------------------------------------


def test_channels_come_back_as_decompose_gave_them(built: Atlas, model: Model) -> None:
    stored = built.channels(layer=2, kind="out")
    fresh = decompose(
        model.neurons(2, "out", stored.indices),
        model.vocabulary(2),
        n_channels=2,
        settings=OPTIONS["settings"],
        memory=2**60,
        progress=False,
    )
    for field in dataclasses.fields(fresh):
        ours, theirs = getattr(stored, field.name), getattr(fresh, field.name)
        if field.name in ("vocabulary", "history", "support", "p_value", "q_value", "calibration"):
            continue
        if isinstance(theirs, torch.Tensor):
            assert ours.dtype == theirs.dtype, field.name
            assert torch.equal(ours, theirs), field.name
        else:
            assert ours == theirs, field.name
    assert stored.top_tokens(1, 1) == fresh.top_tokens(1, 1)


def test_an_atlas_calibrates_as_the_functions_do(built: Atlas, model: Model) -> None:
    stored = built.channels(layer=0, kind="gate")
    null = decompose(
        matched_vectors(model.neurons(0, "gate").vectors, 9, seed=own_seed(0, 0, "gate")),
        model.vocabulary(0),
        n_channels=2,
        settings=OPTIONS["settings"],
        progress=False,
    )
    by_hand = calibrate(stored, null)
    for name in ("support", "p_value", "q_value"):
        torch.testing.assert_close(getattr(stored, name), getattr(by_hand, name))


def test_one_neuron_is_a_row_of_its_layer(built: Atlas) -> None:
    layer = built.channels(layer=2, kind="gate")
    neuron = built.channels(layer=2, kind="gate", neuron=layer.indices[3])
    assert torch.equal(neuron.vectors[0], layer.vectors[3])
    assert neuron.indices == layer.indices[3:4]
    assert "q_value" in repr(neuron)


def test_u_is_loaded_from_the_model_only_when_asked_for(built: Atlas, model: Model) -> None:
    channels = Atlas.open(built.folder, model=model).channels(layer=0, kind="out")
    assert torch.equal(channels.vocabulary.projection, model.vocabulary(0).projection)
    assert torch.equal(channels.vocabulary.token_weights, model.vocabulary(0).token_weights)
    by_name_only = Atlas.open(built.folder).channels(layer=0, kind="out")
    assert by_name_only.top_tokens()
    with pytest.raises(ValueError, match="unknown model 'tiny-llama'"):
        _ = by_name_only.vocabulary.projection


def test_anyone_can_read_the_folder(built: Atlas) -> None:
    manifest = json.loads((built.folder / "manifest.json").read_text())
    assert manifest["settings"]["threshold"] == 2.5
    assert set(manifest["versions"]) == {"python", "rotate_core", "torch", "transformers"}
    (path,) = (built.folder / "layer-02" / "out").glob("neurons-*.parquet")
    assert pq.read_schema(path) == SCHEMA
    frame = pd.read_parquet(path)
    assert len(frame) == 12
    channels = built.channels(layer=2, kind="out")
    tokens = json.loads((built.folder / "tokens.json").read_text())
    frame["top_tokens"] = frame["top_ids"].map(lambda ids: [tokens[i] for i in ids])
    assert set(channels.table().columns) - {"p_value", "q_value"} <= set(frame.columns)
    calibration = pd.read_parquet(path.parent / "calibration.parquet")
    frame = frame.merge(calibration, on=["neuron", "channel"])
    assert frame["q_value"].tolist() == channels.q_value.flatten().tolist()
    assert frame["top_tokens"].tolist() == channels.table(k=50)["top_tokens"].tolist()
    assert frame["polarity"].tolist() == channels.polarity.flatten().tolist()
    files = (p for p in built.folder.rglob("*") if p.is_file() and p.parent.name != ".locks")
    assert {p.suffix for p in files} == {".json", ".parquet", ".safetensors", ".sha256"}


def test_table_reads_the_columns_that_are_asked_for(built: Atlas) -> None:
    assert list(built.table(["neuron", "core"]).columns) == ["neuron", "core"]
    assert len(built.table()) == 2 * 2 * 6 * 2
    assert len(built.table(layer=2)) == 24
    assert len(built.table(kind="out", null=True)) == 2 * 9 * 2


def test_summary_counts_and_compares(built: Atlas) -> None:
    summary = built.summary()
    assert list(zip(summary["layer"], summary["kind"], strict=True)) == [
        (0, "gate"),
        (0, "out"),
        (2, "gate"),
        (2, "out"),
    ]
    assert (summary["neurons"] == 6).all()
    assert summary[["null_kurtosis", "significant", "significant_first"]].notna().all().all()


def test_p_values_are_ranks_but_beyond_the_null_and_q_values_no_smaller(built: Atlas) -> None:
    table = built.table()
    ranks = table["p_value"] >= 0.1  # the null has nine vectors
    assert ((table["p_value"][ranks] * 10).round(9) % 1 == 0).all()
    beyond = table[~ranks].merge(built.table(null=True), on=["layer", "kind", "channel"])
    assert len(beyond)
    assert (beyond["core_x"] > beyond["core_y"]).all()
    assert (table["q_value"] >= table["p_value"] - 1e-12).all()


def test_without_a_null_there_is_support_and_no_p_value(model: Model, tmp_path: Path) -> None:
    options = OPTIONS | {"null": 0, "layers": [1], "kinds": ["in"]}
    atlas = Atlas.build(tmp_path, model, **options)
    channels = atlas.channels(layer=1, kind="in")
    assert channels.support is not None
    assert channels.q_value is None
    assert atlas.table()["q_value"].isna().all()
    assert "significant" not in atlas.summary()


# --- Search -------------------------------------------------------------------------------------


def hits(atlas: Atlas, word: str) -> list[tuple[int, str, int, int]]:
    rows = atlas.search(word, limit=None)
    return sorted(zip(*(rows[name] for name in CHANNEL), strict=True))


def expected_hits(atlas: Atlas, word: str) -> list[tuple[int, str, int, int]]:
    threshold = atlas.manifest.settings.threshold
    table = atlas.table()
    return sorted(
        (row.layer, row.kind, row.neuron, row.channel)
        for row in table.itertuples()
        if any(
            token.strip().lower() == word and abs(z) > threshold
            for token, z in zip(row.top_tokens, row.top_z, strict=True)
        )
    )


def test_search_finds_a_word_with_any_case_and_space(built: Atlas) -> None:
    words = built.table()["top_tokens"].map(lambda tokens: tokens[0].strip().lower())
    word = words[words != ""].iloc[0]
    expected = expected_hits(built, word)
    assert expected
    for asked in (word, f" {word}", f"{word.upper()} "):
        assert hits(built, asked) == expected
    strongest = built.search(word, limit=3)
    assert len(strongest) == min(3, len(expected))
    assert strongest["strength"].is_monotonic_decreasing
    assert all(len(tokens) == 10 for tokens in strongest["top_tokens"])


def test_search_covers_shards_that_are_not_indexed_yet(atlas: Atlas) -> None:
    words = atlas.table()["top_tokens"].map(lambda tokens: tokens[0].strip().lower())
    before = {word: hits(atlas, word) for word in set(words[:4]) - {""}}
    for index in atlas.folder.rglob("index.sha256"):
        index.unlink()
        assert {word: hits(atlas, word) for word in before} == before


def test_a_word_that_is_no_token_is_an_error_and_a_token_in_no_tail_is_not(built: Atlas) -> None:
    with pytest.raises(ValueError, match="no token of tiny-llama reads 'catz'; there are "):
        built.search("catz")
    with pytest.raises(ValueError, match="nothing to search for"):
        built.search("  ")
    carried = {w.strip().lower() for ts in built.table()["top_tokens"] for w in ts}
    silent = next(t for t in built.tokens if t.strip() and t.strip().lower() not in carried)
    assert built.search(silent).empty


@pytest.fixture(scope="module")
def wide(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """An atlas whose tails hold more than the top tokens that are kept with each channel."""
    options = {"layers": [1], "n_channels": 2, "settings": Settings(threshold=1.0)}
    return Atlas.build(tmp_path_factory.mktemp("wide"), model, neurons=5, progress=False, **options)


def tails_by_hand(atlas: Atlas, model: Model) -> dict[tuple[str, int, int], dict[int, float]]:
    """The z-score of each token of each tail by its definition, in float64."""
    vocabulary = model.vocabulary(1)
    tails = {}
    for kind in model.kinds:
        channels = atlas.channels(layer=1, kind=kind)
        logits = channels.vectors.double() @ vocabulary.projection.double()
        z = logits - logits.mean(-1, keepdim=True)
        z /= z.square().mean(-1, keepdim=True).sqrt()
        side = torch.where(channels.polarity == 0, 0.0, channels.polarity.double()).unsqueeze(-1)
        outward = torch.where(side == 0, z.abs(), z * side)
        inside = (outward > atlas.manifest.settings.threshold) & (vocabulary.token_weights > 0)
        for i, neuron in enumerate(channels.indices):
            for j in range(channels.n_channels):
                ids = inside[i, j].nonzero().flatten().tolist()
                tails[kind, neuron, j] = {k: float(z[i, j, k]) for k in ids}
    return tails


def test_the_whole_tail_is_stored(wide: Atlas, model: Model) -> None:
    expected = tails_by_hand(wide, model)
    assert min(map(len, expected.values())) > 50
    table = wide.table(["kind", "neuron", "channel", "tail_ids", "tail_z"])
    for row in table.itertuples():
        tail = expected[row.kind, row.neuron, row.channel]
        assert row.tail_ids.tolist() == list(tail)
        assert row.tail_z.tolist() == pytest.approx(list(tail.values()), rel=2**-11 + 1e-6)
    assert (row.tail_ids.dtype, row.tail_z.dtype) == ("int32", "float16")
    assert not {"tail_ids", "tail_z", "top_ids"} & set(wide.table())


@pytest.mark.parametrize("indexed", [True, False])
def test_search_finds_every_token_of_a_tail_and_no_other(
    wide: Atlas, model: Model, tmp_path: Path, indexed: bool
) -> None:
    shutil.copytree(wide.folder, tmp_path / "atlas")
    atlas = Atlas.open(tmp_path / "atlas")
    if not indexed:
        for index in atlas.folder.rglob("index.sha256"):
            index.unlink()
    tails = tails_by_hand(wide, model)
    channels = atlas.channels(layer=1, kind="out", neuron=atlas.shards(kind="out")[0].indices[0])
    beyond = set(tails["out", channels.indices[0], 0]) - set(channels.top_ids[0, 0].tolist())
    assert beyond
    silent = set(range(len(atlas.tokens))).difference(*tails.values())
    assert silent
    for i in [*sorted(beyond)[:5], *sorted(silent)[:5]]:
        word = atlas.tokens[i].strip().lower()
        if not word:
            continue
        ids = {k for k, token in enumerate(atlas.tokens) if token.strip().lower() == word}
        expected = sorted((1, *channel) for channel, tail in tails.items() if ids & set(tail))
        assert hits(atlas, word) == expected
        assert i in silent or (1, "out", channels.indices[0], 0) in expected


def test_a_search_ranks_and_tells_what_the_tables_say(wide: Atlas) -> None:
    token = wide.tokens[wide.channels(layer=1, kind="out").top_ids[0, 0, 0]]
    result = wide.search(token.strip() or token, limit=None)
    assert len(result) > 3
    table = wide.table().set_index(["layer", "kind", "neuron", "channel"])
    tails = wide.table(["kind", "neuron", "channel", "tail_ids", "tail_z"])
    tails = tails.set_index(["kind", "neuron", "channel"])
    for row in result.itertuples():
        stored = table.loc[(row.layer, row.kind, row.neuron, row.channel)]
        assert row.top_tokens == list(stored["top_tokens"][:10])
        assert row.support == pytest.approx(stored["support"])
        assert row.strength == pytest.approx(abs(row.z) * stored["support"])
        tail = tails.loc[(row.kind, row.neuron, row.channel)]
        stored_z = dict(zip(tail["tail_ids"], tail["tail_z"], strict=True))
        assert row.z in {stored_z[i] for i in stored_z if wide.tokens[i] == row.token}
    assert result["strength"].is_monotonic_decreasing


def test_the_index_is_sorted_by_token_neuron_and_channel(model: Model, tmp_path: Path) -> None:
    options = {"layers": [1], "kinds": ["in"], "n_channels": 2, "progress": False}
    options |= {"settings": Settings(threshold=1.5)}
    Atlas.build(tmp_path, model, neurons=[3, 40, 20], **options)
    atlas = Atlas.build(tmp_path, model, neurons=[30, 3, 7], **options)  # between the first ones
    tails = atlas.table(["neuron", "channel", "support", "tail_ids", "tail_z"])
    tails = tails.rename(columns={"tail_ids": "token_id", "tail_z": "z"})
    expected = tails.explode(["token_id", "z"]).sort_values(["token_id", "neuron", "channel"])
    index = pd.read_parquet(tmp_path / "layer-01/in/index.parquet")
    assert (index.to_numpy() == expected[index.columns].astype(index.dtypes).to_numpy()).all()
    assert len(index) == sum(map(len, tails["token_id"]))


# --- Resuming -----------------------------------------------------------------------------------


def test_again_does_nothing_and_a_lost_shard_is_computed_again(atlas: Atlas, model: Model) -> None:
    before = vectors_of(atlas.folder), tables_of(atlas.folder)
    stamps = {p: p.stat().st_mtime_ns for p in atlas.folder.rglob("*.safetensors")}
    Atlas.build(atlas.folder, model, **OPTIONS)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    for shard in [atlas.manifest.shards[0], atlas.manifest.shards[-1]]:
        (atlas.folder / f"{shard.stem}.parquet").unlink()
    (atlas.folder / "layer-02/out/index.parquet").unlink()
    Atlas.build(atlas.folder, model, **OPTIONS)
    assert (vectors_of(atlas.folder), tables_of(atlas.folder)) == before


def test_files_without_their_list_are_no_shard(atlas: Atlas) -> None:
    (path,) = (atlas.folder / "layer-00" / "gate").glob("neurons-*.sha256")
    path.unlink()
    assert path.with_suffix(".safetensors").exists()
    assert len(atlas.table(layer=0)) == 12
    with pytest.raises(
        ValueError, match="planned, and not there yet; run `rotate decompose` again"
    ):
        atlas.channels(layer=0, kind="gate")


def test_an_atlas_grows_and_keeps_what_it_has(atlas: Atlas, model: Model) -> None:
    before = vectors_of(atlas.folder)
    more = OPTIONS | {"layers": [0, 1], "kinds": ["gate"], "neurons": range(40)}
    grown = Atlas.build(atlas.folder, model, **more)
    after = vectors_of(grown.folder)
    assert {name: after[name] for name in before} == before
    assert grown.channels(layer=0, kind="gate").indices == tuple(
        sorted({*range(40), *atlas.channels(layer=0, kind="gate").indices})
    )
    assert grown.table()["q_value"].notna().all()
    neurons = grown.table(["layer", "kind", "neuron", "channel"])
    assert not neurons.duplicated().any()


def test_shards_hold_as_many_neurons_as_the_memory(model: Model, tmp_path: Path) -> None:
    each = 12 * (model.d_vocab + model.d_model) * 4
    options = OPTIONS | {"layers": [0], "null": 0}
    small = Atlas.build(tmp_path / "small", model, memory=4 * each, **options)
    assert [len(shard.indices) for shard in small.shards(kind="out")] == [3, 3]
    with pytest.raises(ValueError, match=f"one neuron takes {each}"):
        Atlas.build(tmp_path / "none", model, memory=each - 1, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": Settings(threshold=3.0)}, r"threshold: 2\.5 -> 3\.0"),
        ({"n_channels": 3, "seed": 1}, r"n_channels: 2 -> 3; seed: 0 -> 1"),
        ({"null": 20}, "null: 9 -> 20"),
        ({"statistic": "cosine"}, "statistic: core -> cosine"),
        ({"fold_norm": True}, "fold_norm: False -> True"),
        ({"exceptions": {"0": {"threshold": 3.0}}}, "exceptions: {} -> {'0': {'threshold': 3.0}}"),
    ],
)
def test_a_changed_setting_is_refused_by_name(built: Atlas, model: Model, change, message) -> None:
    before = tables_of(built.folder)
    with pytest.raises(ValueError, match=message):
        Atlas.build(built.folder, model, **OPTIONS | change)
    assert tables_of(built.folder) == before


EXCEPTIONS = {"2": {"threshold": 3.0, "max_channels": 1}, "2/out": {"lambda_kurtosis": 0.5}}


def test_exceptions_by_layer_and_kind_are_followed_and_kept(model: Model, tmp_path: Path) -> None:
    atlas = Atlas.build(tmp_path / "atlas", model, **OPTIONS, exceptions=EXCEPTIONS)
    assert read_manifest(atlas.folder).exceptions == EXCEPTIONS
    wanted = {
        (0, "gate"): (Settings(threshold=2.5), 2),
        (2, "gate"): (Settings(threshold=3.0), 1),
        (2, "out"): (Settings(threshold=3.0, lambda_kurtosis=0.5), 1),
    }
    for (layer, kind), (settings, n_channels) in wanted.items():
        stored = atlas.channels(layer=layer, kind=kind)
        null = atlas.channels(layer=layer, kind=kind, null=True)
        for channels in (stored, null):
            assert channels.settings == settings
            assert channels.n_channels == n_channels
        fresh = decompose(
            model.neurons(layer, kind, stored.indices),
            model.vocabulary(layer),
            n_channels=n_channels,
            settings=settings,
            progress=False,
        )
        assert torch.equal(stored.vectors, fresh.vectors)
        assert torch.equal(stored.p_value, calibrate(fresh, null).p_value)
    again = Atlas.build(atlas.folder, model, **OPTIONS, exceptions=EXCEPTIONS)
    assert again.table().equals(atlas.table())


@pytest.mark.parametrize(
    ("exceptions", "message"),
    [
        ({"3": {"threshold": 3.0}}, "exception for '3': wanted a layer of the model"),
        ({"0/up": {}}, "exception for '0/up': wanted a layer of the model"),
        ({0: {}}, "exception for 0: wanted a layer of the model"),
        ({"0": {"threshhold": 3.0}}, "exception for '0': .*threshhold"),
        ({"0": {"learning_rate": "2e-3"}}, "exception for '0': learning_rate='2e-3': wanted"),
        ({"0": {"max_channels": 0}}, "exception for '0': .*max_channels at least 1"),
    ],
)
def test_exceptions_that_are_not_understood_are_named(
    model: Model, tmp_path: Path, exceptions, message
) -> None:
    with pytest.raises(ValueError, match=message):
        Atlas.build(tmp_path / "atlas", model, **OPTIONS, exceptions=exceptions)
    assert not (tmp_path / "atlas").exists()


def test_the_manifest_has_resolved_settings(built: Atlas) -> None:
    written = json.loads((built.folder / "manifest.json").read_text(encoding="utf-8"))["settings"]
    assert (written["masked_weight"], written["max_iter"]) == (1e-6, 200)
    assert built.manifest.settings == OPTIONS["settings"]


def test_a_device_without_float64_is_refused_before_anything_is_made(
    model: Model, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"device mps: .*float64"):
        Atlas.build(tmp_path / "atlas", model, **OPTIONS, device="mps")
    assert not (tmp_path / "atlas").exists()


def test_another_model_is_refused(built: Atlas, make_checkpoint, checkpoints) -> None:
    other = load_model(checkpoints("qwen2"))
    with pytest.raises(ValueError, match="model: tiny-llama -> tiny-qwen2; checksum: "):
        Atlas.build(built.folder, other, **OPTIONS)
    with pytest.raises(ValueError, match=r"of tiny-llama with checksum .*, the model tiny-qwen2"):
        Atlas.open(built.folder, model=other)


@pytest.mark.parametrize("statistic", ["cosine", "own_support"])
def test_any_statistic_calibrates(model: Model, tmp_path: Path, statistic: str) -> None:
    options = OPTIONS | {"layers": [1], "kinds": ["gate"], "statistic": statistic}
    atlas = Atlas.build(tmp_path, model, **options)
    ranked = atlas.table([statistic, "channel", "p_value"]).groupby("channel")
    for _, rows in ranked:
        rows = rows.sort_values(statistic)
        assert rows["p_value"].is_monotonic_decreasing


# --- Two at a time ------------------------------------------------------------------------------


def test_a_shard_that_another_process_is_at_is_waited_for(atlas: Atlas, model: Model) -> None:
    shard = atlas.manifest.shards[-1]
    table = atlas.folder / f"{shard.stem}.parquet"
    content = table.read_bytes()
    table.unlink()
    work = Work(atlas.folder, atlas.manifest, "", None, 1)
    held = FileLock(lock(atlas.folder, shard.stem).lock_file, thread_local=False)
    held.acquire()
    assert not work.compute(shard, model)

    def other_process() -> None:
        table.write_bytes(content)
        held.release()

    timer = threading.Timer(0.3, other_process)
    timer.start()
    Atlas.build(atlas.folder, model, **OPTIONS)
    timer.join()
    assert is_there(atlas.folder, shard)
    assert table.read_bytes() == content


# --- Errors -------------------------------------------------------------------------------------


def test_a_folder_that_is_no_atlas(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no atlas: there is no manifest\.json in it"):
        Atlas.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        Atlas.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": None}, "format is None, not a str"),
        ({"seed": "0"}, "seed is '0', not a int"),
        ({"seed": -1}, "seed is -1, not at least 0"),
        ({"null": True}, "null is True, not a int"),
        ({"settings": [1]}, "settings is .1., not a dict"),
        ({"settings": {"threshold": "4"}}, "settings: threshold='4'"),
        ({"side": "left"}, "side is 'left', not one of auto"),
        ({"versions": {"torch": 2}}, "versions.torch is 2, not a str"),
        ({"exceptions": {"0": 3}}, "exception for '0'"),
        ({"shards": {"layer": 0}}, "shards is .*, not a list"),
        ({"shards": [5]}, r"shards\[0\] is 5, not a dict"),
        ({"shards": [{"layer": "0", "kind": "out", "neurons": "0"}]}, r"shards\[0\].layer is '0'"),
        ({"shards": [{"layer": 0, "kind": "out", "neurons": 7}]}, r"shards\[0\].neurons is 7"),
        ({"shards": [{"layer": 0, "kind": "out", "null": [7]}]}, r"shards\[0\].null is .7."),
        ({"shards": [{"layer": 0, "kind": "out", "neurons": "0-99999999"}]}, "so many neurons"),
        ({"shards": [{"layer": 0, "kind": "out", "neurons": "9" * 9999}]}, "so many neurons"),
        ({"shards": [{"layer": 0, "kind": "out", "neurons": "4"}] * 2}, r"shards\[1\].*twice"),
        ({"model": "another"}, "it was changed since .* made again by the same"),
        ({"settings": {"solver": "magic"}}, "solver='magic'"),
        ({"settings": {"speed": 3}}, "speed"),
        ({"shards": [{"layer": 0, "kind": "../..", "neurons": "0"}]}, "shard"),
        ({"shards": [{"layer": 0, "kind": "out", "neurons": "../3"}]}, r"'\.\./3' is no number"),
        ({"shards": [{"layer": 0, "kind": "out"}]}, "'neurons' is missing"),
        ({"statistic": "luck"}, "statistic"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_manifest_is_checked(atlas: Atlas, change: dict[str, object], message: str) -> None:
    path = atlas.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"manifest.json is no manifest of an atlas: .*{message}"):
        Atlas.open(atlas.folder)


@pytest.mark.parametrize("old", ["rotate_core atlas 3", "rotate_core atlas 99"])
def test_an_atlas_of_an_old_format_says_what_to_do(atlas: Atlas, model: Model, old: str) -> None:
    path = atlas.folder / "manifest.json"
    path.write_text(path.read_text().replace("rotate_core atlas 4", old))
    message = f"is of format '{old}', and .*: run `rotate decompose` .* another folder"
    before = tables_of(atlas.folder)
    with pytest.raises(ValueError, match=message):
        Atlas.open(atlas.folder)
    with pytest.raises(ValueError, match=message):
        Atlas.build(atlas.folder, model, **OPTIONS)
    assert tables_of(atlas.folder) == before


@pytest.mark.parametrize("content", ["{", "[]", "", '"x"', "[" * 100_000, "\x00", "1" * 9999])
def test_a_manifest_that_is_no_json_object(atlas: Atlas, content: str) -> None:
    (atlas.folder / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="is no manifest of an atlas"):
        Atlas.open(atlas.folder)


@pytest.mark.parametrize("suffix", [".parquet", ".safetensors"])
def test_a_truncated_file_is_named(atlas: Atlas, suffix: str) -> None:
    (path,) = (atlas.folder / "layer-02" / "out").glob(f"neurons-*{suffix}")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"{path.name} \(200 bytes\) is damaged"):
        atlas.channels(layer=2, kind="out")
    if suffix == ".parquet":
        with pytest.raises(ValueError, match=rf"{path.name} \(200 bytes\) is damaged"):
            atlas.table()


def test_what_there_is_is_named_when_asked_for_what_there_is_not(built: Atlas) -> None:
    with pytest.raises(ValueError, match=r"layer 1: .* has 0, 2"):
        built.channels(layer=1, kind="out")
    with pytest.raises(ValueError, match=r"kind 'in': .* has gate, out"):
        built.channels(layer=0, kind="in")
    neurons = ", ".join(map(str, built.channels(layer=0, kind="out").indices))
    with pytest.raises(ValueError, match=f"no neuron 9999: .* has {neurons}"):
        built.channels(layer=0, kind="out", neuron=9999)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [0, 9]}, "layer 9: tiny-llama has 0 to 2"),
        ({"kinds": ["up"]}, "kind up: tiny-llama has gate, in, out"),
        ({"neurons": [48]}, "neuron 48: a layer of tiny-llama has 0 to 47"),
        ({"neurons": 49}, "49 neurons of each layer: wanted 1 to 48"),
        ({"neurons": []}, "no neuron asked for"),
        ({"n_channels": 0}, "n_channels=0"),
        ({"n_channels": 10**9}, "n_channels=1000000000: wanted 1 to 300"),
        ({"null": -1}, "null=-1"),
        ({"null": 10**9}, "null=1000000000: wanted 0 to 100000"),
        ({"seed": -1}, "seed=-1: wanted"),
        ({"neurons": range(10**9)}, "neuron 48: a layer of tiny-llama has 0 to 47"),
        ({"neurons": ["a"]}, "neuron a: a layer"),
        ({"layers": range(10**9)}, "layer 3: tiny-llama has 0 to 2"),
        ({"engine": "dask"}, "engine='dask': wanted one of local, ray"),
        ({"statistic": "luck"}, "statistic='luck'"),
        ({"side": "left"}, "side='left'"),
    ],
)
def test_bad_requests_leave_nothing_behind(model: Model, tmp_path: Path, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        Atlas.build(tmp_path / "atlas", model, **OPTIONS | change)
    assert not (tmp_path / "atlas").exists()


def test_a_file_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="make room and run the same command again") as caught:
            write_whole(tmp_path / "shard", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


# --- Text and hub -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers", "shortest"),
    [
        ("0-3,8", (0, 1, 2, 3, 8), "0-3,8"),
        ("506\n3\n506", (3, 506), "3,506"),
        ("7", (7,), "7"),
        (" 5 , 4 ", (4, 5), "4-5"),
        ("", (), ""),
    ],
)
def test_numbers_as_text(text: str, numbers: tuple[int, ...], shortest: str) -> None:
    assert parse_indices(text) == numbers
    assert format_indices(numbers) == shortest


@pytest.mark.parametrize("text", ["a", "3-", "-3", "5-3", "1.5", "0-999999999999"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"no number|backwards|no layer"):
        parse_indices(text)


def test_the_manifest_survives_the_disk(built: Atlas) -> None:
    manifest = read_manifest(built.folder)
    assert isinstance(manifest, Manifest)
    assert sum(len(s.indices) for s in manifest.shards if s.null) == 4 * 9
    names = ["token_id", "neuron", "channel", "z", "support"]
    assert pq.read_schema(built.folder / "layer-00/out/index.parquet").names == names
