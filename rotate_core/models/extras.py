"""Packages that the base install lacks, imported where they are needed."""

from importlib import import_module
from typing import Any


def import_extra(name: str, what: str) -> Any:
    """A module of the extra "notebooks"; where it is missing, the error says what needs it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{what} needs {error.name}: pip install "rotate_core[notebooks]"', name=error.name
        ) from error
