"""Macro-F1, the confusion matrix and the bootstrap, in numpy alone."""

import numpy as np


def confusion_matrix(labels, predictions, classes):
    """(classes, classes) int64 counts; the row is the true class, the column the predicted one."""
    cells = np.asarray(labels, dtype=np.int64) * classes + np.asarray(predictions)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def f1_from_counts(hits, labelled, predicted):
    """Macro-F1 from the counts of each class along the last axis; any leading axes are kept.

    hits: titles of the class that were predicted as it; labelled: titles of the class; predicted: titles predicted as
    it. F1 of a class is 2·hits / (labelled + predicted), which equals 2PR / (P + R) (van Rijsbergen 1979). A class that
    neither occurs nor is predicted has no F1 and is left out of the mean, as in scikit-learn.
    """
    total = labelled + predicted
    f1 = np.divide(2.0 * hits, total, out=np.zeros(np.shape(total)), where=total > 0)
    return f1.sum(-1) / np.maximum((total > 0).sum(-1), 1)


def macro_f1(labels, predictions, classes):
    """Macro-F1 of integer labels and predictions in 0 … classes-1, a float from 0 to 1."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    hits = np.bincount(labels[labels == predictions], minlength=classes)
    return float(
        f1_from_counts(hits, np.bincount(labels, minlength=classes), np.bincount(predictions, minlength=classes))
    )


def score(labels, predictions, folds, classes):
    """The figures of a run: macro-F1 over all titles and of each fold, their mean and standard deviation, and the folds
    in which one class only is predicted."""
    scores = [macro_f1(labels[folds == fold], predictions[folds == fold], classes) for fold in range(folds.max() + 1)]
    collapsed = [fold for fold in range(len(scores)) if len(np.unique(predictions[folds == fold])) == 1]
    return {
        "macro_f1": macro_f1(labels, predictions, classes),
        "fold_mean": float(np.mean(scores)),
        "fold_deviation": float(np.std(scores, ddof=1)),
        "fold_macro_f1": scores,
        "collapsed": collapsed,
    }


def bootstrap_macro_f1(labels, predictions, classes, groups=None, resamples=2000, seed=0):
    """Macro-F1 of resampled titles, for several rows of predictions at once: (rows, resamples) float64.

    labels: (n,) int; predictions: (rows, n) int; groups: (n,) int, titles that are copies of one another.
    What is drawn with replacement is a group, since copies of a title are right or wrong together (the cluster
    bootstrap, Davison & Hinkley 1997, 3.8). All rows see the same draws, so their differences are paired.

    A title counts only through its label and its predictions, so equal titles are counted once with a multiplicity,
    and a resample is one multinomial draw over the distinct ones: the cost grows with those, not with the titles.
    """
    labels, predictions = np.asarray(labels, dtype=np.int64), np.atleast_2d(predictions).astype(np.int64)
    cells, cell = np.unique(np.vstack([labels, predictions]), axis=1, return_inverse=True)
    cell = cell.ravel()
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    order = np.lexsort((cell, groups))
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    sizes = np.diff(np.r_[starts, len(labels)])
    single = np.bincount(cell[order][starts[sizes == 1]], minlength=cells.shape[1])  # groups of one, by cell
    units = {(c,): int(t) for c, t in enumerate(single) if t}
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1]):
        unit = tuple(cell[order[start : start + size]].tolist())
        units[unit] = units.get(unit, 0) + 1
    times = np.array(list(units.values()), dtype=np.float64)
    member = np.concatenate([np.array(u) for u in units])  # cells of all units, one after the other
    owner = np.repeat(np.arange(len(units)), [len(u) for u in units])
    random = np.random.default_rng(seed)
    scores = np.empty((len(predictions), resamples))
    step = max(1, 4_000_000 // max(len(member), classes))  # bounds the memory of one block of resamples
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        drawn = random.multinomial(len(starts), times / times.sum(), size=count)[:, owner]
        offset = np.arange(count)[:, None] * classes

        def per_class(classes_of_cells, weights):
            flat = np.bincount((offset + classes_of_cells[member]).ravel(), weights.ravel(), minlength=count * classes)
            return flat.reshape(count, classes)

        labelled = per_class(cells[0], drawn)
        for row, predicted in enumerate(cells[1:]):
            right = (predicted == cells[0])[member]
            scores[row, first : first + count] = f1_from_counts(
                per_class(cells[0], drawn * right), labelled, per_class(predicted, drawn)
            )
    return scores


def interval(scores, level=0.95):
    """The percentile interval (low, high) of bootstrap scores along the last axis."""
    tail = (1 - level) / 2
    return np.quantile(scores, [tail, 1 - tail], axis=-1)
