"""Sparse autoencoders in the formats that they are published in: their tensors, and no code.

*SAELens* writes cfg.json and sae_weights.safetensors; what changed over its versions is brought to
one form here. *Gemma Scope* (arXiv:2408.05147) writes params.npz, and says the rest by the names of
its repositories and folders. What can be folded into the weights is folded, without loss:

    scaling factors   of decoder rows (``finetuning_scaling_factor``) or of all inputs
    decoder norms     that codes are multiplied with before the largest are taken
                      (``rescale_acts_by_decoder_norm``)
    gated             codes are ``relu(exp(r) p + m)`` where ``p + g > 0``, p the product with the
                      encoder: "jumprelu" of the encoder ``exp(r) E`` at the threshold ``m - exp(r)
                      g`` (Rajamanoharan et al. 2024, arXiv:2404.16014, section 3.2)

Source: SAELens 6 (MIT), sae_lens/saes and sae_lens/loading/pretrained_sae_loaders.py, and what it
says there of configurations before version 6.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rotate_core.dictionaries import folder as ours
from rotate_core.dictionaries.settings import SAESettings
from rotate_core.models.hub import hub_file
from rotate_core.models.model import HUB_ID
from rotate_core.text.sites import check_site

CONFIG, WEIGHTS, NUMPY = "cfg.json", "sae_weights.safetensors", "params.npz"
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
NORMALISATIONS = {"none": "none", "constant_norm_rescale": "norm", "layer_norm": "layer_norm"}
"""By SAELens' word; "expected_average_only_in" is one number, and folded."""
SCALED = "expected_average_only_in"
HOOK = re.compile(r"blocks\.(\d+)\.(hook_resid_pre|hook_resid_post|hook_mlp_out|mlp\.hook_post)")
"""Hooks of TransformerLens that are sites. ln2.hook_normalized is none: it is in front of the
norm's gain."""
GEMMA = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(\w+)")
GEMMA_SITES = {"res": "residual", "mlp": "mlp_out"}
DAMAGED = (
    zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, AttributeError, TypeError,
)  # fmt: skip
"""What numpy raises of a file that is no archive of plain arrays."""
SHAPES = {"encoder": "kd", "encoder_bias": "k", "decoder": "kd", "decoder_bias": "d"}


