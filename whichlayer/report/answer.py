"""How the rows of a table compare, and which of them is recommended.

Rows of an encoder, words, and the average of both compete: whatever stands in a table can be kept.
"""

from dataclasses import dataclass

import numpy as np

from whichlayer.report import ensemble
from whichlayer.report.rows import Row, make_row
from whichlayer.scores import comparison


@dataclass(eq=False)
class Answer:
    """What the comparison of a table's rows says."""

    margin: float  # the loss of macro-F1 that counts as none
    compared: list[Row]  # the table's rows, then the majority class, words, and averages with them
    comparison: comparison.Comparison  # of these rows, in their order
    competing: int  # how many of them compete for the best
    best: Row  # the highest macro-F1 of those that are shown to beat chance, or else of all
    best_of_encoder: Row  # the same among the rows of an encoder
    recommended: Row | None  # the cheapest that is non-inferior to it; None: no row beats chance
    words: Row | None  # TF-IDF, with all titles
    averages: list[Row]  # of rows of an encoder with words
    left_out: list[Row]  # rows of an encoder above the best of them, not shown to beat chance

    def number(self, row):
        """The place of a row in `compared`, and so in the arrays of the comparison."""
        return self.compared.index(row)

    @property
    def references(self):
        """The rows that are compared, but no single rows of an encoder."""
        return [row for row in self.compared if row.run.baseline]

    @property
    def average(self):
        """The average with words of the recommended row, or else of the best one; None without. Where
        an average is recommended, it is that one.
        """
        if self.recommended in self.averages:
            return self.recommended
        for row in self.averages:
            if row.run.parts[0] is self.recommended.run:
                return row
        return self.averages[0] if self.averages else None


def compare(table, margin):
    """The Answer of a table with at least one row that was trained on all titles."""
    # rows that are shown to know something; where none does, all are candidates
    known = [row for row in table.rows if beats_chance(row, len(table.rows))]
    of_encoder = known or table.rows
    best_of_encoder = best_of(of_encoder)

    # words, and their averages with the best row and with the one that would be taken without them
    full = [row for row in table.baselines if not row.run.labels_per_category]
    words = next((row for row in full if row.run.baseline == "tfidf"), None)
    averages = []
    if words and known:
        cheapest = min(non_inferior(known, best_of_encoder, margin), key=lambda row: row.cost)
        for row in dict.fromkeys([best_of_encoder, cheapest]):
            averages.append(average_row(table, row, words))

    # all of them are compared with the best one; what may know nothing does not compete
    knowing = [*known, *averages]
    if words and beats_chance(words):
        knowing.append(words)
    candidates = knowing or table.rows
    best = best_of(candidates)
    compared = [*table.rows, *sorted(full, key=lambda row: row.value), *averages]
    found = compare_rows(compared, best, candidates)

    # the cheapest of those that are non-inferior to it
    accepted = [row for row in knowing if row is best or found.loss_bound[compared.index(row)] <= margin]
    return Answer(
        margin=margin,
        compared=compared,
        comparison=found,
        competing=len(candidates),
        best=best,
        best_of_encoder=best_of_encoder,
        recommended=min(accepted, key=lambda row: row.cost, default=None),
        words=words,
        averages=averages,
        left_out=[row for row in table.rows if row.value > best_of_encoder.value],
    )


def best_of(rows):
    """The row with the highest macro-F1; of equal ones, the cheapest."""
    return min(rows, key=lambda row: (-row.value, row.cost))


def compare_rows(rows, best, candidates):
    """The comparison.Comparison of some rows with the best of the candidates among them."""
    competes = np.array([row in candidates for row in rows])
    return comparison.compare([row.influence for row in rows], rows.index(best), competes)


def non_inferior(rows, best, margin):
    """The rows that are non-inferior to the best of them, itself included."""
    bounds = compare_rows(rows, best, rows).loss_bound
    return [row for row, bound in zip(rows, bounds, strict=True) if row is best or bound <= margin]


def beats_chance(row, rows=1):
    """Whether a row is shown to know more than chance does, with 95% confidence for all rows
    together.
    """
    # of an interval with two ends: each row has a chance to be lucky
    level = 1 - 0.1 / rows
    low = comparison.interval(row.influence, level)[0]
    return low > row.influence.chance


def average_row(table, row, words):
    """The average of a row's and the words' probabilities, as a Row that is on no disk."""
    run = ensemble.average([row.run, words.run], table.labels, table.folds)
    return make_row(run, table.arrays, table.encoders, table.has_flop)


def gain(first, second):
    """How much more macro-F1 the second row has than the first, with its 95% interval: (gain, low,
    high).
    """
    found = comparison.compare([first.influence, second.influence], 0)
    return found.difference[1], found.low[1], found.high[1]
