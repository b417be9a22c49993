"""Files of a model on the hub, fetched one by one as they are needed, through huggingface_hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class HubFiles:
    """Finds the files of a repository at one commit; what the hub's cache has is not fetched."""

    repository: str
    """ "organisation/name"."""
    commit: str
    """40 hexadecimal digits."""
    directory: Path
    """The commit's directory in the hub's cache."""

    @classmethod
    def at_head(cls, repository: str) -> HubFiles:
        """The files at the newest commit, or offline at the newest that the cache has.

        Raises:
            ValueError: there is no such repository.
            FileNotFoundError: it has no config.json.
            PermissionError: it is gated.
            ConnectionError: the hub cannot be reached, and the cache does not have it.
        """
        config = _fetch(repository, "config.json", None)
        return cls(repository, config.parent.name, config.parent)

    def __call__(self, name: str) -> Path:
        """A file's path on this machine; raises like `at_head`."""
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.repository, name, revision=self.commit)
        if isinstance(cached, str):
            return Path(cached)
        if cached is not None:  # the cache knows that there is none
            raise FileNotFoundError(_missing(self.repository, name))
        return _fetch(self.repository, name, self.commit)


def _fetch(repository: str, name: str, commit: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(repository, name, revision=commit))
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
        raise FileNotFoundError(_missing(repository, name)) from error


def _missing(repository: str, name: str) -> str:
    if name == WEIGHTS:
        return (
            f"{repository} has neither {WEIGHTS} nor its index; weights in other formats, such as "
            "pickles (.bin), are not read, as opening them can run code"
        )
    return f"{repository} has no {name}"


def _said(error: Exception) -> str:
    """The hub's own message: the last line is the reason, those before are about the request."""
    message = getattr(error, "server_message", None) or str(error).strip().splitlines()[-1]
    return message.rstrip(".") + "."
