"""Macro-F1 with its uncertainty, the comparison of rows, and how far probabilities can be trusted, in numpy alone.

Macro-F1 is a smooth function of counts, so what each title contributes to its error is known in closed form: the
influence function, also called the infinitesimal jackknife (Efron 1982, ch. 6). Variances and covariances are sums over
groups of titles that are copies of one another; no resampling of titles is needed, and the cost is one pass over them.
"""

import numpy as np

BLOCK = 65_536  # titles that are worked on at a time where a whole copy would take much memory
DRAWS = 20_000  # Gaussian draws for critical values; verdicts closer to them than BORDER are said to be at the border
BORDER = 0.05
TINY = 1e-12  # a probability of 0 would make the log loss infinite


# --- macro-F1 -----------------------------------------------------------------------------------------------------


def confusion_matrix(labels, predictions, classes):
    """(classes, classes) int64 counts; the row is the true class, the column the predicted one."""
    cells = np.asarray(labels, dtype=np.int64) * classes + np.asarray(predictions)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def class_counts(labels, predictions, classes):
    """(3, classes) float64: titles of each class predicted as it, titles of it, titles predicted as it."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    counted = (labels[labels == predictions], labels, predictions)
    return np.stack([np.bincount(titles, minlength=classes) for titles in counted]).astype(np.float64)


def divide(a, b):
    """a / b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(np.shape(a), np.shape(b))), where=np.asarray(b) > 0)


def macro_f1(labels, predictions, classes):
    """Macro-F1 of integer labels and predictions in 0 … classes-1, a float from 0 to 1.

    F1 of a class is 2·hits / (labelled + predicted), which equals 2PR / (P + R) (van Rijsbergen 1979). A class that
    neither occurs nor is predicted has no F1 and is left out of the mean, as in scikit-learn.
    """
    hits, labelled, predicted = class_counts(labels, predictions, classes)
    total = labelled + predicted
    return float(divide(2 * hits, total).sum() / max((total > 0).sum(), 1))


def score(labels, predictions, folds, classes):
    """The figures of a run. labels: (n,) int; predictions, folds: (repeats, n) int.

    "macro_f1" is the mean over repeats of macro-F1 over all titles, "fold_mean" and "fold_deviation" (ddof 1) are over
    all repeats × folds; "collapsed" lists the [repeat, fold] in which one class only is predicted.
    """
    labels, predictions, folds = np.asarray(labels), np.atleast_2d(predictions), np.atleast_2d(folds)
    whole = [macro_f1(labels, predicted, classes) for predicted in predictions]
    parts, collapsed = [], []
    for repeat, (predicted, fold_of) in enumerate(zip(predictions, folds, strict=True)):
        parts.append([])
        for fold in range(fold_of.max() + 1):
            held_out = fold_of == fold
            parts[-1].append(macro_f1(labels[held_out], predicted[held_out], classes))
            if len(np.unique(predicted[held_out])) == 1:
                collapsed.append([repeat, fold])
    return {
        "macro_f1": float(np.mean(whole)),
        "repeat_macro_f1": whole,
        "fold_mean": float(np.mean(parts)),
        "fold_deviation": float(np.std(parts, ddof=1)),
        "fold_macro_f1": parts,
        "collapsed": collapsed,
    }


def class_scores(labels, predictions, classes):
    """Precision, recall, F1 (means over repeats) and number of titles of each class, a dict of (classes,) arrays.

    predictions: (repeats, n) int. Precision of a class that is never predicted is 0.
    """
    counts = [class_counts(labels, predicted, classes) for predicted in np.atleast_2d(predictions)]
    mean = np.mean([[divide(h, p), divide(h, n), divide(2 * h, n + p)] for h, n, p in counts], axis=0)
    return {"precision": mean[0], "recall": mean[1], "f1": mean[2], "titles": counts[0][1].astype(np.int64)}


def majority(labels, classes):
    """Macro-F1 of always predicting the commonest class."""
    labelled = np.bincount(labels, minlength=classes)
    return float(2 * labelled.max() / (labelled.sum() + labelled.max()) / (labelled > 0).sum())


def chance(labels, predictions, classes):
    """Macro-F1 expected of predictions that are as frequent as these, (repeats, n), and know nothing of the labels."""
    values = []
    for predicted in np.atleast_2d(predictions):
        _, n, p = class_counts(labels, predicted, classes)
        values.append(divide(2 * n * p / n.sum(), n + p).sum() / (n + p > 0).sum())
    return float(np.mean(values))


