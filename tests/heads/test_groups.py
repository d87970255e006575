"""Groups: copies that differ in a number, and what --group-column names, stay on one side of a split."""

import csv

import numpy as np
import pytest
from conftest import WORDS, call, refused

from whichlayer.heads import runs, splits
from whichlayer.report.rows import read_tables

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("title", "category", "channel"), *rows])
    return path


def channels(random, count=20, titles=10):
    """Titles of channels, each with one label: who knows the channel's words knows it, nobody else."""
    rows = []
    for number in range(count):
        own = random.choice(WORDS[:55], 6, replace=False)
        label = ["no", "yes"][number % 2]
        rows += [(" ".join([*own, *random.choice(WORDS[:55], 1)]), label, f"channel {number}") for _ in range(titles)]
    return rows


def trained(tmp_path, bert, path, *options):
    """The run of one layer on a file of titles, and what training said."""
    call("extract", "--data", path, "--model", bert, "--pooling", "mean", "--out", tmp_path / "f", *options)
    done = call("train", "--features", tmp_path / "f", "--results", tmp_path / "r", "--layers", -1, "--head", "linear")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "r").glob("[!.]*/")
    return runs.open_run(folder), done.err


def test_labels_that_only_a_channel_tells_are_chance_with_its_column_and_not_without(tmp_path, bert):
    rows = channels(np.random.default_rng(0))
    path = write(tmp_path / "t.csv", rows)
    blind, _ = trained(tmp_path / "1", bert, path)
    run, said = trained(tmp_path / "2", bert, path, "--group-column", "channel")
    assert blind.figures.macro_f1 > 0.8 and run.figures.macro_f1 < 0.6
    assert "groups that stay in one fold: 20; the largest, that of 'channel 0', has 10 of 200 titles" in said

    # folds, and intervals, know the same groups
    names = np.array([row[2] for row in rows])
    groups, folds = np.asarray(run.array("groups")), np.asarray(run.array("folds"))
    for name in set(names):
        own = names == name
        assert len(set(groups[own])) == 1 and all(len(set(repeat[own])) == 1 for repeat in folds)
    assert len(set(groups)) == 20


def test_groups_follow_the_column_without_encoding_anew_and_share_no_table(tmp_path, bert, encoded):
    path = write(tmp_path / "t.csv", channels(np.random.default_rng(1), 20, 4))
    trained(tmp_path, bert, path)
    encoded.clear()
    asked = ["--pooling", "mean", "--out", tmp_path / "f", "--group-column", "channel"]
    done = call("extract", "--data", path, "--model", bert, *asked)
    assert done.code == 0 and not sum(encoded)
    assert "but not --text-column, --label-column or --group-column" in done.err
    assert "out of date" in call("evaluate", "--results", tmp_path / "r").err


@pytest.mark.parametrize(
    "titles, owners, groups",
    [
        # through a copy, and through a copy's owner
        (["a dog", "A dog!", "two cats", "bees", "bees 7"], ["x", "y", "y", "x", ""], [0, 0, 0, 0, 0]),
        # a long chain
        ([f"{LETTERS[i // 2]} word" for i in range(50)], [str((i + 1) // 2) for i in range(50)], [0] * 50),
    ],
)
def test_titles_are_grouped_through_copies_and_owners(titles, owners, groups):
    np.testing.assert_array_equal(splits.group_titles(titles, owners), groups)


def test_groups_are_the_connected_components():
    """As scipy finds them in the graph of titles that share a copy or an owner."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    random = np.random.default_rng(3)
    copies, owners = random.integers(0, 60, 100), random.integers(0, 70, 100)
    titles = [LETTERS[copy % 26] * 3 + LETTERS[copy // 26] for copy in copies]
    pairs = np.concatenate([np.argwhere(each[:, None] == each) for each in (copies, owners)])
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(100, 100))
    _, wanted = connected_components(graph, directed=False)
    found = splits.group_titles(titles, [f"owner {owner}" for owner in owners])
    assert len(set(zip(found, wanted, strict=True))) == len(set(found)) == len(set(wanted)) > 3


def test_copies_that_differ_in_a_number_know_nothing_of_one_another(tmp_path, bert):
    """Sixty sentences, each with five numbers of an order; their labels are drawn at random."""
    random = np.random.default_rng(4)
    lines = []
    for _ in range(60):
        words = "".join(random.choice(list(LETTERS), 8))
        label = ["no", "yes"][int(random.integers(2))]
        lines += [(f"Order {random.integers(1000, 9999)}: {words} came", label, "") for _ in range(5)]
    run, _ = trained(tmp_path, bert, write(tmp_path / "t.csv", lines))
    (table,) = read_tables(tmp_path / "r")
    low, high = table.rows[0].interval
    assert low < 0.5 < high
    assert len(set(np.asarray(run.array("groups")))) == 60


def test_columns_and_groups_that_cannot_serve_are_refused(tmp_path, bert):
    rows = channels(np.random.default_rng(5), 24, 3)
    path = write(tmp_path / "t.csv", rows)
    asked = ("extract", "--data", path, "--model", bert, "--out", tmp_path / "f")
    refused(call(*asked, "--group-column", "chanel"), "'chanel'", "'channel'")
    refused(call(*asked, "--group-column", "category"), "must differ", "'category'")
    # a category in three groups, and one that is nearly all in one group
    rows = [(title, "rare" if number < 9 else label, name) for number, (title, label, name) in enumerate(rows)]
    call(*asked[:2], write(tmp_path / "u.csv", rows), *asked[3:], "--group-column", "channel")
    done = call("train", "--features", tmp_path / "f", "--results", tmp_path / "r")
    assert done.code == 2 and "category 'rare' has not enough titles of its own for --folds 5" in done.err
    assert "3 of its 9 are in one group, that of row 1;" in done.err
