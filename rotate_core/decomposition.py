"""decompose(): from weight vectors to channels, whatever their number."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from tqdm.auto import tqdm

from rotate_core.channels import Channels, NeuronsLike, VocabularyLike
from rotate_core.models.vocabulary import Vocabulary, check_precision
from rotate_core.rotation.curvature import Curvature
from rotate_core.rotation.deflate import READ_OUT, SOLVED, deflate
from rotate_core.rotation.settings import Settings

ARRAYS_PER_NEURON = 12
"""Arrays of d_vocab values that a neuron takes at the peak."""
MOST_MEMORY_ON_CPU = 2 * 2**30
"""Default bound: more neurons at a time than this holds do not make a CPU faster."""
BATCH_ON_CPU = 100
"""Neurons at a time on a CPU; one that has a channel makes room at once (:func:`.deflate`)."""
DEVICES = ("cpu", "cuda", "mps")
"""Kinds of device that are known of; the last is refused with its reason."""
ORDINARY = 12
"""Weights from 2^-12 to 2^12 are taken as they are. Others are brought to about 1 by a power of
two, which is exact: the fourth power of a logit of 1e-10 or 1e10 is beyond float32."""


class ConvergenceWarning(RuntimeWarning):
    """Some channels were returned before the solver's stopping rule was met."""


