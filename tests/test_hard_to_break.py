"""Odd calls, random weights and damaged files: a result or one documented error, never else.

The first tries of each run by default; hundreds of them are marked ``fuzz``. A try is made from its
number alone, so that one that fails can be looked at: ``pytest -m fuzz -k "files and 137"``.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from rotate_core import (
    Settings,
    Vocabulary,
    calibrate,
    decompose,
    load_model,
    matched_rotations,
    matched_vectors,
)
from rotate_core.decomposition import usable_device
from rotate_core.rotation.settings import _CHOICES

THREE = namedtuple("Three", "projection token_weights tokens")
REFUSED = (ValueError, TypeError, OSError)
"""What decompose() and load_model() document; an IndexError or RuntimeError is none of them."""
ODD = (
    *(None, True, False, 0, 1, -1, 2.5, 10**9, 10**30, -(10**400), 1e300, math.nan, math.inf),
    *("", "a", "0", "\x00", b"x", [], [1], [[1.0, 2.0]], {}, {"a": 1}, (), object(), print),
    *(np.zeros(3), np.ones((2, 4)), torch.zeros(0), torch.ones(2, 4), torch.tensor(1.0)),
)


def numbered(few: int, many: int) -> pytest.MarkDecorator:
    """Tries by number: the first by default, all where ``fuzz`` is asked for."""
    long = [pytest.param(i, marks=pytest.mark.fuzz) for i in range(few, many)]
    return pytest.mark.parametrize("number", [*range(few), *long])


def quietly(call, *more: type[Exception]):
    """What a call returns, or the error that it documents."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except (*REFUSED, *more) as error:
            return error


def finite(channels) -> bool:
    names = ("vectors", "objective", "kurtosis", "skewness", "cosine", "gradient_norm", "top_z")
    return all(getattr(channels, name).isfinite().all() for name in names)


# --- Random decompositions ----------------------------------------------------------------------


