"""How the rows of a table compare, and which of them is recommended.

Rows of an encoder, words, and both combined compete: whatever stands in a table can be kept.
"""

from dataclasses import dataclass

import numpy as np

from whichlayer.report.rows import Row, judge_runs, make_row
from whichlayer.scores import comparison, figures


@dataclass(eq=False)
class Answer:
    """What the comparison of a table's rows says."""

    margin: float  # the loss of macro-F1 that counts as none
    compared: list[Row]  # the table's rows, then the majority class, words, and combinations with them
    comparison: comparison.Comparison  # of these rows: its arrays are in their order
    competing: int  # how many of them compete for the best
    best: Row  # the highest macro-F1 of those that are shown to beat chance, or else of all
    best_of_encoder: Row  # the same among the rows of an encoder
    recommended: Row | None  # the cheapest that is non-inferior to it; None: no row beats chance
    words: Row | None  # TF-IDF, with all titles


def compare(table, margin):
    """The Answer of a table with at least one row that was trained on all titles."""
    # rows that are shown to know something; where none does, all are candidates
    known = [row for row in table.rows if beats_chance(row, len(table.rows))]
    of_encoder = known or table.rows
    best_of_encoder = best_of(of_encoder)

    # words, combined with the best row and with the one that would be taken without them
    full = [row for row in table.baselines if not row.run.labels_per_category]
    words = next((row for row in full if row.run.baseline == "tfidf"), None)
    combined = []
    if words and known:
        _, cheapest = choose(known, known, best_of_encoder, margin)
        both = [combined_row(table, row, words) for row in dict.fromkeys([best_of_encoder, cheapest])]
        combined = list(filter(None, both))

    # all of them are compared with the best one; what may know nothing does not compete
    knowing = [*known, *combined]
    if words and beats_chance(words):
        knowing.append(words)
    candidates = knowing or table.rows
    best = best_of(candidates)
    compared = [*table.rows, *sorted(full, key=lambda row: row.value), *combined]
    found, cheapest = choose(compared, candidates, best, margin)
    return Answer(
        margin=margin,
        compared=compared,
        comparison=found,
        competing=len(candidates),
        best=best,
        best_of_encoder=best_of_encoder,
        recommended=cheapest if knowing else None,
        words=words,
    )


def best_of(rows):
    """The row with the highest macro-F1; of equal ones, the cheapest."""
    return min(rows, key=lambda row: (-row.value, row.cost))


def choose(rows, candidates, best, margin):
    """The comparison.Comparison of some rows with the best of the candidates among them, and the
    cheapest candidate that is non-inferior to it.
    """
    competes = np.array([row in candidates for row in rows])
    found = comparison.compare([row.influence for row in rows], rows.index(best), competes)
    accepted = [row for row in candidates if row is best or found.loss_bound[rows.index(row)] <= margin]
    return found, min(accepted, key=lambda row: row.cost)


def beats_chance(row, rows=1):
    """Whether a row is shown to know more than chance does, with 95% confidence for all rows
    together.
    """
    # of an interval with two ends: each row has a chance to be lucky
    level = 1 - 0.1 / rows
    low = comparison.interval(row.influence, level)[0]
    return low > row.influence.chance


def combined_row(table, row, words):
    """A row's run and words as one Row, combined as predict.py does for new titles; None where one of
    them adds nothing.
    """
    own = [row.run, words.run]
    judged = judge_runs(own, table)
    if not judged.exponents.all():
        return None
    measured = figures.of_judged(judged, table.labels, table.folds, len(table.classes))
    return make_row(own, measured, judged.predictions, table)
