"""Macro-F1 with its uncertainty, the comparison of rows, and how far probabilities can be trusted, in numpy alone.

Macro-F1 is a smooth function of counts, so what each title contributes to its error is known in closed form: the
influence function, also called the infinitesimal jackknife (Efron 1982, chapter 6). Variances and covariances are sums
over groups of titles, nothing is resampled, and the cost is one pass over the titles. The constants below were chosen
by simulation; tests/drill_comparison.py repeats it, and results/comparison.md is its outcome.
"""

from statistics import NormalDist

import numpy as np

BLOCK = 65_536  # titles that are worked on at a time where a whole copy would take much memory
DRAWS = 20_000  # Gaussian draws for critical values, which are then known to about 0.5%
BORDER = 0.05  # a verdict that a critical value 5% lower or higher would change is said to be at the border
ENOUGH = 12  # effective titles of a class below which intervals cover too seldom
PRIOR = 30  # effective titles whose weight the binomial variance has in that of a row
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
    a, b = np.broadcast_arrays(np.asarray(a, dtype=np.float64), b)
    return np.divide(a, b, out=np.zeros(a.shape), where=b != 0)


def macro_f1(labels, predictions, classes):
    """Macro-F1 of integer labels and predictions in 0 … classes-1, a float from 0 to 1.

    F1 of a class is 2·hits / (labelled + predicted), which equals 2PR / (P + R) (van Rijsbergen 1979). A class that
    neither occurs nor is predicted has no F1 and is left out of the mean, as in scikit-learn.
    """
    hits, labelled, predicted = class_counts(labels, predictions, classes)
    return float(divide(2 * hits, labelled + predicted).sum() / max((labelled + predicted > 0).sum(), 1))


def score(labels, predictions, folds, classes):
    """The figures of a run, as JSON takes them. labels: (n,) int; predictions, folds: (repeats, n) int.

    "macro_f1" is the mean over repeats of macro-F1 over all titles; "fold_mean" and "fold_deviation" (ddof 1) are over
    all repeats × folds; "collapsed" lists the [repeat, fold] in which one class only is predicted.
    """
    labels, predictions, folds = np.asarray(labels), np.atleast_2d(predictions), np.atleast_2d(folds)
    parts, collapsed = [], []
    for repeat, (predicted, fold_of) in enumerate(zip(predictions, folds, strict=True)):
        tests = [fold_of == fold for fold in range(fold_of.max() + 1)]
        parts.append([macro_f1(labels[test], predicted[test], classes) for test in tests])
        collapsed += [[repeat, fold] for fold, test in enumerate(tests) if len(np.unique(predicted[test])) == 1]
    whole = [macro_f1(labels, predicted, classes) for predicted in predictions]
    return {
        "macro_f1": float(np.mean(whole)),
        "repeat_macro_f1": whole,
        "fold_mean": float(np.mean(parts)),
        "fold_deviation": float(np.std(parts, ddof=1)),
        "fold_macro_f1": parts,
        "collapsed": collapsed,
    }


def class_scores(labels, predictions, classes):
    """Precision, recall, F1 (means over repeats, 0 where there is none) and number of titles of each class.

    predictions: (repeats, n) int. Returns a dict of (classes,) arrays.
    """
    counts = [class_counts(labels, predicted, classes) for predicted in np.atleast_2d(predictions)]
    mean = np.mean([[divide(h, p), divide(h, n), divide(2 * h, n + p)] for h, n, p in counts], axis=0)
    return {"precision": mean[0], "recall": mean[1], "f1": mean[2], "titles": counts[0][1].astype(np.int64)}


def majority(labels, classes):
    """Macro-F1 of always predicting the commonest class."""
    return macro_f1(labels, np.full(len(labels), np.bincount(labels, minlength=classes).argmax()), classes)


def chance(labels, predictions, classes):
    """Macro-F1 to be expected of predictions as frequent as these, (repeats, n), that know nothing of the labels."""
    counts = [class_counts(labels, predicted, classes) for predicted in np.atleast_2d(predictions)]
    return float(np.mean([divide(2 * n * p / n.sum(), n + p).sum() / (n + p > 0).sum() for _, n, p in counts]))


