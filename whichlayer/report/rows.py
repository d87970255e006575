"""Runs as rows of tables: which runs belong together, and what a row knows of its run."""

import functools
from dataclasses import dataclass

import numpy as np

from whichlayer.common import cli
from whichlayer.encoder import store
from whichlayer.heads import runs
from whichlayer.heads.options import Options
from whichlayer.scores import comparison, decision, figures
from whichlayer.scores.figures import Figures


@dataclass(eq=False)
class Row:
    """A run in a table, or a combination of runs, the encoder's first."""

    runs: list[runs.Run]
    figures: Figures
    name: str  # layers and head in words, or the baseline; with its encoder where there are several
    encoder: str | None  # the encoder's short name where there are several, and the row has one
    expense: float  # FLOP a title; where some run does not know them, layers to run · hidden size²
    influence: comparison.Influence
    interval: tuple[float, float]  # 95%, of macro-F1

    @property
    def run(self):
        """The run; of a combination, that of the encoder."""
        return self.runs[0]

    @property
    def value(self):
        """Macro-F1, the mean over repeats."""
        return self.influence.value

    @property
    def cost(self):
        """What the row costs, to be compared: the encoder's work, then embeddings a title, then
        whether it is one run or several, then the better value.
        """
        return self.expense, len(self.run.columns), len(self.runs), -self.value


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
    has_flop: bool  # whether all rows know what their encoder computes for a title
    rows: list[Row]  # trained on all titles
    learning_curve: list[Row]  # trained on --labels
    baselines: list[Row]  # with all titles, and with each size of --labels

    @property
    def trained(self):
        return self.rows + self.learning_curve

    @property
    def title(self):
        """Its encoders and titles, as a heading says it."""
        return f"{cli.listing(self.encoders.values())} on {self.data.name}"


# --- reading --------------------------------------------------------------------------------------


def read_tables(results):
    """The Tables of all runs below a folder, one for each set of titles and protocol."""
    trained = {}
    baselines = {}
    for path in sorted(results.glob("[!.]*/config.json")):
        run = runs.open_run(path.parent)
        kind = baselines if run.baseline else trained
        kind.setdefault(run.task, []).append(run)
    # the one with most runs first: a stray run is not what somebody wants to see
    ordered = sorted(trained.items(), key=lambda item: -len(item[1]))
    return [make_table(own, baselines.get(key, [])) for key, own in ordered]


def make_table(trained, baselines):
    """The Table of runs that have one task."""
    first = trained[0]
    # TF-IDF decides as for macro-F1 where any of the rows does, so that it is no weaker than they are
    decide = "macro-f1" if any(run.options.decide == "macro-f1" for run in trained) else "likeliest"
    table = Table(
        data=first.data,
        encoders=encoder_names(trained),
        options=first.options,
        classes=first.classes,
        decide=decide,
        has_flop=all(run.flop is not None for run in trained),
        rows=[],
        learning_curve=[],
        baselines=[],
        **{name: np.asarray(first.array(name)) for name in runs.ARRAYS},
    )

    # by encoder, then one kind of head after another, the top layer first
    encoders = list(table.encoders)

    def place(run):
        return encoders.index(encoder_key(run)), run.head, len(run.layers), [-layer for layer in run.layers]

    for run in sorted(trained, key=place):
        rows = table.learning_curve if run.labels_per_category else table.rows
        rows.append(row_of(run, table))
    for run in baselines:
        if run.baseline != "tfidf" or run.options.decide == decide:
            table.baselines.append(row_of(run, table))
    return table


def encoder_key(run):
    """What tells a run's encoder from others."""
    return f"{run.encoder.weights} {run.encoder.tokenizer}"


def encoder_names(trained):
    """A short name for each encoder of some runs, {encoder_key: name}, the cheapest first; no two
    are the same.
    """
    names = {}
    for run in sorted(trained, key=lambda run: run.flop or 0):
        key = encoder_key(run)
        name = run.encoder.name.rpartition("/")[2]
        if key not in names:
            names[key] = f"{name} {run.encoder.weights[:8]}" if name in names.values() else name
    return names


def row_of(run, table):
    """The Row of a run in a Table."""
    predictions = decision.predictions(run.probabilities, table.folds, run.offsets)
    return make_row([run], run.figures, predictions, table)


def make_row(own, measured, predictions, table):
    """The Row of one run or several in a Table; predictions: theirs, (repeats, titles) int."""
    run = own[0]
    name = head_of(own)
    encoder = None
    expense = 0.0
    if run.columns:
        name = runs.layers_in_words(run, name)
        # without FLOP, what they are about in proportion to
        expense = run.flop if table.has_flop else max(run.layers) * run.encoder.hidden**2
        if len(table.encoders) > 1:
            encoder = table.encoders[encoder_key(run)]
            name = f"{encoder}, {name}"
    influence = comparison.influence(table.labels, predictions, len(table.classes), table.groups)
    return Row(own, measured, name, encoder, expense, influence, comparison.interval(influence))


def head_of(own):
    """The head of one run, or of several, or the baseline, in words."""
    return " + ".join(run.head for run in own)


def judge_runs(own, table):
    """What runs say together out of fold, each title's by exponents that the other folds have chosen: a
    figures.OutOfFold.
    """
    return figures.judge(table.labels, table.folds, [(run.probabilities, run.offsets) for run in own])


# the page, its picture and the model card ask for the same row
@functools.lru_cache(1)
def judge(row, table):
    """The judge_runs of a Row."""
    return judge_runs(row.runs, table)


def curves(table):
    """The learning curves, {name of the row: {labels a category: Row}}, TF-IDF's last; the size
    None is all titles.
    """
    names = {row.name for row in table.learning_curve}
    lines = {}
    for row in table.trained + table.baselines:
        if row.name in names or row.run.baseline == "tfidf":
            lines.setdefault(row.name, {})[row.run.labels_per_category] = row
    return lines
