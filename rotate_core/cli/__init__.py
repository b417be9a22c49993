"""The command ``rotate``: a file for each group of its commands."""

from rotate_core.cli import build  # isort: skip  (the help lists commands in this order)
from rotate_core.cli import atlas, diff, directions, fetch, neuron, record
from rotate_core.cli.common import app

__all__ = ["app", "atlas", "build", "diff", "directions", "fetch", "neuron", "record"]
