"""Many neurons' channels in a folder: computed once, read and searched."""

from rotate_core.atlas.atlas import Atlas

__all__ = ["Atlas"]
