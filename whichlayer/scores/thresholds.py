"""From which probability on an answer may be accepted, to be right as often as is wanted.

A threshold is the smallest probability from which on so many of the answers are right, one more
wrong answer added (as in conformal prediction): so a few answers that happen to be right promise
nothing. How many answers it gives, and how many of them are right, is what held-out titles show:
the titles of each fold are answered by a threshold that the other folds have chosen.
"""

from dataclasses import dataclass

import numpy as np

from whichlayer.scores import metrics

WANTED = (0.9, 0.95, 0.98, 0.99)


@dataclass
class Threshold:
    """What it takes to be right in a share of the titles that are answered."""

    wanted: float  # that share
    probability: float | None  # accept answers from here on; None: no probability does it
    coverage: float = 0.0  # share of held-out titles that are answered
    precision: float = 0.0  # share of these that are right


def of_judged(judged, labels, folds):
    """The Thresholds of a figures.OutOfFold for all that is WANTED.

    labels: (titles,) int; folds: (repeats, titles) int.
    """
    named = judged.named
    sure = metrics.of_each(judged.probabilities, named)
    return [find(sure, named == labels, folds[0], wanted) for wanted in WANTED]


def find(sure, right, folds, wanted):
    """The Threshold for a share of right answers.

    sure: (titles,) float, the probability of the category that is named; right: (titles,) bool;
    folds: (titles,) int.
    """
    levels = np.empty(int(folds.max()) + 1)
    for fold in range(len(levels)):
        others = folds != fold
        levels[fold] = choose(sure[others], right[others], wanted)
    answered = sure >= levels[folds]
    probability = choose(sure, right, wanted)
    # what half of the folds do not reach is no promise
    if max(probability, np.median(levels)) == np.inf or not answered.any():
        return Threshold(wanted, None)
    return Threshold(wanted, probability, answered.mean(), right[answered].mean())


def choose(sure, right, wanted):
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
