"""Fits of a stream: known truth, and a run that was cut off."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch
from planted import matched_subspaces, planted
from torch import Tensor

from rotate_core.dictionaries import mfa, mfa_stream
from rotate_core.verdicts.agreement import adjusted_rand_index

OPTIONS = {"rank": 3, "progress": False, "start_tokens": 100}


def batches(x: Tensor, n_passes: int = 3) -> Iterator[Tensor]:
    return chain.from_iterable(repeat(x.split(200), n_passes))


@pytest.mark.parametrize("options", [{}, {"top": 3}, {"noise": "own"}])
def test_planted_regions_are_found_in_a_stream(options) -> None:
    x, member, truth = planted(1, n=2000)
    regions = mfa_stream(batches(x), 6, history=True, **OPTIONS, **options)
    assert adjusted_rand_index(member, regions.responsibilities(x).argmax(1)) > 0.9
    assert matched_subspaces(truth.loadings, regions.loadings).min() > 0.9
    whole = mfa(x, 6, **OPTIONS, **options)
    assert float((regions.log_prob(x) - whole.log_prob(x)).mean().abs()) < 0.3
    assert regions.n_iter == 30
    assert len(regions.history) == 27  # three are the start


class Killed(Exception):
    pass


@pytest.mark.parametrize("restart", ["iterable", "function"])
def test_a_killed_run_goes_on_to_the_same_regions(tmp_path: Path, restart: str) -> None:
    x = planted(n=2000).x
    asked: list[int] = []

    def cut_off() -> Iterator[Tensor]:
        for i, batch in enumerate(batches(x)):
            if i == 17:
                raise Killed
            yield batch

    def from_batch(first: int) -> list[Tensor]:
        asked.append(first)
        return list(batches(x))[first:]

    whole = mfa_stream(batches(x), 6, **OPTIONS)
    with pytest.raises(Killed):
        mfa_stream(cut_off(), 6, folder=tmp_path, every=5, **OPTIONS)
    source = batches(x) if restart == "iterable" else from_batch
    again = mfa_stream(source, 6, folder=tmp_path, every=5, **OPTIONS)
    assert torch.equal(whole.loadings, again.loadings)
    assert again.n_iter == whole.n_iter
    assert asked in ([], [15])

    with pytest.raises(ValueError, match=r"state\.safetensors is of a run with .*'seed': 0"):
        mfa_stream(batches(x), 6, folder=tmp_path, seed=1, **OPTIONS)
    file = tmp_path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged"):
        mfa_stream(batches(x), 6, folder=tmp_path, **OPTIONS)


def test_what_a_stream_refuses() -> None:
    x = planted(n=600).x
    with pytest.raises(ValueError, match="the stream is empty"):
        mfa_stream([], 6, **OPTIONS)
    with pytest.raises(ValueError, match="fitted by em"):
        mfa_stream([x], 6, solver="gradient", **OPTIONS)
    bad = x.clone()
    bad[550] = torch.nan
    with pytest.raises(ValueError, match="1 of 200 tokens are not finite"):
        mfa_stream(bad.split(200), 2, **OPTIONS)
    x[5] *= 1e4
    assert mfa_stream(x.split(200), 3, **OPTIONS).n_outliers == 1