def random_problem(choose: random.Random) -> tuple[torch.Tensor, Vocabulary, dict]:
    """Weights of any shape, scale and precision; settings within what they may be."""
    generator = torch.Generator().manual_seed(choose.randrange(2**31))
    d_model, d_vocab = choose.choice([1, 2, 3, 8, 33]), choose.choice([2, 3, 9, 60, 500])
    dtype = choose.choice([torch.float64, torch.float32, torch.bfloat16, torch.float16])
    w = torch.randn(choose.choice([1, 2, 5]), d_model, generator=generator, dtype=torch.float64)
    u = torch.randn(d_model, d_vocab, generator=generator, dtype=torch.float64)
    if choose.random() < 0.3:  # heavy tails
        u *= torch.randn(d_vocab, generator=generator, dtype=torch.float64).exp() ** 2
    if choose.random() < 0.2:  # columns that are alike
        u = u[:, torch.randint(max(1, d_vocab // 3), (d_vocab,), generator=generator)]
    if choose.random() < 0.2:  # of lower rank
        u[0] = 0
    scales = 10.0 ** torch.tensor([choose.choice([-30, -8, 0, 0, 0, 8, 30]) for _ in range(2)])
    if dtype == torch.float16:
        scales.fill_(1)
    m = torch.rand(d_vocab, generator=generator) if choose.random() < 0.3 else None
    options = {
        "n_channels": choose.choice([1, 2, 4]),
        "seed": choose.randrange(-5, 2**40),
        "moments": choose.choice(["weighted", "scaled"]),
        "threshold": choose.choice([0.5, 2.0, 4.0]),
        "lambda_kurtosis": choose.choice([0.0, 0.3, 3.0, 100.0]),
        "lambda_fidelity": choose.choice([0.0, 1.0, 10.0]),
        "start": choose.choice(["tails", "weight", "reflection"]),
        "restarts": choose.choice([1, 1, 3]),
        "deflation": choose.choice(["mask", "mask", "subtract", "subtract-grid"]),
        "precondition": choose.random() < 0.8,
        "raise_masked": choose.random() < 0.2,
        "max_iter": choose.choice([1, 20, 60]),
        "solver": choose.choice(["geodesic"] * 4 + ["householder"]),
    }
    return (w * scales[0]).to(dtype), Vocabulary((u * scales[1]).to(dtype), m), options


@numbered(40, 300)
def test_random_decompositions(number: int) -> None:
    w, vocabulary, options = random_problem(random.Random(number))
    channels = quietly(lambda: decompose(w, vocabulary, progress=False, **options))
    if isinstance(channels, Exception):
        assert isinstance(channels, ValueError)
        assert "\n" not in str(channels)
        return
    assert finite(channels)
    assert (channels.cosine.abs() <= 1 + 1e-6).all()
    assert len(channels.table()) == len(w) * options["n_channels"]
    norms = w.double().norm(dim=1, keepdim=True).expand(-1, options["n_channels"])
    if options["deflation"] == "mask":
        seen = channels.vectors.double().norm(dim=-1)
        torch.testing.assert_close(seen, norms, rtol=1e-3, atol=0)
    null = quietly(lambda: matched_vectors(w, 6))
    if isinstance(null, torch.Tensor):
        null = quietly(lambda: decompose(null, vocabulary, progress=False, **options))
    if not isinstance(null, Exception):
        with_p = quietly(lambda: calibrate(channels, null))
        assert isinstance(with_p, ValueError) or (
            with_p.p_value.isfinite().all() and with_p.q_value.isfinite().all()
        )


# --- Odd calls ----------------------------------------------------------------------------------


@numbered(60, 240)
def test_odd_calls(number: int) -> None:
    """One or two arguments of a good call are of the wrong type, or far out of range."""
    choose = random.Random(number)
    generator = torch.Generator().manual_seed(0)
    w, u = torch.randn(2, 4, generator=generator), torch.randn(4, 50, generator=generator)
    good = {"neurons": w, "vocabulary": Vocabulary(u), "n_channels": 2, "settings": None, "seed": 0}
    good |= {"device": None, "memory": None, "history": False, "after": None, "max_iter": 20}
    good |= {name: getattr(Settings(), name) for name in ("threshold", "restarts", *_CHOICES)}
    parts = {
        "projection": u, "token_weights": torch.ones(50), "tokens": list(map(str, range(50)))
    }  # fmt: skip
    for _ in range(choose.choice([1, 1, 2])):
        name = choose.choice([*good, *parts])
        (parts if name in parts else good)[name] = choose.choice(ODD)
    if number % 3 == 0:
        good["vocabulary"] = THREE(**parts)
    result = quietly(lambda: decompose(**good, progress=False))
    assert isinstance(result, REFUSED) or finite(result)


@numbered(60, 260)
def test_odd_questions(number: int, checkpoints) -> None:
    """The same for what comes before and behind a decomposition."""
    choose = random.Random(number)
    odd, other = choose.choice(ODD), choose.choice(ODD)
    model = load_model(checkpoints("llama"))
    channels = decompose(
        model.neurons(0, "in", [1, 2]), model.vocabulary(0), n_channels=1, progress=False
    )
    questions = {
        "model": lambda: load_model(odd),
        "cache": lambda: load_model(checkpoints("llama"), cache=odd),
        "layer": lambda: model.neurons(odd, "in"),
        "kind": lambda: model.neurons(0, odd),
        "indices": lambda: model.neurons(0, "in", odd),
        "side": lambda: model.vocabulary(0, side=odd),
        "layer of U": lambda: model.vocabulary(odd),
        "neuron": lambda: channels.top_tokens(odd, other),
        "k": lambda: channels.top_tokens(0, 0, odd),
        "rows": lambda: channels.table(odd),
        "device": lambda: usable_device(odd),
        "drawn": lambda: matched_vectors(torch.ones(3, 4), odd),
        "rotations": lambda: matched_rotations(channels, odd),
        "statistic": lambda: calibrate(channels, channels, statistic=odd),
        "projection": lambda: Vocabulary(odd),
        "weights": lambda: Vocabulary(torch.ones(2, 4), odd),
        "tokens": lambda: Vocabulary(torch.ones(2, 4), None, odd),
    }
    quietly(questions[choose.choice([*questions])], IndexError)


# --- Damaged files ------------------------------------------------------------------------------

SAFE = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


def place(value, choose: random.Random, path=()):
    """A place in a JSON value: each level's entries are as likely."""
    if not value or not isinstance(value, dict | list) or (path and choose.random() < 0.4):
        return path
    key = choose.choice([*value] if isinstance(value, dict) else range(len(value)))
    return place(value[key], choose, (*path, key))


def damage(file: Path, choose: random.Random) -> str:
    """Damage one file, and say how."""
    whole = file.read_bytes()
    how = choose.choice(
        ["value"] * 8 * (file.suffix == ".json")
        + ["cut", "bits", "noise", "empty", "nested", "fifo", "loop", "folder"]
    )
    if how == "value":
        content = json.loads(whole)
        path = place(content, choose)
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        wrong = [None, True, -1, 0, 10**9, 10**30, 1.5, "", "x", "\x1b[31m", [], [1], {}, {"a": []}]
        inner[path[-1]] = choose.choice(wrong)
        file.write_text(json.dumps(content))
        return f"{path} = {inner[path[-1]]!r}"
    if how == "bits":
        spoiled = bytearray(whole)
        for _ in range(3):
            spoiled[choose.randrange(min(len(whole), 3000))] ^= 1 << choose.randrange(8)
        file.write_bytes(spoiled)
    elif how == "nested":
        file.write_bytes(b'{"model_type": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    elif how in ("fifo", "loop", "folder"):
        file.unlink()
        make = {"fifo": os.mkfifo, "loop": lambda path: path.symlink_to(path), "folder": os.mkdir}
        make[how](file)
    else:
        new = {"cut": whole[: choose.randrange(len(whole))], "noise": choose.randbytes(500)}
        file.write_bytes(new.get(how, b""))
    return how


def read_all(directory: Path) -> None:
    model = load_model(directory)
    assert repr(model)
    assert model._repr_html_()
    assert len(model.checksum) == 64
    for fold in (False, True):
        neurons = model.neurons(model.n_layers - 1, model.kinds[0], [0, 1], fold_norm=fold)
        vocabulary = model.vocabulary(0, fold_norm=fold)
    channels = decompose(neurons, vocabulary, n_channels=1, max_iter=3, progress=False)
    assert finite(channels)
    assert repr(channels).isprintable() or "\x1b" not in repr(channels)


@numbered(40, 300)
def test_damaged_files(number: int, checkpoints, tmp_path) -> None:
    choose = random.Random(number)
    family = choose.choice(["llama", "gemma3_text", "gpt2", "phi3"])
    directory = shutil.copytree(checkpoints(family), tmp_path / "model")
    file = directory / choose.choice(SAFE)
    how = damage(file, choose)
    error = quietly(lambda: read_all(directory))
    if error is not None:
        assert isinstance(error, ValueError | OSError), (file.name, how, repr(error))
        assert "\n" not in str(error).strip(), (file.name, how)
        assert "\x1b" not in str(error), (file.name, how)
        assert str(directory) in str(error) or file.name in str(error), (file.name, how, error)
