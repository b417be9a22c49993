"""A model at work on text: what it reads, what neurons do there, without a channel, or steered."""

from rotate_core.text.collected import activations, at_sites, stream
from rotate_core.text.labelled import Activations
from rotate_core.text.sites import SITES
from rotate_core.text.steering import added, pulled, steer

__all__ = [
    "SITES",
    "Activations",
    "activations",
    "added",
    "at_sites",
    "pulled",
    "steer",
    "stream",
]
