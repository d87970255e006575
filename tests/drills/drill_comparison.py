"""Simulations of the intervals and the comparison, with a known truth; prints a markdown report.

python tests/drills/drill_comparison.py > results/comparison.md
"""

import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from whichlayer.common import cli
from whichlayer.scores import comparison

ALIKE = (0.7, 0.2, 0.1)  # of what makes a title hard: for all rows, for one row, for one row and one repeat


def simulate(random, titles, accuracies, repeats=1, seeds=0.0, alike=ALIKE, classes=4, encoders=1):
    """Labels (titles,) and predictions (rows, repeats, titles) of rows whose accuracy, and so macro-F1, is known.

    All classes are as frequent and as hard. A title is missed where its difficulty, a normal variable of which rows and
    repeats share the parts `alike`, is among the highest. With two encoders, half of a row's own part is that of all
    rows of its encoder, which is every second one. `seeds` is the standard deviation of a repeat's accuracy, one
    number or one for each row.
    """
    labels = random.integers(0, classes, titles)
    wrong = (labels + random.integers(1, classes, titles)) % classes
    shared, own, changing = np.sqrt(alike)
    hard = shared * random.standard_normal(titles)
    if encoders == 2:
        of_encoder = own * np.sqrt(0.5) * random.standard_normal((2, titles))
        own *= np.sqrt(0.5)
    predictions = np.empty((len(accuracies), repeats, titles), dtype=np.int16)
    for row, (accuracy, deviation) in enumerate(zip(accuracies, np.broadcast_to(seeds, len(accuracies)), strict=True)):
        of_row = hard + own * random.standard_normal(titles)
        if encoders == 2:
            of_row += of_encoder[row % 2]
        for repeat in range(repeats):
            reached = np.clip(accuracy + deviation * random.standard_normal(), 1e-4, 1 - 1e-4)
            missed = of_row + changing * random.standard_normal(titles) > NormalDist().inv_cdf(reached)
            predictions[row, repeat] = np.where(missed, wrong, labels)
    return labels, predictions


def compare(labels, predictions, classes=4):
    """The rows' `influences`, the index of the best, and the comparison."""
    rows = [comparison.influence(labels, row, classes) for row in predictions]
    best = int(np.argmax([row.value for row in rows]))
    return rows, best, comparison.compare(rows, best)


def of_counts(random, counts, accuracies, even):
    """Labels and predictions (1, titles) of classes with these mean counts and accuracies, and the true macro-F1.

    even: errors go to all other classes alike, else to the first (of the first class to the second).
    """
    counts, kinds = np.asarray(counts, float), len(counts)
    chances = np.zeros((kinds, kinds))
    for c, accuracy in enumerate(np.broadcast_to(accuracies, kinds)):
        chances[c] = (1 - accuracy) / (kinds - 1) if even else 0
        chances[c, 0 if c else 1] = chances[c, 0 if c else 1] if even else 1 - accuracy
        chances[c, c] = accuracy
    cells = counts[:, None] * chances
    truth = (2 * np.diag(cells) / (cells.sum(0) + cells.sum(1))).mean()
    drawn = np.maximum(random.multinomial(int(counts.sum()), counts / counts.sum()), 2)  # a class with one has no folds
    labels = np.repeat(np.arange(kinds), drawn)
    predictions = (random.random(len(labels))[:, None] > chances.cumsum(1)[labels]).sum(1).clip(0, kinds - 1)
    return labels, predictions[None], truth


SMALL = {
    "8 × 5, 70%": ([5] * 8, 0.7, True),
    "8 × 5, 90%": ([5] * 8, 0.9, True),
    "8 × 5, 98%": ([5] * 8, 0.98, True),
    "4 × 20, 90%": ([20] * 4, 0.9, True),
    "4 × 20, 98%": ([20] * 4, 0.98, True),
    "2 × 30, 90%": ([30] * 2, 0.9, True),
    "2 × 30, 98%": ([30] * 2, 0.98, True),
    "4 × 150, 90%": ([150] * 4, 0.9, True),
    "4 × 150, 99.8%": ([150] * 4, 0.998, True),
    "20 × 10, 80%": ([10] * 20, 0.8, True),
    "400, 100, 20 and 8; 97, 90, 80, 70%": ([400, 100, 20, 8], [0.97, 0.9, 0.8, 0.7], False),
    "150, 150 and 20; 99, 99, 50%": ([150, 150, 20], [0.99, 0.99, 0.5], False),
    "150, 150 and 5; 99, 99, 50%": ([150, 150, 5], [0.99, 0.99, 0.5], False),
    "150, 150 and 2; 99, 99, 50%": ([150, 150, 2], [0.99, 0.99, 0.5], False),
    "150, 150 and 2; 99, 99, 0%": ([150, 150, 2], [0.99, 0.99, 0.0], False),
}


