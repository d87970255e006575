"""Runs as tables: which runs belong together, and what a row of a table knows of its run."""

from dataclasses import dataclass

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.encoder import store
from whichlayer.heads import naming, runs
from whichlayer.heads.options import Options
from whichlayer.scores import comparison, figures

# the same for all runs of a table
ARRAYS = ("labels", "groups", "folds")


@dataclass(eq=False)
class Row:
    """A run in a table."""

    run: runs.Run
    name: str  # layers and head in words, or the baseline; with its encoder where there are several
    encoder: str | None  # the encoder's short name where there are several, and the row has one
    expense: float  # FLOP a title; where some run does not know them, layers to run · hidden size²
    depth: float  # share of the encoder's layers that have to run
    predictions: np.ndarray  # (repeats, titles) ints, out of fold
    influence: comparison.Influence
    interval: tuple[float, float]  # 95%, of macro-F1

    @property
    def value(self):
        """Macro-F1, the mean over repeats."""
        return self.influence.value

    @property
    def cost(self):
        """What the row costs, to be compared: the encoder's work, then embeddings a title, then
        whether it is one run or an average, then the better value.
        """
        return self.expense, len(self.run.columns), len(self.run.parts or []), -self.value


@dataclass(eq=False)
class Table:
    """The runs on one set of titles with one protocol, whatever their encoders."""

    data: store.TitlesInfo
    encoders: dict[str, str]  # short name by what identifies it, see encoder_key; the cheapest first
    options: Options  # of the first run: only its protocol is that of all
    classes: list[str]  # names
    labels: np.ndarray  # (titles,) int, class of each title
    groups: np.ndarray  # (titles,) int, copies of a title have one number
    folds: np.ndarray  # (repeats, titles) int
    decide: str  # how TF-IDF decides here, see options.DECISIONS
    rows: list[Row]  # trained on all titles
    learning_curve: list[Row]  # trained on --labels
    baselines: list[Row]  # with all titles, and with each size of --labels

    @property
    def trained(self):
        return self.rows + self.learning_curve

    @property
    def everything(self):
        return self.trained + self.baselines

    @property
    def arrays(self):
        """ARRAYS by name."""
        return {name: getattr(self, name) for name in ARRAYS}

    def measure(self, probabilities, offsets, heads=None):
        """The Figures of a run on these titles; see figures.measure."""
        return figures.measure(self.labels, probabilities, self.folds, len(self.classes), offsets, heads)

    @property
    def has_flop(self):
        """Whether all rows know what their encoder computes for a title."""
        return all(row.run.config.flop is not None for row in self.trained)


# --- reading --------------------------------------------------------------------------------------


def read_tables(results, say=cli.say):
    """The Tables of all runs below a folder, one for each set of titles and protocol.

    say: called with a line on each leftover and each copy of a run, which are left out.
    """
    for folder in sorted(results.glob(".*/")):
        say(f"{folder}: a training that was stopped, or still runs; ignored")
    trained = {}
    baselines = {}
    first = {}
    for path in sorted(results.glob("[!.]*/config.json")):
        if disk.is_foreign(path):
            say(f"{path.parent}: no run of train.py; ignored")
            continue
        run = runs.open_run(path.parent)
        other = first.setdefault(run.identity, run)
        if other is not run:
            say(f"{run.folder}: left out, as it is a copy of {other.folder}")
            continue
        kind = baselines if run.baseline else trained
        kind.setdefault((run.config.data.titles, run.options.protocol), []).append(run)
    # the one with most runs first: a stray run is not what somebody wants to see
    ordered = sorted(trained.items(), key=lambda item: -len(item[1]))
    return [make_table(own, baselines.get(key, [])) for key, own in ordered]


