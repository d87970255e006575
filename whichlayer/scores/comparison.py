"""How uncertain a macro-F1 is, and which rows of a table differ, in numpy alone.

Macro-F1 is a smooth function of counts, so what each title contributes to its error is known in
closed form: the influence function, also called the infinitesimal jackknife (Efron 1982, chapter
6). Variances and covariances are sums over groups of titles, nothing is resampled, and the cost is
one pass over the titles. The constants below were chosen by simulation; tests/drills/drill_comparison.py
repeats it, and results/comparison.md is its outcome.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from whichlayer.scores.metrics import class_counts, divide

# Gaussian draws for critical values, which are then known to about 0.5%
DRAWS = 20_000
# effective titles of a class below which intervals cover too seldom
ENOUGH = 12
# confidence of intervals and bounds
LEVEL = 0.95
# effective titles whose weight the binomial variance has in that of a row
PRIOR = 30


# --- one row --------------------------------------------------------------------------------------


@dataclass
class Sizes:
    """How many titles macro-F1 rests on, copies counted once; of the classes that occur."""

    classes: np.ndarray  # (present,) int: the numbers of these classes
    titles: np.ndarray  # (present,) float64: titles of each
    effective: np.ndarray  # (present,) float64: titles that the variance rests on, as far as each class goes
    one_title: float  # the weight of one title in macro-F1, on average over classes


@dataclass
class Influence:
    """What the comparison needs to know of one row. Its memory is one float64 for each group of
    titles.
    """

    value: float  # macro-F1, the mean over repeats
    chance: float  # macro-F1 of predictions without any knowledge
    repeats: int
    scores: np.ndarray  # (3, classes): F1, precision and recall, means over repeats, 0 where there is none
    contributions: np.ndarray  # (groups,) float64: how far each group of titles moves the value
    titles_variance: float  # of the value, by the choice of titles
    repeats_variance: float  # of the value, between repeats
    shared_variance: float  # the part of that which all titles share
    sizes: Sizes

    @property
    def scarce(self):
        """The numbers of the classes with too few titles for `interval` to be trusted: a list."""
        return self.sizes.classes[self.sizes.effective < ENOUGH].tolist()


def influence(labels, predictions, classes, groups=None):
    """The Influence of a row.

    labels: (n,) int; predictions: (repeats, n) int; groups: (n,) int, titles that are copies of one
    another and so are right or wrong together; None: each title is a group of its own.
    """
    labels = np.asarray(labels)
    predictions = np.atleast_2d(predictions)
    groups = np.arange(len(labels)) if groups is None else groups
    _, group, copies = np.unique(groups, return_inverse=True, return_counts=True)
    repeats = len(predictions)

    # one repeat after the other: its value, its scores, and what each group contributes
    moved = []
    values = []
    scores = []
    chances = []
    for predicted in predictions:
        hits, labelled, guessed = class_counts(labels, predicted, classes)
        both = labelled + guessed
        f1 = divide(2 * hits, both)
        values.append(f1.sum() / (both > 0).sum())
        scores.append([f1, divide(hits, guessed), divide(hits, labelled)])
        moved.append(np.bincount(group, title_contributions(labels, predicted, f1, both)))
        chances.append(shuffled_macro_f1(labelled, guessed))
    mean = np.mean(moved, axis=0)

    # the variance between repeats, without what single titles that change from one to the next add to it:
    # they are in the titles' variance already
    between = float(np.var(values, ddof=1)) / repeats if repeats > 1 else 0.0
    noise = ((moved - mean) ** 2).sum() / max(repeats - 1, 1) / repeats

    sizes = effective_sizes(labels, copies[group], classes)
    commonest = 2 * labelled.max() / (labelled.max() + labelled.sum()) / len(sizes.classes)
    return Influence(
        value=float(np.mean(values)),
        chance=max(float(np.mean(chances)), commonest),
        repeats=repeats,
        scores=np.mean(scores, axis=0),
        contributions=mean,
        titles_variance=float((mean**2).sum()) * len(mean) / max(len(mean) - 1, 1),
        repeats_variance=between,
        shared_variance=max(0.0, between - noise),
        sizes=sizes,
    )


def title_contributions(labels, predicted, f1, both):
    """How far each title moves macro-F1, (n,) float64: the derivative by its weight; over all
    titles it sums to 0. f1, both: (classes,), F1 and n + p of each class.

    With h hits, n titles and p predictions of a class, F is the mean of f = 2h/(n + p) over K
    classes. A title with label y and prediction q moves it by (2·[y = q]/(n_y + p_y) - f_y/(n_y +
    p_y) - f_q/(n_q + p_q)) / K.
    """
    share = divide(1, both * (both > 0).sum())
    right = labels == predicted
    return 2 * share[labels] * right - (share * f1)[labels] - (share * f1)[predicted]


def shuffled_macro_f1(labelled, guessed):
    """Macro-F1 that predictions as frequent as these reach where they know nothing. Both:
    (classes,) counts.
    """
    both = labelled + guessed
    expected_hits = labelled * guessed / labelled.sum()
    return divide(2 * expected_hits, both).sum() / (both > 0).sum()


def effective_sizes(labels, copies, classes):
    """The Sizes of a set of titles; copies: (n,) int, how many copies of it each title has, itself
    among them.
    """
    independent = np.bincount(labels, 1 / copies, classes)
    present = np.flatnonzero(np.bincount(labels, minlength=classes))
    titles = independent[present]
    # classes weigh the same, so rare ones may matter alone
    weight = 1 / titles
    return Sizes(
        classes=present,
        titles=titles,
        effective=titles * weight.sum() ** 2 / (weight**2).sum(),  # Kish's effective sample size (1965)
        one_title=weight.sum() / len(present) ** 2,
    )


def t_quantile(probability, freedom):
    """The quantile, at least 0.5, of Student's t with any degrees of freedom from 1, to about 1e-5.

    With t = √freedom · tan(a) the density becomes cos(a)^(freedom - 1), which is integrated by the
    trapezoid rule.
    """
    if freedom > 1000:
        return NormalDist().inv_cdf(probability)
    angle = np.linspace(0, np.pi / 2, 20_001)
    density = np.cos(angle) ** (freedom - 1)
    mass = np.r_[0, np.cumsum(density[1:] + density[:-1])]
    reached = np.interp((2 * probability - 1) * mass[-1], mass, angle)
    return float(np.sqrt(freedom) * np.tan(reached))


def interval(row, level=LEVEL):
    """The interval (low, high), within 0 … 1, of a row's macro-F1 over the choice of titles and of
    repeats.

    row: an Influence. Wilson's score interval (1927) for as many trials as have the variance found,
    with Student's t and Satterthwaite's degrees of freedom (1946), since few repeats say little of
    their own variance; with one repeat, titles only.
    """
    # Wilson's pseudo-counts pull the value towards a half
    pseudo = row.sizes.one_title * NormalDist().inv_cdf((1 + level) / 2) ** 2
    smooth = (row.value + pseudo / 2) / (1 + pseudo)
    variance = smoothed_variance(row, smooth) + row.shared_variance
    # how many degrees of freedom its variance has
    between = max(row.repeats_variance, 1e-3 * variance)
    freedom = max(row.repeats - 1, 1) * (variance / between) ** 2
    t = t_quantile((1 + level) / 2, max(freedom, 1.0))
    return wilson(row.value, t**2 * variance / (smooth * (1 - smooth)))


def share_interval(right, groups):
    """The interval (low, high) of a share, such as accuracy: Wilson's (1927), for as many
    independent titles as there would be if copies were always right or wrong together.

    right: (titles,) bool, at least one; groups: (titles,) int, copies have one number.
    """
    copies = np.unique(groups, return_counts=True)[1]
    # Kish's effective sample size (1965)
    titles = copies.sum() ** 2 / (copies**2).sum()
    return wilson(right.mean(), NormalDist().inv_cdf((1 + LEVEL) / 2) ** 2 / titles)


def wilson(share, ratio):
    """Wilson's interval (low, high) of a share; ratio: the squared quantile over the number of trials."""
    half = np.sqrt(ratio * share * (1 - share) + ratio**2 / 4)
    low, high = np.clip((share + ratio / 2 + np.array([-half, half])) / (1 + ratio), 0, 1)
    return float(low), float(high)


