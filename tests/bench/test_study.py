"""The study: titles are shared without copies on both sides, scores are predict.py's, rules choose what they say."""

import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, call, write_bert, write_titles

from studies import findings, study
from whichlayer.common import disk
from whichlayer.heads import splits


def write_csv(path, pairs):
    path.write_text("\n".join(["title,category", *(f"{title},{label}" for title, label in pairs)]) + "\n")
    return path


def test_no_test_title_is_a_copy_of_one_in_training(tmp_path):
    pairs = [(f"{'The' if i % 3 else 'the'} cake no {i // 2}{'!' * (i % 2)}", "ab"[i % 2]) for i in range(80)]
    training, test = study.share_titles(write_csv(tmp_path / "one.csv", pairs), None)
    assert sorted(training + test) == sorted(pairs) and 60 <= len(training) <= 61
    keys = [{splits.group_key(title) for title, _ in part} for part in (training, test)]
    assert not keys[0] & keys[1]
    # an official test file loses what is in training
    official = write_csv(tmp_path / "one-test.csv", [("THE CAKE - no 3", "a"), ("another one", "b")])
    training, test = study.share_titles(tmp_path / "one.csv", official)
    assert len(training) == 80 and test == [("another one", "b")]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (0, {("cls", 12)}),
        (1, {("mean", 12)}),
        (2, {("mean", layer) for layer in (12, 11, 10, 9)}),
        (3, {("mean", layer) for layer in range(1, 13)}),
        (4, {(pooling, layer) for pooling in ("cls", "mean") for layer in range(1, 13)}),
    ],
)
def test_rules_take_the_layers_that_they_name(rule, expected):
    assert findings.columns_of(findings.RULES[rule], 12) == expected


def test_a_set_from_titles_to_the_page(tmp_path):
    """Two small encoders: the scores are those of predict.py, and what a rule loses is the difference to the best."""
    folder = tmp_path / "out" / "small"
    data = tmp_path / "data"
    data.mkdir()
    write_titles(data / "small.csv", rows=80)
    assert study.parse_arguments(["titles", str(data), str(tmp_path / "out")]).what == "titles"
    study.write_titles(study.parse_arguments(["titles", str(data), str(tmp_path / "out")]))
    features = []
    for depth in (4, 5):
        encoder = write_bert(tmp_path / f"encoder-{depth}", layers=depth, seed=depth)
        features.append(folder / f"features-{depth}")
        options = ("--data", folder / "train.csv", "--model", encoder, "--pooling", "cls", "mean")
        assert call("extract", *options, "--out", features[-1]).code == 0
    runs = ("--results", folder / "runs")
    trained = call("train", "--features", *features, *runs, "--survey", "--repeats", 1)
    assert trained.code == 0, trained.err
    assert call("evaluate", *runs, "--baselines").code == 0
    study.score_set(study.parse_arguments(["score", str(folder)]))

    own = disk.read_json(folder / "scores.json", findings.Set, "scores", findings.FORMAT)
    assert own.titles + own.test == 80 and set(own.layers.values()) == {4, 5}
    for encoder, depth in own.layers.items():
        row = findings.by_rule(own, encoder)["last layer, mean"]
        (run,) = (folder / "runs").glob(f"{encoder}-*-layers-{depth}-mean-*")
        test = ("--csv", folder / "test.csv", "--label-column", "category")
        printed = call("predict", "--run", run, *test).out
        shown = re.search(r"^\| all .*", printed, re.MULTILINE)[0].split("|")
        assert shown[3].strip() == f"{row.accuracy:.4f}" and shown[5].strip() == f"{row.found:.4f}"
        alone = findings.trained(own, encoder)
        lost = findings.losses([own], encoder)["last layer, mean"]
        np.testing.assert_allclose(lost, max(score.found for score in alone) - row.found)
        assert findings.choice_of(own, [encoder], False).recommended < len(own.scores)


def test_the_page_without_any_set_says_what_makes_one(tmp_path):
    command = [sys.executable, "-m", "studies.summary", tmp_path]
    done = subprocess.run(command, text=True, capture_output=True, cwd=ROOT)
    assert done.returncode == 2 and "studies/study.sh" in done.stderr and "Traceback" not in done.stderr