def located(path: str | Path, folder: str | None, commit: str | None) -> Path:
    """The folder on this machine that an SAE is in; of a repository it is fetched.

    Raises what :meth:`.SAE.read` says.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return local / (folder or "")
    if isinstance(path, Path) or not HUB_ID.fullmatch(path) or path[0] == ".":
        raise FileNotFoundError(f"there is no folder {path}; or give a hub's 'organisation/name'")
    prefix = f"{folder.strip('/')}/" if folder else ""
    missing: list[Exception] = []
    for name, others in ((CONFIG, (WEIGHTS,)), (NUMPY, ())):
        try:
            found = hub_file(prefix + name, path, commit)
            for other in others:
                hub_file(prefix + other, path, commit)
            return found.parent
        except (FileNotFoundError, ConnectionError) as error:  # offline, one is as the other
            missing.append(error)
    if isinstance(missing[-1], ConnectionError):
        raise missing[-1]
    raise FileNotFoundError(
        f"{path} has neither {prefix}{CONFIG} with {WEIGHTS} nor {prefix}{NUMPY}"
    )


def read(
    where: Path, kind: type[Any], name: str, known: dict[str, Any], input_scale: float | None
) -> dict[str, Any]:
    """The fields of an SAE in a folder, whatever its format.

    Args:
        where: the folder.
        kind: the dataclass, for one of ours.
        name: what it was asked for as: Gemma Scope says model, site and layer by it.
        known: model, layer and site, where the caller knows them; else None.
        input_scale: see :meth:`.SAE.read`.
    """
    if known["site"] is not None:
        check_site(known["site"])
    if (known["site"] is None) != (known["layer"] is None):
        raise ValueError(f"site={known['site']!r}, layer={known['layer']}: wanted both, or neither")
    given = {key: value for key, value in known.items() if value is not None}
    if ours.arrays_of(where, kind.what).exists():
        fields = ours.read(where, kind, SAESettings, kind.what)
    elif (where / CONFIG).exists():
        fields = saelens(where, given, input_scale)
    elif (where / NUMPY).exists():
        fields = gemma_scope(where / NUMPY, name, given)
    else:
        raise FileNotFoundError(
            f"{where} holds no SAE: wanted {CONFIG} with {WEIGHTS} (SAELens), {NUMPY} (Gemma "
            "Scope), or what SAE.write wrote"
        )
    fields |= given
    check(where, fields)
    return fields


def saelens(where: Path, given: dict[str, Any], input_scale: float | None) -> dict[str, Any]:
    """The fields of an SAE as SAELens writes it, of version 6 or before."""
    cfg = _config(where / CONFIG)
    try:
        state = {key: value.float() for key, value in load_file(where / WEIGHTS).items()}
    except FileNotFoundError:
        raise FileNotFoundError(f"{where} has {CONFIG}, but no {WEIGHTS}") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{where / WEIGHTS} is damaged: {error}") from error
    fields = _weights(where / WEIGHTS, state, cfg["architecture"])
    fields |= {"normalisation": "none", "centred": bool(cfg.get("apply_b_dec_to_input", True))}
    fields |= {"n_active": cfg.get("k") if fields["activation"] == "topk" else None}
    fields |= _place(where / CONFIG, cfg, given)
    if fields["activation"] == "topk" and cfg.get("rescale_acts_by_decoder_norm"):
        length = fields["decoder"].norm(dim=1).clamp_min(1e-8)
        fields["encoder"] = fields["encoder"] * length.unsqueeze(1)
        fields["encoder_bias"] = fields["encoder_bias"] * length
        fields["decoder"] = fields["decoder"] / length.unsqueeze(1)
    factor = state.get("finetuning_scaling_factor", state.get("scaling_factor"))
    if factor is not None and cfg.get("finetuning_scaling_factor"):
        fields["decoder"] = fields["decoder"] * factor.unsqueeze(1)
    elif factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
        raise ValueError(
            f"{where}: {WEIGHTS} has a scaling factor, and {CONFIG} no finetuning_scaling_factor"
        )
    normalised = cfg.get("normalize_activations") or "none"
    if normalised in (True, SCALED):
        if input_scale is None:
            raise ValueError(
                f"{where / CONFIG}: normalize_activations={SCALED!r}, and the number is not in it: "
                "wanted input_scale, sqrt(d) over the mean norm of the activations"
            )
        fields["encoder"] = fields["encoder"] * input_scale
        fields["decoder"] = fields["decoder"] / input_scale
        fields["decoder_bias"] = fields["decoder_bias"] / input_scale
    elif normalised in NORMALISATIONS:
        fields["normalisation"] = NORMALISATIONS[normalised]
    else:
        raise ValueError(
            f"{where / CONFIG}: normalize_activations={normalised!r}: known are "
            f"{', '.join(NORMALISATIONS)}, {SCALED}"
        )
    return fields


def gemma_scope(path: Path, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of an SAE in Gemma Scope's params.npz; "jumprelu", b not taken from the input.

    Its MLP SAEs are of what the norm behind the MLP gives: "mlp_out".
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            state = {
                re.sub("^w_", "W_", key): torch.from_numpy(arrays[key].astype(np.float32))
                for key in arrays.files
            }
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged, or no archive of plain arrays: {error}") from error
    fields = _weights(path, state, "jumprelu") | {"centred": False, "normalisation": "none"}
    said = f"{name}/ {path}"
    release, layer = GEMMA.search(said), re.search(r"\blayer_(\d+)/", said)
    if release is None:  # a folder of another name: the caller says, or nobody knows
        return fields
    size, tuned, part = release.groups()
    fields["model"] = f"google/gemma-2-{size}{'-it' * (tuned == 'it')}"
    if "site" in given:
        return fields
    if part not in GEMMA_SITES or layer is None:
        raise ValueError(
            f"{name}: {part!r} of {layer[0] if layer else 'no layer'}: known are "
            f"{', '.join(GEMMA_SITES)} of layer_N; or give site and layer"
        )
    return fields | {"site": GEMMA_SITES[part], "layer": int(layer[1])}


def check(where: Path, fields: dict[str, Any]) -> None:
    """Refuse parts that do not fit each other, or are not finite.

    Raises:
        ValueError: with the folder.
    """
    k, d = fields["encoder"].shape if fields["encoder"].ndim == 2 else (0, 0)
    sizes = {"k": k, "d": d}
    wanted = SHAPES | ({"threshold": "k"} if fields.get("threshold") is not None else {})
    shapes = {name: tuple(fields[name].shape) for name in wanted}
    if not k or any(shapes[n] != tuple(sizes[s] for s in shape) for n, shape in wanted.items()):
        raise ValueError(f"{where}: shapes {shapes} do not fit each other")
    if bad := [name for name in wanted if not fields[name].isfinite().all()]:
        raise ValueError(f"{where}: {', '.join(bad)} not finite")
    active = fields.get("n_active")
    if fields["activation"] == "topk" and (type(active) is not int or not 1 <= active <= k):
        raise ValueError(f"{where}: k={active!r}: wanted a whole number from 1 to {k}")


def _config(path: Path) -> dict[str, Any]:
    """cfg.json in the words of version 6, with what it keeps under metadata beside the rest."""
    try:
        cfg = dict(json.loads(path.read_text(encoding="utf-8")))
        cfg = dict(cfg.get("metadata") or {}) | cfg
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    for old, new in (("hook_point", "hook_name"), ("activation_fn_str", "activation_fn")):
        cfg.setdefault(new, cfg.get(old))
    cfg["architecture"] = cfg.get("architecture") or "standard"
    function = cfg["activation_fn"] or "relu"
    if function == "topk":
        cfg["architecture"] = "topk"
        cfg["k"] = (cfg.get("activation_fn_kwargs") or {}).get("k", cfg.get("k"))
    elif function != "relu":
        raise ValueError(f"{path}: activation_fn={function!r}: known are relu and topk")
    if cfg["architecture"] not in ARCHITECTURES:
        raise ValueError(
            f"{path}: architecture={cfg['architecture']!r}: known are {', '.join(ARCHITECTURES)}"
        )
    return cfg


def _weights(path: Path, state: dict[str, Tensor], architecture: str) -> dict[str, Any]:
    """Tensors and the activation, with what was not fitted here left at nothing."""
    wanted = {"W_enc", "W_dec", "b_dec"}
    wanted |= {"b_gate", "r_mag", "b_mag"} if architecture == "gated" else {"b_enc"}
    wanted |= {"threshold"} if architecture == "jumprelu" else set()
    if missing := wanted - state.keys():
        raise ValueError(
            f"{path}: no {', '.join(sorted(missing))}: wanted {', '.join(sorted(wanted))} of an "
            f"SAE that is {architecture!r}"
        )
    fields: dict[str, Any] = {
        "encoder": state["W_enc"].T.contiguous(),
        "decoder": state["W_dec"],
        "decoder_bias": state["b_dec"],
        "n_outliers": 0, "n_iter": 0, "converged": True, "seed": 0, "explained": math.nan,
    }  # fmt: skip
    if architecture == "gated":
        stretch = state["r_mag"].exp()
        fields["encoder"] = fields["encoder"] * stretch.unsqueeze(1)
        fields |= {"activation": "jumprelu", "encoder_bias": state["b_mag"]}
        return fields | {"threshold": state["b_mag"] - stretch * state["b_gate"]}
    fields["activation"] = "relu" if architecture == "standard" else architecture
    fields["encoder_bias"] = state["b_enc"]
    if architecture == "jumprelu":
        fields["threshold"] = state["threshold"]
    return fields


def _place(path: Path, cfg: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Model, layer and site, by the name of the hook."""
    place: dict[str, Any] = {"model": cfg.get("model_name")}
    if "site" in given:
        return place
    hook = str(cfg["hook_name"])
    match = HOOK.fullmatch(hook)
    layer = int(match[1]) - (match[2] == "hook_resid_pre") if match else -1
    if match is None or layer < 0 or cfg.get("hook_head_index") is not None:
        raise ValueError(
            f"{path}: hook_name={hook!r}, head {cfg.get('hook_head_index')}: known are "
            "hook_resid_pre (of layer 1 on), hook_resid_post, hook_mlp_out and mlp.hook_post of "
            "blocks.N; or give site and layer"
        )
    sites = {"hook_mlp_out": "mlp_out", "mlp.hook_post": "hidden"}
    return place | {"layer": layer, "site": sites.get(match[2], "residual")}
