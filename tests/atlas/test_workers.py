"""Ray as an engine: the same atlas, and a worker that dies is replaced."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rotate_core import Settings, load_model
from rotate_core.atlas import Atlas
from rotate_core.atlas.manifest import Shard
from rotate_core.atlas.workers import ENGINES, Work, run_ray

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
    with pytest.raises(ModuleNotFoundError, match=r'pip install "rotate-core\[ray\]"'):
        Atlas.build(tmp_path / "atlas", model, engine="ray", **OPTIONS)
    assert set(ENGINES) == {"local", "ray"}


@pytest.mark.parametrize(
    ("device", "wanted"),
    [("cpu", ("cpu", 2, 0)), ("cuda:1", ("cuda", 1, 1))],  # one GPU a task, which calls it cuda
)
def test_a_shard_is_a_task_and_a_task_has_a_gpu_to_itself(device, wanted, monkeypatch) -> None:
    tasks = []

    def remote(*, num_cpus, num_gpus, **options):
        def submit(work, shard):
            tasks.append((str(work.device), num_cpus, num_gpus))
            return shard

        return lambda function: SimpleNamespace(remote=submit)

    ray = SimpleNamespace(
        is_initialized=lambda: True,
        remote=remote,
        wait=lambda pending, num_returns: (pending[:1], pending[1:]),
        get=lambda reference: None,
        exceptions=SimpleNamespace(RayTaskError=KeyError),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    work = Work(Path("atlas"), None, "tiny", torch.device(device), threads=2)
    shards = [Shard(0, "out", (i,)) for i in range(3)]
    assert list(run_ray(work, shards, None, None)) == shards
    assert tasks == [wanted] * 3


# Ray in a process of its own: its threads and its warnings are not the test's.
TWO_WORKERS = """
    import os, signal, sys, time
    from pathlib import Path
    import ray
    import torch
    from rotate_core import Settings, load_model
    from rotate_core.atlas import build
    from rotate_core.atlas import Atlas

    torch.set_num_threads(1)
    checkpoint, folder, mark, workers = sys.argv[1:]

    class Watched(build.Work):
        def compute(self, shard, model):
            if mark != "-":
                try:
                    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
                    os.kill(os.getpid(), signal.SIGKILL)
                except FileExistsError:
                    pass
            Path(workers, str(os.getpid())).touch()
            while len(list(Path(workers).iterdir())) < 2:  # a second one takes a share
                time.sleep(0.1)
            return super().compute(shard, model)

    build.Work = Watched
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    Atlas.build(
        folder, load_model(checkpoint), engine="ray", layers=[0, 2], kinds=["out"], neurons=40,
        n_channels=2, null=9, settings=Settings(threshold=2.5), progress=False,
    )
"""


@pytest.mark.slow  # starting Ray takes half a minute where cores are few
@pytest.mark.parametrize("dies", [False, True])
def test_two_ray_workers_make_the_same_atlas_also_when_one_dies(
    checkpoints, tmp_path, dies
) -> None:
    pytest.importorskip("ray")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        local = Atlas.build(tmp_path / "local", load_model(checkpoints("llama")), **OPTIONS)
    finally:
        torch.set_num_threads(threads)
    script, mark, workers = tmp_path / "build.py", tmp_path / "died", tmp_path / "workers"
    workers.mkdir()
    script.write_text(textwrap.dedent(TWO_WORKERS))
    result = subprocess.run(
        [
            sys.executable,
            str(script),
            str(checkpoints("llama")),
            str(tmp_path / "ray"),
            str(mark) if dies else "-",
            str(workers),
        ],
        env=os.environ | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert mark.exists() == dies
    assert len(list(workers.iterdir())) >= 2
    assert vectors_of(tmp_path / "ray") == vectors_of(local.folder)
    assert Atlas.open(tmp_path / "ray").table().equals(local.table())