# --- uncertainty --------------------------------------------------------------------------------------------------


def influences(labels, predictions, classes, groups=None):
    """What the intervals need to know of one row of a table; its memory is one float64 for each group.

    labels: (n,) int; predictions: (repeats, n) int; groups: (n,) int, titles that are copies of one another and so are
    right or wrong together; None: each title is a group of its own.

    The value is the mean over repeats of F = mean of 2h/(n + p) over K classes (h hits, n labelled, p predicted). A title
    with label y and prediction q moves F by (2·[y = q]/(n_y + p_y) - f_y/(n_y + p_y) - f_q/(n_q + p_q)) / K, the
    derivative of F by the title's weight; over all titles this sums to 0.
    """
    labels, predictions = np.asarray(labels), np.atleast_2d(predictions)
    group = None if groups is None else np.unique(groups, return_inverse=True)[1]
    size = len(labels) if group is None else int(group.max()) + 1
    total, squares, values, counts = np.zeros(size), np.zeros(size), [], []
    for predicted in predictions:
        h, n, p = class_counts(labels, predicted, classes)
        share = divide(1.0, (n + p) * (n + p > 0).sum())  # of one title in one class's F1, over the number of classes
        pull = share * divide(2 * h, n + p)
        moved = -pull[labels] - pull[predicted] + np.where(labels == predicted, 2 * share[labels], 0)
        moved = moved if group is None else np.bincount(group, moved, size)
        total += moved
        squares += moved**2
        values.append(divide(2 * h, n + p).sum() / (n + p > 0).sum())
        counts.append((h, n, p))
    repeats = len(predictions)
    mean = total / repeats
    # what titles vary by between repeats, each on its own: part of the variance of the mean, and of that of the values
    noise = (squares.sum() - repeats * (mean**2).sum()) / max(repeats - 1, 1)
    return {
        "value": float(np.mean(values)),
        "values": np.array(values),
        "groups": mean,
        "counts": np.mean(counts, axis=0),
        "titles_variance": float((mean**2).sum() * size / max(size - 1, 1)),
        "repeats_variance": max(0.0, float(np.var(values, ddof=1)) - noise) / repeats if repeats > 1 else 0.0,
    }