def small_coverage(case, tables, seed=0):
    """Of intervals of few titles: coverage, mean width, how often they are said to be too few."""
    counts, accuracies, even = SMALL[case]
    random, held = np.random.default_rng(seed), []
    for _ in range(tables):
        labels, predictions, truth = of_counts(random, counts, accuracies, even)
        row = comparison.influence(labels, predictions, len(counts))
        low, high = comparison.interval(row)
        held.append((low <= truth <= high, high - low, bool(row.scarce)))
    return np.mean(held, axis=0)


def coverage(titles, repeats, seeds, alike, tables, seed=0):
    """Coverage of a row's interval, where titles and repeats are drawn, and its mean width."""
    random, held = np.random.default_rng(seed), []
    for _ in range(tables):
        labels, predictions = simulate(random, titles, [0.96], repeats, seeds, alike)
        low, high = comparison.interval(comparison.influence(labels, predictions[0], 4))
        held.append((low <= 0.96 <= high, high - low))
    return np.mean(held, axis=0)


def false_alarms(titles, rows, repeats, seeds, tables, seed=0, encoders=1):
    """Among rows of equal truth: share of tables with a row called different from the best."""
    random, wrong = np.random.default_rng(seed), []
    for _ in range(tables):
        labels, predictions = simulate(random, titles, np.full(rows, 0.96), repeats, seeds, encoders=encoders)
        wrong.append(compare(labels, predictions)[2].significant.any())
    return np.mean(wrong)


def encoder_coverage(titles, repeats, seeds, tables, margin=0.01, seed=0):
    """Of two encoders of six layers each, the second better by 0.01: how often the comparison holds what it says.

    Returns the shares of tables whose simultaneous intervals of all differences to the best row hold the true ones, and
    of those whose loss bounds do.
    """
    random, held = np.random.default_rng(seed), []
    truth = np.linspace(0.90, 0.95, 6).repeat(2) + 0.01 * (np.arange(12) % 2)
    for _ in range(tables):
        labels, predictions = simulate(random, titles, truth, repeats, seeds, encoders=2)
        _, best, compared = compare(labels, predictions)
        difference = truth - truth[best]
        within = (compared.low <= difference) & (difference <= compared.high)
        held.append((within.all(), (truth.max() - truth <= compared.loss_bound + 1e-9).all()))
    return np.mean(held, axis=0)


def power(titles, rows, seeds, tables, seed=0):
    """Of rows that are 0.03 worse than the best two: how many are significantly different from the best."""
    random, found = np.random.default_rng(seed), []
    truth = np.r_[0.95, 0.95, np.full(rows - 2, 0.92)]
    for _ in range(tables):
        _, best, compared = compare(*simulate(random, titles, truth, 3, seeds))
        found.append((best < 2) * compared.significant[2:].mean())
    return np.mean(found)


def costs(titles, repeats, seeds, tables, margin=0.01, seed=0):
    """What the recommendation loses, of 12 layers from 70 to 92%, the cheapest first.

    Returns (tables, 3): loss of the recommended row and of the table's best against the truly best row; loss of the
    recommended row against the table's best.
    """
    random, truth, lost = np.random.default_rng(seed), np.linspace(0.70, 0.92, 12), []
    for _ in range(tables):
        labels, predictions = simulate(random, titles, truth, repeats, seeds)
        _, best, compared = compare(labels, predictions)
        shown = compared.loss_bound <= margin
        chosen = int(shown.argmax()) if shown.any() else best
        top = truth.max()
        lost.append((top - truth[chosen], top - truth[best], truth[best] - truth[chosen]))
    return np.array(lost)


def chosen_bias(titles, rows, repeats, seeds, tables, seed=0):
    """Among rows of equal truth 0.9: bias of the best row's figure, and of that corrected for having been chosen."""
    random, figures = np.random.default_rng(seed), []
    for _ in range(tables):
        found, best, compared = compare(*simulate(random, titles, np.full(rows, 0.9), repeats, seeds))
        figures.append((found[best].value - 0.9, compared.corrected - 0.9))
    return np.mean(figures, axis=0)


def percent(share):
    return f"{share:.1%}"


def table(title, text, heads, rows):
    print(f"\n## {title}\n\n{text}\n\n{cli.markdown([f':{heads[0]}', *heads[1:]], rows)}", flush=True)


