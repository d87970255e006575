"""How good a run is: the figures that are kept with it, and how they are measured out of fold."""

from dataclasses import dataclass

import numpy as np

from whichlayer.scores import decision, metrics


@dataclass
class Figures:
    """How good a run is, out of fold."""

    macro_f1: float  # over all titles, the mean over repeats
    repeat_macro_f1: list[float]  # of each repeat
    fold_macro_f1: list[list[float]]  # of each repeat, a list over its folds
    collapsed: list[list[int]]  # the [repeat, fold] of each head that predicts one class only
    log_loss: float  # in nats, out of fold, after the temperature, cross-fitted over folds
    calibration_error: float  # expected calibration error after the temperature, cross-fitted
    temperature: float  # what sharpens the probabilities that all heads pool, as predict.py does
    pooled_temperature: float  # the same where one head of each repeat is pooled, as out of fold
    layer_weights: list[float] | None = None  # learned weight of each layer, the mean over heads
    penalties: list[list[float]] | None = None  # the linear probe's C of each head, by repeat


def measure(labels, probabilities, folds, classes, offsets=None, heads=None):
    """The Figures of a run: macro-F1, its temperature, and what that does to the probabilities.

    labels: (titles,) int; probabilities: (repeats, titles, classes), out of fold; folds: (repeats,
    titles) int; offsets: (repeats, folds, classes), or None where the likeliest category is named;
    heads: how many are pooled for new titles, None for one of each fold of each repeat. Log loss
    and calibration error are of probabilities pooled over repeats, see cross_fitted.
    """
    pooled = metrics.pool(probabilities)
    sharpened = cross_fitted(labels, pooled, folds)
    predictions = decision.predictions(probabilities, folds, offsets)
    found = without_temperature(labels, predictions, folds, classes, sharpened)
    # the temperature for all titles, and that for the larger pool which predicts new ones
    if sharpened is not pooled:
        found.pooled_temperature = metrics.fit_temperature(labels, pooled)
        single = [metrics.fit_temperature(labels, repeat) for repeat in probabilities]
        of_one = np.exp(np.mean(np.log(single)))
        heads = heads or len(folds) * (int(folds.max()) + 1)
        found.temperature = metrics.temperature_of_all(of_one, found.pooled_temperature, len(folds), heads)
    return found


def without_temperature(labels, predictions, folds, classes, pooled):
    """The Figures of predictions, (repeats, titles) int, and of calibrated probabilities pooled over
    repeats, (titles, classes).
    """
    return Figures(
        **metrics.score(labels, predictions, folds, classes),
        log_loss=metrics.log_loss(labels, pooled),
        calibration_error=metrics.expected_calibration_error(labels, pooled),
        temperature=1.0,
        pooled_temperature=1.0,
    )


def cross_fitted(labels, pooled, folds):
    """Pooled probabilities, (titles, classes), as a temperature leaves titles that did not choose
    it: each fold's are sharpened by one that the others have chosen.

    Where that does not lower the log loss, there is no temperature: `pooled` as it is.
    """
    sharpened = np.empty_like(pooled)
    for fold in range(int(folds.max()) + 1):
        own = folds[0] == fold
        temperature = metrics.fit_temperature(labels[~own], pooled[~own])
        sharpened[own] = metrics.sharpen(pooled[own], temperature)
    gained = metrics.log_loss(labels, pooled) - metrics.log_loss(labels, sharpened)
    # more than rounding
    return sharpened if gained > 1e-6 else pooled
