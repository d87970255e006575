"""How good the predictions for a test file are, as markdown, for predict.py --label-column."""

from dataclasses import dataclass

import numpy as np

import data
from whichlayer.common import cli
from whichlayer.heads import splits
from whichlayer.report import ensemble
from whichlayer.report.layout import SHOWN, category_table, wrap
from whichlayer.scores import comparison, metrics

# the most confused pairs of categories that are named
PAIRS = 5

IN_TRAINING = (
    "Of these titles, {seen:,} were in training, as they are or as copies; out of fold the {what} has {value:.4f}."
)
SOME_IN_TRAINING = "Of the {titles:,} titles, {seen:,} were in training, as they are or as copies."
NOTHING_NEW = "None of them is new, so this says nothing of new titles."
ANSWERED = (
    "With a probability of at least {least:g}, {share:.1%} of the titles{which} are answered, "
    "and {right:.1%} of those answers are right (95% interval {low:.1%} to {high:.1%})."
)
NOTHING_ANSWERED = "No title has a category with a probability of at least {least:g}."
UNKNOWN = "Labels that the run does not know count as errors, and not in the log loss: {names}."
SPELLED = (
    "Labels that are a category of the run, but for how they are written, count as errors, too: {pairs}. Rename them."
)
ABSENT = (
    "The file has no titles of {names}; where it is predicted, a category without titles counts "
    "in macro-F1, with an F1 of 0."
)
SCARCE = "Too few titles for the interval to be trusted: {names}."
BY_CATEGORY = "By category{which}, the lowest F1 first:"
CONFUSED = "Most confused{which}, label → prediction: {pairs}."


@dataclass
class Known:
    """Titles of a test file, with what was predicted for them."""

    titles: list[str]
    labels: list[str]  # their true categories, by name
    probabilities: np.ndarray  # (titles, classes of the run), calibrated
    named: np.ndarray  # (titles,) int: the class that is named


@dataclass
class Test:
    """A test file in numbers."""

    names: list[str]  # the run's classes, then labels that it does not know and never predicts
    labels: np.ndarray  # (titles,) int: numbers in names
    probabilities: np.ndarray  # (titles, classes of the run)
    predicted: np.ndarray  # (titles,) int: the class that is named
    groups: np.ndarray  # (titles,) int: copies of one another
    seen: np.ndarray  # (titles,) bool: in training, as they are or as copies
    classes: int  # how many the run knows


def report(own, known, training, least=None):
    """Markdown that says how good the predictions for a test file are.

    own: the runs that are applied, or averaged; known: its titles; training: the splits.group_key
    of what was in training; least: the probability below which no category is named.
    """
    # what is known of the titles
    test = numbered(own[0].classes, known, training)
    parts = []
    # a figure that looks like a result, and is none, is not the first thing to be read
    if test.seen.mean() > 0.5:
        what, value = out_of_fold(own)
        text = IN_TRAINING.format(seen=test.seen.sum(), what=what, value=value)
        parts.append(f"{text} {NOTHING_NEW}" if test.seen.all() else text)
    elif training:
        parts.append(SOME_IN_TRAINING.format(titles=len(test.seen), seen=test.seen.sum()))

    # figures for all of them, and for those that are new
    everyone = np.ones(len(test.labels), bool)
    rows = [figures(test, "all", everyone)]
    chosen = everyone
    which = ""
    if test.seen.any() and not test.seen.all():
        chosen = ~test.seen
        which = " (titles not in training)"
        rows.append(figures(test, "not in training", chosen))
    heads = [":Titles", "Number", "Accuracy", "95% interval", "Macro-F1", "95% interval"]
    heads += ["Log loss", "ECE"]
    parts.append(cli.markdown(heads, rows))
    if least:
        parts.append(answered(test, chosen, which, least))

    # what to bear in mind, each category, and which are taken for which
    parts += cautions(test, chosen)
    parts += by_category(test, chosen, which)
    parts += confused(test, chosen, which)
    return "\n\n".join(map(wrap_text, parts))


def wrap_text(part):
    """A paragraph as wide as the terminal; a table as it is."""
    return part if part.startswith("|") else wrap(part)


def numbered(classes, known, training):
    """The Test of some Known titles."""
    names = [*classes, *sorted(set(known.labels) - set(classes))]
    number = {name: i for i, name in enumerate(names)}
    keys = [splits.group_key(title) for title in known.titles]
    return Test(
        names=names,
        labels=np.array([number[label] for label in known.labels]),
        probabilities=known.probabilities,
        predicted=known.named,
        groups=splits.numbered(keys),
        seen=np.array([key in training for key in keys]),
        classes=len(classes),
    )


