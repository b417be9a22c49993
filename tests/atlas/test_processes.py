"""Builds that are killed, and two at a time: the atlas is the uninterrupted one, byte for byte."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from atlas_builds import finish, start, tree

from rotate_core import Settings
from rotate_core.atlas import Atlas

OPTIONS = {"layers": [1], "kinds": ["out"], "n_channels": 2, "null": 9, "memory": 12 * 700 * 4 * 9}
OPTIONS |= {"settings": Settings(threshold=2.5)}
FIRST, SECOND = OPTIONS | {"neurons": range(20)}, OPTIONS | {"neurons": range(10, 36)}
PAUSE = 0.1
"""Seconds: a moment's kill, or the other process, is to meet every state of the files."""


@pytest.fixture(scope="module")
def sequential(checkpoints, tmp_path_factory) -> dict[str, Path]:
    """Atlases made by one process after the other: "1", "12" and "21"."""
    folders = {name: tmp_path_factory.mktemp("atlas") / name for name in ("1", "12", "21")}
    for name, folder in folders.items():
        for which in name:
            options = FIRST if which == "1" else SECOND
            finish(start(checkpoints("llama"), folder, options))
    return folders


@pytest.mark.parametrize("n", [6, pytest.param(100, marks=pytest.mark.fuzz)])
def test_after_a_kill_the_same_command_makes_the_uninterrupted_atlas(
    sequential, checkpoints, tmp_path: Path, n: int
) -> None:
    model, moments = checkpoints("llama"), random.Random(0)
    started = time.monotonic()
    finish(start(model, tmp_path / "whole", SECOND, pause=PAUSE))
    seconds = time.monotonic() - started
    i = n_killed = n_partial = 0
    while n_killed < n:
        i += 1
        folder, options, name = tmp_path / str(i), FIRST, "1"
        if i % 2:  # one that grows
            shutil.copytree(sequential["1"], folder)
            options, name = SECOND, "12"
        process = start(model, folder, options, seed=i, pause=PAUSE)
        time.sleep(moments.uniform(0, seconds))
        process.kill()
        process.join()
        n_killed += process.exitcode == -signal.SIGKILL
        if (folder / "manifest.json").exists():
            atlas = Atlas.open(folder)
            left = atlas.verify()
            assert not any("damaged" in line for line in left), left
            n_partial += bool(left)
            assert not atlas.shards() or len(atlas.table())
        finish(start(model, folder, options))
        assert tree(folder) == tree(sequential[name]), (i, name)
        shutil.rmtree(folder)
    print(f"{i} builds, {n_killed} killed, {n_partial} with a part of the atlas there, 0 lost")


@pytest.mark.parametrize("n", [3, pytest.param(10, marks=pytest.mark.fuzz)])
def test_two_processes_with_different_neurons_make_what_one_makes(
    sequential, checkpoints, tmp_path: Path, n: int
) -> None:
    wanted = [tree(sequential["12"]), tree(sequential["21"])]
    for i in range(n):
        how = {"pause": PAUSE * (i + 1) / 2}
        first = start(checkpoints("llama"), tmp_path / str(i), FIRST, seed=2 * i, **how)
        second = start(checkpoints("llama"), tmp_path / str(i), SECOND, seed=2 * i + 1, **how)
        finish(first, second)
        assert tree(tmp_path / str(i)) in wanted


def test_two_processes_share_the_same_work(sequential, checkpoints, tmp_path: Path) -> None:
    how = [{"seed": seed, "pause": PAUSE} for seed in range(2)]
    finish(*(start(checkpoints("llama"), tmp_path / "atlas", FIRST, **each) for each in how))
    assert tree(tmp_path / "atlas") == tree(sequential["1"])
