"""Which labels may be wrong: titles that out-of-fold probabilities contradict, as a CSV file."""

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.heads import runs
from whichlayer.report import answer as answers
from whichlayer.scores import decision, metrics

COLUMNS = ("row", "title", "label", "predicted", "probability_of_label", "probability_of_predicted")
# of a label's probability, below which suspects are counted
LEVELS = (0.01, 0.05, 0.1)


def ensemble(table, answer):
    """What is known of the titles' categories, out of fold: (probabilities, named, whose they are).

    probabilities: (titles, classes) float64, calibrated; named: (titles,) ints, the category that
    is named for each title. They are the average of all rows that did not collapse, or the best
    row's, and either of them averaged with TF-IDF's where computed: of these, what has the lowest
    log loss. Weak layers, and words that say little, would blur it. answer: the table's Answer, or
    None where no row was trained on all titles.
    """
    # heads that collapsed know nothing
    rows = table.rows or table.learning_curve
    sound = [row for row in rows if not row.run.figures.collapsed] or rows
    best = min(sound, key=lambda row: row.run.figures.log_loss)
    # candidates, by name: one row, all of them, and both with words
    all_of_them = f"the average of {len(sound)} rows"
    voices = {best.name: [[best]]}
    if len(sound) > 1:
        voices[all_of_them] = [sound]
    if answer and answer.words:
        voices[answers.average_row(table, best, answer.words).name] = [[best], [answer.words]]
        if len(sound) > 1:
            voices[f"{all_of_them} with {answer.words.name}"] = [sound, [answer.words]]
    found = {name: average(table, parts) for name, parts in voices.items()}
    source = min(found, key=lambda name: metrics.log_loss(table.labels, found[name][0]))
    return *found[source], source


def average(table, parts):
    """(probabilities, named) of lists of rows: all lists, and all rows of one, weigh the same."""
    probabilities = offsets = 0.0
    for part in parts:
        for row in part:
            weight = 1 / len(parts) / len(part)
            probabilities = probabilities + weight * row.run.calibrated
            offsets = offsets + weight * row.run.mean_offsets(table.folds)
    return probabilities, decision.decide(probabilities, offsets)


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
    counts = [(frame.probability_of_label < limit).sum() for limit in LEVELS]
    below = [f"{count:,} below {limit:g}" for count, limit in zip(counts, LEVELS, strict=True)]
    cli.say(
        f"{path}: {cli.count(len(frame), 'title')} with a label that is not the one that is named; "
        f"the label's probability is {', '.join(below)} (out of fold, by {source}, which has the "
        "lowest log loss here). Row 1 is the first title below the header."
    )
