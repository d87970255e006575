"""The average of several runs' calibrated probabilities, as a run that is on no disk.

predict.py with the same runs gives this average for new titles.
"""

from dataclasses import replace

import numpy as np

from whichlayer.heads import runs
from whichlayer.scores import decision, figures, metrics


def average(parts, labels, folds):
    """The Run that averages `parts`, Runs on the same titles and folds.

    labels: (titles,) int; folds: (repeats, titles) int. It has the columns and the encoder of the
    first part, for its name.
    """
    first = parts[0]
    count = len(parts)
    # one repeat after the other: float64 for all of them at once would be large
    probabilities = np.zeros(first.probabilities.shape, np.float32)
    for part in parts:
        for repeat, values in enumerate(part.probabilities):
            sharpened = metrics.sharpen(values, part.figures.pooled_temperature)
            probabilities[repeat] += sharpened / count
    offsets = average_offsets(parts)

    classes = len(first.classes)
    predictions = decision.predictions(probabilities, folds, offsets)
    pools = [metrics.pool(part.probabilities) for part in parts]
    sharpened = sum(figures.cross_fitted(labels, pooled, folds) for pooled in pools) / count
    measured = figures.Figures(
        **metrics.score(labels, predictions, folds, classes),
        # there is nothing left to sharpen
        temperature=1.0,
        pooled_temperature=1.0,
        log_loss=metrics.log_loss(labels, sharpened),
        calibration_error=metrics.expected_calibration_error(labels, sharpened),
    )
    config = replace(first.config, baseline="average", results=measured, contents=None)
    return runs.Run(None, config, probabilities, offsets, list(parts))


def average_offsets(parts):
    """The mean of the parts' offsets by calibrated probabilities, (repeats, folds, classes); None
    without any.
    """
    # a part without offsets has zeros
    deciding = [part for part in parts if part.offsets is not None]
    if not deciding:
        return None
    return sum(part.offsets / part.figures.pooled_temperature for part in deciding) / len(parts)
