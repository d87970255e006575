"""Which labels may be wrong: titles that out-of-fold probabilities contradict, as a CSV file."""

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.heads import runs
from whichlayer.reading import tables
from whichlayer.report.rows import judge
from whichlayer.scores import metrics

COLUMNS = ("row", "title", "label", "predicted", "probability_of_label", "probability_of_predicted")


def check_path(path):
    """Refuse to replace a file that is no list of suspects: it may be the user's only copy."""
    cli.check_output("--suspects", path, (".csv",))
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as file:
            if file.readline().strip() != ",".join(COLUMNS):
                raise cli.Problem(f"--suspects {path}: it is there already, and no list of suspects")


def write(path, table, answer, features):
    """Write the titles whose label the chosen row contradicts, the least likely labels first, and say how many
    there are, and whose probabilities these are.

    features: folders, one of the runs' features, or None for the one that they were trained on.
    """
    # a third of a second, which a table alone does not need
    import pandas as pd

    # the surest row of those that are compared
    rows = answer.compared if answer else table.learning_curve
    row = min(rows, key=lambda row: row.figures.log_loss)
    judged = judge(row, table)
    predicted = judged.named
    titles, names = runs.features_of(table.trained[0].run, features).titles()
    # a table of the titles whose label is contradicted
    rows = range(1, len(titles) + 1)
    named = np.array(table.classes, dtype=object)[predicted]
    sure = [metrics.of_each(judged.probabilities, each) for each in (table.labels, predicted)]
    frame = pd.DataFrame(dict(zip(COLUMNS, (rows, titles, names, named, *sure), strict=True)))
    frame = frame[predicted != table.labels]
    frame = frame.sort_values("probability_of_label", kind="stable").round(4)
    # and as a file
    escaped = frame[["title", "label", "predicted"]].map(tables.escape_cell)
    with disk.atomic(path, "w", encoding="utf-8", newline="") as file:
        # carriage returns in titles, too, get quotes
        frame.assign(**escaped).to_csv(file, index=False, lineterminator="\r\n")
    cli.say(
        f"{path}: {cli.count(len(frame), 'title')} with a label that is not the one that is named (out of fold, "
        f"by {row.name}, which has the lowest log loss here). Row 1 is the first title below the header."
    )