# --- uncertainty of one row ---------------------------------------------------------------------------------------


def influences(labels, predictions, classes, groups=None):
    """What the intervals need to know of one row of a table, a dict; its memory is one float64 for each group.

    labels: (n,) int; predictions: (repeats, n) int; groups: (n,) int, titles that are copies of one another and so are
    right or wrong together; None: each title is a group of its own.

    With h hits, n titles and p predictions of a class, F is the mean of f = 2h/(n + p) over K classes. A title with
    label y and prediction q moves it by (2·[y = q]/(n_y + p_y) - f_y/(n_y + p_y) - f_q/(n_q + p_q)) / K, the derivative
    of F by the title's weight; over all titles this sums to 0. The value is the mean of F over repeats.
    """
    labels, predictions = np.asarray(labels), np.atleast_2d(predictions)
    group = None if groups is None else np.unique(groups, return_inverse=True)[1]
    copies = np.ones(len(labels)) if group is None else np.bincount(group)
    total, squares, each = np.zeros(len(copies)), 0.0, []
    for predicted in predictions:
        h, n, p = class_counts(labels, predicted, classes)
        f = divide(2 * h, n + p)
        share = divide(1.0, (n + p) * (n + p > 0).sum())
        moved = 2 * share[labels] * (labels == predicted) - (share * f)[labels] - (share * f)[predicted]
        moved = moved if group is None else np.bincount(group, moved)
        total, squares = total + moved, squares + (moved**2).sum()
        each.append((f.sum() / (n + p > 0).sum(), f))
    values, class_f1 = zip(*each, strict=True)
    repeats, mean = len(predictions), total / len(predictions)
    between = float(np.var(values, ddof=1)) / repeats if repeats > 1 else 0.0
    # titles that change between repeats, each on its own, are in the titles' variance already, and in this one as well
    noise = (squares - repeats * (mean**2).sum()) / max(repeats - 1, 1) / repeats
    independent = np.bincount(labels, None if group is None else 1 / copies[group], classes)  # groups of each class
    return {
        "value": float(np.mean(values)),
        "repeats": repeats,
        "groups": mean,
        "class_f1": np.mean(class_f1, axis=0),
        "class_groups": independent.astype(np.float64),
        "titles_variance": float((mean**2).sum()) * len(mean) / max(len(mean) - 1, 1),
        "between": between,  # the whole variance between repeats, over their number
        "repeats_variance": max(0.0, between - noise),  # the part of it that all titles share
    }


def t_quantile(probability, freedom):
    """The quantile, at least 0.5, of Student's t with any degrees of freedom from 1, to about 1e-5.

    With t = √freedom · tan(a) the density becomes cos(a)^(freedom - 1), which is integrated by the trapezoid rule.
    """
    if freedom > 1000:
        return NormalDist().inv_cdf(probability)
    angle = np.linspace(0, np.pi / 2, 20_001)
    density = np.cos(angle) ** (freedom - 1)
    mass = np.r_[0, np.cumsum(density[1:] + density[:-1])]
    return float(np.sqrt(freedom) * np.tan(np.interp((2 * probability - 1) * mass[-1], mass, angle)))


def effective_titles(row):
    """How many titles the variance rests on as far as each class goes, (classes,) float64; 0 for a class without any.

    A class of n titles weighs 1/n, so rare classes may matter alone: n times Kish's effective number of classes.
    """
    weight = divide(1.0, row["class_groups"])
    return row["class_groups"] * weight.sum() ** 2 / (weight**2).sum()


def too_few(row):
    """The classes, a list of int, with too few titles for `interval` to be trusted."""
    return [int(c) for c in np.flatnonzero((row["class_groups"] > 0) & (effective_titles(row) < ENOUGH))]


