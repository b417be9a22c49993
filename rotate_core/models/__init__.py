"""Checkpoints as neurons and vocabularies."""

from rotate_core.models.model import Model, load_model

__all__ = ["Model", "load_model"]
