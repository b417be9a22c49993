"""Take MLP neurons of language models apart into vocabulary channels, from their weights alone.

    from rotate_core import load_model, decompose
    model = load_model("smollm2-135m")
    neurons = model.neurons(layer=25, kind="out", indices=[460, 37])
    channels = decompose(neurons, model.vocabulary(layer=25), n_channels=5)
    channels.top_tokens(neuron=0, channel=0)

After Avrahamy, Gur-Arieh and Geva (arXiv:2604.06005).
"""

from typing import TYPE_CHECKING, Any

from rotate_core.channels import Channels
from rotate_core.decomposition import ConvergenceWarning, decompose
from rotate_core.models import Model, load_model
from rotate_core.neurons import Neurons
from rotate_core.settings import PAPER, Settings
from rotate_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from rotate_core.atlas import Atlas
    from rotate_core.explorer import Explorer

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
    "decompose",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name == "Atlas":
        from rotate_core.atlas import Atlas

        return Atlas
    if name == "Explorer":  # ipywidgets is imported only where a widget is wanted
        from rotate_core.explorer import Explorer

        return Explorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
