"""Files of a model on the hub, fetched one by one as they are needed, through huggingface_hub."""

from __future__ import annotations

from pathlib import Path

from rotate_core.models.checkpoint import SINGLE_FILE


def hub_file(name: str, repository: str, commit: str | None = None) -> Path:
    """A file of a repository: its path in the hub's cache, in a folder named by the commit.

    A commit of None is the newest one, or offline the newest that the cache has.

    Raises what :func:`rotate_core.load_model` says, and FileNotFoundError for a missing file.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        cached = try_to_load_from_cache(repository, name, revision=commit) if commit else None
        if cached and not isinstance(cached, str):  # the cache knows that there is none
            raise EntryNotFoundError(name)
        return Path(cached or hf_hub_download(repository, name, revision=commit))
    except GatedRepoError as error:
        raise PermissionError(
            f"{repository} is gated, and the hub says: {_said(error)} Ask for access on the "
            "model's page, log in with 'hf auth login', and try again"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"there is no directory {repository!r} here and no such model on the hub, or it is "
            f"private (then 'hf auth login' helps). The hub says: {_said(error)}"
        ) from error
    except LocalEntryNotFoundError as error:  # before EntryNotFoundError, which it is one of
        raise ConnectionError(
            f"there is no directory {repository!r} here, and {name} of the hub's {repository} is "
            "neither in the hub's cache nor to be reached; check the network, and that "
            "HF_HUB_OFFLINE is not set"
        ) from error
    except EntryNotFoundError as error:
        if name != SINGLE_FILE:
            raise FileNotFoundError(f"{repository} has no {name}") from error
        raise FileNotFoundError(
            f"{repository} has neither {name} nor its index; weights in other formats, such as "
            "pickles (.bin), are not read, as opening them can run code"
        ) from error


def _said(error: Exception) -> str:
    """The hub's own message: the last line is the reason, those before are about the request."""
    message = getattr(error, "server_message", None) or str(error).strip().splitlines()[-1]
    return message.rstrip(".") + "."
