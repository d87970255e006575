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
    classes: int  # how many the run knows


def report(classes, titles, labels, probabilities, named, training):
    """Markdown that says how good the predictions for a test file are.

    classes: names; titles, labels: lists; probabilities: (titles, classes); named: (titles,) int;
    training: the splits.group_key of what was in training.
    """
    # what is known of the titles
    names = [*classes, *sorted(set(labels) - set(classes))]
    number = {name: i for i, name in enumerate(names)}
    keys = [splits.group_key(title) for title in titles]
    known = np.array([number[label] for label in labels])
    seen = np.array([key in training for key in keys])
    test = Test(names, known, probabilities, named, splits.numbered(keys), seen, len(classes))

    # figures for all of them, and for those that are new
    everyone = np.ones(len(titles), bool)
    rows = [figures(test, "all", everyone)]
    smallest = everyone
    if seen.any() and not seen.all():
        smallest = ~seen
        rows.append(figures(test, "not in training", smallest))
    heads = [":Titles", "Number", "Macro-F1", "95% interval", "Log loss", "ECE (15 bins)"]
    parts = [cli.markdown(heads, rows)]

    # what to bear in mind, and which categories are taken for which
    if training:
        copies = f"{seen.sum():,} were in training, as they are or as copies"
        parts.append(f"Of the {len(titles):,} titles, {copies}.")
        # a figure that looks like a result, and is none
        if seen.all():
            parts.append("None of them is new, so this says nothing of new titles.")
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
        loss = cli.at_least(metrics.log_loss(test.labels[known], test.probabilities[known]))
    error = metrics.expected_calibration_error(test.labels[chosen], test.probabilities[chosen])
    score = (f"{found.value:.4f}", f"{low:.4f} to {high:.4f}")
    return [name, f"{chosen.sum():,}", *score, loss, f"{error:.4f}"]


def cautions(test, chosen):
    """Sentences on unknown labels, and on categories with few titles; chosen: the fewest scored."""
    sentences = []
    counts = np.bincount(test.labels, minlength=len(test.names))
    unknown = [f"{test.names[i]} ({counts[i]:,})" for i in range(test.classes, len(test.names))]
    if unknown:
        more = ", …" if len(unknown) > 8 else ""
        listed = cli.escape_markdown(", ".join(unknown[:8]) + more)
        what = "Labels that the run does not know count as errors, and not in the log loss"
        sentences.append(f"{what}: {listed}.")
    scarce = [cli.escape_markdown(test.names[number]) for number in influence(test, chosen).scarce]
    if scarce:
        sentences.append(f"Too few titles for the interval to be trusted: {', '.join(scarce[:8])}.")
    return sentences


def confusions(test):
    """The confusion matrix as a markdown table."""
    shown = [cli.escape_markdown(name) for name in test.names]
    matrix = metrics.confusion_matrix(test.labels, test.predicted, len(shown))
    rows = [[name, *counts[: test.classes]] for name, counts in zip(shown, matrix.tolist(), strict=True)]
    return cli.markdown([":Label ↓ prediction →", *shown[: test.classes]], rows)
