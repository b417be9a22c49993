"""The command line as a user meets it: in its own process, interrupted, out of disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from rotate_core import load_model
from rotate_core.atlas import Atlas
from rotate_core.cli import app
from rotate_core.cli.common import chosen_device
from rotate_core.cli.parse import parse_bytes

BUILD = [
    "--layers",
    "0-2",
    "--kinds",
    "gate,out",
    "--neurons",
    "all",
    "--channels",
    "3",
    "--null",
    "20",
    "--threshold",
    "2.5",
]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "rotate_core", *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "dumb"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def built(checkpoints, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "atlas"
    result = run("decompose", checkpoints("llama"), *BUILD, "--out", folder)
    assert result.returncode == 0, result.stderr
    assert "6 of 6 shards, 288 vectors x 3 channels" in result.stdout
    assert "channel/s" in result.stderr
    return folder


def ask(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# --- Regions ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for i in range(12):
        (folder / f"{i}.txt").write_text(f"the cat sat on {i} mats, and then {i * 7} " * 100)
    return folder


@pytest.mark.parametrize("how", [[], ["--stream"]])
def test_regions_are_made_once_and_for_one_question(
    checkpoints, texts: Path, tmp_path: Path, how: list[str]
) -> None:
    out = tmp_path / "regions"
    asked = ["regions", checkpoints("llama"), "--layer", 1, "--regions", 3, "--rank", 2]
    asked += ["--text", texts, "--out", out, "--no-progress", *how]
    first = ask(*asked)
    assert first.exit_code == 0, first.output
    assert "layer 1, residual: 3 regions of rank 2" in first.stdout
    again = ask(*asked)
    assert again.stdout == first.stdout
    other = ask(*asked, "--seed", 1)
    assert other.exit_code == 1
    assert "is of other regions (seed: 0 -> 1)" in other.stderr


# --- Labels -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directions(checkpoints, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("directions") / "some.safetensors"
    model = load_model(checkpoints("llama"))
    save_file({"W_dec": model.neurons(1, "out").vectors, "b": torch.zeros(3)}, file)
    return file


def test_labels_are_shown_written_and_printed(checkpoints, directions: Path, tmp_path) -> None:
    asked = ["label", directions, "--model", checkpoints("llama"), "--layer", 1, "--null", 30]
    shown = ask(*asked)
    assert shown.exit_code == 0, shown.output
    assert "q over 48 directions, p against 30 matched vectors" in shown.stdout.splitlines()[0]
    assert len(shown.stdout.splitlines()) == 2 + 20
    rows = [json.loads(line) for line in ask(*asked, "--json").stdout.splitlines()]
    assert [row["direction"] for row in rows] == list(range(48))
    for name in ("labels.csv", "labels.parquet"):
        assert ask(*asked, "--out", tmp_path / name).exit_code == 0
    parquet = pd.read_parquet(tmp_path / "labels.parquet")
    csv = pd.read_csv(tmp_path / "labels.csv")
    assert parquet["top_tokens"].map(list).tolist() == [row["top_tokens"] for row in rows]
    assert csv["top_tokens"].map(json.loads).tolist() == [row["top_tokens"] for row in rows]
    assert csv["p_value"].tolist() == pytest.approx(parquet["p_value"].tolist())
    assert parquet[["model", "layer", "n_null", "seed"]].drop_duplicates().values.tolist() == [
        ["tiny-llama", 1, 30, 0]
    ]
    others = ask(*asked, "--like", "in")
    assert others.stdout != shown.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--tensor", "W"], 1, "no tensor 'W': it has W_dec (48, 32), b (3,)"),
        (["--tensor", "b"], 1, "shape (3,): wanted 32 columns, or rows, the"),
        (["--layer", 9], 1, "layer is 9; the model has"),
        (["--out", "labels.txt"], 1, "labels.txt: wanted a file that ends in .csv or .parquet"),
        (["--null", 10**9], 1, "n=1000000000: wanted"),
        (["--device", "abacus"], 1, "device abacus: wanted"),
        (["--like", "up"], 2, "gate"),
        (["--null", 0], 2, "null"),
    ],
)  # fmt: skip
def test_errors_of_labels_are_one_line(checkpoints, directions, options, code, message) -> None:
    result = ask("label", directions, "--model", checkpoints("llama"), *options)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    if code == 1:
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("rotate: ")


def test_no_file_of_directions_is_one_line(checkpoints, tmp_path) -> None:
    for name in ("none.npy", "none.pt"):
        result = ask("label", tmp_path / name, "--model", checkpoints("llama"))
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1


# --- Questions ----------------------------------------------------------------------------------


def test_info_search_and_show(built: Path) -> None:
    result = ask("info", built)
    assert result.exit_code == 0
    assert "significant" in result.stdout
    first = Atlas.open(built).table(layer=2, kind="out").iloc[0]
    word = next(token for token in first["top_tokens"] if token.strip())
    result = ask("search", built, word, "--limit", 5)
    assert result.exit_code == 0
    assert ": q over 48 neurons, p against 20 matched vectors" in result.stdout
    assert "top_tokens" in result.stdout
    result = ask("show", built, "--layer", 2, "--kind", "out", "--neuron", first["neuron"])
    assert result.exit_code == 0
    assert "q over 48 neurons, p against 20 matched vectors" in result.stdout.splitlines()[0]
    assert len(result.stdout.splitlines()) == 2 + 3


def test_a_page_is_written_beside_an_atlas_or_for_one_on_a_hub(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(built, "atlas")
    assert ask("browse", "atlas").stdout.startswith("atlas/atlas.html: open it in a browser")
    text = Path("atlas/atlas.html").read_text(encoding="utf-8")
    assert 'data-atlas="./"' in text
    assert ask("browse", "someone/atlas").stdout == "atlas.html\n"
    assert 'data-atlas="someone/atlas"' in Path("atlas.html").read_text(encoding="utf-8")
    assert ask("verify", "atlas").exit_code == 0
    result = ask("browse", tmp_path)
    assert result.exit_code == 1
    assert "is no atlas: there is no manifest.json in it" in result.stderr


def test_verify_is_one_line_and_a_code(built: Path, tmp_path: Path) -> None:
    result = ask("verify", built)
    assert result.exit_code == 0
    assert "6 of 6 shards" in result.stdout
    folder = shutil.copytree(built, tmp_path / "atlas")
    table = min(folder.rglob("null-*.parquet"))
    table.write_bytes(table.read_bytes()[:-1])
    for arguments in (["verify", folder], ["info", folder]):
        result = ask(*arguments)
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"rotate: {table} (")
        assert line.endswith("The same `rotate decompose` makes it again")


def test_no_channel_has_it_is_said_where_it_is_true_only(checkpoints, tmp_path: Path) -> None:
    folder = tmp_path / "atlas"
    options = "--layers 1 --kinds out --channels 1 --neurons 0-2 --threshold 1 --no-progress"
    ask("decompose", checkpoints("llama"), *options.split(), "--out", folder)
    atlas = Atlas.open(folder)
    tails = atlas.table(["tail_ids"])["tail_ids"]
    top_ids = atlas.channels(layer=1, kind="out").top_ids.flatten().tolist()
    top = {atlas.tokens[i].strip().lower() for i in top_ids}
    further = [atlas.tokens[i] for i in sorted({i for tail in tails for i in tail})]
    word = next(token for token in further if token.isalpha() and token.lower() not in top)
    hits = ask("search", folder, word)
    assert hits.exit_code == 0
    assert "top_tokens" in hits.stdout
    assert word in hits.stdout
    nothing = ask("search", folder, "<|endoftext|>")  # of weight 0, so in no tail
    assert nothing.exit_code == 0
    assert nothing.stdout == f"no channel of {folder} has '<|endoftext|>' in its tail\n"


def test_json_is_a_row_an_object(built: Path) -> None:
    result = ask("show", built, "--layer", 0, "--kind", "gate", "--neuron", 7, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["channel"] for row in rows] == [0, 1, 2]
    assert len(rows[0]["top_tokens"]) == 10
    assert 0 < rows[0]["p_value"] <= 1


def test_a_fetched_model_is_named(checkpoints) -> None:
    assert ask("fetch", checkpoints("llama")).stdout == (
        "Model('tiny-llama', llama: 3 layers of 48 neurons (gate, in, out), d_model=32)\n"
    )


def test_version_and_help() -> None:
    assert ask("--version").stdout.startswith("rotate 0.")
    for name in ("decompose", "search", "show", "info", "verify", "regions", "label"):
        result = ask(name, "--help")
        assert result.exit_code == 0
        assert "--" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "nowhere"], 1, "rotate: nowhere is no atlas: there is no such folder"),
        (["verify", "nowhere"], 1, "rotate: nowhere is no atlas: there is no such folder"),
        (["show", "ATLAS", "--layer", 9, "--kind", "out", "--neuron", 0], 1, "layer 9: "),
        (["show", "ATLAS", "--layer", 0, "--kind", "out", "--neuron", 48], 1, "no neuron 48"),
        (["search", "ATLAS", "catz"], 1, "no token of tiny-llama reads 'catz'"),
        (["decompose", "smollm", "--out", "x"], 1, "did you mean 'smollm2-135m'?"),
        (["fetch", "smollm"], 1, "did you mean 'smollm2-135m'?"),
        (["decompose", "MODEL", "--out", "x", "--layers", 5], 1, "layer 5: tiny-llama has 0 to 2"),
        (["decompose", "MODEL", *BUILD, "--out", "ATLAS", "--seed", 1], 1, "seed: 0 -> 1"),
        (["decompose", "MODEL", "--out", "x", "--threshold", -1], 1, "threshold=-1: wanted"),
        (["decompose", "MODEL", "--out", "x", "--threshold", "nan"], 1, "threshold=nan: wanted a"),
        (["decompose", "MODEL", "--out", "x", "--device", "mps"], 1, "device mps: the"),
        (["decompose", "MODEL", "--out", "x", "--null", 10**9], 1, "null=1000000000: wanted"),
        (["decompose", "MODEL", "--out", "x", "--seed", 10**30], 1, "seed="),
        (["decompose", "MODEL", "--out", "x", "--neurons", "0-99999999"], 2, "so many neurons"),
        (["decompose", "MODEL", "--out", "x", "--neurons", "0-999999"], 1, "neuron 48: a layer"),
        (["decompose", "MODEL", "--out", "x", "--layers", "a-b"], 2, "'a-b' is no number"),
        (["decompose", "MODEL", "--out", "x", "--neurons", "@nofile"], 2, "nofile"),
        (["decompose", "MODEL", "--out", "x", "--memory", "much"], 2, "wanted such as 500MB"),
        (["decompose", "MODEL", "--out", "x", "--device", "abacus"], 1, "device abacus: wanted"),
        (["decompose", "MODEL", "--out", "x", "--solver", "luck"], 2, "geodesic"),
        (["decompose", "MODEL"], 2, "--out"),
        (["compose"], 2, "compose"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_a_code(built, checkpoints, arguments, code, message) -> None:
    paths = {"ATLAS": built, "MODEL": checkpoints("llama")}
    result = ask(*(paths.get(argument, argument) for argument in arguments))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    if code == 1:
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("rotate: ")
    assert not Path("x").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--out", ""], ["--channels", 10**9], ["--null", 10**9], ["--neurons", "0-99999999"],
        ["--layers", "0-99999999"], ["--neurons", "9" * 5000], ["--neurons", "@/dev/zero"],
        ["--seed", "x"],
    ],
)  # fmt: skip
def test_giant_counts_and_no_folder_are_stopped_first(checkpoints, tmp_path, arguments) -> None:
    out = [] if "--out" in arguments else ["--out", tmp_path / "atlas"]
    result = ask("decompose", checkpoints("llama"), *out, *arguments)
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit)
    assert not (tmp_path / "atlas").exists()


def test_no_name_reaches_the_terminal_raw(built, tmp_path) -> None:
    folder = shutil.copytree(built, tmp_path / "atlas")
    manifest = folder / "manifest.json"
    hostile = "\x1b]0;owned\x07\u202e\x9b31m"
    text = manifest.read_text().replace('"tiny-llama"', json.dumps(hostile))
    manifest.write_text(text)
    tokens = folder / "tokens.json"
    tokens.write_text(tokens.read_text().replace("e", "\u009be"))
    for question in (
        ["info"], ["info", "--json"], ["search", "the"],
        ["show", "--layer", 0, "--kind", "gate", "--neuron", 7],
        ["show", "--layer", 0, "--kind", "gate", "--neuron", 7, "--json"],
        ["show", "--layer", 0, "--kind", "gate", "--neuron", 99],
    ):  # fmt: skip
        result = ask(question[0], folder, *question[1:])
        said = result.stdout + result.stderr
        assert said
        assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(said), question


def test_neurons_out_of_a_file(checkpoints, tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.txt"
    numbers.write_text("5\n31\n5\n")
    options = f"--layers 1 --kinds in --channels 1 --neurons @{numbers} --no-progress".split()
    result = ask("decompose", checkpoints("llama"), *options, "--out", tmp_path / "atlas")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert Atlas.open(tmp_path / "atlas").channels(layer=1, kind="in").indices == (5, 31)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500MB", 5e8), ("2 GiB", 2e9), ("1.5k", 1500.0), ("7", 7.0), (None, None)],
)
def test_memory_as_people_write_it(text, expected) -> None:
    assert parse_bytes(text) == expected


# --- Interruptions ------------------------------------------------------------------------------


def start(folder: Path, model: Path) -> subprocess.Popen[str]:
    """A build that has begun to work."""
    process = subprocess.Popen(
        command("decompose", model, *BUILD, "--out", folder, "--no-progress"),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, a shell may have told them to ignore Ctrl-C.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    while not (folder / "manifest.json").exists() and process.poll() is None:
        time.sleep(0.005)
    return process


@pytest.mark.parametrize("module", ["typer", "numpy", "torch", "safetensors"])
def test_ctrl_c_during_an_import_is_one_line(checkpoints, tmp_path: Path, module: str) -> None:
    with subprocess.Popen(
        command("decompose", checkpoints("llama"), *BUILD, "--out", tmp_path / "atlas"),
        env=environment() | {"PYTHONVERBOSE": "1"},  # names each module as it is imported
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"import '{module}"):
                break
        process.send_signal(signal.SIGINT)
        said = [line for line in process.stderr if line.startswith(("rotate:", "Traceback"))]
    assert process.returncode == 130
    assert len(said) == 1
    assert said[0].startswith("rotate: interrupted")


def test_ctrl_c_says_so_and_keeps_whole_shards(checkpoints, tmp_path: Path) -> None:
    process = start(tmp_path / "atlas", checkpoints("llama"))
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "rotate: interrupted; whole shards are kept, and the same command goes on\n"


def test_a_full_disk_is_one_error_and_earlier_shards_stay(checkpoints, tmp_path: Path) -> None:
    namespace = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare"):
        pytest.skip("no unshare: a small file system cannot be mounted")
    mount = "mount -t tmpfs -o size=400k none"
    probe = subprocess.run(
        [*namespace, "sh", "-c", f"{mount} /mnt"], capture_output=True, text=True
    )
    if probe.returncode:
        pytest.skip(f"a small file system cannot be mounted: {probe.stderr.strip()}")
    small, copy = tmp_path / "small", tmp_path / "copy"
    small.mkdir()
    build = " ".join(command("decompose", checkpoints("llama"), *BUILD, "--out", small / "atlas"))
    script = (
        f"{mount} {small} && {build} --no-progress; code=$?; cp -r {small}/atlas {copy}; exit $code"
    )
    result = subprocess.run(
        [*namespace, "sh", "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("rotate: cannot write ")
    assert "No space left on device; what was written before is whole" in line
    atlas = Atlas.open(copy)
    assert 0 < len(atlas.shards()) + len(atlas.shards(null=True)) < len(atlas.manifest.shards)
    for shard in atlas.shards():
        assert atlas.channels(layer=shard.layer, kind=shard.kind).vectors.isfinite().all()
    assert run("decompose", checkpoints("llama"), *BUILD, "--out", copy).returncode == 0


def test_diff_of_two_models_and_of_their_atlases(checkpoints, tmp_path):
    edited = tmp_path / "edited"
    shutil.copytree(checkpoints("llama"), edited)
    tensors = load_file(edited / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][:, 2] *= torch.arange(1.0, 33)
    save_file(tensors, edited / "model.safetensors", {"format": "pt"})
    out, options = tmp_path / "out", ["--null", "3", "--no-progress", "--device", "cpu"]
    some = ["--layers", "1", "--neurons", "1-3", "--channels", "2"]
    models = [str(checkpoints("llama")), str(edited)]
    result = CliRunner().invoke(app, ["diff", *models, "--out", str(out), *some, *options])
    assert result.exit_code == 0, result.output
    first = result.output.splitlines()[1].split()
    assert first[:3] == ["1", "out", "2"]
    assert "1 of 3 neurons were turned at all" in result.output
    neurons = pd.read_parquet(out / "neurons.parquet")
    assert (neurons.weight_change > 0).tolist() == [False, True, False]
    assert len(pd.read_parquet(out / "channels.parquet")) == 6
    assert len(Atlas.open(out / "before").table()) == 6

    atlases = [str(out / "before"), str(out / "after"), "--out", str(tmp_path / "again"), *options]
    result = CliRunner().invoke(app, ["diff", *atlases, "--models", *models])
    assert result.exit_code == 0, result.output
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again" / "neurons.parquet"), neurons)
    result = CliRunner().invoke(app, ["diff", *atlases, "--models", *reversed(models)])
    assert result.exit_code == 1
    assert "the model edited has" in result.output

    mixed = [str(out / "before"), str(edited)]
    result = CliRunner().invoke(app, ["diff", *mixed, "--out", str(out)])
    assert result.exit_code == 1
    assert "wanted two models, or two atlases" in result.output


def test_without_a_gpu_the_cpu_is_taken_and_it_is_said(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert chosen_device("cuda:1") == torch.device("cpu")
    line = "rotate: there is no CUDA GPU for --device cuda:1; the CPU is taken\n"
    assert capsys.readouterr().err == line
    assert chosen_device("auto") == torch.device("cpu")
    assert not capsys.readouterr().err
