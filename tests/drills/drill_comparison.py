"""Simulations of the intervals and the comparison, with a known truth; prints a markdown report.

python tests/drills/drill_comparison.py > results/comparison.md
"""

import sys
from itertools import product
from pathlib import Path
from statistics import NormalDist

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from whichlayer.common import cli
from whichlayer.scores import comparison

ALIKE = (0.7, 0.2, 0.1)  # of what makes a title hard: for all rows, for one row, for one row and one repeat
CLASSES = 4
MARGIN = 0.01


# --- made-up tables -----------------------------------------------------------------------------------------------


def simulate(random, titles, accuracies, repeats=1, seeds=0.0, alike=ALIKE, encoders=1):
    """Labels (titles,) and predictions (rows, repeats, titles) of rows whose accuracy, and so macro-F1, is known.

    All classes are as frequent and as hard. A title is missed where its difficulty, a normal variable of which rows and
    repeats share the parts `alike`, is among the highest. With two encoders, half of a row's own part is that of all
    rows of its encoder, which is every second one. `seeds` is the standard deviation of a repeat's accuracy, one
    number or one for each row.
    """
    labels = random.integers(0, CLASSES, titles)
    wrong = (labels + random.integers(1, CLASSES, titles)) % CLASSES
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


def compare(labels, predictions):
    """The rows' Influences, the index of the best, and the Comparison."""
    rows = [comparison.influence(labels, row, CLASSES) for row in predictions]
    best = int(np.argmax([row.value for row in rows]))
    return rows, best, comparison.compare(rows, best)


def compared(tables, *table, **more):
    """Yield what `compare` says of so many simulated tables, from seed 0."""
    random = np.random.default_rng(0)
    for _ in range(tables):
        yield compare(*simulate(random, *table, **more))


# --- intervals ----------------------------------------------------------------------------------------------------


def coverage(titles, repeats, seeds, alike, tables=1000):
    """How often a row's interval holds the truth, where titles and repeats are drawn; its mean width."""
    random, held = np.random.default_rng(0), []
    for _ in range(tables):
        labels, predictions = simulate(random, titles, [0.96], repeats, seeds, alike)
        low, high = comparison.interval(comparison.influence(labels, predictions[0], CLASSES))
        held.append((low <= 0.96 <= high, high - low))
    return np.mean(held, axis=0)


def of_counts(random, counts, accuracies, even):
    """Labels and predictions (1, titles) of classes with these mean counts and accuracies, and the true macro-F1.

    even: errors go to all other classes alike, else to the first (of the first class to the second).
    """
    counts, kinds = np.asarray(counts, float), len(counts)
    accuracies = np.broadcast_to(accuracies, kinds)
    chances = np.zeros((kinds, kinds))
    if even:
        chances[:] = (1 - accuracies[:, None]) / (kinds - 1)
    else:
        chances[range(kinds), [1] + [0] * (kinds - 1)] = 1 - accuracies
    np.fill_diagonal(chances, accuracies)
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


def small_coverage(case, tables=1000):
    """Of intervals of few titles: coverage, mean width, how often they are said to be too few."""
    random, held = np.random.default_rng(0), []
    for _ in range(tables):
        labels, predictions, truth = of_counts(random, *SMALL[case])
        row = comparison.influence(labels, predictions, len(SMALL[case][0]))
        low, high = comparison.interval(row)
        held.append((low <= truth <= high, high - low, bool(row.scarce)))
    return np.mean(held, axis=0)


# --- the comparison -----------------------------------------------------------------------------------------------


def false_alarms(titles, rows, repeats, seeds, tables, encoders=1):
    """Among rows of equal truth: share of tables with a row called different from the best."""
    found = compared(tables, titles, np.full(rows, 0.96), repeats, seeds, encoders=encoders)
    return np.mean([result.significant.any() for _, _, result in found])


def encoder_coverage(titles, repeats, seeds, tables):
    """Of two encoders of six layers each, the second better by 0.01: how often the comparison holds what it says.

    Returns the shares of tables whose simultaneous intervals of all differences to the best row hold the true ones, and
    of those whose loss bounds do.
    """
    truth = np.linspace(0.90, 0.95, 6).repeat(2) + 0.01 * (np.arange(12) % 2)
    held = []
    for _, best, result in compared(tables, titles, truth, repeats, seeds, encoders=2):
        difference = truth - truth[best]
        within = (result.low <= difference) & (difference <= result.high)
        held.append((within.all(), (truth.max() - truth <= result.loss_bound + 1e-9).all()))
    return np.mean(held, axis=0)


def power(titles, rows, seeds, tables):
    """Of rows that are 0.03 worse than the best two: how many are significantly different from the best."""
    truth = np.r_[0.95, 0.95, np.full(rows - 2, 0.92)]
    found = compared(tables, titles, truth, 3, seeds)
    return np.mean([(best < 2) * result.significant[2:].mean() for _, best, result in found])


def costs(titles, repeats, seeds, tables):
    """What the recommendation loses, of 12 layers from 70 to 92%, the cheapest first.

    Returns (tables, 3): loss of the recommended row and of the table's best against the truly best row; loss of the
    recommended row against the table's best.
    """
    truth = np.linspace(0.70, 0.92, 12)
    lost = []
    for _, best, result in compared(tables, titles, truth, repeats, seeds):
        shown = result.loss_bound <= MARGIN
        chosen = int(shown.argmax()) if shown.any() else best
        lost.append((truth[-1] - truth[chosen], truth[-1] - truth[best], truth[best] - truth[chosen]))
    return np.array(lost)


