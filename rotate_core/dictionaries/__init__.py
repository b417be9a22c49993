"""Directions learned from activations: regions (MFA), factors (SNMF), latents (SAE)."""

from rotate_core.dictionaries.factors import Factors
from rotate_core.dictionaries.hierarchy import Hierarchy, hierarchy
from rotate_core.dictionaries.mfa import mfa
from rotate_core.dictionaries.regions import Regions
from rotate_core.dictionaries.sae import SAE
from rotate_core.dictionaries.settings import (
    PAPER_FACTORS,
    PAPER_REGIONS,
    FactorSettings,
    RegionSettings,
    SAESettings,
)
from rotate_core.dictionaries.snmf import snmf
from rotate_core.dictionaries.snmf_stream import snmf_stream
from rotate_core.dictionaries.stability import stability
from rotate_core.dictionaries.stream import mfa_stream
from rotate_core.dictionaries.topk_sae import topk_sae

__all__ = [
    "PAPER_FACTORS",
    "PAPER_REGIONS",
    "SAE",
    "FactorSettings",
    "Factors",
    "Hierarchy",
    "RegionSettings",
    "Regions",
    "SAESettings",
    "hierarchy",
    "mfa",
    "mfa_stream",
    "snmf",
    "snmf_stream",
    "stability",
    "topk_sae",
]
