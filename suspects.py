"""Which labels may be wrong: titles that out-of-fold probabilities contradict, as a CSV file."""

import numpy as np
import pandas as pd

import cli
import disk
import metrics
import runs


def ensemble(table, answer):
    """What is known of the titles' categories: ((titles, classes) float64 calibrated probabilities,
    whose they are).

    They are the average of all rows that did not collapse, or the best row's, and either of them
    averaged with TF-IDF's where computed: of these, what has the lowest log loss. Weak layers, and
    words that say little, would blur it. answer: the table's Answer, or None where no row was
    trained on all titles.
    """
    rows = table.rows or table.learning_curve
    sound = [row.run for row in rows if not row.run.figures.collapsed]
    if not sound:
        sound = [row.run for row in rows]
    best = min(sound, key=lambda run: run.figures.log_loss)

    found = {best.name: best.calibrated}
    if len(sound) > 1:
        total = sum(run.calibrated for run in sound)
        found[f"the average of {len(sound)} rows"] = total / len(sound)
    if answer and "tfidf" in answer.references:
        words = answer.references["tfidf"].run.calibrated
        with_words = {f"{name} with TF-IDF": (values + words) / 2 for name, values in found.items()}
        found.update(with_words)
    source = min(found, key=lambda name: metrics.log_loss(table.labels, found[name]))
    return found[source], source


def write(path, table, answer, features):
    """Write the titles that the ensemble contradicts, the least likely labels first; says how many,
    and whose it is.

    features: the folder of the runs' features, or None for the one that they were trained on.
    """
    probabilities, source = ensemble(table, answer)
    titles, names = runs.features_of(table.everything[0].run, features).titles()
    predicted = probabilities.argmax(1)
    rows = np.arange(len(titles))
    frame = pd.DataFrame(
        {
            "row": rows + 1,
            "title": titles,
            "label": names,
            "predicted": np.array(table.classes, dtype=object)[predicted],
            "probability_of_label": probabilities[rows, table.labels],
            "probability_of_predicted": probabilities.max(1),
        }
    )
    frame = frame[predicted != table.labels]
    frame = frame.sort_values("probability_of_label", kind="stable").round(4)
    for column in ("title", "label", "predicted"):
        frame[column] = frame[column].map(cli.escape_cell)
    with disk.atomic(path, "w", encoding="utf-8", newline="") as file:
        frame.to_csv(file, index=False, lineterminator="\n")
    cli.say(f"{path}: {cli.count(len(frame), 'title')} with a label that {source} contradicts")
