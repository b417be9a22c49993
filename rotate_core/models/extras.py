"""Packages that the base install lacks, imported where they are needed; transformers above all."""

from importlib import import_module
from typing import Any


def import_extra(name: str, what: str) -> Any:
    """A module of the extra "notebooks"; where it is missing, the error says what needs it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{what} needs {error.name}: pip install "rotate-core[notebooks]"', name=error.name
        ) from error


def pretrained(loader: str, what: str, **options: Any) -> Any:
    """What one of transformers' ``Auto`` classes loads. Code that a checkpoint brings never runs.

    Raises:
        ValueError: transformers cannot load it: in the first line of its own words.
        ModuleNotFoundError: it is not installed.
    """
    auto = getattr(import_extra("transformers", what), loader)
    try:
        return auto.from_pretrained(trust_remote_code=False, **options)
    except (MemoryError, ImportError, ConnectionError):
        raise
    except Exception as error:  # a damaged file comes out as any type
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{what}: transformers cannot load it ({said})") from error