def out_of_fold(own):
    """(whose, macro-F1 out of fold): that of a run, or of the average of several on the same titles
    and folds; of others, that of the first one.
    """
    first = own[0]
    if len(own) == 1:
        return "run", first.figures.macro_f1
    for run in own:
        for name in ("labels.npy", "folds.npy"):
            if run.config.contents.get(name) != first.config.contents.get(name):
                return "first run", first.figures.macro_f1
    averaged = ensemble.average(own, first.array("labels"), first.array("folds"))
    return "average", averaged.figures.macro_f1


def influence(test, chosen):
    """The comparison.Influence of some titles. chosen: (titles,) bool."""
    own = (test.labels[chosen], test.predicted[chosen])
    return comparison.influence(*own, len(test.names), test.groups[chosen])


def figures(test, name, chosen):
    """The cells of a row: how good the predictions for some titles are. chosen: (titles,) bool."""
    labels = test.labels[chosen]
    right = labels == test.predicted[chosen]
    found = influence(test, chosen)
    loss = "–"
    known = chosen & (test.labels < test.classes)
    if known.any():
        loss = cli.at_least(metrics.log_loss(test.labels[known], test.probabilities[known]))
    error = metrics.expected_calibration_error(labels, test.probabilities[chosen])
    cells = [name, f"{chosen.sum():,}"]
    accuracy = comparison.share_interval(right, test.groups[chosen])
    for value, (low, high) in ((right.mean(), accuracy), (found.value, comparison.interval(found))):
        cells += [f"{value:.4f}", f"{low:.4f}–{high:.4f}"]
    return [*cells, loss, f"{error:.4f}"]


def answered(test, chosen, which, least):
    """How many of the chosen titles get an answer, and how many of these are right: a sentence."""
    sure = np.take_along_axis(test.probabilities, test.predicted[:, None], 1)[:, 0]
    accepted = chosen & (sure >= least)
    if not accepted.any():
        return NOTHING_ANSWERED.format(least=least)
    right = test.labels[accepted] == test.predicted[accepted]
    low, high = comparison.share_interval(right, test.groups[accepted])
    share = accepted.sum() / chosen.sum()
    return ANSWERED.format(least=least, share=share, which=which, right=right.mean(), low=low, high=high)


def cautions(test, chosen):
    """Sentences on unknown labels, and on categories with few titles, or with none."""
    sentences = []
    counts = np.bincount(test.labels, minlength=len(test.names))
    unknown = [f"{test.names[i]} ({counts[i]:,})" for i in range(test.classes, len(test.names))]
    if unknown:
        more = ", …" if len(unknown) > 8 else ""
        sentences.append(UNKNOWN.format(names=cli.escape_markdown(", ".join(unknown[:8]) + more)))
    spelled = differently_spelled(test)
    if spelled:
        sentences.append(SPELLED.format(pairs=cli.escape_markdown("; ".join(spelled[:3]))))
    absent = [test.names[i] for i in range(test.classes) if not counts[i]]
    if absent:
        more = f" and {len(absent) - 8:,} more of the run's categories" if len(absent) > 8 else ""
        sentences.append(ABSENT.format(names=cli.escape_markdown(", ".join(absent[:8]) + more)))
    scarce = [cli.escape_markdown(test.names[number]) for number in influence(test, chosen).scarce]
    if scarce:
        sentences.append(SCARCE.format(names=", ".join(scarce[:8])))
    return sentences


def differently_spelled(test):
    """What labels that the run does not know share with one of its categories, in words."""
    known = {data.spellings(name)[-1]: name for name in test.names[: test.classes]}
    found = []
    for label in test.names[test.classes :]:
        meant = known.get(data.spellings(label)[-1])
        if meant:
            differ = data.difference([label, meant])
            found.append(f"{label!r:.60} for {meant!r:.60} ({differ})")
    return found


def by_category(test, chosen, which):
    """F1, precision and recall of the categories, in a list with what stands around it."""
    titles = np.bincount(test.labels[chosen], minlength=len(test.names))
    scores = influence(test, chosen).scores
    # what neither occurs nor is named has no F1
    occurs = titles + np.bincount(test.predicted[chosen], minlength=len(test.names)) > 0
    names = [name for name, there in zip(test.names, occurs, strict=True) if there]
    parts = [BY_CATEGORY.format(which=which)]
    parts.append(category_table(names, scores[:, occurs], titles[occurs]))
    if len(names) > SHOWN:
        parts.append(f"and {len(names) - SHOWN:,} more categories with higher F1")
    return parts


def confused(test, chosen, which):
    """The most confused pairs of categories, in a list; none where all is right."""
    own = (test.labels[chosen], test.predicted[chosen])
    pairs, counts = metrics.confused_pairs(*own, len(test.names), PAIRS)
    if not len(pairs):
        return []
    said = []
    for (label, predicted), count in zip(pairs, counts, strict=True):
        said.append(
            f"{cli.escape_markdown(test.names[label])} → {cli.escape_markdown(test.names[predicted])} ({count:,})"
        )
    return [CONFUSED.format(which=which, pairs=", ".join(said))]
