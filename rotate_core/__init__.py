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

from rotate_core.channels import Channels
from rotate_core.decomposition import ConvergenceWarning, decompose
from rotate_core.models import Model, load_model
from rotate_core.models.neurons import Neurons
from rotate_core.models.vocabulary import Vocabulary
from rotate_core.null import calibrate, matched_rotations, matched_vectors
from rotate_core.rotation.settings import PAPER, Settings

if TYPE_CHECKING:
    from rotate_core.atlas import Atlas
    from rotate_core.explorer import Explorer
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
    "load_model",
    "matched_rotations",
    "matched_vectors",
    "save_ablated",
    "steer",
]

_ON_DEMAND = {
    "Atlas": "rotate_core.atlas",
    "Explorer": "rotate_core.explorer",  # ipywidgets is imported only where a widget is wanted
    "ablate": "rotate_core.text.edit",
    "save_ablated": "rotate_core.text.edit",
    "steer": "rotate_core.text.steering",
}


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return getattr(import_module(_ON_DEMAND[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
