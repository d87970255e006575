"""From probabilities to answers: which category is named, and from which probability on to accept it.

Macro-F1 counts every category the same, so rare ones should be named before they are the likeliest:
the category with the largest p / prior^τ, also called logit adjustment (Menon et al. 2021). τ is
chosen for each head on titles that it learns from but that were held out for this choice; then the
head's offsets are τ · log prior. Probabilities stay as they are.

A threshold is the smallest probability from which on so many of the answers are right, one more
wrong answer added (as in conformal prediction): so a few answers that happen to be right promise
nothing. How many answers it gives, and how many of them are right, is what held-out titles show:
the titles of each fold are answered by a threshold that the other folds have chosen.
"""

from dataclasses import dataclass

import numpy as np

from whichlayer.scores import metrics

TAUS = (0.0, 0.25, 0.5, 0.75, 1.0)  # 0 names the likeliest
WANTED = (0.9, 0.95, 0.98, 0.99)  # shares of right answers


# --- which category is named ----------------------------------------------------------------------


def decide(probabilities, offsets=0.0):
    """The number of the category that is named for each title, of probabilities (…, titles,
    classes).

    offsets: (classes,) or (titles, classes), taken from the logarithms of the probabilities.
    """
    # no coarser floor: offsets of probabilities that were sharpened grow with the logarithms
    logarithms = np.log(np.maximum(probabilities, np.finfo(float).tiny, dtype=float))
    return (logarithms - offsets).argmax(-1)


def offsets_of(tau, labels, classes):
    """τ · log prior, (classes,) float64; labels: those of the titles that the head learns from."""
    counts = np.bincount(labels, minlength=classes)
    # a category that has no title here stays finite
    prior = np.maximum(counts, 0.5) / len(labels)
    return tau * np.log(prior)


def choose_offsets(labels, probabilities, learned, classes):
    """The offsets_of the τ with the highest macro-F1 on held-out titles; of equal ones, the smallest.

    labels: (titles,) int; probabilities: (titles, classes), of held-out titles; learned: the labels
    of all titles that the head learns from, which the prior is counted on.
    """

    def reached(offsets):
        """Macro-F1, without its rounding errors."""
        return round(metrics.macro_f1(labels, decide(probabilities, offsets), classes), 9)

    # of equal ones, max takes the first
    return max([offsets_of(tau, learned, classes) for tau in TAUS], key=reached)


def predictions(probabilities, folds, offsets=None):
    """The category that is named for each title in each repeat, (repeats, titles) ints."""
    if offsets is None:
        return probabilities.argmax(2)
    parts = zip(probabilities, offsets, folds, strict=True)
    return np.stack([decide(repeat, own[fold_of]) for repeat, own, fold_of in parts])


# --- when to accept it ------------------------------------------------------------------------------


@dataclass
class Threshold:
    """What it takes to be right in a share of the titles that are answered."""

    wanted: float  # that share
    probability: float | None  # accept answers from here on; None: no probability does it
    coverage: float = 0.0  # share of held-out titles that are answered
    precision: float = 0.0  # share of these that are right


def thresholds_of(judged, labels, folds):
    """The Thresholds of a figures.OutOfFold for all that is WANTED.

    labels: (titles,) int; folds: (repeats, titles) int.
    """
    named = judged.named
    sure = metrics.of_each(judged.probabilities, named)
    return [find_threshold(sure, named == labels, folds[0], wanted) for wanted in WANTED]


def find_threshold(sure, right, folds, wanted):
    """The Threshold for a share of right answers.

    sure: (titles,) float, the probability of the category that is named; right: (titles,) bool;
    folds: (titles,) int.
    """
    levels = np.empty(int(folds.max()) + 1)
    for fold in range(len(levels)):
        others = folds != fold
        levels[fold] = choose_threshold(sure[others], right[others], wanted)
    answered = sure >= levels[folds]
    probability = choose_threshold(sure, right, wanted)
    # what half of the folds do not reach is no promise
    if max(probability, np.median(levels)) == np.inf or not answered.any():
        return Threshold(wanted, None)
    return Threshold(wanted, probability, answered.mean(), right[answered].mean())


def choose_threshold(sure, right, wanted):
    """The smallest probability from which on a share of the answers is right; infinite where none is.

    One more wrong answer counts with them, unless all titles can be answered without it.
    """
    if right.mean() >= wanted:
        return 0.0
    order = np.argsort(-sure, kind="stable")
    answers = np.arange(1, len(sure) + 1)
    share = np.cumsum(right[order]) / (answers + 1)
    # titles of one probability are answered together
    last_of_its_kind = np.append(np.diff(sure[order]) < 0, True)
    reached = sure[order][(share >= wanted) & last_of_its_kind]
    return float(reached[-1]) if len(reached) else np.inf