def smoothed_variance(row, smooth):
    """The titles' variance of a row, made larger where it rests on few titles.

    A few titles without an error do not show that there are none: the variance gets what a binomial
    one would from Wilson's pseudo-counts over all classes, or from half a hit and half an error in
    each, and is pulled up towards it. smooth: macro-F1 with Wilson's pseudo-counts.
    """
    sizes = row.sizes
    f1 = row.scores[0, sizes.classes]

    def binomial(whole, each):
        """The variance by macro-F1 as a whole, and by each class."""
        by_class = (each * (1 - each) / sizes.titles).sum() / len(sizes.titles) ** 2
        return np.array([whole * (1 - whole) * sizes.one_title, by_class])

    smoothed = binomial(smooth, (f1 * sizes.titles + 0.5) / (sizes.titles + 1))
    added = max(0.0, (smoothed - binomial(row.value, f1)).max())
    variance = row.titles_variance + added
    missing = max(0.0, smoothed.max() - variance)
    return variance + missing * PRIOR / (PRIOR + sizes.effective.min())


# --- rows against one another ---------------------------------------------------------------------


@dataclass
class Comparison:
    """All rows against the best, paired, and simultaneously over all pairs, since the same titles
    choose the best.
    """

    difference: np.ndarray  # (rows,): macro-F1 less that of the best row
    low: np.ndarray  # (rows,): simultaneous interval of the difference
    high: np.ndarray
    loss_bound: np.ndarray  # (rows,): what a row loses at most against any candidate, with one-sided confidence
    corrected: float  # macro-F1 of the best row, less what it owes to having been chosen

    @property
    def significant(self):
        """Whether the interval leaves out 0: (rows,) bool."""
        return (self.low > 0) | (self.high < 0)


