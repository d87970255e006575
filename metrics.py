"""Macro-F1 with its uncertainty, the comparison of rows, and how far probabilities can be trusted, in numpy alone.

Macro-F1 is a smooth function of counts, so what each title contributes to its error is known in closed form: the
influence function, also called the infinitesimal jackknife (Efron 1982, chapter 6). Variances and covariances are sums
over groups of titles, nothing is resampled, and the cost is one pass over the titles. The constants below were chosen
by simulation; tests/drill_comparison.py repeats it, and results/comparison.md is its outcome.
"""

from statistics import NormalDist

import numpy as np

DRAWS = 20_000  # Gaussian draws for critical values, which are then known to about 0.5%
BORDER = 0.05  # a verdict that a critical value 5% lower or higher would change is said to be at the border
ENOUGH = 12  # effective titles of a class below which intervals cover too seldom
PRIOR = 30  # effective titles whose weight the binomial variance has in that of a row
TINY = 1e-12  # a probability of 0 would make the log loss infinite


def confusion_matrix(labels, predictions, classes):
    """(classes, classes) int64 counts; the row is the true class, the column the predicted one."""
    cells = np.asarray(labels, dtype=np.int64) * classes + np.asarray(predictions)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def class_counts(labels, predictions, classes):
    """(3, classes) int64: titles of each class predicted as it, titles of it, titles predicted as it."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    counted = (labels[labels == predictions], labels, predictions)
    return np.stack([np.bincount(titles, minlength=classes) for titles in counted])


def divide(a, b):
    """a / b, and 0 where b is 0."""
    return np.where(b == 0, 0, a / np.where(b == 0, 1, b))


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
    whole, parts, collapsed = [], [], []
    for repeat, (predicted, fold_of) in enumerate(zip(predictions, folds, strict=True)):
        tests = [fold_of == fold for fold in range(fold_of.max() + 1)]
        whole.append(macro_f1(labels, predicted, classes))
        parts.append([macro_f1(labels[test], predicted[test], classes) for test in tests])
        collapsed += [[repeat, fold] for fold, test in enumerate(tests) if len(np.unique(predicted[test])) == 1]
    return {
        "macro_f1": float(np.mean(whole)),
        "repeat_macro_f1": whole,
        "fold_mean": float(np.mean(parts)),
        "fold_deviation": float(np.std(parts, ddof=1)),
        "fold_macro_f1": parts,
        "collapsed": collapsed,
    }


def influences(labels, predictions, classes, groups=None):
    """What a table needs to know of one row, a dict; its memory is one float64 for each group.

    labels: (n,) int; predictions: (repeats, n) int; groups: (n,) int, titles that are copies of one another and so are
    right or wrong together; None: each title is a group of its own.

    With h hits, n titles and p predictions of a class, F is the mean of f = 2h/(n + p) over K classes. A title with
    label y and prediction q moves it by (2·[y = q]/(n_y + p_y) - f_y/(n_y + p_y) - f_q/(n_q + p_q)) / K, the derivative
    of F by the title's weight; over all titles this sums to 0. The value is the mean of F over repeats.
    """
    labels, predictions = np.asarray(labels), np.atleast_2d(predictions)
    group = np.unique(np.arange(len(labels)) if groups is None else groups, return_inverse=True)[1]
    copies, repeats = np.bincount(group), len(predictions)
    total, squares, values, scores, chances = np.zeros(len(copies)), 0.0, [], [], []
    for predicted in predictions:
        h, n, p = class_counts(labels, predicted, classes)
        f, known = divide(2 * h, n + p), (n + p > 0).sum()
        share = divide(1, (n + p) * known)
        moved = 2 * share[labels] * (labels == predicted) - (share * f)[labels] - (share * f)[predicted]
        moved = np.bincount(group, moved)
        total, squares = total + moved, squares + (moved**2).sum()
        values.append(f.sum() / known)
        scores.append([f, divide(h, p), divide(h, n)])
        chances.append(divide(2 * n * p / n.sum(), n + p).sum() / known)
    mean, scores, present = total / repeats, np.mean(scores, axis=0), np.flatnonzero(n)
    between = float(np.var(values, ddof=1)) / repeats if repeats > 1 else 0.0
    # titles that change between repeats, each on its own, are in the titles' variance already, and in this one as well
    noise = (squares - repeats * (mean**2).sum()) / max(repeats - 1, 1) / repeats
    independent = np.bincount(labels, 1 / copies[group], classes)[present]  # groups of each class
    weight = 1 / independent  # classes weigh the same, so rare ones may matter alone: Kish's effective number of them
    effective = independent * weight.sum() ** 2 / (weight**2).sum()
    return {
        "value": float(np.mean(values)),
        "repeats": repeats,
        "groups": mean,
        "scores": scores,  # (3, classes): F1, precision and recall, means over repeats, 0 where there is none
        # macro-F1 without any knowledge: of predictions as frequent as these, or of the commonest class everywhere
        "chance": max(float(np.mean(chances)), 2 * n.max() / (n.max() + n.sum()) / len(present)),
        "class_f1": scores[0, present],  # of the classes that occur, as are the next two
        "class_groups": independent,
        "effective": effective,  # how many titles the variance rests on as far as each class goes
        "too_few": present[effective < ENOUGH].tolist(),  # classes with too few titles for `interval` to be trusted
        "one_title": weight.sum() / len(present) ** 2,  # the weight of one title, on average over classes
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


def interval(row, level=0.95):
    """The interval (low, high), within 0 … 1, of a row's macro-F1 over the choice of titles and of repeats.

    Wilson's score interval (1927) for as many trials as have the variance found, with Student's t and Satterthwaite's
    degrees of freedom (1946), since few repeats say little of their own variance; with one repeat, titles only. A few
    titles without an error do not show that there are none: the variance gets what a binomial one would from Wilson's
    pseudo-counts over all classes, or from half a hit and half an error in each, and is pulled up towards that one.
    """
    value, f, n, design = (row[key] for key in ("value", "class_f1", "class_groups", "one_title"))

    def binomial(whole, each):
        """The variance by macro-F1 as a whole, and by each class."""
        return np.array([whole * (1 - whole) * design, (each * (1 - each) / n).sum() / len(n) ** 2])

    pseudo = design * NormalDist().inv_cdf((1 + level) / 2) ** 2
    smooth = (value + pseudo / 2) / (1 + pseudo)
    smoothed = binomial(smooth, (f * n + 0.5) / (n + 1))
    variance = row["titles_variance"] + max(0.0, (smoothed - binomial(value, f)).max())
    variance += max(0.0, smoothed.max() - variance) * PRIOR / (PRIOR + row["effective"].min())
    variance += row["repeats_variance"]
    freedom = max(row["repeats"] - 1, 1) * (variance / max(row["between"], 1e-3 * variance)) ** 2
    ratio = t_quantile((1 + level) / 2, max(freedom, 1.0)) ** 2 * variance / (smooth * (1 - smooth))
    half = np.sqrt(ratio * value * (1 - value) + ratio**2 / 4)
    low, high = np.clip((value + ratio / 2 + np.array([-half, half])) / (1 + ratio), 0, 1)
    return float(low), float(high)


def compare(rows, best, candidates=None, level=0.95):
    """All rows against the best, paired, and simultaneously over all pairs, since the same titles choose the best.

    rows: list of `influences` on the same titles, groups and repeats; best: index of the best candidate; candidates:
    (rows,) bool, those that compete for it (default: all); others are compared with it only.

    Returns arrays (rows,): "difference" to the best, its simultaneous interval "low" to "high", "told" whether it
    leaves out 0, "border" whether that was close; "loss_bound", what a row loses at most against any candidate, with
    one-sided confidence for all rows at once (Hsu's comparison with the best, 1984); "settle" is for `titles_needed`.
    "corrected" is the best value less what it owes to having been chosen: bootstrap bias-corrected cross-validation
    (Tsamardinos, Greasidou & Borboudakis 2018) in its Gaussian limit, where scores in the resample are off by e, and
    those out of it by -e.
    """
    chosen = np.arange(len(rows)) if candidates is None else np.flatnonzero(candidates)
    value, between, shared = (np.array([row[key] for row in rows]) for key in ("value", "between", "repeats_variance"))
    moved, repeats = np.stack([row["groups"] for row in rows]), rows[0]["repeats"]
    titles = moved @ moved.T * (moved.shape[1] / max(moved.shape[1] - 1, 1))
    # A variance from 3 repeats is often far too small: it counts repeats / (repeats - 1) times, and is no less
    # than the rows' median, over that of chi-squared (Wilson & Hilferty 1931).
    typical = np.median(between) / (1 - 2 / (9 * max(repeats - 1, 1))) ** 3
    repeated = np.maximum(between * repeats / max(repeats - 1, 1), typical)

    def draws(covariance):
        random = np.random.default_rng(0)
        half = random.multivariate_normal(np.zeros(len(rows)), covariance, DRAWS // 2, method="eigh")
        return np.concatenate([half, -half])  # their mean is 0

    own = np.add.outer(np.diag(titles), np.diag(titles))
    apart = np.where(own - 2 * titles > 1e-9 * own, own - 2 * titles, 0)  # 0: equal predictions
    together = np.where(apart > 0, np.add.outer(repeated, repeated), 0)
    se, z = np.sqrt(apart + together), draws(titles + np.diag(repeated))
    largest, one_sided = np.zeros(len(z)), NormalDist().inv_cdf(level)
    for row in chosen:
        t = divide(z - z[:, [row]], se[row])
        largest = np.maximum(largest, np.abs(t).max(1))
        one_sided = max(one_sided, np.quantile(t[:, chosen].max(1), level))
    critical, difference = np.quantile(largest, level), value - value[best]
    t = np.abs(divide(difference, se[best]))
    # Few titles that two rows agree on do not show that they always do: the bound adds the variance of one title.
    apart += (1 - np.eye(len(rows))) * rows[best]["one_title"] ** 2
    losses, apart, together = value[chosen] - value[:, None], apart[:, chosen], together[:, chosen]
    e = draws(titles + np.diag(shared))[:, chosen]
    picked = (value[chosen] + e).argmax(1)
    return {
        "difference": difference,
        "low": difference - critical * se[best],
        "high": difference + critical * se[best],
        "told": t > critical,
        "border": (t > 0) & (np.abs(t - critical) < BORDER * critical),
        "loss_bound": (losses + one_sided * np.sqrt(apart + together)).max(1),
        "settle": np.stack([losses, one_sided**2 * apart, one_sided**2 * together], axis=1),
        "corrected": float((value[chosen][picked] - e[np.arange(len(e)), picked]).mean()),
    }


def titles_needed(settle, margin, titles):
    """How many titles like these would settle whether a row loses at most the margin, an int; None if no number would.

    settle: the row's, from `compare`. The titles' part of the variance shrinks with their number, the repeats' not.
    """
    losses, apart, together = settle
    away = losses - margin
    against = [away.argmax()] if away.max() > 0 else slice(None)  # one that is better by more is enough
    room = (away**2 - together)[against]
    if (room <= 0).any():
        return None
    needed = max(titles, titles * (apart[against] / room).max())
    digits = 10 ** (int(np.log10(needed)) - 1)
    return int(np.ceil(needed / digits) * digits)


def log_loss(labels, probabilities):
    """Mean of -log of the probability of the true class, in nats; labels (n,), probabilities (n, classes)."""
    own = np.asarray(probabilities)[np.arange(len(labels)), labels].astype(np.float64)
    return float(0.0 - np.log(np.maximum(own, TINY)).mean())  # never -0.0


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
    powers = np.maximum(probabilities, TINY, dtype=np.float64)
    np.log(powers, out=powers)  # in place: for many titles and classes, every copy is large
    powers -= powers.max(-1, keepdims=True)
    powers /= temperature
    np.exp(powers, out=powers)
    powers /= powers.sum(-1, keepdims=True)
    return powers


def fit_temperature(labels, probabilities):
    """The temperature, 0.05 to 20, with which `sharpen` has the least log loss; 1.0 where it gains no more than 1e-6.

    Log loss is convex in the sharpness 1/temperature: its slope there changes its sign once, which halving finds. Of
    many titles a sample with 2 million probabilities is taken: one number needs no more, and memory stays bounded.
    """
    if np.size(probabilities) > 1 << 22:
        sample = np.random.default_rng(0).permutation(len(labels))[: (1 << 21) // probabilities.shape[1]]
        labels, probabilities = labels[sample], probabilities[sample]
    logits = np.log(np.maximum(probabilities, TINY, dtype=np.float64))
    logits -= logits.max(1, keepdims=True)
    own, low, high = logits[np.arange(len(labels)), labels].mean(), 1 / 20, 20.0
    for _ in range(30):
        middle = np.sqrt(low * high)
        powers = np.exp(middle * logits)
        expected = ((powers * logits).sum(1) / powers.sum(1)).mean()
        low, high = (middle, high) if expected < own else (low, middle)
    gain = log_loss(labels, probabilities) - log_loss(labels, sharpen(probabilities, 1 / middle))
    return float(1 / middle) if gain > 1e-6 else 1.0
