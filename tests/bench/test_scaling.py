"""What bench/ measures of many titles: which titles those are, and that no wrong result is timed."""

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import write_titles
from test_train import write_features

from bench import scaling
from whichlayer.common import cli


@pytest.fixture
def source(tmp_path):
    """A file of 60 titles, of which the last ten are copies."""
    path = Path(write_titles(tmp_path / "titles.csv", rows=50))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines + lines[1:11]) + "\n")
    return path


def test_real_titles_are_those_of_the_file_each_once(source):
    found = scaling.real_titles(str(source), 30)
    with open(source, newline="") as file:
        there = {(row["title"], row["category"]) for row in csv.DictReader(file)}
    assert len({title for title, _ in found.rows}) == 30 and set(map(tuple, found.rows)) <= there
    assert found.kind == "30 distinct real titles"


def test_where_there_are_too_few_others_are_made_and_it_is_said(source):
    found = scaling.real_titles(str(source), 80)
    real = len({title for title, _ in scaling.real_titles(str(source), 50).rows})
    assert len({title for title, _ in found.rows}) == 80 and real == 50
    assert found.kind == "50 distinct real titles and 30 made of halves of them"


def test_twelve_labels_change_and_no_title(source):
    rows = scaling.real_titles(str(source), 50).rows
    later = scaling.change(rows)
    assert [title for title, _ in later] == [title for title, _ in rows]
    assert sum(old != new for old, new in zip(rows, later, strict=True)) == 12


@pytest.mark.parametrize("off, words", [(0.0, "All features equal"), (1e-6, "95.00% of the features equal")])
def test_features_are_compared_with_those_of_the_whole_extraction(tmp_path, off, words):
    x = np.random.default_rng(0).standard_normal((40, 8), np.float32)
    labels = ["a", "b"] * 20
    whole = write_features(tmp_path / "whole", {("cls", 1): x}, labels)
    x = x.copy()
    x[:2] += off
    followed = write_features(tmp_path / "followed", {("cls", 1): x}, labels)
    assert scaling.compared(followed, whole).startswith(words)


def test_other_features_are_refused(tmp_path):
    x = np.random.default_rng(0).standard_normal((40, 8), np.float32)
    whole = write_features(tmp_path / "whole", {("cls", 1): x}, ["a", "b"] * 20)
    followed = write_features(tmp_path / "followed", {("cls", 1): x[::-1].copy()}, ["a", "b"] * 20)
    with pytest.raises(cli.Problem, match="not the features of the whole extraction"):
        scaling.compared(followed, whole)
