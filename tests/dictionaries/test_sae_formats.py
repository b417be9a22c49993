"""Sparse autoencoders in each format that is read: small files, written here, against formulas."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rotate_core.dictionaries import SAE, topk_sae

D, K = 5, 7
HOOKS = {
    "blocks.3.hook_resid_post": (3, "residual"),
    "blocks.3.hook_resid_pre": (2, "residual"),
    "blocks.3.hook_mlp_out": (3, "mlp_out"),
    "blocks.3.mlp.hook_post": (3, "hidden"),
}


def weights(seed: int = 0, *more: str) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    state = {"W_enc": (D, K), "W_dec": (K, D), "b_enc": (K,), "b_dec": (D,)}
    state |= dict.fromkeys(more, (K,))
    return {name: torch.randn(shape, generator=g) for name, shape in state.items()}


def saelens(folder: Path, state: dict[str, torch.Tensor], **cfg: Any) -> Path:
    """As SAELens 6 writes it."""
    metadata = {"model_name": "gemma-2-2b", "hook_name": "blocks.3.hook_mlp_out"}
    known = {"architecture": "standard", "d_in": D, "d_sae": K, "metadata": metadata}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(known | cfg))
    save_file({name: value.contiguous() for name, value in state.items()},
              folder / "sae_weights.safetensors")  # fmt: skip
    return folder


def tokens(n: int = 9) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(1)) + 0.5


@pytest.mark.parametrize("centred", [True, False])
def test_relu_reads_and_writes_as_it_says(tmp_path: Path, centred: bool) -> None:
    w = weights()
    sae = SAE.read(saelens(tmp_path, w, apply_b_dec_to_input=centred))
    x = tokens()
    codes = ((x - centred * w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    torch.testing.assert_close(sae.encode(x), codes)
    rebuilt = codes @ w["W_dec"] + w["b_dec"]
    torch.testing.assert_close(sae.reconstruct(codes), rebuilt)
    left = (x - rebuilt).square().sum() / x.square().sum()
    assert sae.energy_explained(x) == pytest.approx(1 - left.item(), rel=1e-5)
    spread = (x - rebuilt).square().sum() / (x - x.mean(0)).square().sum()
    assert sae.energy_explained(x, about=x.mean(0)) == pytest.approx(1 - spread.item(), rel=1e-5)
    assert (sae.model, sae.layer, sae.site) == ("gemma-2-2b", 3, "mlp_out")
    assert torch.equal(sae.vectors, w["W_dec"])
    assert sae.encode(x[:0]).shape == (0, K)
    assert sae.encode(x.double()).dtype == torch.float64
    assert "7 latents in 5 dimensions, relu" in repr(sae)
    with pytest.raises(ValueError, match=r"shape \(9, 3\): wanted \(n_tokens, 5\)"):
        sae.encode(x[:, :3])
    with pytest.raises(ValueError, match="do not know the tokens"):
        sae.top_positions(0)


@pytest.mark.parametrize("rescaled", [False, True])
def test_topk_keeps_the_largest_of_a_token(tmp_path: Path, rescaled: bool) -> None:
    w, x = weights(), tokens()
    sae = SAE.read(
        saelens(tmp_path, w, architecture="topk", k=2, rescale_acts_by_decoder_norm=rescaled)
    )
    length = w["W_dec"].norm(dim=1) if rescaled else torch.ones(K)
    before = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * length
    codes = before.relu() * (before >= before.topk(2, dim=1).values[:, 1:])
    torch.testing.assert_close(sae.encode(x), codes)
    rebuilt = (codes / length) @ w["W_dec"] + w["b_dec"]
    torch.testing.assert_close(sae.reconstruct(codes), rebuilt)


def test_jumprelu_keeps_what_is_above_its_threshold(tmp_path: Path) -> None:
    w, x = weights(0, "threshold"), tokens()
    sae = SAE.read(saelens(tmp_path, w, architecture="jumprelu"))
    before = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    torch.testing.assert_close(sae.encode(x), before.relu() * (before > w["threshold"]))


def test_gated_is_a_jumprelu(tmp_path: Path) -> None:
    w, x = weights(0, "b_gate", "r_mag", "b_mag"), tokens()
    del w["b_enc"]
    sae = SAE.read(saelens(tmp_path, w, architecture="gated"))
    p = (x - w["b_dec"]) @ w["W_enc"]
    codes = (p * w["r_mag"].exp() + w["b_mag"]).relu() * (p + w["b_gate"] > 0)
    torch.testing.assert_close(sae.encode(x), codes)


def test_what_brings_tokens_to_a_size_is_undone(tmp_path: Path) -> None:
    w, x = weights(), tokens()

    def inner(y: torch.Tensor) -> torch.Tensor:
        return ((y - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu() @ w["W_dec"] + w["b_dec"]

    length = x.norm(dim=1, keepdim=True) / D**0.5
    mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True)
    wanted = {
        "constant_norm_rescale": inner(x / length) * length,
        "layer_norm": inner((x - mean) / (deviation + 1e-5)) * deviation + mean,
        "expected_average_only_in": inner(x * 0.3) / 0.3,
        "none": inner(x),
    }
    for name, rebuilt in wanted.items():
        folder = saelens(tmp_path / name, w, normalize_activations=name)
        sae = SAE.read(folder, input_scale=0.3 if name == "expected_average_only_in" else None)
        torch.testing.assert_close(sae.reconstruct(sae.encode(x), of=x), rebuilt)
        share = 1 - (x - rebuilt).square().sum() / x.square().sum()
        assert sae.energy_explained(x) == pytest.approx(share.item(), rel=1e-4)
    sae = SAE.read(tmp_path / "layer_norm")
    with pytest.raises(ValueError, match="wanted the tokens, as of="):
        sae.reconstruct(torch.ones(2, K))
    with pytest.raises(ValueError, match="the number is not in it: wanted input_scale"):
        SAE.read(tmp_path / "expected_average_only_in")


def test_configurations_of_older_versions(tmp_path: Path) -> None:
    w, x = weights(), tokens()
    old = {
        "hook_point": "blocks.3.hook_resid_pre", "hook_point_layer": 3, "model_name": "gpt2-small",
        "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}, "metadata": None,
        "normalize_activations": False, "hook_point_head_index": None, "architecture": "standard",
    }  # fmt: skip
    sae = SAE.read(saelens(tmp_path / "a", w, **old))
    assert (sae.activation, sae.n_active) == ("topk", 2)
    assert (sae.model, sae.layer, sae.site) == ("gpt2-small", 2, "residual")
    factor = torch.linspace(0.5, 2, K)
    old = {"finetuning_scaling_factor": True, "normalize_activations": None}
    sae = SAE.read(saelens(tmp_path / "b", w | {"scaling_factor": factor}, **old))
    codes = sae.encode(x)
    rebuilt = (codes * factor) @ w["W_dec"] + w["b_dec"]
    torch.testing.assert_close(sae.reconstruct(codes), rebuilt)
    saelens(tmp_path / "c", w | {"scaling_factor": torch.ones(K)})
    assert torch.equal(SAE.read(tmp_path / "c").decoder, w["W_dec"])
    saelens(tmp_path / "d", w | {"scaling_factor": factor})
    with pytest.raises(ValueError, match="has a scaling factor"):
        SAE.read(tmp_path / "d")


@pytest.mark.parametrize(("hook", "place"), HOOKS.items())
def test_hooks_that_are_sites(tmp_path: Path, hook: str, place: tuple[int, str]) -> None:
    sae = SAE.read(saelens(tmp_path, weights(), metadata={"hook_name": hook}))
    assert (sae.layer, sae.site) == place
    given = SAE.read(tmp_path, model="m", layer=1, site="residual")
    assert (given.model, given.layer, given.site) == ("m", 1, "residual")


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"metadata": {"hook_name": "blocks.3.attn.hook_z"}}, r"hook_name='blocks.3.attn.hook_z'"),
        ({"metadata": {"hook_name": "blocks.0.hook_resid_pre"}}, "of layer 1 on"),
        ({"metadata": {"hook_name": "blocks.3.ln2.hook_normalized"}}, "or give site and layer"),
        ({"metadata": {}}, "hook_name='None'"),
        ({"architecture": "transcoder"}, "architecture='transcoder': known are standard, topk"),
        ({"activation_fn": "tanh-relu"}, "activation_fn='tanh-relu': known are relu and topk"),
        ({"architecture": "topk"}, "k=None: wanted a whole number from 1 to 7"),
        ({"architecture": "topk", "k": 8}, "k=8: wanted a whole number from 1 to 7"),
        ({"architecture": "jumprelu"}, "no threshold: wanted W_dec, W_enc, b_dec, b_enc"),
        ({"normalize_activations": "covariance_whitening"}, "'covariance_whitening': known are"),
    ],
)
def test_what_is_not_known_is_named(tmp_path: Path, cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SAE.read(saelens(tmp_path, weights(), **cfg))


def test_shapes_that_do_not_fit_and_values_that_are_none(tmp_path: Path) -> None:
    saelens(tmp_path / "a", weights() | {"b_enc": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"'encoder_bias': \(3,\)"):
        SAE.read(tmp_path / "a")
    saelens(tmp_path / "b", weights() | {"b_dec": torch.full((D,), torch.nan)})
    with pytest.raises(ValueError, match="decoder_bias not finite"):
        SAE.read(tmp_path / "b")


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    folder = saelens(tmp_path / "a", weights())
    with pytest.raises(ValueError, match="wanted both, or neither"):
        SAE.read(folder, layer=3)
    with pytest.raises(ValueError, match="site='attn': wanted one of mlp_in"):
        SAE.read(folder, layer=3, site="attn")
    (folder / "sae_weights.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"sae_weights\.safetensors is damaged"):
        SAE.read(folder)
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has cfg\.json, but no sae_weights\.safetensors"):
        SAE.read(folder)
    for content in ("{", "[1, 2]"):
        (folder / "cfg.json").write_text(content)
        with pytest.raises(ValueError, match=r"cfg\.json is damaged"):
            SAE.read(folder)
    with pytest.raises(FileNotFoundError, match="holds no SAE: wanted cfg"):
        SAE.read(tmp_path)
    for nothing in (tmp_path / "none", "/none/at/all"):
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            SAE.read(nothing)


# --- Gemma Scope -------------------------------------------------------------------------------


def gemma_scope(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{name: value.numpy() for name, value in state.items()})
    return folder


@pytest.mark.parametrize(
    ("release", "place"),
    [
        ("gemma-scope-2b-pt-res", ("google/gemma-2-2b", 20, "residual")),
        ("gemma-scope-9b-it-mlp", ("google/gemma-2-9b-it", 20, "mlp_out")),
        ("downloads", (None, None, None)),
    ],
)
def test_gemma_scope_says_the_rest_by_its_names(
    tmp_path: Path, release: str, place: tuple[Any, ...]
) -> None:
    w, x = weights(0, "threshold"), tokens()
    inside = "layer_20/width_16k/average_l0_71"
    gemma_scope(tmp_path / release / inside, w)
    sae = SAE.read(tmp_path / release, inside)
    assert (sae.model, sae.layer, sae.site) == place
    before = x @ w["W_enc"] + w["b_enc"]
    codes = before.relu() * (before > w["threshold"])
    torch.testing.assert_close(sae.encode(x), codes)
    torch.testing.assert_close(sae.reconstruct(codes), codes @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize("part", ["att", "transcoders"])
def test_parts_of_gemma_scope_that_are_no_site(tmp_path: Path, part: str) -> None:
    folder = gemma_scope(tmp_path / f"gemma-scope-2b-pt-{part}/layer_3/w", weights(0, "threshold"))
    with pytest.raises(ValueError, match=f"'{part}' of layer_3/: known are res, mlp"):
        SAE.read(folder)
    assert SAE.read(folder, layer=3, site="mlp_in").site == "mlp_in"


class Bomb:
    """What a pickle must not run."""

    def __reduce__(self):
        return (pytest.fail, ("executed",))


def test_nothing_is_executed(tmp_path: Path) -> None:
    arrays = {name: np.array([Bomb()], dtype=object) for name in weights(0, "threshold")}
    np.savez(tmp_path / "params.npz", **arrays)
    with pytest.raises(ValueError, match=r"params\.npz is damaged, or no archive of plain arrays"):
        SAE.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_an_archive_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "params.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"params\.npz is damaged"):
        SAE.read(tmp_path)


# --- The hub, and ours -------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [True, False])
def test_of_a_repository_the_files_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: bool
) -> None:
    folder = tmp_path / "snapshots" / "layer_20" / "w"
    if scope:
        gemma_scope(folder, weights(0, "threshold"))
    else:
        saelens(folder, weights())
    asked = []

    def hub_file(name: str, repository: str, commit: str | None) -> Path:
        asked.append((name, repository, commit))
        if not (tmp_path / "snapshots" / name).exists():
            raise FileNotFoundError(f"{repository} has no {name}")
        return tmp_path / "snapshots" / name

    monkeypatch.setattr("rotate_core.dictionaries.sae_formats.hub_file", hub_file)
    sae = SAE.read("google/gemma-scope-2b-pt-res", "layer_20/w", commit="c")
    assert sae.layer == (20 if scope else 3)
    assert sae.model == ("google/gemma-2-2b" if scope else "gemma-2-2b")
    names = ["cfg.json", "params.npz" if scope else "sae_weights.safetensors"]
    assert asked == [(f"layer_20/w/{name}", "google/gemma-scope-2b-pt-res", "c") for name in names]
    with pytest.raises(
        FileNotFoundError, match=r"neither cfg\.json with sae_\w+\.\w+ nor params\.npz"
    ):
        SAE.read("google/gemma-scope-2b-pt-res")


def test_our_folder_reads_back(tmp_path: Path) -> None:
    theirs = SAE.read(gemma_scope(tmp_path / "theirs", weights(0, "threshold")))
    ours = topk_sae(tokens(40), 4, n_active=2, passes=2, history=True, progress=False)
    for name, sae in (("a", theirs), ("b", ours)):
        again = SAE.read(sae.write(tmp_path / name))
        for field in dataclasses.fields(SAE):
            here, there = getattr(sae, field.name), getattr(again, field.name)
            if isinstance(here, torch.Tensor):
                assert torch.equal(here, there), field.name
            else:
                assert here == there or (here != here and there != there), field.name
    with pytest.raises(FileExistsError, match="holds latents already"):
        ours.write(tmp_path / "b")
