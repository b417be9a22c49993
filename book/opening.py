"""The opening of the README: a picture of a real neuron, and four lines of what came out.

    make opening    # after "make book": from the model, and from results/

The figures of the four lines are kept in book/opening.json, and a test holds the README to them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from rotate_core.storage import write_whole
from rotate_core.verdicts.intervals import Estimate

ROOT = Path(__file__).parents[1]
README, KEPT = ROOT / "README.md", ROOT / "book/opening.json"
PICTURE = ROOT / "book/_static/neuron.svg"
NEURON = ("smollm2-135m", 29, "out", 880)
BEGIN, END = "<!-- begin: make opening -->", "<!-- end -->"
LINES = """\
- Of the first channels of {n_first} weight vectors {first:.0%} stand out from those of random
  vectors, of all {n_all} channels {all:.0%}. In {not_sharper} of {n_groups} layers and kinds the
  random vectors' median channel is the sharper one: sharpness is no evidence.
- What stands out is what the neuron reads in text: {read_beyond} standard deviations more than
  random vectors do. Of the others that comes to {read_others}.
- Conjugate gradients reach a mean objective of {ours:.2f} on {n_solved} neurons in
  {our_seconds:.1f} seconds; {steps:,} steps of the paper's solver reach {theirs:.2f} in
  {their_seconds:.0f} seconds.
- Of {n_claims} claims of the paper that were measured, these came out: {verdicts}.

All of it on {model}, in the book's *{profile}* profile; in brackets, intervals of 95%.
"""


def came_out(results: Path, profile: str) -> dict[str, Any]:
    """The figures of the four lines.

    Args:
        results: the folder that the chapters wrote their records to.
        profile: the name of the profile that they had.

    Raises:
        FileNotFoundError: a chapter has left none.
    """
    names = "02_solver", "04_null", "11_scoreboard"
    records = [json.loads((results / f"{name}.json").read_text("utf-8")) for name in names]
    solver, null, board = (record["metrics"] for record in records)
    groups = null["by_layer_and_kind"]
    verdicts = Counter(v for v in board["verdict"].values() if v != "not run")
    reads = {
        what: str(Estimate(**row["over matched vectors"])) for what, row in null["text"].items()
    }
    return {
        "n_first": sum(row["neurons"] for row in groups),
        "first": null["share_significant_first"],
        "all": null["share_significant"],
        "n_all": null["channels"],
        "not_sharper": sum(row["kurtosis"] < row["null_kurtosis"] for row in groups),
        "n_groups": len(groups),
        "read_beyond": reads["q < 0.1"],
        "read_others": reads["others"],
        "n_solved": records[0]["parameters"]["solver_neurons"],
        "ours": solver["our_objective"],
        "our_seconds": solver["our_seconds"],
        "steps": records[0]["parameters"]["solver_steps"],
        "theirs": solver["paper_objective"],
        "their_seconds": solver["paper_seconds"],
        "n_claims": verdicts.total(),
        "verdicts": ", ".join(f"{n} *{what}*" for what, n in verdicts.most_common()),
        "model": records[1]["model"]["name"],
        "profile": profile,
    }


def filled(readme: str, figures: dict[str, Any]) -> str:
    """The README with the lines between its two marks made of figures."""
    head, rest = readme.split(BEGIN)
    return f"{head}{BEGIN}\n{LINES.format(**figures)}{END}{rest.split(END)[1]}"


def draw(path: Path) -> None:
    """Draw the neuron's projection onto the vocabulary, and those of its first three channels."""
    import matplotlib

    from rotate_core import decompose, load_model
    from rotate_core.figures.channels import projection
    from rotate_core.figures.style import plt, use_style
    from rotate_core.rotation.tails import z_scores

    use_style()
    name, layer, kind, number = NEURON
    model = load_model(name)
    vocabulary, neurons = model.vocabulary(layer), model.neurons(layer, kind, [number])
    channels = decompose(neurons, vocabulary, n_channels=3, progress=False)
    vectors = [neurons.vectors[0], *channels.vectors[0]]
    titles = [f"layer {layer}, {kind}, neuron {number}: as it is"]
    titles += [f"channel {i}: cosine {c:.2f}" for i, c in enumerate(channels.cosine[0])]
    _, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True, sharey=True)
    for ax, vector, title in zip(axes.flat, vectors, titles, strict=True):
        z = z_scores(vector.unsqueeze(0), vocabulary.projection)[0]
        text = z * vocabulary.token_weights.sign()  # without tokens that are no text
        high = [vocabulary.tokens[i] for i in text.topk(7).indices]
        projection(z, ax, threshold=channels.settings.threshold, names=((), high), title=title)
        ax.label_outer()
    with matplotlib.rc_context({"svg.hashsalt": "rotate", "svg.fonttype": "none"}):
        plt.savefig(path, metadata={"Date": None})


def main(results: str, profile: str) -> None:
    """Draw the picture, and put the lines into the README; from a run's folder of results."""
    draw(PICTURE)
    figures = came_out(Path(results), profile)
    write_whole(KEPT, (json.dumps(figures, indent=1) + "\n").encode())
    write_whole(README, filled(README.read_text("utf-8"), figures).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
