"""One chapter of the book: its parameters, what it works on, its prose with figures, its record."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rotate_core.atlas import Atlas
from rotate_core.models import Model, load_model
from rotate_core.rotation.settings import Settings
from rotate_core.text import Activations, activations
from rotate_core.text.corpus import (
    Document,
    Windows,
    read_documents,
    split_documents,
    windows,
)
from rotate_core.verdicts.page import neuron_html, table_html
from rotate_core.verdicts.record import write_results
from rotate_core.verdicts.recorded import folder_of

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.verdicts.rules import Outcome

IMPORTED = time.perf_counter()
"""A chapter's clock begins where it imports this module."""
LITERALS = (bool, int, float, str, list, dict, type(None))
ELSEWHERE = ("model", "run", "device")
"""Parameters that a record leaves out: it has the model's checksum and the hardware instead."""
GLUED = "application/papermill.record/"
"""In front of the media type of what a cell's outputs keep for captions."""
VALUE = re.compile(r"(?<![\w\\^_}`])\{(\w+)(?::([^{}`]+))?\}(?!`)")
"""``{name}`` or ``{name:format}`` in prose; neither a role such as ``{ref}`...` `` nor LaTeX's."""
AT_A_WORD = re.compile(r"(?<!\\)\b[A-Za-z]+\{(\w+)(?::[^{}`]+)?\}")
"""What would be one, but stands at the end of a word as arguments of LaTeX's commands do."""


def placed(path: str | Path) -> Path:
    """Where a path of the parameters leads: they are written for a kernel in notebooks/.

    Anywhere else, as where papermill was started, or on Colab, ``..`` is the current folder.
    """
    path = Path(path)
    if path.parts[:1] == ("..",) and Path.cwd().name != "notebooks":
        return Path(*path.parts[1:])
    return path


