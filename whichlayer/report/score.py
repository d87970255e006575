"""How good the predictions for a test file are, as markdown, for predict.py --label-column."""

from dataclasses import dataclass

import numpy as np

from whichlayer.common import cli
from whichlayer.heads import splits
from whichlayer.report.layout import SHOWN, category_table, join
from whichlayer.scores import comparison, metrics

IN_TRAINING = (
    "Of the {titles:,} titles, {seen:,} were in training, as they are or as copies; those say nothing of "
    "new titles. Out of fold, {run} has a macro-F1 of {value:.4f}."
)
NEW = "What follows is about the titles that were not in training."
ANSWERED = (
    "With a probability of at least {least:g}, {share:.1%} of the titles are answered, "
    "and {right:.1%} of those answers are right (95% interval {low:.1%} to {high:.1%})."
)
NOTHING_ANSWERED = "No title has a category with a probability of at least {least:g}."
UNKNOWN = "Labels that the run does not know count as errors, and not in the log loss: {names}."
ABSENT = (
    "The file has no titles of {names}; where it is predicted, a category without titles counts "
    "in macro-F1, with an F1 of 0."
)
SCARCE = "Too few titles for the interval to be trusted: {names}."
BY_CATEGORY = "By category, lowest F1 first (at most {shown}):"


@dataclass
class Test:
    """A test file in numbers."""

    names: list[str]  # the run's classes, then labels that it does not know and never predicts
    classes: int  # how many the run knows
    labels: np.ndarray  # (titles,) int: numbers in names
    predicted: np.ndarray  # (titles,) int: the class that is named
    probabilities: np.ndarray  # (titles, classes of the run)
    groups: np.ndarray  # (titles,) int: copies of one another

    @property
    def influence(self):
        """The comparison.Influence of the titles."""
        return comparison.influence(self.labels, self.predicted, len(self.names), self.groups)


def check_labels(where, labels, classes):
    """Refuse labels of which none is one of the run's classes. where: they stand, in words."""
    if not set(labels) & set(classes):
        # what is not seen is escaped, as that may be what differs
        there, known = (", ".join(repr(name[:60]) for name in list(names)[:3]) for names in (labels, classes))
        wrong = f"none of its labels is known to the run: it holds {there}, in the run they are {known}"
        raise cli.Problem(f"{where}: {wrong}; write them as there, or name another --label-column")


def report(own, titles, labels, window, training, least=None):
    """Markdown that says how good the predictions for a test file are.

    own: the runs that are applied; titles, labels: lists of str; window: the classifier.Window of
    them all; training: the splits.group_key of what was in training; least: the probability below
    which no category is named.
    """
    # what is known of the titles
    keys = list(map(splits.group_key, titles))
    seen = np.array([key in training for key in keys])
    names = [*own[0].classes, *sorted(set(labels) - set(own[0].classes))]
    number = {name: i for i, name in enumerate(names)}
    arrays = (np.array([number[label] for label in labels]), window.named, window.probabilities, splits.numbered(keys))

    def part(chosen):
        """The Test of some titles. chosen: (titles,) bool."""
        return Test(names, len(own[0].classes), *(array[chosen] for array in arrays))

    everyone = part(np.full(len(seen), True))
    parts = []
    # a figure that looks like a result, and is none, is not the first thing to be read
    if training:
        count = {"titles": len(seen), "seen": seen.sum()}
        parts.append(IN_TRAINING.format(**count, run=own[0].folder.name, value=own[0].figures.macro_f1))

    # figures for all of them, and for those that are new
    rows = [figures(everyone, "all")]
    test = everyone
    is_mixed = seen.any() and not seen.all()
    if is_mixed:
        test = part(~seen)
        rows.append(figures(test, "not in training"))
    heads = [":Titles", "Number", "Accuracy", "95% interval", "Macro-F1", "95% interval"]
    parts.append(cli.markdown([*heads, "Log loss", "ECE"], rows))

    # what to bear in mind, what is answered, and each category
    parts += cautions(everyone, test.influence.scarce)
    parts.append(NEW if is_mixed else "")
    if least:
        parts.append(answered(test, least))
    parts.append(BY_CATEGORY.format(shown=SHOWN))
    parts.append(category_table(names, test.labels, test.influence.scores))
    return join(parts)


def figures(test, name):
    """The cells of a row: how good the predictions are. name: of the titles."""
    right = test.labels == test.predicted
    found = test.influence
    known = test.labels < test.classes
    loss = "–"
    if known.any():
        loss = f"{metrics.log_loss(test.labels[known], test.probabilities[known]):.4f}"
    error = metrics.expected_calibration_error(test.labels, test.probabilities)
    cells = [name, f"{len(right):,}"]
    accuracy = comparison.share_interval(right, test.groups)
    for value, (low, high) in ((right.mean(), accuracy), (found.value, comparison.interval(found))):
        cells += [f"{value:.4f}", f"{low:.4f}–{high:.4f}"]
    return [*cells, loss, f"{error:.4f}"]


def answered(test, least):
    """How many of the titles get an answer, and how many of these are right: a sentence."""
    accepted = metrics.of_each(test.probabilities, test.predicted) >= least
    if not accepted.any():
        return NOTHING_ANSWERED.format(least=least)
    right = (test.labels == test.predicted)[accepted]
    low, high = comparison.share_interval(right, test.groups[accepted])
    shares = {"share": accepted.mean(), "right": right.mean(), "low": low, "high": high}
    return ANSWERED.format(least=least, **shares)


def cautions(test, scarce):
    """Sentences on unknown labels, and on categories with few titles, or with none. scarce: numbers
    of those with too few.
    """
    counts = np.bincount(test.labels, minlength=len(test.names))
    found = {
        UNKNOWN: test.names[test.classes :],
        ABSENT: [test.names[i] for i in range(test.classes) if not counts[i]],
        SCARCE: [test.names[i] for i in scarce],
    }
    sentences = []
    for template, names in found.items():
        if names:
            shown = names[:8] + ["…"] * (len(names) > 8)
            sentences.append(template.format(names=cli.escape_markdown(", ".join(shown))))
    return sentences