def decompose(
    neurons: NeuronsLike | Float[Tensor, "n_neurons d_model"],
    vocabulary: VocabularyLike,
    *,
    n_channels: int = 5,
    after: Channels | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    memory: float | None = None,
    history: bool = False,
    compile: bool = False,
    progress: bool = True,
    on_channel: Callable[[int], object] | None = None,
    **overrides: Any,
) -> Channels:
    """Take neurons apart into vocabulary channels (paper, section 3).

    For each neuron: find the direction near w whose projection is most peaked, mask the tokens of
    its tail, repeat. Neurons do not influence each other, unless ``joint`` asks for it: how they
    are batched changes the result by rounding only.

    Args:
        neurons: weight vectors with their labels, or a plain tensor of them (or an array, or lists
            of numbers). Their scale and that of U do not matter, but to ``subtract-grid``.
        vocabulary: U, token weights and token strings: any object that has these three.
        n_channels: channels of each neuron.
        after: channels already found of the same neurons, with the same settings and seed: they
            come first in the result, and the search goes on behind them.
        settings: None for ours, :data:`rotate_core.PAPER` for the paper's.
        seed: of the random starts; mixed with the neuron's number, the channel's and the restart's.
        device: where to compute, as for :func:`usable_device`; None is where the projection is.
            Results are on the CPU. A vocabulary that was moved there, ``vocabulary.to("cuda")``,
            is not moved by every call, and evidence against a null is looked up there, too.
        memory: bytes that the work may take beside U, and beside some 60 MB whatever it is; None is
            a quarter of what is free on the device, on a CPU at most 2 GiB. A neuron takes about
            48 bytes a token. With ``precision="bfloat16"``, a rounded copy of U comes on top.
        history: keep the objective after every iteration.
        compile: fuse the elementwise passes with ``torch.compile``, for a GPU: a CPU needs a C++
            compiler and gains nothing. The first call takes a minute; results change by rounding.
        progress: show a bar.
        on_channel: called with the number of channels just found; what it raises stops the work.
        overrides: any field of :class:`Settings`, such as ``solver="householder"``.

    Returns:
        The channels. The computation is in float64 if either input is, else in float32.

    Raises:
        ValueError: shapes that do not fit, weights that are no dense tensor of 16 bits or more, not
            finite or 0, logits without variance, fewer than one channel, all tokens masked, too
            little memory for one neuron or for the channels, ``after`` of other neurons, settings,
            seed or vocabulary, a device that is not usable; a result that is not finite.
        TypeError: an unknown setting, or an argument of another type.

    Warns:
        ConvergenceWarning: some channels hit ``max_iter``, or stalled where F is still steep.
    """
    for name, value, wanted in (
        ("after", after, Channels),
        ("settings", settings, Settings),
        ("memory", memory, Real),
        ("history", history, bool),
        ("compile", compile, bool),
    ):
        if value is not None and not isinstance(value, wanted):
            raise TypeError(f"{name} is a {type(value).__name__}: wanted a {wanted.__name__}")
    settings = dataclasses.replace(settings or Settings(), **overrides)
    w, labels = _vectors_and_labels(neurons)
    indices = labels["indices"]
    vocabulary = checked_vocabulary(vocabulary)
    _check_counts(w, n_channels, seed)
    check_vectors(w, vocabulary.projection, indices)
    if after is not None:
        _check_after(after, w, indices, vocabulary, settings, seed, n_channels)

    device = usable_device(device or vocabulary.projection.device)
    dtype = torch.promote_types(w.dtype, vocabulary.projection.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    to_w, to_u = row_factors(w), projection_factor(vocabulary.projection)
    if settings.deflation == "subtract-grid" and (to_u != 1 or (to_w != 1).any()):
        raise ValueError(
            f"deflation='subtract-grid' depends on the scale of the weights: wanted largest ones "
            f"from 2^-{ORDINARY} to 2^{ORDINARY}"
        )
    projection = scaled(vocabulary.projection.to(device, dtype), to_u)
    token_weights = vocabulary.token_weights.to(projection)
    curvature = None
    if settings.solver == "geodesic" and settings.precondition:
        curvature = _curvature(vocabulary, projection, token_weights, settings.moments)
    given = None
    if after is not None:
        given = {name: getattr(after, name) for name in (*SOLVED, *READ_OUT)}
        given["vectors"] = scaled(after.vectors.to(dtype), to_w.unsqueeze(1))
    bar = tqdm(total=len(w) * n_channels, unit="channel", disable=not progress, leave=False)
    with bar:

        def found(n_found: int) -> None:
            bar.update(n_found)
            if on_channel is not None:
                on_channel(n_found)

        arrays: dict[str, Any] = deflate(
            scaled(w.to(dtype), to_w).to(device),
            projection,
            token_weights,
            n_channels=n_channels,
            settings=settings,
            seed=seed,
            indices=indices,
            batch=_batch(len(w), projection, memory, settings),
            curvature=curvature,
            given=given,
            on_channel=found,
            compile=compile,
        )
    curves = arrays.pop("history")
    arrays["vectors"] = scaled(arrays["vectors"], 1 / to_w.unsqueeze(1))
    _refuse_unless_finite(arrays, indices)
    channels = Channels(
        weight_vectors=w.to("cpu", projection.dtype),
        vocabulary=vocabulary,
        settings=settings,
        seed=seed,
        history=curves if history else None,
        **arrays,
        **labels,
    )
    _warn_unless_converged(channels)
    return channels


def _vectors_and_labels(neurons: NeuronsLike | Tensor) -> tuple[Tensor, dict[str, Any]]:
    w = vectors_of(neurons)
    if not hasattr(neurons, "vectors"):
        return w, {"indices": tuple(range(len(w)))}
    return w, {name: getattr(neurons, name) for name in ("indices", "model", "layer", "kind")}


def vectors_of(given: Any, what: str = "neurons") -> Float[Tensor, "n d_model"]:
    """Vectors as they may be given: a tensor, an array, lists, or something that has ``vectors``.

    Raises:
        ValueError: no two-dimensional numbers of 16 bits or more, or none at all.
    """
    vectors: Any = getattr(given, "vectors", given)
    try:
        w = torch.as_tensor(vectors).detach().cpu()
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{what}: {type(vectors).__name__}: wanted a tensor ({error})") from None
    check_precision(w, what)
    if w.ndim != 2 or not len(w):
        raise ValueError(
            f"{what} of shape {tuple(w.shape)}: wanted (n_{what}, d_model), at least one"
        )
    return w


def checked_vocabulary(vocabulary: VocabularyLike) -> Vocabulary:
    """As a :class:`Vocabulary`, which checks what it is made of."""
    if isinstance(vocabulary, Vocabulary):
        return vocabulary
    try:
        parts = vocabulary.projection, vocabulary.token_weights, vocabulary.tokens
    except AttributeError as error:
        raise ValueError(f"no vocabulary: {error}") from None
    return Vocabulary(*parts, name=getattr(vocabulary, "name", ""))


def check_vectors(
    w: Tensor, projection: Tensor, indices: Sequence[int], what: str = "neurons"
) -> None:
    """ValueError unless vectors are as wide as U, finite and not 0; names the first that are."""
    if w.shape[1] != projection.shape[0]:
        raise ValueError(
            f"{what} have d_model {w.shape[1]}, the projection of shape {tuple(projection.shape)} "
            f"has {projection.shape[0]}: wanted the same"
        )
    for how, bad in (
        ("are not finite", ~w.isfinite().all(1)),
        ("have norm 0, and so no direction", (w == 0).all(1)),
    ):
        if bad.any():
            which = [indices[i] for i in bad.nonzero().flatten()[:5].tolist()]
            raise ValueError(f"the vectors of {int(bad.sum())} {what} {how}: {which}")


def _check_counts(w: Tensor, n_channels: Any, seed: Any) -> None:
    if not isinstance(n_channels, Integral) or n_channels < 1:
        raise ValueError(f"n_channels={n_channels!r}: wanted at least 1")
    if not isinstance(seed, Integral):
        raise ValueError(f"seed={seed!r}: wanted a whole number")
    n_bytes, free = 8 * w.numel() * int(n_channels), _free_memory(torch.device("cpu"))
    if n_bytes > free:
        raise ValueError(
            f"n_channels={n_channels}: those of {len(w)} neurons take {n_bytes / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} are free; wanted fewer"
        )


def _refuse_unless_finite(arrays: dict[str, Tensor], indices: tuple[int, ...]) -> None:
    for name, values in arrays.items():
        bad = ~values.flatten(1).isfinite().all(1)
        if bad.any():
            which = [indices[i] for i in bad.nonzero().flatten()[:5].tolist()]
            raise ValueError(
                f"neurons {which}: {name} is not finite; wanted settings of an ordinary size, or "
                "weights in float64"
            )


# --- Scale -------------------------------------------------------------------------------------


def row_factors(vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n 1"]:
    """The power of two that brings each row's largest value to about 1; see :data:`ORDINARY`."""
    largest = vectors.abs().amax(1, keepdim=True).double()
    return largest.cpu().apply_(_factor)


def projection_factor(projection: Float[Tensor, "d_model d_vocab"]) -> Float[Tensor, ""]:
    """The same for all of U; computed once for a projection, and kept for as long as it lives."""
    if projection not in _FACTORS:
        low, high = projection.aminmax()
        largest = max(-float(low), float(high))
        _FACTORS[projection] = torch.tensor(_factor(largest), dtype=torch.float64)
    return _FACTORS[projection]


_FACTORS = WeakTensorKeyDictionary()  # tensors are compared by identity


def _factor(largest: float) -> float:
    exponent = math.frexp(largest)[1]
    return 1.0 if abs(exponent) <= ORDINARY else math.ldexp(1.0, min(max(-exponent, -1000), 1000))


def scaled(values: Tensor, factor: Tensor) -> Tensor:
    """Values times powers of two; themselves where these are all 1."""
    if (factor == 1).all():
        return values
    return (values.double() * factor.to(values.device)).to(values.dtype)


def _check_after(
    after: Channels,
    w: Tensor,
    indices: tuple[int, ...],
    vocabulary: Vocabulary,
    settings: Settings,
    seed: int,
    n_channels: int,
) -> None:
    for what, seen, wanted in (
        ("neurons", after.indices, indices),
        ("settings", after.settings, settings),
        ("seed", after.seed, seed),
    ):
        if seen != wanted:
            raise ValueError(f"after has {what} {seen}: wanted those asked for, {wanted}")
    if not torch.equal(after.weight_vectors.to(w), w):
        raise ValueError("after has other weight vectors: wanted channels of the neurons given")
    for name in ("projection", "token_weights"):
        seen, wanted = getattr(after.vocabulary, name), getattr(vocabulary, name)
        if seen is not wanted and not (
            seen.shape == wanted.shape and torch.equal(seen.to(wanted), wanted)
        ):
            raise ValueError(f"after has another {name}: wanted channels over the vocabulary given")
    if after.n_channels > n_channels:
        raise ValueError(f"n_channels={n_channels}: after has {after.n_channels} already")


def _curvature(
    vocabulary: VocabularyLike, projection: Tensor, token_weights: Tensor, moments: str
) -> Curvature:
    """Computed once for a projection and token weights, and kept for as long as these live."""
    of_projection = _CURVATURES.setdefault(vocabulary.projection, WeakTensorKeyDictionary())
    cache = of_projection.setdefault(vocabulary.token_weights, {})
    key = (moments, projection.device, projection.dtype)
    if key not in cache:
        cache[key] = Curvature.of(projection, token_weights, moments=moments)
    return cache[key]


_CURVATURES = WeakTensorKeyDictionary()  # tensors are compared by identity


def usable_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" is a CUDA GPU where there is one, else the CPU.

    Raises:
        ValueError: no such device, a GPU that PyTorch does not see, or no float64 on it.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0  # a driver may be old
    if device == "auto":
        device = "cuda" if n_gpus else "cpu"
    try:
        usable = torch.device(device)
    except (RuntimeError, TypeError):
        usable = torch.device("meta")
    if usable.type not in DEVICES:
        raise ValueError(f"device {device}: wanted auto, cpu or cuda")
    if usable.type == "mps":
        raise ValueError(
            f"device {device}: the solvers sum in float64, which MPS does not have; wanted cpu "
            "or cuda"
        )
    if usable.type == "cuda" and (usable.index or 0) >= n_gpus:
        raise ValueError(
            f"device {device}: PyTorch {torch.__version__} sees {n_gpus} CUDA GPUs here; wanted "
            + (f"cuda:0 to cuda:{n_gpus - 1}" if n_gpus else "cpu or auto")
        )
    return usable


def _batch(n_neurons: int, projection: Tensor, memory: float | None, settings: Settings) -> int:
    """Neurons at a time, so that the work stays within ``memory``."""
    d_model, d_vocab = projection.shape
    each = ARRAYS_PER_NEURON * (d_vocab + d_model) * projection.element_size()
    each *= max(settings.restarts // 2, settings.n_reflections // 100, 1)  # two climbs at least
    if memory is None:
        memory = _free_memory(projection.device) / 4
        if projection.device.type == "cpu":
            memory = min(memory, MOST_MEMORY_ON_CPU)
    if not memory >= each:  # nor NaN
        raise ValueError(
            f"memory={memory:.0f} bytes: wanted at least {each}, for one neuron over {d_vocab} "
            "tokens"
        )
    most = int(min(memory, 2**60) // each)
    if settings.solver == "householder":  # from channel to channel together: of about the same size
        return math.ceil(n_neurons / math.ceil(n_neurons / most))
    return min(most, BATCH_ON_CPU) if projection.device.type == "cpu" else most


def _free_memory(device: torch.device) -> float:
    """Bytes that are free on the device; on a GPU with those that PyTorch holds without use."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + unused)
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return 8.0 * 2**30  # not Linux: the bound for a CPU applies


def _warn_unless_converged(channels: Channels) -> None:
    n = int((~channels.converged).sum())
    if n:
        short = channels.n_iter[~channels.converged]
        n_at_limit = int((short >= channels.settings.max_iter).sum())
        warnings.warn(
            f"{n} of {channels.converged.numel()} channels did not converge within "
            f"{int(short.max())} iterations: {n_at_limit} hit max_iter, which can be raised, and "
            f"{n - n_at_limit} stalled where gradient_norm is not below gradient_tolerance",
            ConvergenceWarning,
            stacklevel=3,
        )
