"""How good predictions are, and how far their probabilities can be trusted, in numpy alone.

Macro-F1, its figures by repeat and fold, log loss and calibration error. How probabilities are
calibrated is the matter of calibration.py, how uncertain a figure is that of comparison.py.
"""

import numpy as np

# a probability of 0 would make the log loss infinite
TINY = 1e-12
# of the top probability, in which calibration is looked at
BINS = 15


# --- macro-F1 -------------------------------------------------------------------------------------


def class_counts(labels, predictions, classes):
    """Three (classes,) int64: titles of each class predicted as it (hits), titles of it, titles
    predicted as it.
    """
    labels = np.asarray(labels)
    right = labels[labels == predictions]
    return tuple(np.bincount(numbers, minlength=classes) for numbers in (right, labels, predictions))


def confused_pairs(labels, predictions, most):
    """The most confused pairs of classes, (pairs, 2) int of the true one and the predicted one, and how
    often each occurs, (pairs,) int; the most frequent first, at most `most`.
    """
    wrong = np.stack([labels, predictions], axis=1)[labels != predictions]
    pairs, counts = np.unique(wrong, axis=0, return_counts=True)
    first = np.argsort(-counts, kind="stable")[:most]
    return pairs[first], counts[first]


def divide(a, b):
    """a / b, and 0 where b is 0."""
    return np.where(b == 0, 0, a / np.where(b == 0, 1, b))


def macro_f1(labels, predictions, classes):
    """Macro-F1 of integer labels and predictions in 0 … classes-1, a float from 0 to 1.

    F1 of a class is 2·hits / (labelled + predicted), which equals 2PR / (P + R) (van Rijsbergen
    1979). A class that neither occurs nor is predicted has no F1 and is left out of the mean, as in
    scikit-learn.
    """
    hits, labelled, predicted = class_counts(labels, predictions, classes)
    f1 = divide(2 * hits, labelled + predicted)
    known = (labelled + predicted > 0).sum()
    return float(f1.sum() / max(known, 1))


def fold_scores(labels, predictions, folds, classes):
    """Macro-F1 of each fold's titles: (repeats, folds) float64. labels: (n,) int; predictions,
    folds: (repeats, n).
    """
    scores = np.empty((len(folds), int(np.max(folds)) + 1))
    for repeat, fold in np.ndindex(scores.shape):
        test = folds[repeat] == fold
        scores[repeat, fold] = macro_f1(labels[test], predictions[repeat][test], classes)
    return scores


def score(labels, predictions, folds, classes):
    """The figures of a run that need no probabilities, under the names that figures.Figures has for
    them.

    labels: (n,) int; predictions, folds: (repeats, n) int.
    """
    whole = [macro_f1(labels, predicted, classes) for predicted in predictions]
    parts = fold_scores(labels, predictions, folds, classes)
    collapsed = []
    for repeat, fold in np.ndindex(parts.shape):
        if len(np.unique(predictions[repeat][folds[repeat] == fold])) == 1:
            collapsed.append([repeat, fold])
    return {
        "macro_f1": float(np.mean(whole)),
        "repeat_macro_f1": whole,
        "fold_macro_f1": parts.tolist(),
        "collapsed": collapsed,
    }


# --- probabilities --------------------------------------------------------------------------------


def of_each(probabilities, classes):
    """The probability of a class of each title, (n,); probabilities: (n, classes); classes: (n,) int."""
    return probabilities[np.arange(len(classes)), classes]


def log_loss(labels, probabilities):
    """Mean of -log of the probability of the true class, in nats; labels (n,), probabilities (n,
    classes).
    """
    own = of_each(probabilities, labels).astype(np.float64)
    # never -0.0
    return float(0.0 - np.log(np.maximum(own, TINY)).mean())


def calibration(labels, probabilities):
    """How sure, and how often right, in each of the BINS of equal width of the top probability that
    has titles, and their number: three (bins,) arrays.
    """
    sure = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    bin_of = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    _, place, count = np.unique(bin_of, return_inverse=True, return_counts=True)
    return np.bincount(place, sure) / count, np.bincount(place, right) / count, count


def expected_calibration_error(labels, probabilities):
    """Mean gap between how sure and how often right (Guo et al. 2017)."""
    sure, right, count = calibration(labels, probabilities)
    return float(np.abs(sure - right) @ count / count.sum())
