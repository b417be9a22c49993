"""Directions learned from activations: mixtures of factor analyzers."""

from rotate_core.dictionaries.mfa import mfa
from rotate_core.dictionaries.regions import Regions
from rotate_core.dictionaries.settings import PAPER_REGIONS, RegionSettings
from rotate_core.dictionaries.stream import mfa_stream

__all__ = ["PAPER_REGIONS", "RegionSettings", "Regions", "mfa", "mfa_stream"]
