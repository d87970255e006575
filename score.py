"""How good the predictions for a test file are, as markdown: predict.py --label-column prints it."""

from dataclasses import dataclass

import numpy as np

import cli
import comparison
import metrics
import splits


@dataclass
class Test:
    """Titles with a known category, and what was predicted for them."""

    names: list[str]  # the run's classes, then labels that it does not know and never predicts
    labels: np.ndarray  # (titles,) int: numbers in names
    probabilities: np.ndarray  # (titles, classes of the run)
    predicted: np.ndarray  # (titles,) int: the class that is named
    groups: np.ndarray  # (titles,) int: copies of one another
    seen: np.ndarray  # (titles,) bool: in training, as they are or as copies

    @property
    def classes(self):
        """How many classes the run knows."""
        return self.probabilities.shape[1]


def report(classes, titles, labels, probabilities, named, training):
    """Markdown that says how good the predictions for a test file are.

    classes: names; titles, labels: lists; probabilities: (titles, classes); named: (titles,) int;
    training: the splits.group_key of what was in training.
    """
    # what is known of the titles
    names = [*classes, *sorted(set(labels) - set(classes))]
    number = {name: i for i, name in enumerate(names)}
    keys = [splits.group_key(title) for title in titles]
    test = Test(
        names=names,
        labels=np.array([number[label] for label in labels]),
        probabilities=probabilities,
        predicted=named,
        groups=splits.numbered(keys),
        seen=np.array([key in training for key in keys]),
    )

    # figures for all of them, and for those that are new
    everyone = np.ones(len(titles), bool)
    rows = [figures(test, "all", everyone)]
    smallest = everyone
    if test.seen.any() and not test.seen.all():
        smallest = ~test.seen
        rows.append(figures(test, "not in training", smallest))
    heads = [":Titles", "Number", "Macro-F1", "95% interval", "Log loss", "ECE (15 bins)"]
    parts = [cli.markdown(heads, rows)]

    # what to bear in mind, and which categories are taken for which
    if training:
        seen = f"Of the {len(titles):,} titles, {test.seen.sum():,} were in training"
        parts.append(f"{seen}, as they are or as copies.")
    parts += cautions(test, smallest)
    if len(names) <= 12:
        parts.append(confusions(test))
    return "\n\n".join(parts)


def influence(test, chosen):
    """The comparison.Influence of some titles. chosen: (titles,) bool."""
    own = (test.labels[chosen], test.predicted[chosen])
    return comparison.influence(*own, len(test.names), test.groups[chosen])


def figures(test, name, chosen):
    """The cells of a row: how good the predictions for some titles are. chosen: (titles,) bool."""
    found = influence(test, chosen)
    low, high = comparison.interval(found)
    loss = "–"
    known = chosen & (test.labels < test.classes)
    if known.any():
        loss = f"{metrics.log_loss(test.labels[known], test.probabilities[known]):.4f}"
    error = metrics.expected_calibration_error(test.labels[chosen], test.probabilities[chosen])
    interval = f"{low:.4f} to {high:.4f}"
    return [name, f"{chosen.sum():,}", f"{found.value:.4f}", interval, loss, f"{error:.4f}"]


def cautions(test, chosen):
    """Sentences on labels that the run does not know, and on categories with too few titles.

    chosen: (titles,) bool, the smallest set that was scored.
    """
    sentences = []
    unknown = []
    for number in range(test.classes, len(test.names)):
        count = int((test.labels == number).sum())
        unknown.append(f"{test.names[number]} ({count:,})")
    if unknown:
        listed = ", ".join(unknown[:8])
        if len(unknown) > 8:
            listed += ", …"
        what = "Labels that the run does not know count as errors, and not in the log loss"
        sentences.append(f"{what}: {cli.escape_markdown(listed)}.")
    scarce = [cli.escape_markdown(test.names[number]) for number in influence(test, chosen).scarce]
    if scarce:
        sentences.append(f"Too few titles for the interval to be trusted: {', '.join(scarce[:8])}.")
    return sentences


def confusions(test):
    """The confusion matrix as a markdown table."""
    shown = [cli.escape_markdown(name) for name in test.names]
    matrix = metrics.confusion_matrix(test.labels, test.predicted, len(shown))
    rows = []
    for name, counts in zip(shown, matrix.tolist(), strict=True):
        rows.append([name, *counts[: test.classes]])
    return cli.markdown([":Label ↓ prediction →", *shown[: test.classes]], rows)