def chosen_bias(titles, rows, repeats, seeds, tables):
    """Among rows of equal truth 0.9: bias of the best row's figure, and of that corrected for having been chosen."""
    found = compared(tables, titles, np.full(rows, 0.9), repeats, seeds)
    return np.mean([(own[best].value - 0.9, result.corrected - 0.9) for own, best, result in found], axis=0)


# --- the report ---------------------------------------------------------------------------------------------------


def table(title, text, heads, rows):
    print(f"\n## {title}\n\n{text}\n\n{cli.markdown([f':{heads[0]}', *heads[1:]], rows)}", flush=True)


def report_intervals():
    rows = []
    for titles, seeds, alike in product((600, 3599), (0, 0.0025, 0.0045), (ALIKE, (0.4, 0.2, 0.4))):
        one, three, five = (coverage(titles, repeats, seeds, alike) for repeats in (1, 3, 5))
        cells = (f"{one[0]:.1%}", f"{three[0]:.1%}", f"{three[1]:.4f}", f"{five[0]:.1%}")
        rows.append((f"{titles:,}, {seeds}, {alike[2]:.0%}", *cells))
    table(
        "A row's interval covers titles and repeats",
        "Share of 1,000 data sets whose 95% interval holds the truth, 0.96. *Changing*: the share of a title's "
        "difficulty that each repeat draws anew.",
        ("titles, seeds, changing", "1 repeat", "3 repeats", "width", "5 repeats"),
        rows,
    )
    rows = []
    for case in SMALL:
        held, width, few = small_coverage(case)
        rows.append((case, f"{held:.1%}", f"{width:.3f}", f"{few:.1%}"))
    table(
        "A row's interval on few titles",
        "Titles of each class and how often they are right; share of 1,000 data sets whose interval holds the truth, "
        "mean width, and how often the table says that a class has too few titles for an interval.",
        ("classes", "holds", "width", "said to be too few"),
        rows,
    )


def report_comparison():
    rows = []
    for titles, number in product((600, 3599), (6, 12, 35)):
        half = np.arange(number) % 2 * 0.0045
        for repeats, name, seeds in ((1, 0, 0), (3, 0, 0), (3, 0.0045, 0.0045), (3, "half", half)):
            alarms = false_alarms(titles, number, repeats, seeds, 200 if number < 35 else 100)
            rows.append((f"{titles:,}", number, repeats, name, f"{alarms:.1%}"))
    table(
        "Rows of equal truth that are called different from the best",
        "Share of tables (200; 100 of 35 rows) with at least one such row. *half*: seeds 0.0045 in every second row.",
        ("titles", "rows", "repeats", "seeds", "called different"),
        rows,
    )
    rows = []
    for titles, (repeats, seeds, tables) in product((600, 3599), ((1, 0, 600), (3, 0, 200), (3, 0.0045, 200))):
        alarms = false_alarms(titles, 12, repeats, seeds, tables, encoders=2)
        held = encoder_coverage(titles, repeats, seeds, tables)
        rows.append((f"{titles:,}, {repeats}, {seeds}", *(f"{share:.1%}" for share in (alarms, *held))))
    table(
        "Rows of two encoders",
        "Rows of one encoder err on the same titles more often than rows of two. Share of 200 tables (600 with one "
        "repeat) of 12 rows of equal truth with a row called different from the best; and, where the second encoder "
        "is better by 0.01 and layers rise from 0.90 to 0.95, of tables whose intervals and loss bounds all hold "
        "the truth.",
        ("titles, repeats, seeds", "called different", "intervals hold", "loss bounds hold"),
        rows,
    )
    table(
        "Real differences are found",
        "Two rows of 0.95, the others 0.92, 3,000 titles, 3 repeats, 100 tables: share of the others that are "
        "significant.",
        ("rows", "seeds 0", "seeds 0.0025", "seeds 0.0045"),
        [(rows, *(f"{power(3000, rows, seeds, 100):.1%}" for seeds in (0, 0.0025, 0.0045))) for rows in (6, 12, 35)],
    )


def report_recommendation():
    rows = []
    for titles, (repeats, seeds) in product((60, 250, 520), ((1, 0), (3, 0.0045))):
        lost = costs(titles, repeats, seeds, 200)
        own = (lost[:, 2] <= MARGIN + 1e-9).mean()
        rows.append((f"{titles}, {repeats}, {seeds}", *(f"{mean:.3f}" for mean in lost.mean(0)), f"{own:.1%}"))
    table(
        "What the recommendation costs",
        "12 layers, truly 0.70 to 0.92, the cheapest first; macro-F1 lost by following the advice (margin 0.01), mean "
        "of 200 tables. No advice can know better than the table which row is best: its own part is the loss against "
        "that row.",
        ("titles, repeats, seeds", "loss", "the table's best row", "own part", "own part at most 0.01"),
        rows,
    )
    rows = []
    for titles, number, (repeats, seeds) in product((600, 3599), (6, 12, 35), ((1, 0), (3, 0.0045))):
        bias = chosen_bias(titles, number, repeats, seeds, 300 if number < 35 else 100)
        rows.append((f"{titles:,}, {number}, {repeats}, {seeds}", *(f"{mean:+.4f}" for mean in bias)))
    table(
        "The best of many rows",
        "Rows of equal truth 0.9: how far the best one's figure is off on average, and the corrected one; 300 tables "
        "(100 of 35 rows).",
        ("titles, rows, repeats, seeds", "best", "corrected"),
        rows,
    )


def main():
    comparison.DRAWS = 4000  # enough for averages over many tables
    print("# Intervals, comparison and recommendation, simulated with a known truth\n")
    print("Made by `python tests/drills/drill_comparison.py`. Repeats differ by the titles that they change, and by a")
    print("common shift (*seeds*, its standard deviation).")
    report_intervals()
    report_comparison()
    report_recommendation()


if __name__ == "__main__":
    main()
