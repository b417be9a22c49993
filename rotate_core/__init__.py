"""Take MLP neurons of language models apart into vocabulary channels, from their weights alone.

    from rotate_core import load_model, decompose
    model = load_model("smollm2-135m")
    neurons = model.neurons(layer=25, kind="out", indices=[460, 37])
    channels = decompose(neurons, model.vocabulary(layer=25), n_channels=5)
    channels.top_tokens(neuron=0, channel=0)

After Avrahamy, Gur-Arieh and Geva (arXiv:2604.06005).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rotate_core.atlas import Atlas
    from rotate_core.channels import Channels
    from rotate_core.decomposition import ConvergenceWarning, decompose
    from rotate_core.explorer import Explorer
    from rotate_core.models import Model, Neurons, Vocabulary, load_model
    from rotate_core.null import calibrate, label, matched_rotations, matched_vectors
    from rotate_core.rotation.settings import PAPER, Settings
    from rotate_core.text.edit import ablate, save_ablated
    from rotate_core.text.steering import steer

__version__ = "0.1.0"
__all__ = [
    "PAPER",
    "Atlas",
    "Channels",
    "ConvergenceWarning",
    "Explorer",
    "Model",
    "Neurons",
    "Settings",
    "Vocabulary",
    "ablate",
    "calibrate",
    "decompose",
    "label",
    "load_model",
    "matched_rotations",
    "matched_vectors",
    "save_ablated",
    "steer",
]

# Imported where they are asked for: torch takes over a second, and `rotate --help` needs none.
_ROOMS = {
    "rotate_core.atlas": ("Atlas",),
    "rotate_core.channels": ("Channels",),
    "rotate_core.decomposition": ("ConvergenceWarning", "decompose"),
    "rotate_core.explorer": ("Explorer",),
    "rotate_core.models": ("Model", "Neurons", "Vocabulary", "load_model"),
    "rotate_core.null": ("calibrate", "label", "matched_rotations", "matched_vectors"),
    "rotate_core.rotation.settings": ("PAPER", "Settings"),
    "rotate_core.text.edit": ("ablate", "save_ablated"),
    "rotate_core.text.steering": ("steer",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _ROOM_OF:
        return getattr(import_module(_ROOM_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