class Chapter:
    """A chapter's parameters, its model, atlas and text, its prose with figures, and its record.

    Args:
        name: of the notebook, NN_claim.
        namespace: ``globals()`` of the notebook, straight behind its parameters cell.
        results: the folder of MODEL/RUN/NN_claim.json; see :func:`placed`.

    Raises:
        ValueError: the parameters are gone, because the notebook has given their names to others.
    """

    def __init__(
        self, name: str, namespace: Mapping[str, Any], *, results: str | Path = "../results"
    ) -> None:
        self.name = name
        self._all: dict[str, Any] = {
            key: value
            for key, value in namespace.items()
            if key.islower() and not key.startswith("_") and isinstance(value, LITERALS)
        }
        if not isinstance(self._all.get("model"), str):
            raise ValueError(
                f"model is {namespace.get('model')!r}: wanted its name; run the parameters cell "
                "again, and this one behind it"
            )
        model, run = (self._all.get(name, "default") for name in ("model", "run"))
        self.results = placed(results) / folder_of(model) / run
        self._values: dict[str, Any] = {}
        self._splits: dict[str, dict[str, list[Document]]] = {}
        self._windows: dict[tuple[str, str], Windows] = {}

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters cell, for the record."""
        return {name: value for name, value in self._all.items() if name not in ELSEWHERE}

    @cached_property
    def model(self) -> Model:
        """The model that the parameters name."""
        return load_model(self._all["model"])

    @property
    def atlas_folder(self) -> Path:
        """Where the run's channels are kept."""
        return self.results / "atlas"

    def atlas(
        self, kinds: Sequence[str] | None = None, *, layers: Sequence[int] | None = None
    ) -> Atlas:
        """The run's atlas: gone on with, where neurons or kinds are missing.

        Args:
            kinds: None for all of the model's.
            layers: None for the parameter ``layers``.
        """
        p = self._all
        return Atlas.build(
            self.atlas_folder, self.model, layers=layers or p["layers"], kinds=kinds,
            neurons=p["atlas_neurons"], n_channels=p["atlas_channels"], null=p["atlas_null"],
            settings=Settings(threshold=p["threshold"]), exceptions=p["exceptions"],
            seed=p["seed"], device=p["device"],
        )  # fmt: skip

    def windows(
        self, split: str, *, n_tokens: int | None = None, source: str | None = None
    ) -> Windows:
        """Windows of one split of the parameters' text.

        Args:
            split: "train", "validation" or "test".
            n_tokens: at most so many; None for all.
            source: another text than the parameter ``text``.
        """
        source = source or self._all["text"]
        if source not in self._splits:
            documents = read_documents(source)
            self._splits[source] = split_documents(documents, seed=self._all["seed"])
        if (source, split) not in self._windows:  # all of them: cutting takes a second
            self._windows[source, split] = windows(
                self._splits[source][split],
                self.model.tokenizer,
                length=self._all["window"],
                source=f"{source}, {split}",
            )
        cut = self._windows[source, split]
        return cut if n_tokens is None else cut.first(n_tokens)

    def activations(
        self,
        layers: Sequence[int],
        site: str,
        *,
        split: str = "train",
        n_tokens: int | None = None,
        source: str | None = None,
    ) -> dict[int, Activations]:
        """Activations of the model on the parameters' text; kept beside the results, for others.

        Args:
            layers: from 0.
            site: one of :data:`rotate_core.text.SITES`.
            split: as for :meth:`windows`.
            n_tokens: as for :meth:`windows`.
            source: as for :meth:`windows`.
        """
        return activations(
            self.model,
            self.windows(split, n_tokens=n_tokens, source=source),
            layers=layers,
            site=site,
            device=self._all.get("device"),
            cache=self.results / "activations",
        )

    def benchmark(self, name: str) -> dict[str, Any]:
        """What ``make bench`` wrote to benchmarks/NAME.json; {} and a line about it without it.

        A clone of the repository has these files, the installed package has not.
        """
        file = placed(f"../benchmarks/{name}.json")
        if file.is_file():
            measured: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return measured
        self.say(f"`{file.as_posix()}` is not here: what it has measured is left out.")
        return {}

    # --- Telling --------------------------------------------------------------------------------

    def glue(self, **values: Any) -> None:
        """Keep values for captions, ``{glue:text}`name` ``, and for :meth:`say`.

        They are displayed as ``myst_nb.glue`` displays them, under a media type that nothing shows.
        Its own import takes a second and a half.
        """
        from IPython.core.formatters import format_display_data
        from IPython.display import display

        self._values |= values
        for name, value in values.items():
            data, metadata = format_display_data(value)
            display(
                {GLUED + kind: content for kind, content in data.items()},
                metadata=metadata | {"scrapbook": {"name": name, "mime_prefix": GLUED}},
                raw=True,
            )

    def say(self, prose: str, **values: Any) -> None:
        """Show Markdown with values in it: ``{name}`` or ``{name:.2f}``, here or glued before.

        In Jupyter it reads as it does in the book, once the cell has run.

        Raises:
            KeyError: a name without a value.
            ValueError: a value's name at the end of a word, as LaTeX's arguments are.
        """
        from IPython.display import Markdown, display

        known = self._values | values
        filled = VALUE.sub(lambda m: format(known[m[1]], m[2] or ""), prose.strip())
        if glued := [name for name in AT_A_WORD.findall(filled) if name in values]:
            raise ValueError(f"{{{glued[0]}}} stands at the end of a word: not filled in")
        display(Markdown(filled))

    def table(self, table: pd.DataFrame, name: str, *, folded: bool = False) -> None:
        """Show a table with a link to its CSV; see :func:`.page.table_html`.

        Args:
            table: may have an `Estimate` in a cell.
            name: of the CSV, behind the chapter's number.
            folded: whatever its length, because a figure shows it.
        """
        from IPython.display import HTML, display

        display(HTML(table_html(table, f"{self.name[:2]}_{name}", folded=folded)))

    def neuron(self, layer: int, kind: str, neuron: int) -> str:
        """A neuron's chip for :meth:`say`, from the atlas; see :func:`.page.neuron_html`.

        In the notebook: ``chapter.say("... {example} ...", example=chapter.neuron(29, "out", 7))``.
        """
        atlas = Atlas.open(self.atlas_folder, model=self.model)
        return neuron_html(atlas.channels(layer=layer, kind=kind, neuron=neuron))

    def write(
        self, metrics: Mapping[str, Any], claims: Mapping[str, Outcome] | None = None
    ) -> None:
        """Write NN_claim.json into the run's folder; see :func:`.record.write_results`."""
        write_results(
            self.name,
            metrics=metrics,
            parameters=self.parameters,
            model=self.model,
            claims=claims,
            seconds=time.perf_counter() - IMPORTED,
            folder=self.results,
        )
