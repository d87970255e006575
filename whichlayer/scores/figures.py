"""How good a run is: the figures that are kept with it, and how they are measured out of fold."""

from dataclasses import dataclass

import numpy as np

from whichlayer.scores import calibration, decision, metrics


@dataclass
class Figures:
    """How good a run is, out of fold."""

    macro_f1: float  # over all titles, the mean over repeats
    repeat_macro_f1: list[float]  # of each repeat
    fold_macro_f1: list[list[float]]  # of each repeat, a list over its folds
    collapsed: list[list[int]]  # the [repeat, fold] of each head that predicts one class only
    log_loss: float  # in nats, of probabilities calibrated as in OutOfFold
    calibration_error: float  # expected calibration error of the same
    temperature: float  # what sharpens the probabilities that all heads pool, as predict.py does
    pooled_temperature: float  # the same where one head of each repeat is pooled, as out of fold
    penalties: list[list[float]] | None = None  # the linear probe's C of each head, by repeat


@dataclass
class OutOfFold:
    """What one run, or several together, say of titles that their heads have not seen."""

    exponents: np.ndarray  # (runs,), of the log-linear pool for new titles
    predictions: np.ndarray  # (repeats, titles) int, the category that is named in each repeat
    probabilities: np.ndarray  # (titles, classes) float64, pooled over repeats, by other folds' exponents
    named: np.ndarray  # (titles,) int, the category that is named by these


def judge(labels, folds, parts):
    """The OutOfFold of one or several runs with the same titles and folds.

    labels: (titles,) int; folds: (repeats, titles) int; parts: (probabilities, offsets) of each
    run, as in measure.
    """
    pooled = [calibration.pool(probabilities) for probabilities, _ in parts]
    exponents, by_fold = calibration.cross_fit(labels, pooled, folds[0])
    # (runs, titles)
    by_title = by_fold[folds[0]].T
    predictions = []
    mean = 0.0
    for repeat, fold_of in enumerate(folds):
        together = calibration.pool([probabilities[repeat] for probabilities, _ in parts], by_title)
        # offsets belong to each run's log-probabilities, and so do exponents
        taken = 0.0
        for exponent, (_, offsets) in zip(by_title, parts, strict=True):
            if offsets is not None:
                taken = taken + exponent[:, None] * offsets[repeat][fold_of]
        predictions.append(decision.decide(together, taken))
        mean = mean + taken / len(folds)
    probabilities = calibration.pool(pooled, by_title)
    return OutOfFold(exponents, np.stack(predictions), probabilities, decision.decide(probabilities, mean))


def measure(labels, probabilities, folds, classes, offsets=None, heads=None):
    """The Figures of a run.

    labels: (titles,) int; probabilities: (repeats, titles, classes), out of fold; folds: (repeats,
    titles) int; offsets: (repeats, folds, classes), or None where the likeliest category is named;
    heads: how many are pooled for new titles, None for one of each fold of each repeat.
    """
    judged = judge(labels, folds, [(probabilities, offsets)])
    found = of_judged(judged, labels, folds, classes)
    # the temperature for all titles, and that for the larger pool which predicts new ones
    if judged.exponents[0] != 1:
        found.pooled_temperature = float(1 / judged.exponents[0])
        single = [1 / calibration.fit(labels, [repeat])[0] for repeat in probabilities]
        of_one = np.exp(np.mean(np.log(single)))
        heads = heads or len(folds) * (int(folds.max()) + 1)
        found.temperature = calibration.temperature_of_all(of_one, found.pooled_temperature, len(folds), heads)
    return found


def of_judged(judged, labels, folds, classes):
    """The Figures of an OutOfFold, without temperatures; see measure."""
    return Figures(
        **metrics.score(labels, judged.predictions, folds, classes),
        log_loss=metrics.log_loss(labels, judged.probabilities),
        calibration_error=metrics.expected_calibration_error(labels, judged.probabilities),
        temperature=1.0,
        pooled_temperature=1.0,
    )