def make_table(trained, baselines):
    """The Table of runs that share titles and protocol; one with other labels, groups or folds is a
    Problem.
    """
    # the titles and folds, which have to be the same for all
    first = trained[0]
    arrays = {name: np.asarray(first.array(name)) for name in ARRAYS}
    for run in trained + baselines:
        for name in ARRAYS:
            file = f"{name}.npy"
            if run.config.contents.get(file) != first.config.contents.get(file):
                others = first.config.made.command
                raise cli.Problem(f"{run.folder}: its labels, groups or folds are not those of {others}")

    # TF-IDF decides as for macro-F1 where any of the rows does, so that it is no weaker than they are
    decide = "likeliest"
    if any(run.options.decide == "macro-f1" for run in trained):
        decide = "macro-f1"
    baselines = [run for run in baselines if run.baseline != "tfidf" or run.options.decide == decide]

    # the rows, in their order
    encoders = encoder_names(trained)
    has_flop = all(run.config.flop is not None for run in trained)
    trained = sorted(trained, key=lambda run: order(run, list(encoders)))

    def rows(chosen):
        return [make_row(run, arrays, encoders, has_flop) for run in chosen]

    return Table(
        data=first.config.data,
        encoders=encoders,
        options=first.options,
        classes=first.classes,
        decide=decide,
        rows=rows(run for run in trained if not run.labels_per_category),
        learning_curve=rows(run for run in trained if run.labels_per_category),
        baselines=rows(baselines),
        **arrays,
    )


def encoder_key(run):
    """What tells a run's encoder from others."""
    return f"{run.encoder.weights} {run.encoder.tokenizer}"


def encoder_names(trained):
    """A short name for each encoder of some runs, {encoder_key: name}, the cheapest first; no two
    are the same.
    """
    cheapest = sorted(trained, key=lambda run: (run.config.flop or 0, run.encoder.layers, run.encoder.name))
    found = {encoder_key(run): run.encoder for run in cheapest}
    if len(found) == 1:
        return {key: naming.short_encoder(encoder.name) for key, encoder in found.items()}
    short = {key: encoder.name.rpartition("/")[2] for key, encoder in found.items()}
    names = list(short.values())
    for key, name in short.items():
        if names.count(name) > 1:
            short[key] = f"{name} {found[key].weights[:8]}"
    return short


def order(run, encoders):
    """Where a run stands among others: by encoder, the report's rows first, then one kind of head
    after another.

    encoders: the keys of the table's encoders.
    """
    unusual = run.head != naming.REPORTS_HEAD
    layers = [-layer for layer in run.layers]
    return encoders.index(encoder_key(run)), unusual, run.head.count(","), run.head, len(run.layers), layers


def make_row(run, arrays, encoders, has_flop):
    """The Row of a run: of its probabilities, only the predictions are kept.

    arrays: ARRAYS by name; encoders: see Table; has_flop: whether all runs of the table know
    theirs.
    """
    name = run.name
    encoder = None
    expense = 0.0
    if run.columns:
        # without FLOP, what they are about in proportion to
        expense = run.config.flop if has_flop else max(run.layers) * run.encoder.hidden**2
        if len(encoders) > 1:
            encoder = encoders[encoder_key(run)]
            name = f"{encoder}, {run.name}"
    classes = len(run.classes)
    # a table of a million titles holds the predictions of many runs
    kind = np.min_scalar_type(classes)
    predictions = run.predictions(arrays["folds"]).astype(kind)
    influence = comparison.influence(arrays["labels"], predictions, classes, arrays["groups"])
    return Row(run, name, encoder, expense, run.depth, predictions, influence, comparison.interval(influence))


# --- parts of a table -----------------------------------------------------------------------------


def curves(table):
    """The learning curves, {name of the row: {labels a category: Row}}, TF-IDF's last; the size
    None is all titles.
    """
    lines = {}
    for row in table.learning_curve:
        lines.setdefault(row.name, {})[row.run.labels_per_category] = row
    for row in table.rows:
        if row.name in lines:
            lines[row.name][None] = row
    for row in table.baselines:
        if row.run.baseline == "tfidf":
            lines.setdefault(row.name, {})[row.run.labels_per_category] = row
    return lines


def kind(row):
    """What rows are drawn alike by: (encoder or None, head)."""
    return row.encoder, row.run.head


def title(table):
    """The encoders and the titles of a table, as a heading says it."""
    return f"{cli.listing(table.encoders.values())} on {table.data.name}"
