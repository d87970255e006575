"""The study: titles are shared without copies on both sides, scores are predict.py's, rules choose what they say."""

import re
from dataclasses import replace

import numpy as np
from conftest import call, spelled, write_bert, write_titles

from studies import findings, study, summary
from whichlayer.common import disk
from whichlayer.heads import splits


def write_csv(path, pairs):
    path.write_text("\n".join(["title,category", *(f"{title},{label}" for title, label in pairs)]) + "\n")
    return path


def test_no_test_title_is_a_copy_of_one_in_training(tmp_path):
    pairs = [(f"{'The' if i % 3 else 'the'} cake {spelled(i // 2)}{'!' * (i % 2)}", "ab"[i % 2]) for i in range(80)]
    training, test = study.share_titles(write_csv(tmp_path / "one.csv", pairs), None)
    assert sorted(training + test) == sorted(pairs) and 60 <= len(training) <= 61
    keys = [{splits.group_key(title) for title, _ in part} for part in (training, test)]
    assert not keys[0] & keys[1]
    # an official test file loses what is in training
    official = write_csv(tmp_path / "one-test.csv", [("THE CAKE - d", "a"), ("another one", "b")])
    training, test = study.share_titles(tmp_path / "one.csv", official)
    assert len(training) == 80 and test == [("another one", "b")]


def test_rules_take_the_layers_that_they_name():
    found = [findings.columns_of(rule, 12) for rule in findings.RULES]
    cls, mean = ([(pooling, layer) for layer in range(1, 13)] for pooling in ("cls", "mean"))
    assert found == [{*cls[-1:]}, {*mean[-1:]}, {*mean[-4:]}, {*mean}, {*cls, *mean}]


def test_a_set_from_titles_to_the_page(tmp_path):
    """Two small encoders: the scores are those of predict.py, and what a rule loses is the difference to the best."""
    folder = tmp_path / "out" / "small"
    data = tmp_path / "data"
    data.mkdir()
    write_titles(data / "small.csv", rows=80)
    study.write_titles(study.parse_arguments(["titles", str(data), str(tmp_path / "out")]))
    features = []
    for depth in (4, 5):
        encoder = write_bert(tmp_path / f"encoder-{depth}", layers=depth, seed=depth)
        features.append(folder / f"features-{depth}")
        assert call("extract", "--data", folder / "train.csv", "--model", encoder, "--out", features[-1]).code == 0
    runs = ("--results", folder / "runs")
    trained = call("train", "--features", *features, *runs, "--survey", "--repeats", 1, "--folds", 2)
    assert trained.code == 0, trained.err
    assert call("evaluate", *runs, "--baselines").code == 0
    study.score_set(study.parse_arguments(["score", str(folder)]))

    own = disk.read_json(folder / "scores.json", findings.Set, "scores", findings.FORMAT)
    assert own.titles + own.test == 80 and set(own.layers.values()) == {4, 5}
    for encoder in own.layers:
        row = findings.by_rule(own, encoder)["last layer, mean"]
        lost = findings.losses([own], encoder)["last layer, mean"]
        np.testing.assert_allclose(lost, findings.best_found(own, encoder) - row.found)
    (run,) = (folder / "runs").glob(f"{encoder}-*-layers-{own.layers[encoder]}-mean-*")
    printed = call("predict", "--run", run, "--csv", folder / "test.csv", "--label-column", "category").out
    shown = re.search(r"^\| all .*", printed, re.MULTILINE)[0].split("|")
    assert shown[3].strip() == f"{row.accuracy:.4f}" and shown[5].strip() == f"{row.found:.4f}"
    page = summary.page([own, replace(own, name="another")])
    rows = re.findall(r"^\| (small|another) +\|", page, re.MULTILINE)
    assert rows.count("small") == rows.count("another") > 5
