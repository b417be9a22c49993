"""Ray as an engine: the same atlas, and a worker that dies is replaced."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from rotate_core import Settings, load_model
from rotate_core.atlas import Atlas
from rotate_core.atlas.workers import ENGINES

OPTIONS = {
    "layers": [0, 2],
    "kinds": ["out"],
    "neurons": 40,
    "n_channels": 2,
    "null": 9,
    "settings": Settings(threshold=2.5),
    "progress": False,
}


def vectors_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}


def test_without_ray_the_error_says_what_to_install(checkpoints, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    model = load_model(checkpoints("llama"))
    with pytest.raises(ModuleNotFoundError, match=r'pip install "rotate_core\[ray\]"'):
        Atlas.build(tmp_path / "atlas", model, engine="ray", **OPTIONS)
    assert set(ENGINES) == {"local", "ray"}


# Ray in a process of its own: its threads and its warnings are not the test's.
DIES_ONCE = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from rotate_core import Settings, load_model
    from rotate_core.atlas import build
    from rotate_core.atlas import Atlas

    torch.set_num_threads(1)
    checkpoint, folder, mark = sys.argv[1:]

    class Deadly(build.Work):
        def compute(self, shard, model):
            try:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return super().compute(shard, model)
            os.kill(os.getpid(), signal.SIGKILL)

    if mark != "-":
        build.Work = Deadly
    Atlas.build(
        folder, load_model(checkpoint), engine="ray", layers=[0, 2], kinds=["out"], neurons=40,
        n_channels=2, null=9, settings=Settings(threshold=2.5), progress=False,
    )
"""


@pytest.mark.slow  # starting Ray takes half a minute where cores are few
@pytest.mark.parametrize("dies", [False, True])
def test_ray_makes_the_same_atlas_also_when_a_worker_dies(checkpoints, tmp_path, dies) -> None:
    pytest.importorskip("ray")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        local = Atlas.build(tmp_path / "local", load_model(checkpoints("llama")), **OPTIONS)
    finally:
        torch.set_num_threads(threads)
    script, mark = tmp_path / "build.py", tmp_path / "died"
    script.write_text(textwrap.dedent(DIES_ONCE))
    result = subprocess.run(
        [
            sys.executable,
            str(script),
            str(checkpoints("llama")),
            str(tmp_path / "ray"),
            str(mark) if dies else "-",
        ],
        env=os.environ | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert mark.exists() == dies
    assert vectors_of(tmp_path / "ray") == vectors_of(local.folder)
    assert Atlas.open(tmp_path / "ray").table().equals(local.table())