def interval(row, level=0.95):
    """The interval (low, high) of a row's macro-F1 from `influences` of that row alone; it lies within 0 … 1."""
    z = normal_quantile((1 + level) / 2)
    variance = row["titles_variance"] + row["repeats_variance"]
    _, n, _ = row["counts"]
    n = n[n > 0]
    design = np.sum(1 / n) / len(n) ** 2
    value = row["value"]
    smooth = (value + design * z**2 / 2) / (1 + design * z**2)
    floor = smooth * (1 - smooth) * design / 2
    trials = smooth * (1 - smooth) / max(variance, floor)
    centre = (value + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(value * (1 - value) / trials + z**2 / (4 * trials**2))
    return float(centre - half), float(centre + half)


def normal_quantile(probability):
    """The quantile of the standard normal distribution."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)


def too_few(row):
    """The classes that have too few titles for an interval."""
    return []


def shown_to_beat(row, value, level=0.95):
    """Whether a row's macro-F1 is above a value, with one-sided confidence."""
    return interval(row, 2 * level - 1)[0] > value


# --- comparison ---------------------------------------------------------------------------------------------------


def compare(rows, best, candidates=None, level=0.95, seed=0):
    """Compare all rows with one another, paired and simultaneously.

    rows: list of `influences` on the same titles, groups and repeats; best: index of the best candidate; candidates:
    (rows,) bool, rows among which the best is chosen (all); others are compared with the best, but never chosen.
    """
    count = len(rows)
    candidates = np.ones(count, bool) if candidates is None else np.asarray(candidates, bool)
    value = np.array([row["value"] for row in rows])
    moved = np.stack([row["groups"] for row in rows])
    size = moved.shape[1]
    titles = moved @ moved.T * (size / max(size - 1, 1))
    own = np.array([row["repeats_variance"] for row in rows])
    repeats = np.maximum(own, np.median(own))
    covariance = titles + np.diag(repeats)
    same = np.array(
        [[np.array_equal(a["groups"], b["groups"]) and a["value"] == b["value"] for b in rows] for a in rows]
    )

    def pairs(c):
        d = np.diag(c)
        return np.where(same, 0, np.maximum(d[:, None] + d - 2 * c, 0))

    variance = pairs(covariance)
    se = np.sqrt(variance)
    random = np.random.default_rng(seed)
    eigenvalues, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(eigenvalues, 0))
    z = random.standard_normal((DRAWS // 2, count)) @ root.T
    z = np.concatenate([z, -z])
    largest, one_sided = np.zeros(DRAWS), 0.0
    for row in np.flatnonzero(candidates):
        t = divide(z - z[:, [row]], se[row] * np.ones((DRAWS, 1)))
        np.maximum(largest, np.abs(t).max(1), out=largest)
        one_sided = max(one_sided, np.quantile(t[:, candidates].max(1), level))
    critical = float(np.quantile(largest, level))
    difference = value - value[best]
    t = np.abs(divide(difference, se[best]))
    chosen = np.flatnonzero(candidates)
    in_bag = value[chosen] + z[:, chosen]
    pick = in_bag.argmax(1)
    bound = (value[chosen] - value[:, None] + one_sided * se[:, chosen]).max(1)
    return {
        "difference": difference,
        "se": se[best],
        "low": difference - critical * se[best],
        "high": difference + critical * se[best],
        "told": t > critical,
        "border": (t > 0) & (np.abs(t - critical) < BORDER * critical),
        "loss_bound": bound,
        "corrected": float((value[chosen][pick] - z[:, chosen][np.arange(DRAWS), pick]).mean()),
        "critical": critical,
        "one_sided": one_sided,
        "best": best,
        "titles_variance": pairs(titles),
        "repeats_variance": variance - pairs(titles),
    }


def titles_needed(comparison, row, margin, titles):
    """How many titles like these would settle whether a row loses at most the margin to the best; None if none would.

    The titles' part of the variance shrinks with their number, that of the repeats does not.
    """
    best, c = comparison["best"], comparison["one_sided"]
    room = (margin + comparison["difference"][row]) ** 2 - c**2 * comparison["repeats_variance"][row, best]
    if room <= 0:
        return None
    needed = max(titles * c**2 * comparison["titles_variance"][row, best] / room, titles)
    digits = 10 ** max(int(np.log10(needed)) - 1, 0)
    return int(np.ceil(needed / digits) * digits)


# --- probabilities ------------------------------------------------------------------------------------------------


def log_loss(labels, probabilities):
    """Mean of -log of the probability of the true class, in nats; labels (n,), probabilities (n, classes)."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(own, TINY)).mean())


def expected_calibration_error(labels, probabilities, bins=15):
    """Mean distance of how sure from how often right, over equal-width bins of the top probability (Guo et al. 2017)."""
    sure, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    bin_of = np.minimum((sure * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(bin_of, sure - right, bins)).sum() / len(sure))


def pool(probabilities):
    """Probabilities of several heads, (heads, …, classes), as one opinion: the logarithmic pool (Genest & Zidek 1986).

    The mean of log p, made to sum to 1 again. Averaging p itself makes an ensemble less sure than it is right.
    """
    return sharpen(np.exp(sum(np.log(np.maximum(p, TINY)) for p in probabilities) / len(probabilities)), 1.0)


def sharpen(probabilities, temperature):
    """softmax(log p / temperature) along the last axis, float64; above 1 probabilities get less sure."""
    logits = np.log(np.maximum(probabilities, TINY, dtype=np.float64)) / temperature
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def fit_temperature(labels, probabilities, bounds=(0.05, 20.0)):
    """The temperature for which `sharpen` has the least log loss; 1.0 where that is no better than leaving them alone.

    Log loss is convex in 1/temperature, so its slope changes sign once: bisection finds it, between the bounds.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    blocks = [slice(first, first + BLOCK) for first in range(0, len(labels), BLOCK)]

    def slope(temperature):
        total = 0.0
        for block in blocks:
            logits = np.log(np.maximum(probabilities[block], TINY, dtype=np.float64))
            expected = (sharpen(probabilities[block], temperature) * logits).sum()
            total += expected - logits[np.arange(len(logits)), labels[block]].sum()
        return total

    low, high = np.log(bounds)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(np.exp(middle)) < 0 else (middle, high)
    temperature = float(np.exp((low + high) / 2))

    def loss(temperature):
        sums = [log_loss(labels[b], sharpen(probabilities[b], temperature)) * len(labels[b]) for b in blocks]
        return sum(sums) / len(labels)

    return temperature if loss(temperature) < loss(1.0) - 1e-6 else 1.0