def main():
    comparison.DRAWS = 4000  # enough for averages over many tables
    print("# Intervals, comparison and recommendation, simulated with a known truth\n")
    print("Made by `python tests/drills/drill_comparison.py`. Repeats differ by the titles that they change, and by a")
    print("common shift (*seeds*, its standard deviation).")

    table(
        "A row's interval covers titles and repeats",
        "Share of 1,000 data sets whose 95% interval holds the truth, 0.96. *Changing*: the share of a title's "
        "difficulty that each repeat draws anew.",
        ("titles, seeds, changing", "1 repeat", "3 repeats", "width", "5 repeats"),
        [
            (
                f"{n:,}, {seeds}, {alike[2]:.0%}",
                percent(one[0]),
                percent(three[0]),
                f"{three[1]:.4f}",
                percent(five[0]),
            )
            for n in (600, 3599)
            for seeds in (0, 0.0025, 0.0045)
            for alike in ((0.7, 0.2, 0.1), (0.4, 0.2, 0.4))
            for one, three, five in [[coverage(n, repeats, seeds, alike, 1000) for repeats in (1, 3, 5)]]
        ],
    )
    table(
        "A row's interval on few titles",
        "Titles of each class and how often they are right; share of 1,000 data sets whose interval holds the truth, "
        "mean width, and how often the table says that a class has too few titles for an interval.",
        ("classes", "holds", "width", "said to be too few"),
        [
            (case, percent(held), f"{width:.3f}", percent(few))
            for case in SMALL
            for held, width, few in [small_coverage(case, 1000)]
        ],
    )
    table(
        "Rows of equal truth that are called different from the best",
        "Share of tables (200; 100 of 35 rows) with at least one such row. *half*: seeds 0.0045 in every second row.",
        ("titles", "rows", "repeats", "seeds", "called different"),
        [
            (f"{n:,}", m, repeats, seeds, percent(false_alarms(n, m, repeats, deviation, 200 if m < 35 else 100)))
            for n in (600, 3599)
            for m in (6, 12, 35)
            for repeats, seeds in ((1, 0), (3, 0), (3, 0.0045), (3, "half"))
            for deviation in [np.arange(m) % 2 * 0.0045 if seeds == "half" else seeds]
        ],
    )
    table(
        "Rows of two encoders",
        "Rows of one encoder err on the same titles more often than rows of two. Share of 200 tables (600 with one "
        "repeat) of 12 rows of equal truth with a row called different from the best; and, where the second encoder "
        "is better by 0.01 and layers rise from 0.90 to 0.95, of tables whose intervals and loss bounds all hold "
        "the truth.",
        ("titles, repeats, seeds", "called different", "intervals hold", "loss bounds hold"),
        [
            (f"{n:,}, {repeats}, {seeds}", percent(alarm), percent(intervals), percent(bounds))
            for n in (600, 3599)
            for repeats, seeds in ((1, 0), (3, 0), (3, 0.0045))
            for tables in [600 if repeats == 1 else 200]
            for alarm in [false_alarms(n, 12, repeats, seeds, tables, encoders=2)]
            for intervals, bounds in [encoder_coverage(n, repeats, seeds, tables)]
        ],
    )
    table(
        "Real differences are found",
        "Two rows of 0.95, the others 0.92, 3,000 titles, 3 repeats, 100 tables: share of the others that are "
        "significant.",
        ("rows", "seeds 0", "seeds 0.0025", "seeds 0.0045"),
        [(m, *(percent(power(3000, m, seeds, 100)) for seeds in (0, 0.0025, 0.0045))) for m in (6, 12, 35)],
    )
    table(
        "What the recommendation costs",
        "12 layers, truly 0.70 to 0.92, the cheapest first; macro-F1 lost by following the advice (margin 0.01), mean "
        "of 200 tables. No advice can know better than the table which row is best: its own part is the loss against "
        "that row.",
        ("titles, repeats, seeds", "loss", "the table's best row", "own part", "own part at most 0.01"),
        [
            (
                f"{n}, {repeats}, {seeds}",
                *(f"{x:.3f}" for x in lost.mean(0)),
                percent((lost[:, 2] <= 0.01 + 1e-9).mean()),
            )
            for n in (60, 250, 520)
            for repeats, seeds in ((1, 0), (3, 0.0045))
            for lost in [costs(n, repeats, seeds, 200)]
        ],
    )
    table(
        "The best of many rows",
        "Rows of equal truth 0.9: how far the best one's figure is off on average, and the corrected one; 300 tables "
        "(100 of 35 rows).",
        ("titles, rows, repeats, seeds", "best", "corrected"),
        [
            (f"{n:,}, {m}, {repeats}, {seeds}", f"{best:+.4f}", f"{corrected:+.4f}")
            for n in (600, 3599)
            for m in (6, 12, 35)
            for repeats, seeds in ((1, 0), (3, 0.0045))
            for best, corrected in [chosen_bias(n, m, repeats, seeds, 300 if m < 35 else 100)]
        ],
    )


if __name__ == "__main__":
    main()
