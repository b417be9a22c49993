"""What is written on the command line, as values."""

from __future__ import annotations

import re
from pathlib import Path

import typer


def parse_numbers(text: str) -> tuple[int, ...] | None:
    """Numbers out of "0,15,20-29"; None out of "all"."""
    from rotate_core.atlas.manifest import parse_indices

    try:
        return None if text == "all" else parse_indices(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_neurons(text: str) -> int | tuple[int, ...] | None:
    """How many to draw out of "25"; numbers out of "0-99", "3,7", "@FILE"; None out of "all"."""
    if text.isdecimal():
        return int(text)
    if text.startswith("@"):
        try:
            if Path(text[1:]).exists() and not Path(text[1:]).is_file():
                raise OSError("it is no file")
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise typer.BadParameter(f"{text}: {error}") from None
    return parse_numbers(text)


def parse_neuron(text: str) -> tuple[int, str, int]:
    """Layer, kind and number out of "29/out/880"."""
    match = re.fullmatch(r"(\d+)/(gate|in|out)/(\d+)", text)
    if not match:
        raise typer.BadParameter(f"{text!r}: wanted LAYER/KIND/NUMBER, such as 29/out/880")
    return int(match[1]), match[2], int(match[3])


def parse_bytes(text: str | None) -> float | None:
    """Bytes out of "500MB" or "2GB"."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text, re.IGNORECASE)
    if not match:
        raise typer.BadParameter(f"{text!r}: wanted such as 500MB or 2GB")
    return float(match[1]) * 1000.0 ** " KMGT".index(match[2].upper() or " ")


# --- Output and errors --------------------------------------------------------------------------
