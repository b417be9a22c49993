"""Checkpoints as neurons and vocabularies."""

from rotate_core.models.architectures import ARCHITECTURES, KINDS
from rotate_core.models.model import SIDES, Model, load_model
from rotate_core.models.neurons import Neurons
from rotate_core.models.tokens import visible
from rotate_core.models.vocabulary import Vocabulary, norm_token_weights

__all__ = [
    "ARCHITECTURES", "KINDS", "SIDES", "Model", "Neurons", "Vocabulary", "load_model",
    "norm_token_weights", "visible",
]  # fmt: skip
