"""What runs are called: layers and heads in words, and the names of folders in results/."""

from pathlib import Path

from whichlayer.common import cli, disk
from whichlayer.encoder.poolings import POOLINGS
from whichlayer.heads.options import HEADS, Options

REPORTS_HEAD = HEADS["mlp"].words
# options that a table does not show as their name and value
SHOWN = {"standardize": "standardised", "reduction": "no reduction", "decide": "{}"}


def head_in_words(run):
    """The head of a run: its kind, pooling and unusual options."""
    head = HEADS[run.options.head]
    parts = []
    if head.words != REPORTS_HEAD:
        parts.append(head.words)
    if parts or run.poolings != [head.pooling]:
        parts.append(poolings_in_words(run.poolings))
    for name, value in run.options.unusual.items():
        if name in head.options:
            shown = SHOWN.get(name, name.replace("_", " ") + " {}")
            parts.append(shown.format(value))
    return ", ".join(parts) or REPORTS_HEAD


def poolings_in_words(poolings):
    """Poolings as a table names them."""
    if len(poolings) == 1:
        return POOLINGS[poolings[0]].words
    return cli.listing([POOLINGS[pooling].short for pooling in poolings])


def spell(layers):
    """Layers, top first, as text; many that follow one another as 12 to 1."""
    if len(layers) > 4 and layers == list(range(layers[0], layers[-1] - 1, -1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))


def layers_in_words(run, more):
    """The layers of a run in words, with what else is to be said in brackets."""
    noun = "layers" if len(run.layers) > 1 else "layer"
    return f"{noun} {spell(run.layers)} ({more})"


def run_name(run):
    """The name of a run's folder: encoder, data, layers, and what is not the default."""
    encoder = disk.slug(Path(run.encoder.name).name)
    parts = [encoder, disk.slug(run.data.name), "layers", *run.layers]
    if run.poolings != ["cls"]:
        parts.append("and".join(run.poolings))
    if run.options.head != Options.head:
        parts.append(run.options.head)
    for option, value in run.options.unusual.items():
        name = option.replace("_", "-")
        parts.append(name if value is True else f"{name}-{value}")
    name = "-".join(map(str, parts))
    # longer ones are refused by disks
    return name if len(name.encode()) <= 200 else f"{disk.slug(name, 180)}-{disk.digest(name)[:12]}"