def compare(rows, best, candidates=None):
    """The Comparison of rows, a list of Influence on the same titles, groups and repeats.

    best: number of the best candidate; candidates: (rows,) bool, those that compete for it
    (default: all); others are compared with it only.
    """
    chosen = np.arange(len(rows)) if candidates is None else np.flatnonzero(candidates)
    value = np.array([row.value for row in rows])
    difference = value - value[best]

    # variances and covariances of the values, and from them those of the differences of all pairs
    titles = titles_covariance(rows)
    repeated = careful_repeats_variance(rows)
    titles_variance = pair_variances(titles)
    repeats_variance = np.where(titles_variance > 0, np.add.outer(repeated, repeated), 0)
    variance = titles_variance + repeats_variance
    error = np.sqrt(variance)

    # what differs by more than chance would let any of the rows differ
    draws = gaussian_draws(titles + np.diag(repeated))
    two_sided, one_sided = critical_values(draws, error, chosen)
    half = two_sided * error[best]

    # What a row may lose. Few titles that two rows agree on do not show that they always do: the variance of one
    # title is added.
    one_title = (1 - np.eye(len(rows))) * rows[best].sizes.one_title ** 2
    losses = value - value[:, None] + one_sided * np.sqrt(variance + one_title)

    shared = np.array([row.shared_variance for row in rows])
    return Comparison(
        difference=difference,
        low=difference - half,
        high=difference + half,
        loss_bound=losses[:, chosen].max(1),
        corrected=corrected_best(value[chosen], gaussian_draws(titles + np.diag(shared))[:, chosen]),
    )


def titles_covariance(rows):
    """(rows, rows) covariance of the rows' values by the choice of titles."""
    contributions = np.stack([row.contributions for row in rows])
    groups = contributions.shape[1]
    return contributions @ contributions.T * (groups / max(groups - 1, 1))


def careful_repeats_variance(rows):
    """(rows,) variance of the rows' values by the choice of repeats, larger than found where
    repeats are few.

    A variance from 3 repeats is often far too small: it counts repeats / (repeats - 1) times, and
    is no less than the rows' median, over that of chi-squared (Wilson & Hilferty 1931).
    """
    found = np.array([row.repeats_variance for row in rows])
    freedom = max(rows[0].repeats - 1, 1)
    typical = np.median(found) / (1 - 2 / (9 * freedom)) ** 3
    return np.maximum(found * rows[0].repeats / freedom, typical)


def pair_variances(covariance):
    """(rows, rows) variance of the difference of each pair; 0 where two rows' predictions are
    equal.
    """
    own = np.add.outer(np.diag(covariance), np.diag(covariance))
    apart = own - 2 * covariance
    return np.where(apart > 1e-9 * own, apart, 0)


def gaussian_draws(covariance):
    """(DRAWS, rows) draws from a normal distribution with this covariance and mean 0; their own
    mean is 0, too.
    """
    random = np.random.default_rng(0)
    zeros = np.zeros(len(covariance))
    half = random.multivariate_normal(zeros, covariance, DRAWS // 2, method="eigh")
    return np.concatenate([half, -half])


def critical_values(draws, error, chosen):
    """What a difference over its standard error exceeds by chance, whichever candidate is best:
    two- and one-sided.

    draws: (draws, rows) from the distribution of the values' errors; error: (rows, rows) standard
    error of each difference; chosen: numbers of the candidates. The one-sided value is that of
    Hsu's comparison with the best (1984).
    """
    largest = np.zeros(len(draws))
    one_sided = NormalDist().inv_cdf(LEVEL)
    for row in chosen:
        t = divide(draws - draws[:, [row]], error[row])
        largest = np.maximum(largest, np.abs(t).max(1))
        one_sided = max(one_sided, np.quantile(t[:, chosen].max(1), LEVEL))
    return np.quantile(largest, LEVEL), one_sided


def corrected_best(value, errors):
    """The best value less what it owes to having been chosen: BBC-CV (Tsamardinos, Greasidou &
    Borboudakis 2018).

    In the Gaussian limit of that bootstrap, scores in the resample are off by e, and those out of
    it by -e. value: (candidates,); errors: (draws, candidates), draws of e.
    """
    picked = (value + errors).argmax(1)
    out_of_resample = value[picked] - errors[np.arange(len(errors)), picked]
    return float(out_of_resample.mean())
