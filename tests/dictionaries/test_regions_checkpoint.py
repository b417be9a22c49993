"""Regions on disk: our folder, the authors' layout, and what is neither."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from planted import planted
from torch.nn.functional import softplus

from rotate_core.dictionaries import Regions, mfa
from rotate_core.text.labelled import Context


@pytest.fixture(scope="module")
def regions() -> Regions:
    fitted = mfa(planted(n=500).x, 4, rank=2, progress=False, history=True, tolerance=1e-3)
    contexts = tuple((Context("the ", "cat", " sat", "Cats"),) for _ in range(4))
    return dataclasses.replace(fitted, model="m", layer=3, site="residual", contexts=contexts)


def test_our_folder_reads_back(regions: Regions, tmp_path: Path) -> None:
    unseen_free = dataclasses.replace(regions, held_out=math.nan)
    for i, each in enumerate((regions, unseen_free)):
        again = Regions.read(each.write(tmp_path / str(i)))
        for field in dataclasses.fields(Regions):
            here, there = getattr(each, field.name), getattr(again, field.name)
            if isinstance(here, torch.Tensor):
                assert torch.equal(here, there), field.name
            else:
                assert here == there or (here != here and there != there), field.name
    with pytest.raises(FileExistsError, match="holds regions already"):
        regions.write(tmp_path / "0")
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("noise_shape", [(7,), (3, 7)])
def test_a_published_checkpoint_reads(tmp_path: Path, noise_shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    state = {
        "mu": torch.randn(3, 7, generator=g),
        "dir_raw": torch.randn(3, 7, 2, generator=g),
        "scale_rho": torch.randn(3, 2, generator=g),
        "psi_rho": torch.randn(noise_shape, generator=g),
        "pi_logits": torch.randn(3, generator=g),
        "_rot_T": torch.eye(2).expand(3, -1, -1).clone(),
        "_rot_inv_Tt": torch.eye(2).expand(3, -1, -1).clone(),
    }
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state, "meta": {"eps_floor": 1e-5, "q": 2}}, path)
    regions = Regions.read(path)
    assert torch.equal(regions.centroids, state["mu"])
    assert torch.allclose(regions.weights, state["pi_logits"].softmax(0))
    assert torch.allclose(regions.noise, softplus(state["psi_rho"]) + 1e-5)
    w = state["dir_raw"] / state["dir_raw"].norm(dim=1, keepdim=True)
    w = w * softplus(state["scale_rho"]).unsqueeze(1)
    assert torch.allclose(regions.loadings @ regions.loadings.mT, w @ w.mT, atol=1e-5)
    assert regions.log_prob(torch.randn(5, 7, generator=g)).isfinite().all()
    assert "3 regions of rank 2 in 7 dimensions" in repr(regions)
    with pytest.raises(ValueError, match="do not know the tokens"):
        regions.top_positions(0)

    del state["scale_rho"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"model\.ckpt holds no regions: 'scale_rho' is missing"):
        Regions.read(path)
    state["scale_rho"] = torch.randn(3, 4)
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"wanted \(K, d, R\) and \(K, R\)"):
        Regions.read(path)


class Bomb:
    """What a pickle must not run."""

    def __reduce__(self):
        return (pytest.fail, ("executed",))


def test_nothing_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    torch.save({"state_dict": Bomb()}, path)
    with pytest.raises(ValueError, match=r"bomb\.pt is damaged, or no file of plain tensors"):
        Regions.read(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_foreign_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign\.ckpt"):
        Regions.read(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Regions.read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no whole regions"):
        Regions.read(tmp_path)


def test_a_damaged_folder_is_refused_by_name(regions: Regions, tmp_path: Path) -> None:
    folder = regions.write(tmp_path / "regions")
    tensors, manifest = folder / "regions.safetensors", folder / "manifest.json"
    whole, text = tensors.read_bytes(), manifest.read_text()
    tensors.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"regions\.safetensors .*is damaged"):
        Regions.read(folder)
    tensors.write_bytes(whole)
    content = json.loads(text)
    for change, message in (
        ({"format": "rotate_core atlas 3"}, "wanted 'rotate_core regions 1'"),
        ({"settings": {"rank": -1}}, "damaged: rank=-1"),
        ({"extra": 1}, "extra"),
    ):
        manifest.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=message):
            Regions.read(folder)
    manifest.write_text(text[:50])
    with pytest.raises(ValueError, match=r"manifest\.json is no manifest of regions"):
        Regions.read(folder)