def interval(row, level=0.95):
    """The interval (low, high), within 0 … 1, of a row's macro-F1 over the choice of titles and of repeats.

    Wilson's score interval (1927) for as many trials as have the variance found, with Student's t and Satterthwaite's
    degrees of freedom (1946), since few repeats say little of their own variance; with one repeat, titles only. A few
    titles without an error do not show that there are none: the variance gets what a binomial one would from Wilson's
    pseudo-counts over all classes, or from half a hit and half an error in each, and is pulled up towards that one.
    """
    value, present = row["value"], row["class_groups"] > 0
    n, f = row["class_groups"][present], row["class_f1"][present]
    design, z2 = (1 / n).sum() / len(n) ** 2, NormalDist().inv_cdf((1 + level) / 2) ** 2
    smooth, each = (value + design * z2 / 2) / (1 + design * z2), (f * n + 0.5) / (n + 1)
    plain = np.array([value * (1 - value) * design, (f * (1 - f) / n).sum() / len(n) ** 2])
    smoothed = np.array([smooth * (1 - smooth) * design, (each * (1 - each) / n).sum() / len(n) ** 2])
    variance = row["titles_variance"] + max(0.0, (smoothed - plain).max())
    variance += max(0.0, smoothed.max() - variance) * PRIOR / (PRIOR + effective_titles(row)[present].min())
    variance += row["repeats_variance"]
    freedom = max(row["repeats"] - 1, 1) * (variance / max(row["between"], 1e-3 * variance)) ** 2
    ratio = t_quantile((1 + level) / 2, max(freedom, 1.0)) ** 2 * variance / (smooth * (1 - smooth))
    half = np.sqrt(ratio * value * (1 - value) + ratio**2 / 4)
    low, high = (value + ratio / 2 - half) / (1 + ratio), (value + ratio / 2 + half) / (1 + ratio)
    return float(max(low, 0.0)), float(min(high, 1.0))


def shown_to_beat(row, value, level=0.95):
    """Whether a row's macro-F1 is above a value, with one-sided confidence."""
    return interval(row, 2 * level - 1)[0] > value


# --- comparison of rows -------------------------------------------------------------------------------------------


