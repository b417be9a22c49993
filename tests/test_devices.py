"""Every computation on a device that is not the CPU: a stand-in for one here, "cuda" by hand."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from second_device import CARD, SecondDevice

from rotate_core import ConvergenceWarning, Settings, Vocabulary, decompose, load_model
from rotate_core import decomposition as decomposition_module
from rotate_core.atlas import Atlas
from rotate_core.atlas import build as building
from rotate_core.decomposition import usable_device
from rotate_core.dictionaries import snmf, snmf_stream, topk_sae
from rotate_core.experiments.descriptions.weights import from_projection, from_rotations
from rotate_core.experiments.kurtosis import kurtosis_of
from rotate_core.experiments.kurtosis_concepts import coherence_ranks, token_npmi
from rotate_core.experiments.null_power import planted_statistics
from rotate_core.null import calibrate, label, matched_vectors
from rotate_core.null.tails import tail_signs
from rotate_core.rotation import reflection

GENERATOR = torch.Generator().manual_seed(0)
U = torch.randn(300, 16, generator=GENERATOR).T
W = torch.randn(5, 16, generator=GENERATOR)
CARDS = [(CARD, SecondDevice), pytest.param("cuda", nullcontext, marks=pytest.mark.gpu)]
on_a_card = pytest.mark.parametrize(("device", "there"), CARDS)
SETTINGS = (
    Settings(threshold=2.0, restarts=3, max_iter=12),
    Settings(threshold=2.0, moments="scaled", start="reflection", precondition=False),
    Settings(threshold=2.0, deflation="subtract"),
    Settings(threshold=2.0, precision="bfloat16", start="weight", tolerance=1e-7),
    Settings(threshold=2.0, deflation="subtract-grid"),
    Settings(solver="householder", moments="scaled", threshold=2.0, max_iter=120),
    Settings(solver="householder", threshold=2.0, max_iter=20, joint=True, n_reflections=2),
)


@pytest.fixture(autouse=True)
def known_card(monkeypatch) -> None:
    """The device that stands for a card is one that may be asked for."""
    known = (*decomposition_module.DEVICES, CARD.type)
    monkeypatch.setattr(decomposition_module, "DEVICES", known)


def test_the_stand_in_refuses_what_cuda_refuses() -> None:
    with SecondDevice():
        there = U.to(CARD)
        with pytest.raises(AssertionError, match="two devices"):
            _ = W @ there
        with pytest.raises(AssertionError, match="two devices"):
            _ = W[torch.arange(2, device=CARD)]
        assert torch.equal(there[:, torch.arange(2)].cpu(), U[:, :2])


@on_a_card
@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_channels_are_those_of_the_cpu_and_come_back_to_it(
    device, there, settings, monkeypatch
) -> None:
    monkeypatch.setattr(reflection, "STOP_FROM", 100)
    monkeypatch.setattr(reflection, "STOP_DEVIATION", 1.0)  # so that neurons leave the batch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        options = {"n_channels": 2, "settings": settings, "progress": False}
        wanted = decompose(W, Vocabulary(U), **options)
        with there():
            found = decompose(W, Vocabulary(U), device=device, history=True, **options)
            further = decompose(
                W, Vocabulary(U).to(device), after=found, **options | {"n_channels": 3}
            )
    assert torch.cosine_similarity(found.vectors, wanted.vectors, dim=-1).min() > 0.999
    torch.testing.assert_close(found.objective, wanted.objective, atol=1e-4, rtol=0)
    assert torch.equal(further.vectors[:, :2], found.vectors)
    of_channels = [x for x in vars(found).values() if isinstance(x, torch.Tensor)]
    assert {x.device.type for x in of_channels} == {"cpu"}


@on_a_card
def test_evidence_and_p_values_are_those_of_the_cpu(device, there) -> None:
    options = {"n_channels": 2, "threshold": 2.0, "progress": False}
    null = matched_vectors(torch.randn(30, 16, generator=torch.Generator().manual_seed(1)), 20)
    tables = []
    for where, context in (("cpu", nullcontext), (device, there)):
        with context():
            vocabulary = Vocabulary(U).to(where)
            both = [decompose(vectors, vocabulary, **options) for vectors in (W, null)]
            tables.append(calibrate(*both).table().select_dtypes("number"))
            assert tail_signs(both[0], 0).device.type == "cpu"
    assert (tables[0] - tables[1]).abs().max().max() < 1e-3


@on_a_card
def test_labels_are_those_of_the_cpu(device, there) -> None:
    here = label(W, Vocabulary(U), null=30)
    with there():
        found = label(W, Vocabulary(U.to(device)), null=30)
    assert torch.equal(found.top_ids, here.top_ids)
    torch.testing.assert_close(found.p_value, here.p_value)


@on_a_card
def test_what_experiments_ask_of_u_is_found_there_too(device, there) -> None:
    tokens = torch.randint(300, (90, 40), generator=torch.Generator().manual_seed(1))
    ids, npmi = token_npmi(tokens, least=2)

    def measured(vocabulary: Vocabulary) -> list[float]:
        channels = decompose(W, vocabulary, n_channels=2, threshold=2.0, progress=False)
        ranks = coherence_ranks(W, vocabulary.projection, ids, npmi, ks=[3])
        planted = planted_statistics(W, vocabulary, sizes=[10], strengths=[0.5])
        weights = [d.weights[-1] for d in from_projection(W, vocabulary) + from_rotations(channels)]
        figures = [*ranks.coherence, *planted["core"], *weights]
        return [*figures, *kurtosis_of(W, vocabulary.projection).tolist()]

    wanted = measured(Vocabulary(U))
    with there():
        found = measured(Vocabulary(U).to(device))
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-3)


@on_a_card
def test_an_atlas_is_built_there(device, there, checkpoints, tmp_path: Path) -> None:
    options = {"layers": [1], "kinds": ["out"], "neurons": 6, "n_channels": 2, "null": 6}
    model = load_model(checkpoints("llama"))
    atlases = []
    for where, context in (("cpu", nullcontext), (device, there)):
        with context():
            folder = tmp_path / str(where)
            atlases.append(Atlas.build(folder, model, device=where, progress=False, **options))
    columns = ["neuron", "channel", "kurtosis", "objective", "core", "p_value"]
    first, second = (atlas.table(columns) for atlas in atlases)
    assert (first - second).abs().max().max() < 1e-3


def gpus(monkeypatch, n: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)


def test_auto_is_a_gpu_where_there_is_one(monkeypatch) -> None:
    for n_gpus, wanted in ((0, "cpu"), (1, "cuda")):
        gpus(monkeypatch, n_gpus)
        assert usable_device("auto") == torch.device(wanted)


@pytest.mark.parametrize(
    ("n_gpus", "device", "message"),
    [
        (0, "cuda", "^device cuda: PyTorch .* sees 0 CUDA GPUs here; wanted cpu or auto$"),
        (2, "cuda:2", "^device cuda:2: .* sees 2 CUDA GPUs here; wanted cuda:0 to cuda:1$"),
        (1, "abacus", "^device abacus: wanted auto, cpu or cuda$"),
        (0, "mps", "^device mps: .*float64.*wanted cpu or cuda$"),
    ],
)
def test_a_device_that_is_not_usable_is_named(n_gpus, device, message, monkeypatch) -> None:
    gpus(monkeypatch, n_gpus)
    with pytest.raises(ValueError, match=message):
        decompose(W, Vocabulary(U), device=device, progress=False)


def test_what_pytorch_holds_without_use_counts_as_free(monkeypatch) -> None:
    for name, n_bytes in (
        ("mem_get_info", (10, 80)),
        ("memory_reserved", 30),
        ("memory_allocated", 5),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda device, n=n_bytes: n)
    assert decomposition_module._free_memory(torch.device("cuda")) == 35


def test_a_small_gpu_has_smaller_shards(checkpoints, monkeypatch) -> None:
    model = load_model(checkpoints("llama"))
    each = 12 * 4 * (model.d_vocab + model.d_model)
    for total, wanted in ((80e9, 1024), (20.5 * each + 8 * model.d_model * model.d_vocab, 10)):
        card = type("Card", (), {"total_memory": total})
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        assert building._shard_size(model, None, torch.device("cuda")) == wanted


@on_a_card
@pytest.mark.parametrize("options", [{}, {"scale_neurons": True}, {"share": 1.0}, {"start": "pca"}])
def test_factors_are_those_of_the_cpu(device, there, options) -> None:
    x = torch.rand(200, 30, generator=torch.Generator().manual_seed(0)).square()
    settings = {"share": 0.2, "n_moves": 1, "progress": False} | options
    alone = snmf(x, 4, **settings)
    with there():
        found = snmf(x, 4, device=device, **settings)
        streamed = snmf_stream(x.split(50), 4, device=device, start_tokens=20, **settings)
    assert torch.allclose(found.vectors, alone.vectors, atol=1e-3)
    assert {found.vectors.device.type, streamed.vectors.device.type} == {"cpu"}


@on_a_card
def test_an_autoencoder_is_that_of_the_cpu(device, there) -> None:
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    settings = {"n_active": 3, "passes": 3, "batch": 50, "progress": False}
    alone = topk_sae(x, 16, **settings)
    with there():
        found = topk_sae(x, 16, device=device, **settings)
        codes = found.encode(x.to(device)).to("cpu")
    assert torch.allclose(found.decoder, alone.decoder, atol=1e-4)
    assert torch.allclose(codes, alone.encode(x), atol=1e-3)
    assert found.encoder.device.type == "cpu"
