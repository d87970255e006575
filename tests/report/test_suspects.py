"""Suspects: the titles whose label is contradicted out of fold, as a list that no spreadsheet runs."""

import csv

import numpy as np
import pytest
from conftest import call, refused
from pages import evaluate, of_class
from synthetic import chances, write_baseline, write_features, write_offsets, write_run

from whichlayer.scores import metrics


def suspects(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_suspects_are_the_contradicted_labels_least_likely_first(tmp_path):
    """The opinions are those of the sound rows, calibrated, and of TF-IDF as much as of all rows together."""
    titles, labels = [f"title {i}" for i in range(200)], np.arange(200) % 2
    features = write_features(tmp_path / "features", titles, [f"c{label}" for label in labels])
    own, values = np.random.default_rng(1).beta(5, 2, 200), []  # of the own label, nearly always above a half
    for away in (0, 70, 140):  # all are as good, each on other titles
        p = np.roll(own, away)
        values.append(np.where(labels[:, None] == (0, 1), p[:, None], 1 - p[:, None])[None])
    values = np.array(values, np.float32)
    for layer in (1, 2):
        run = write_run(tmp_path / "results", labels, values[layer - 1], layers=(layer,), features=features)
    write_run(tmp_path / "results", labels, np.zeros(200, int), layers=(2, 1), features=features)  # collapsed
    for words in (False, True):
        if words:
            write_baseline(run, "tfidf", values[2])
        done = call("evaluate", "--results", tmp_path / "results", "--suspects", tmp_path / "s.csv")
        source = "the average of 2 rows with TF-IDF" if words else "the average of 2 rows"
        assert done.code == 0 and f"out of fold, by {source}, which has the lowest log loss here" in done.err
        calibrated = [metrics.sharpen(v[0], metrics.fit_temperature(labels, v[0])) for v in values]
        mean = (calibrated[0] + calibrated[1]) / 2
        mean = (mean + calibrated[2]) / 2 if words else mean
        own = mean[np.arange(200), labels]
        rows = suspects(tmp_path / "s.csv")
        assert [int(row["row"]) - 1 for row in rows] == [i for i in np.argsort(own, kind="stable") if own[i] < 0.5]
        for row in rows:
            i = int(row["row"]) - 1
            assert (row["title"], row["label"], row["predicted"]) == (titles[i], f"c{labels[i]}", f"c{1 - labels[i]}")
            assert float(row["probability_of_label"]) == pytest.approx(own[i], abs=1e-4)
            assert float(row["probability_of_predicted"]) == pytest.approx(1 - own[i], abs=1e-4)


def test_suspects_are_what_the_decision_contradicts(tmp_path):
    """Two rows that are too sure; each fold has its offset, which belongs to what the heads themselves say."""
    random = np.random.default_rng(2)
    labels = (random.random(400) < 0.3).astype(int)
    features = write_features(tmp_path / "f", [f"title {i}" for i in range(400)], [f"c{label}" for label in labels])
    offsets = np.zeros((1, 5, 2), np.float32)
    offsets[0, :, 1] = [-0.2, -0.6, -1.0, -1.4, -1.8]  # titles are named c1 before that is likeliest
    calibrated, temperatures = [], []
    for layer in (1, 2):
        logits = 2 * labels - 1.5 + 1.5 * random.normal(size=400)
        p = 1 / (1 + np.exp(-2 * logits))  # twice as sure as it should be
        values = np.stack([1 - p, p], 1).astype(np.float32)
        run = write_run(tmp_path / "r", labels, values[None], layers=(layer,), features=features, head="linear")
        write_offsets(run, offsets)
        temperatures.append(metrics.fit_temperature(labels, values))
        calibrated.append(metrics.sharpen(values, temperatures[-1]))
    done = call("evaluate", "--results", tmp_path / "r", "--suspects", tmp_path / "s.csv")
    assert done.code == 0 and "by the average of 2 rows, which" in done.err, done.err

    mean = (calibrated[0] + calibrated[1]) / 2
    own = offsets[0][np.arange(400) % 5]  # the fold of each title
    named = (np.log(mean) - own * np.mean(1 / np.array(temperatures))).argmax(1)
    assert min(temperatures) > 1.3 and (named != mean.argmax(1)).sum() > 20
    rows = suspects(tmp_path / "s.csv")
    assert {int(row["row"]) - 1 for row in rows} == set(np.flatnonzero(named != labels))
    assert all(row["predicted"] == f"c{named[int(row['row']) - 1]}" for row in rows)


def test_suspects_are_not_blurred_by_what_knows_little(tmp_path):
    """A row that is right in 95% of the titles stands beside rows, and words, that hardly know anything."""
    titles, labels = [f"title {i}" for i in range(400)], np.arange(400) % 2
    features = write_features(tmp_path / "features", titles, [f"c{label}" for label in labels])
    knowing = of_class(labels, 0.05, 1)
    run = write_run(tmp_path / "results", labels, knowing, layers=(2,), features=features)
    for pooling in ("cls", "mean"):
        options = {"poolings": (pooling,), "features": features}
        write_run(tmp_path / "results", labels, chances(of_class(labels, 0.45, len(pooling)), 2, 0.55), **options)
    write_baseline(run, "tfidf", chances(of_class(labels, 0.45, 9), 2, 0.55))
    done = call("evaluate", "--results", tmp_path / "results", "--suspects", tmp_path / "s.csv")
    assert "by layer 2 (report's head), which has the lowest log loss here" in done.err
    assert {int(row["row"]) - 1 for row in suspects(tmp_path / "s.csv")} == set(np.flatnonzero(knowing != labels))


def test_suspects_replace_no_file_but_older_suspects(tmp_path):
    """A slip of the hand may name the only copy of the titles."""
    labels = np.arange(40) % 2
    features = write_features(tmp_path / "f", [f"title {i}" for i in range(40)], [f"c{label}" for label in labels])
    write_run(tmp_path / "r", labels, of_class(labels, 0.5, 1), features=features)
    mine = tmp_path / "mine.csv"
    mine.write_text("title,category\nmy only copy,art\n")
    done = call("evaluate", "--results", tmp_path / "r", "--suspects", mine)
    refused(done, "mine.csv", "no list of suspects")
    assert "my only copy" in mine.read_text() and done.out == ""
    refused(call("evaluate", "--results", tmp_path / "r", "--suspects", "."), ".csv")
    for _ in range(2):
        evaluate(tmp_path / "r", "--suspects", tmp_path / "s.csv")


def test_suspects_cannot_carry_formulas(tmp_path):
    labels, names = np.arange(40) % 2, ["+cmd|' /C calc'!A0", "@sum(1)"]
    features = write_features(
        tmp_path / "f", [f"=HYPERLINK({i})" for i in range(40)], [names[label] for label in labels]
    )
    write_run(tmp_path / "r", labels, of_class(labels, 0.5, 1), features=features, classes=names)
    evaluate(tmp_path / "r", "--suspects", tmp_path / "s.csv")
    rows = suspects(tmp_path / "s.csv")
    assert rows and all(row[key].startswith("'") for row in rows for key in ("title", "label", "predicted"))


def test_what_the_list_says_of_itself(tmp_path):
    """How many labels are how unlikely, what a row's number is, whose probabilities these are, what was escaped."""
    random = np.random.default_rng(3)
    p = random.beta(0.3, 0.3, 6000)
    labels = (random.random(6000) < p).astype(int)
    labels[:3] = p[:3] < 0.5
    titles = ["=1+1", "@someone hello", "a lone\rreturn, and a comma", *(f"title {i}" for i in range(3, 6000))]
    features = write_features(tmp_path / "f", titles, [f"c{label}" for label in labels])
    write_run(tmp_path / "r", labels, np.stack([1 - p, p], axis=1)[None].astype(np.float32), features=features)
    done = call("evaluate", "--results", tmp_path / "r", "--suspects", tmp_path / "s.csv")
    rows = suspects(tmp_path / "s.csv")
    found = np.array([float(row["probability_of_label"]) for row in rows])
    assert 0 < (found < 0.01).sum() < (found < 0.05).sum() < (found < 0.1).sum() < len(found)
    below = ", ".join(f"{(found < limit).sum()} below {limit:g}" for limit in (0.01, 0.05, 0.1))
    assert f"{len(rows)} titles with a label that is not the one that is named" in done.err
    assert f"the label's probability is {below} (out of fold, by layer 1 (report's head)" in done.err
    assert "Row 1 is the first title below the header." in done.err
    by_row = {row["row"]: row["title"] for row in rows}
    assert [by_row[number] for number in "123"] == ["'=1+1", "@someone hello", "a lone\rreturn, and a comma"]
    assert b'"a lone\rreturn, and a comma"' in (tmp_path / "s.csv").read_bytes()
