"""Which category a head names: the likeliest, or the one that macro-F1 wants where categories are
unequal.

Macro-F1 counts every category the same, so rare ones should be named before they are the likeliest:
the category with the largest p / prior^τ, also called logit adjustment (Menon et al. 2021). τ is
chosen for each head on titles that it learns from but that were held out for this choice; then the
head's offsets are τ · log prior. Probabilities stay as they are.
"""

import numpy as np

from whichlayer.scores import metrics

TAUS = (0.0, 0.25, 0.5, 0.75, 1.0)  # 0 names the likeliest


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