def compare(rows, best, candidates=None, level=0.95):
    """All rows against the best, paired, and simultaneously over all pairs, since the same titles choose the best.

    rows: list of `influences` on the same titles, groups and repeats; best: index of the best candidate; candidates:
    (rows,) bool, those that compete for it (default: all); others are compared with it only.

    Returns arrays (rows,): "difference" to the best, its "se", simultaneous interval "low" to "high", "told" whether it
    leaves out 0, "border" whether that was close; "loss_bound", what a row loses at most against any candidate, with
    one-sided confidence for all rows at once (Hsu's comparison with the best, 1984). "corrected" is the best value less
    what it owes to having been chosen: bootstrap bias-corrected cross-validation (Tsamardinos, Greasidou & Borboudakis
    2018) in its Gaussian limit, where scores in the resample are off by e, and those out of it by -e.
    """
    chosen = np.arange(len(rows)) if candidates is None else np.flatnonzero(candidates)
    value, repeats = np.array([row["value"] for row in rows]), rows[0]["repeats"]
    moved = np.stack([row["groups"] for row in rows])
    titles = moved @ moved.T * (moved.shape[1] / max(moved.shape[1] - 1, 1))
    # A variance from 3 repeats is often far too small: it counts repeats / (repeats - 1) times, and is no less
    # than the rows' median, over that of chi-squared (Wilson & Hilferty 1931).
    between = np.array([row["between"] for row in rows])
    typical = np.median(between) / (1 - 2 / (9 * max(repeats - 1, 1))) ** 3
    repeated = np.maximum(between * repeats / max(repeats - 1, 1), typical)

    def draws(covariance):
        values, vectors = np.linalg.eigh(covariance)
        normal = np.random.default_rng(0).standard_normal((DRAWS // 2, len(rows)))
        return np.concatenate([normal, -normal]) @ (vectors * np.sqrt(np.maximum(values, 0))).T  # their mean is 0

    own = np.diag(titles)
    apart = own[:, None] + own - 2 * titles
    apart = np.where(apart > 1e-9 * (own[:, None] + own), apart, 0)  # equal predictions
    together = np.where(apart > 0, repeated[:, None] + repeated, 0)
    se, z = np.sqrt(apart + together), draws(titles + np.diag(repeated))
    largest, one_sided = np.zeros(len(z)), NormalDist().inv_cdf(level)
    for row in chosen:
        t = divide(z - z[:, [row]], se[row])
        largest = np.maximum(largest, np.abs(t).max(1))
        one_sided = max(one_sided, np.quantile(t[:, chosen].max(1), level))
    critical, difference = np.quantile(largest, level), value - value[best]
    t = np.abs(divide(difference, se[best]))
    # Few titles that two rows agree on do not show that they always do: the bound adds the variance of one title.
    one_title = divide(1.0, rows[best]["class_groups"]).sum() / (rows[best]["class_groups"] > 0).sum() ** 2
    losses, apart = value[chosen] - value[:, None], (apart + (1 - np.eye(len(rows))) * one_title**2)[:, chosen]
    bound = losses + one_sided * np.sqrt(apart + together[:, chosen])
    e = draws(titles + np.diag([row["repeats_variance"] for row in rows]))[:, chosen]
    picked = (value[chosen] + e).argmax(1)
    return {
        "difference": difference,
        "se": se[best],
        "low": difference - critical * se[best],
        "high": difference + critical * se[best],
        "told": t > critical,
        "border": (t > 0) & (np.abs(t - critical) < BORDER * critical),
        "loss_bound": bound.max(1),
        "corrected": float((value[chosen][picked] - e[np.arange(len(e)), picked]).mean()),
        "settle": (losses, one_sided**2 * apart, one_sided**2 * together[:, chosen]),  # for `titles_needed`
    }


def titles_needed(comparison, row, margin, titles):
    """How many titles like these would settle whether a row loses at most the margin, an int; None if no number would.

    The titles' part of the variance shrinks with their number; that of the repeats does not.
    """
    losses, apart, together = (part[row] for part in comparison["settle"])
    away = losses - margin
    against = [away.argmax()] if away.max() > 0 else away > -np.inf  # one that is better by more is enough
    room = (away**2 - together)[against]
    if (room <= 0).any():
        return None
    needed = max(titles, titles * (apart[against] / room).max())
    digits = 10 ** (int(np.log10(needed)) - 1)
    return int(np.ceil(needed / digits) * digits)


# --- probabilities ------------------------------------------------------------------------------------------------


def log_loss(labels, probabilities):
    """Mean of -log of the probability of the true class, in nats; labels (n,), probabilities (n, classes)."""
    own = np.asarray(probabilities)[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(own, TINY)).mean())


def expected_calibration_error(labels, probabilities, bins=15):
    """Mean gap between how sure and how often right, over equal-width bins of the top probability (Guo et al. 2017)."""
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
    """The temperature with which `sharpen` has the least log loss; 1.0 where that gains no more than 1e-6.

    Log loss is convex in the sharpness 1/temperature: Newton's steps find its minimum; one that would leave what is
    known to hold the minimum, at first the bounds, is replaced by halving that.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)

    def moments(sharpness):
        """Log loss, its slope and its curvature."""
        sums = np.zeros(3)
        for first in range(0, len(labels), BLOCK):
            logits = np.log(np.maximum(probabilities[first : first + BLOCK], TINY, dtype=np.float64))
            own = logits[np.arange(len(logits)), labels[first : first + BLOCK]]
            powers = np.exp(sharpness * (logits - logits.max(1, keepdims=True)))
            total = powers.sum(1)
            mean = (powers * logits).sum(1) / total
            loss = np.log(total) + sharpness * (logits.max(1) - own)
            sums += loss.sum(), (mean - own).sum(), ((powers * logits**2).sum(1) / total - mean**2).sum()
        return sums / len(labels)

    (before, slope, curvature), sharpness = moments(1.0), 1.0
    low, high, loss = 1 / bounds[1], 1 / bounds[0], before
    sharpest, falling, _ = moments(high)
    if falling <= 0:
        return bounds[0] if sharpest < before - 1e-6 else 1.0
    for _ in range(25):
        low, high = (sharpness, high) if slope < 0 else (low, sharpness)
        step = sharpness - slope / max(curvature, TINY)
        last, sharpness = sharpness, step if low < step < high else np.sqrt(low * high)
        if abs(sharpness - last) < 1e-7 * last:
            break
        loss, slope, curvature = moments(sharpness)
    return float(1 / sharpness) if loss < before - 1e-6 else 1.0
