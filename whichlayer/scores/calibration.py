"""How probabilities of several heads or runs become one, and how sure it may be: the log-linear pool.

log p = Σ aᵢ · log pᵢ - log Z (Genest & Zidek 1986). Of one run, 1/a is its temperature (Guo et al.
2017); of several, the exponents also say what each is worth beside the others. They are fitted out
of fold, in numpy alone.
"""

import numpy as np

from whichlayer.scores.metrics import TINY, log_loss

# titles with a random label that are added where exponents are fitted
PSEUDO_TITLES = 1
# probabilities of each part by which exponents are fitted, where there are twice as many
SAMPLE = 1 << 19
# an exponent is at most so large; all of them together are at least so large
LARGEST = 20.0
SMALLEST = 0.05
# of Newton's method, at most, and how small the last one is; five to ten are usual
STEPS = 50
PRECISION = 1e-9
# a loss that falls by less, in nats, is rounding
ROUNDING = 1e-6


def pool(parts, exponents=None):
    """The log-linear pool of probabilities: float64, of the shape of each part.

    parts: (parts, …, classes), or a list of them; exponents: (parts,), or (parts, titles) where
    they differ by title; None for 1 / parts each: averaging p itself would make an ensemble less
    sure than it is right.
    """
    if exponents is None:
        exponents = np.full(len(parts), 1 / len(parts))
    total = 0.0
    for part, exponent in zip(parts, exponents, strict=True):
        # in place: for many titles and classes, every copy is large
        powers = np.maximum(part, TINY, dtype=np.float64)
        np.log(powers, out=powers)
        powers *= np.expand_dims(exponent, -1)
        total += powers
    total -= total.max(-1, keepdims=True)
    np.exp(total, out=total)
    total /= total.sum(-1, keepdims=True)
    return total


def fit(labels, parts):
    """The exponents, from 0 to LARGEST, with which the pool has the least log loss: (parts,) float64.

    labels: (titles,) int; parts: a list of (titles, classes). Beside its own label, every title
    counts a little with a random one, all of them together like PSEUDO_TITLES (Platt's
    pseudo-counts, 1999): without that, titles that are all told apart would be worth any certainty.
    Of many titles a sample is taken: memory stays bounded.
    """
    if np.size(parts[0]) > 2 * SAMPLE:
        sample = np.random.default_rng(0).permutation(len(labels))[: SAMPLE // parts[0].shape[1]]
        labels = labels[sample]
        parts = [part[sample] for part in parts]
    exponents = minimise(labels, np.log(np.maximum(np.stack(parts), TINY, dtype=np.float64)))
    # else all categories would be as likely, and none could be named
    if exponents.sum() < SMALLEST:
        exponents[:] = SMALLEST / len(parts)
    return exponents


def minimise(labels, logarithms):
    """The exponents of the least loss of fit, by Newton's method between bounds (Bertsekas 1982).

    logarithms: (parts, titles, classes). The loss is convex, so that there is one.
    """
    random = PSEUDO_TITLES / len(labels)
    own = logarithms[:, np.arange(len(labels)), labels].mean(1)
    wanted = own + random * logarithms.mean((1, 2))

    def look(exponents):
        """The loss, and the probabilities."""
        powers = np.tensordot(exponents, logarithms, 1)
        top = powers.max(1, keepdims=True)
        powers = np.exp(powers - top)
        sums = powers.sum(1, keepdims=True)
        return (1 + random) * (np.log(sums) + top).mean() - exponents @ wanted, powers / sums

    exponents = np.zeros(len(logarithms))
    loss, probabilities = look(exponents)
    for _ in range(STEPS):
        expected = (probabilities * logarithms).sum(2, keepdims=True)
        slope = (1 + random) * expected.mean((1, 2)) - wanted
        apart = logarithms - expected
        curvature = np.tensordot(probabilities * apart, apart, ((1, 2), (1, 2))) * (1 + random) / len(labels)
        # parts that say nothing, or the same, have no curvature
        curvature += 1e-9 * np.eye(len(exponents))
        # what would leave its bounds stays
        free = np.where(slope > 0, exponents > 0, exponents < LARGEST)
        step = np.zeros(len(exponents))
        step[free] = -np.linalg.solve(curvature[np.ix_(free, free)], slope[free])

        # halved until the loss falls
        while np.abs(step).max() > PRECISION:
            trial = np.clip(exponents + step, 0, LARGEST)
            trial_loss, trial_probabilities = look(trial)
            if trial_loss <= loss:
                break
            step /= 2
        else:
            break
        exponents = trial
        loss = trial_loss
        probabilities = trial_probabilities
    return exponents


def cross_fit(labels, parts, folds):
    """The exponents for new titles, (parts,), and those for the titles of each fold, which the other
    folds have chosen, (folds, parts).

    labels, folds: (titles,) int. Where the latter do not lower the log loss, all are 1 / parts.
    """
    by_fold = []
    for fold in range(int(folds.max()) + 1):
        others = folds != fold
        by_fold.append(fit(labels[others], [part[others] for part in parts]))
    by_fold = np.array(by_fold)
    gained = log_loss(labels, pool(parts)) - log_loss(labels, pool(parts, by_fold[folds].T))
    if gained > ROUNDING:
        return fit(labels, parts), by_fold
    equal = np.full_like(by_fold, 1 / len(parts))
    return equal[0], equal


def temperature_of_all(one, pooled, repeats, heads):
    """The temperature for a pool of all heads, from those of one head and of a pool of `repeats`
    heads.

    More heads in a pool have less noise and deserve more trust; what the noise does to log
    temperature falls with the number of heads, so it is a straight line over 1 / heads
    (simulation and extrapolation, Cook & Stefanski 1994). One repeat does not show it.
    """
    if repeats == 1:
        return pooled
    slope = (np.log(one) - np.log(pooled)) / (1 - 1 / repeats)
    return float(np.clip(np.exp(np.log(pooled) + slope * (1 / heads - 1 / repeats)), 1 / LARGEST, 1 / SMALLEST))
