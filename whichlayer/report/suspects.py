"""Which labels may be wrong: titles that out-of-fold probabilities contradict, as a CSV file."""

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.heads import runs
from whichlayer.scores import decision, metrics

COLUMNS = ("row", "title", "label", "predicted", "probability_of_label", "probability_of_predicted")


def ensemble(table, answer):
    """What is known of the titles' categories, out of fold: (probabilities, named, whose they are).

    probabilities: (titles, classes) float64, calibrated; named: (titles,) ints, the category that
    is named for each title. They are the best row's, or the average of all rows that did not
    collapse, or either of them averaged with TF-IDF's where computed: of these, what has the lowest
    log loss. Weak layers, and words that say little, would blur it. answer: the table's Answer, or
    None where no row was trained on all titles.
    """
    # heads that collapsed know nothing
    rows = table.rows or table.learning_curve
    sound = [row for row in rows if not row.run.figures.collapsed] or rows
    best = min(sound, key=lambda row: row.run.figures.log_loss)
    # of equal ones, the first is taken
    found = {best.name: opinion(table, best)}
    found[f"the average of {len(sound)} rows"] = mean((opinion(table, row) for row in sound), len(sound))
    if answer and answer.words:
        words = opinion(table, answer.words)
        for name, own in list(found.items()):
            found[f"{name} with {answer.words.name}"] = mean([own, words], 2)
    source = min(found, key=lambda name: metrics.log_loss(table.labels, found[name][0]))
    probabilities, offsets = found[source]
    return probabilities, decision.decide(probabilities, offsets), source


def opinion(table, row):
    """What a row says of the titles: calibrated probabilities, and what its decision takes from their logarithms."""
    return row.run.calibrated, row.run.mean_offsets(table.folds)


def mean(opinions, count):
    """The mean of so many opinions, as an opinion."""
    probabilities = offsets = 0.0
    for own, taken in opinions:
        probabilities = probabilities + own / count
        offsets = offsets + taken / count
    return probabilities, offsets


def check_path(path):
    """Refuse to replace a file that is no list of suspects: it may be the user's only copy."""
    cli.check_output("--suspects", path)
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as file:
            if file.readline().strip() != ",".join(COLUMNS):
                raise cli.Problem(f"--suspects {path}: it is there already, and no list of suspects")


def write(path, table, answer, features):
    """Write the titles that the ensemble contradicts, the least likely labels first, and say how many
    there are, and whose probabilities these are.

    features: the folder of the runs' features, or None for the one that they were trained on.
    """
    # a third of a second, which a table alone does not need
    import pandas as pd

    probabilities, predicted, source = ensemble(table, answer)
    titles, names = runs.features_of(table.everything[0].run, features).titles()
    # a table of the titles whose label is contradicted
    rows = np.arange(len(titles))
    named = np.array(table.classes, dtype=object)[predicted]
    sure = (probabilities[rows, table.labels], probabilities[rows, predicted])
    frame = pd.DataFrame(dict(zip(COLUMNS, (rows + 1, titles, names, named, *sure), strict=True)))
    frame = frame[predicted != table.labels]
    frame = frame.sort_values("probability_of_label", kind="stable").round(4)
    # and as a file
    escaped = frame[["title", "label", "predicted"]].map(cli.escape_cell)
    with disk.atomic(path, "w", encoding="utf-8", newline="") as file:
        # carriage returns in titles, too, get quotes
        frame.assign(**escaped).to_csv(file, index=False, lineterminator="\r\n")
    cli.say(
        f"{path}: {cli.count(len(frame), 'title')} with a label that is not the one that is named (out of fold, "
        f"by {source}, which has the lowest log loss here). Row 1 is the first title below the header."
    )
