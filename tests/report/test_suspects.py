"""Suspects: the titles whose label is contradicted out of fold, as a list that no spreadsheet runs."""

import csv

import numpy as np
import pytest
from conftest import call, refused
from pages import evaluate, of_class
from sklearn.metrics import log_loss
from synthetic import combined, write_baseline, write_features, write_offsets, write_run


def suspects(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def features_of(tmp_path, labels):
    """A features folder of numbered titles with these labels."""
    titles = [f"title {i}" for i in range(len(labels))]
    return write_features(tmp_path / "f", titles, [f"c{label}" for label in labels])


@pytest.mark.parametrize("words", [False, True])
def test_suspects_are_what_the_surest_row_contradicts_least_likely_first(tmp_path, words):
    """Rows that are too sure, with an offset of each fold, beside one that collapsed; TF-IDF weighs as much as it."""
    random = np.random.default_rng(2)
    labels = (random.random(400) < 0.3).astype(int)
    features = features_of(tmp_path, labels)
    offsets = np.zeros((1, 5, 2), np.float32)
    offsets[0, :, 1] = [-0.2, -0.6, -1.0, -1.4, -1.8]  # titles are named c1 before that is likeliest
    said = []
    for layer in (1, 2, 3):
        p = 1 / (1 + np.exp(3 - 4 * labels - 3 * random.normal(size=400)))  # twice as sure as it should be
        values = np.stack([1 - p, p], 1).astype(np.float32)
        if layer < 3:
            run = write_run(tmp_path / "r", labels, values[None], layers=(layer,), features=features, head="linear")
            write_offsets(run, offsets)
        elif words:
            write_baseline(run, "tfidf", values[None])
        said.append(values)
    write_run(tmp_path / "r", labels, np.zeros(400, int), layers=(2, 1), features=features)  # collapsed
    done = call("evaluate", "--results", tmp_path / "r", "--suspects", tmp_path / "s.csv")
    folds = np.arange(400) % 5
    losses = [log_loss(labels, combined(labels, folds, [values])[2]) for values in said]
    best = int(losses[1] < losses[0])
    source = f"layer {best + 1} (probe, [CLS]{' + TF-IDF' if words else ''})"
    assert done.code == 0 and f"out of fold, by {source}, which has the lowest log loss here" in done.err

    _, by_title, mean = combined(labels, folds, [said[best], said[2]] if words else [said[best]])
    taken = offsets[0][folds] * by_title[:, :1]  # of the fold of each title
    named = (np.log(mean) - taken).argmax(1)
    assert by_title.max() < 0.8 and (named != mean.argmax(1)).sum() > 10
    rows = suspects(tmp_path / "s.csv")
    order = np.argsort(mean[np.arange(400), labels], kind="stable")
    assert [int(row["row"]) - 1 for row in rows] == [i for i in order if named[i] != labels[i]]
    assert f"{len(rows)} titles with a label that is not" in done.err
    for row in rows:
        i = int(row["row"]) - 1
        assert (row["title"], row["label"], row["predicted"]) == (f"title {i}", f"c{labels[i]}", f"c{named[i]}")
        assert float(row["probability_of_label"]) == pytest.approx(mean[i, labels[i]], abs=1e-4)


def test_suspects_replace_no_file_but_older_suspects(tmp_path):
    """A slip of the hand may name the only copy of the titles."""
    labels = np.arange(40) % 2
    write_run(tmp_path / "r", labels, of_class(labels, 0.5, 1), features=features_of(tmp_path, labels))
    mine = tmp_path / "mine.csv"
    mine.write_text("title,category\nmy only copy,art\n")
    done = call("evaluate", "--results", tmp_path / "r", "--suspects", mine)
    refused(done, "mine.csv", "no list of suspects")
    assert "my only copy" in mine.read_text() and done.out == ""
    for _ in range(2):
        evaluate(tmp_path / "r", "--suspects", tmp_path / "s.csv")


def test_suspects_cannot_carry_formulas(tmp_path):
    labels, names = np.arange(40) % 2, ["+cmd|' /C calc'!A0", "@sum(1)"]
    titles = ["a lone\rreturn, and a comma", "@someone hello", *(f"=HYPERLINK({i})" for i in range(2, 40))]
    features = write_features(tmp_path / "f", titles, [names[label] for label in labels])
    write_run(tmp_path / "r", labels, 1 - of_class(labels, 0.1, 1), features=features, classes=names)
    evaluate(tmp_path / "r", "--suspects", tmp_path / "s.csv")
    rows = {int(row["row"]): row for row in suspects(tmp_path / "s.csv")}
    assert len(rows) > 30 and all(row[key].startswith("'") for row in rows.values() for key in ("label", "predicted"))
    assert [rows[number]["title"] for number in (1, 2, 3)] == [*titles[:2], "'=HYPERLINK(2)"]
