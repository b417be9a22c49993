"""Attention heads: why a token attends to another, in directions that have a name.

from rotate_core.heads import contrastive, read_heads
q, k = read_heads(model, layer=16, head=3, tokens=windows)
part = contrastive(queries, positive_keys, negative_keys)
part.attribute(q, k)
"""

from rotate_core.heads.contrast import Subspace, attribute, contrastive
from rotate_core.heads.pulled_back import pull_back, random_directions
from rotate_core.heads.reading import QueriesKeys, read_all_heads, read_heads
from rotate_core.heads.swapping import Swapped, random_subspaces, swap

__all__ = [
    "QueriesKeys",
    "Subspace",
    "Swapped",
    "attribute",
    "contrastive",
    "pull_back",
    "random_directions",
    "random_subspaces",
    "read_all_heads",
    "read_heads",
    "swap",
]
