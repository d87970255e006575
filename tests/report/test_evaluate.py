"""Evaluation: the table says what the stored predictions say, what they do not tell, and answers the question."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, call, refused, write_bert, write_titles
from sklearn.metrics import f1_score, log_loss, precision_recall_fscore_support
from synthetic import chances, guesses, scikit_learn, write_baseline, write_features, write_run

import data
from whichlayer.common import disk
from whichlayer.encoder import store
from whichlayer.heads import naming

CELL = re.compile(r"(?<!\\)\|")
THREE = np.random.default_rng(0).integers(0, 3, 600)  # labels of 600 titles in three categories


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bert):
    """Features of a random encoder, and a results folder with both kinds of head, also with few labels."""
    folder = tmp_path_factory.mktemp("trained")
    titles = write_titles(folder / "titles.csv", rows=90)
    done = call("extract", "--data", titles, "--model", bert, "--pooling", "cls", "mean", "--out", folder / "features")
    assert done.code == 0, done.err
    common = ["--features", folder / "features", "--results", folder / "results", "--repeats", 2]
    for options in (["--epochs", 2], ["--head", "linear", "--layers", 2, "--pooling", "mean", "--labels", 4, "all"]):
        done = call("train", *common, *options)
        assert done.code == 0, done.err
    return folder


@pytest.fixture
def results(trained, tmp_path):
    return shutil.copytree(trained / "results", tmp_path / "results")


def evaluate(results, *options):
    """What evaluate.py prints for a folder of results."""
    done = call("evaluate", "--results", results, *options)
    assert done.code == 0, done.err
    return done.out


def unwrapped(text):
    """The text as one line: where a paragraph is broken depends on the terminal."""
    return " ".join(text.split())


def tables(text):
    """The markdown tables in a text, each a list of rows, each a dictionary by column."""
    out = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        cells = [[cell.strip() for cell in CELL.split(line)[1:-1]] for line in block.splitlines()]
        assert len({len(row) for row in cells}) == 1
        out.append([dict(zip(cells[0], row, strict=True)) for row in cells[2:]])
    return out


def recommendation(text):
    """The paragraph that recommends a row, on one line: the second below the heading."""
    return unwrapped(text.split("\n\n")[2])


def of_class(labels, share, seed):
    """Predictions that are wrong in this share of titles, whichever are hard."""
    random = np.random.default_rng(seed)
    return np.where(random.random(len(labels)) < share, (labels + 1) % (labels.max() + 1), labels)


# --- the table ----------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_stored_predictions(tmp_path):
    folders = {}
    for layer, right in ((1, 0.7), (2, 0.9)):
        probabilities = chances(guesses(THREE, 3, right, layer, repeats=3), 3, 0.6)
        folders[str(layer)] = write_run(tmp_path, THREE, probabilities, layers=(layer,))
    text = evaluate(tmp_path)
    head = unwrapped(text)
    assert "600 titles in 3 categories, 5 grouped folds, 3 repeats, seed 0." in head and "2 layers" in head
    rows = tables(text)[0]
    assert [row["Layers"] for row in rows] == ["2", "1"]
    for row in rows:
        probabilities = np.load(folders[row["Layers"]] / "probabilities.npy")
        wanted = np.mean([f1_score(THREE, p.argmax(1), average="macro") for p in probabilities])
        assert row["F1-macro, last epoch"] == f"{wanted:.4f}"
        low, high = map(float, row["95% interval"].split("–"))
        assert low < wanted < high
        pooled = np.exp(np.log(probabilities).mean(0))
        before = log_loss(THREE, pooled / pooled.sum(1, keepdims=True))
        assert float(row["Log loss"]) < before  # these heads are right more often than they are sure
        assert row["Depth"] == ("50%" if row["Layers"] == "1" else "100%")
    assert rows[0]["Difference"] == "**best**" and rows[1]["Difference"].startswith("-0.")
    assert "The report" not in text  # other titles than the report's


def test_one_repeat_does_not_claim_to_cover_repeats(tmp_path):
    write_run(tmp_path, THREE, guesses(THREE, 3, 0.8))
    assert "covers the choice of titles, not of folds and weights" in unwrapped(evaluate(tmp_path))
    write_run(tmp_path, THREE, guesses(THREE, 3, 0.8, repeats=2), layers=(2,))
    text = evaluate(tmp_path)  # two protocols, two tables
    assert text.count("\n## ") + text.startswith("## ") == 2
    assert "the choice of titles and of repeats" in unwrapped(text)


def test_the_reports_figures_stand_only_beside_the_reports_titles(tmp_path):
    labels = np.arange(40) % 4
    report = {"data": {"sha256": data.YOUTUBE_SHA256}, "encoder": {"name": "bert-base-uncased"}, "depth": 12}
    for options in ({"layers": (12,)}, {"layers": (12, 11)}, {"layers": (12,), "standardize": True}):
        write_run(tmp_path / "a", labels, labels, **options, **report)
    text = evaluate(tmp_path / "a")
    assert [row["Report"] for row in tables(text)[0]] == ["0.9565", "0.9546", ""]
    assert "bert-base-uncased, on a split of its own" in unwrapped(text) and "They stand" not in text
    write_run(tmp_path / "b", labels, labels, layers=(6, 5), depth=6, data=report["data"])
    text = evaluate(tmp_path / "b")
    assert tables(text)[0][0]["Report"] == "0.9546"
    assert "They stand beside layers of this encoder that are as far from the top." in unwrapped(text)


def test_titles_and_protocols_never_share_a_table_and_encoders_do(tmp_path):
    labels = np.arange(40) % 4
    write_run(tmp_path, labels, labels)
    write_run(tmp_path, labels, labels, encoder={"name": "other", "weights": "other"})
    write_run(tmp_path, labels, labels, data={"name": "other", "titles": "other"})
    write_run(tmp_path, labels, labels, split="random")
    write_run(tmp_path, labels, labels, seed=1)
    write_run(tmp_path, labels, np.stack([labels, labels]))
    text = evaluate(tmp_path)
    assert len(re.findall("^## ", text, re.MULTILINE)) == 5 and text.count("**best**") == 5
    assert "## enc and other on d.csv" in text


@pytest.fixture
def two_encoders(tmp_path):
    """A small encoder whose last layer is nearly as good as a large one's: (results, {encoder: predictions})."""
    large = of_class(THREE, 0.05, 1)
    small = large.copy()
    right = np.flatnonzero(large == THREE)[:2]
    small[right] = (THREE[right] + 1) % 3
    found = {"small": small, "large": large}
    for name, flop, depth in (("large", 12e9, 12), ("small", 3e9, 6)):
        encoder = {"name": name, "weights": name, "layers": depth}
        for layer in (depth, depth // 2):
            values = found[name] if layer == depth else of_class(THREE, 0.3, 2)
            cost = {"flop": flop * layer / depth, "tokens": 18.5}
            write_run(tmp_path / "r", THREE, values, layers=(layer,), depth=depth, encoder=encoder, **cost)
    return tmp_path / "r", found


def test_rows_of_two_encoders_are_compared_and_the_work_decides(two_encoders):
    folder, found = two_encoders
    done = call("evaluate", "--results", folder)
    rows = tables(done.out)[0]
    assert [row["Encoder"] for row in rows] == ["small", "small", "large", "large"]
    assert [row["GFLOP"] for row in rows] == ["3.00", "1.50", "12.00", "6.00"]
    scores = {name: f1_score(THREE, values, average="macro") for name, values in found.items()}
    said = recommendation(done.out)
    assert said.startswith("**Recommended: small, layer 6 (report's head)**")
    assert "to the best one, large, layer 12 (report's head)" in said
    assert f"It loses {scores['large'] - scores['small']:.4f}" in said and "3 GFLOP a title instead of 12" in said
    assert done.out.count("**Recommended") == 1 and done.err.count("Next:") == 1 and "small-d.csv-layers-6" in done.err
    head = unwrapped(done.out)
    assert "small has 6 layers of 8 dimensions, computed in float32; large has 12 layers" in head
    assert "for a title of 18.5 tokens" in head
    assert max(len(line) for line in done.out.splitlines()) <= 120


def test_without_flop_in_some_run_layers_and_their_size_are_the_cost(two_encoders):
    folder, _ = two_encoders
    write_run(folder, THREE, of_class(THREE, 0.4, 3), layers=(1,), depth=6, encoder={"name": "old", "weights": "old"})
    text = evaluate(folder)
    assert "GFLOP" not in text and "Depth is the share" in unwrapped(text)
    said = recommendation(text)
    assert said.startswith("**Recommended: small, layer 6") and "about 50% of its encoder's work" in said


def test_two_encoders_of_one_name_are_told_apart(tmp_path):
    for weights in ("0123456789", "abcdefghij"):
        encoder = {"name": "/home/me/run/checkpoint-500", "weights": weights}
        write_run(tmp_path / weights, THREE, guesses(THREE, 3, 0.8), encoder=encoder)
        shutil.copytree(tmp_path / weights, tmp_path / "r", dirs_exist_ok=True, copy_function=shutil.copy)
        (folder,) = (path for path in (tmp_path / "r").iterdir() if not path.name.startswith("kept"))
        folder.rename(tmp_path / "r" / f"kept-{weights}")
    rows = tables(evaluate(tmp_path / "r"))[0]
    assert {row["Encoder"] for row in rows} == {"checkpoint-500 01234567", "checkpoint-500 abcdefgh"}


def test_where_no_linear_probe_was_tried_that_is_said(tmp_path):
    write_run(tmp_path, THREE, guesses(THREE, 3, 0.8))
    assert "The linear probe has not been tried here: `train.py --survey`" in recommendation(evaluate(tmp_path))
    write_run(tmp_path, THREE, guesses(THREE, 3, 0.8), head="linear")
    assert "has not been tried" not in evaluate(tmp_path)


def test_names_from_data_cannot_break_the_table(tmp_path):
    labels = np.arange(40) % 2
    names = {
        "classes": ["a|b", "`x` <b>\x1b[31m"],
        "data": {"name": "a|b\n# `x` <b>.csv"},
        "encoder": {"name": "e|*n*"},
    }
    write_run(tmp_path, labels, labels, **names)
    text = evaluate(tmp_path)
    assert "## e\\|\\*n\\* on a\\|b \\# \\`x\\` \\<b\\>.csv" in text and "\x1b" not in text
    assert [len(rows) for rows in tables(text)] == [1, 2, 4]


def test_collapsed_heads_are_said_with_a_remedy(tmp_path):
    labels = np.arange(40) % 4
    write_run(tmp_path, labels, np.zeros(40, int))
    write_run(tmp_path, labels, np.zeros(40, int), standardize=True)
    write_run(tmp_path, labels, labels, layers=(2,))
    text = evaluate(tmp_path)
    heads = {row["Head"] for row in tables(text)[0] if row["Layers"] == "1"}
    assert heads == {"report's, collapsed", "standardised, collapsed"}
    for row, remedy in (("report's head", "--standardize"), ("standardised", "a smaller --lr")):
        said = f"Collapsed: layer 1 ({row}) predicts one class only in 5 of 5 heads; try {remedy}."
        assert said in unwrapped(text)


def test_categories_of_the_recommended_row_are_scored(tmp_path):
    predictions = guesses(THREE, 3, 0.8, repeats=2)
    write_run(tmp_path, THREE, predictions, classes=["art", "food", "travel"])
    rows = tables(evaluate(tmp_path))[1]
    scores = np.mean([precision_recall_fscore_support(THREE, p)[:3] for p in predictions], axis=0)
    assert sorted(rows, key=lambda row: row["F1"]) == rows
    for row in rows:
        i = ["art", "food", "travel"].index(row["Category"])
        assert [row[key] for key in ("Precision", "Recall", "F1")] == [f"{value:.4f}" for value in scores[:, i]]
        assert row["Titles"] == str(np.bincount(THREE)[i])


def test_of_many_categories_the_worst_are_shown_and_the_rest_counted(tmp_path):
    labels = np.arange(1000) % 25
    predictions = np.where((labels == 7) & (np.arange(1000) < 500), 8, labels)
    write_run(tmp_path, labels, predictions)
    text = evaluate(tmp_path)
    rows = tables(text)[1]
    assert len(rows) == 20 and [next(iter(row.values())) for row in rows[:2]] == ["c7", "c8"]
    assert "and 5 more categories" in text


# --- baselines ----------------------------------------------------------------------------------------------------


def test_baselines_on_the_same_folds_are_kept_for_later(trained, results):
    first = evaluate(results, "--baselines")
    heads = [row["Head"] for row in tables(first)[0]]
    rows = [head for head in heads if "TF-IDF" not in head and head != "majority class"]
    assert heads[: len(rows)] == rows and set(heads[-3:-1]) == {"majority class", "TF-IDF"}
    assert heads[-1].endswith(" + TF-IDF")
    assert [row["Labels a category"] for row in tables(first)[1]][-1] == "TF-IDF"
    run = next(path for path in results.iterdir() if path.name.endswith("layers-2-repeats-2-epochs-2"))
    kept = list(results.glob("*baseline*"))
    assert len(kept) == 3  # the majority class, TF-IDF, and TF-IDF with 4 labels a category
    for folder in kept:
        assert (folder / "folds.npy").read_bytes() == (run / "folds.npy").read_bytes()
    shutil.move(trained / "features", trained / "away")
    try:
        assert evaluate(results) == evaluate(results, "--baselines") == first  # no features, and no fitting again
    finally:
        shutil.move(trained / "away", trained / "features")


def test_tf_idf_is_what_scikit_learn_makes_of_the_training_folds(trained, results):
    evaluate(results, "--baselines")
    (folder,) = [path for path in results.glob("*-tfidf-*") if "labels" not in path.name]
    stored, folds, labels = (np.load(folder / f"{name}.npy") for name in ("probabilities", "folds", "labels"))
    titles = np.array(store.open_features(trained / "features").titles()[0])
    for repeat, fold in ((0, 0), (1, 3)):
        test = folds[repeat] == fold
        expected = scikit_learn(titles[~test], labels[~test], titles[test])
        np.testing.assert_allclose(stored[repeat, test], expected, atol=1e-5)


def test_two_encoders_share_the_baselines_of_their_titles(tmp_path):
    titles, names = [f"word{label} {i}" for i, label in enumerate(THREE)], [f"c{label}" for label in THREE]
    features = write_features(tmp_path / "features", titles, names)
    for name in ("one", "two"):
        encoder = {"name": name, "weights": name}
        write_run(tmp_path / "r", THREE, guesses(THREE, 3, 0.8), features=features, encoder=encoder)
    done = call("evaluate", "--results", tmp_path / "r", "--features", features, "--baselines")
    assert done.code == 0, done.err
    assert len(re.findall(r"\| +none \| TF-IDF +\|", done.out)) == 1


def test_baselines_of_titles_without_words(tmp_path):
    """A title of emoji has no word, but characters."""
    titles = ["🎉🍕🎨"[i % 3] * (1 + i // 4) for i in range(60)]
    labels = np.arange(60) % 3
    features = write_features(tmp_path / "features", titles, [f"c{label}" for label in labels])
    write_run(tmp_path / "results", labels, of_class(labels, 0.2, 1), features=features)
    rows = tables(evaluate(tmp_path / "results", "--baselines"))[0]
    assert [row["F1-macro, last epoch"] for row in rows if row["Head"].startswith("TF-IDF")][0] == "1.0000"


def test_baselines_where_a_class_is_in_no_training_fold(tmp_path):
    """The third category's titles are copies of one another, and so all in one fold."""
    labels = np.where(np.arange(60) % 5 == 0, 2, np.arange(60) % 2)  # folds are numbers modulo 5
    titles = ["the same" if label == 2 else f"title {i} of {label}" for i, label in enumerate(labels)]
    features = write_features(tmp_path / "features", titles, [f"c{label}" for label in labels])
    write_run(tmp_path / "results", labels, labels, features=features)
    rows = tables(evaluate(tmp_path / "results", "--baselines"))[0]
    assert float(rows[2]["F1-macro, last epoch"]) <= 0.6667


def test_without_scikit_learn_or_matplotlib_one_line_says_what_to_install(results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    refused(call("evaluate", "--results", results, "--baselines", "--quiet"), "scikit-learn", "pip install")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = call("evaluate", "--results", results, "--plot", tmp_path / "p.png")
    refused(done, "matplotlib", "pip install")
    assert done.out == ""  # it is said at once


# --- how many labels ----------------------------------------------------------------------------------------------


def label_curve(folder, shares, words=(), **options):
    """Runs that are wrong in these shares of titles, by the number of labels; and TF-IDF's."""
    for size, share in shares.items():
        run = write_run(folder, THREE, of_class(THREE, share, 1), labels=size, head="linear", **options)
    for size, share in dict(words).items():
        write_baseline(run, "tfidf", of_class(THREE, share, 2), size)


@pytest.mark.parametrize(
    "words, said",
    [
        ({8: 0.4, 16: 0.6, 32: 0.2, None: 0.1}, "From 32 labels a category on, TF-IDF is not significantly behind"),
        ({8: 0.4, 16: 0.3, 32: 0.2, None: 0.5}, "TF-IDF stays significantly behind"),
    ],
)
def test_words_have_caught_up_only_where_they_never_fall_behind_again(tmp_path, words, said):
    label_curve(tmp_path, {8: 0.4, 16: 0.3, 32: 0.2, None: 0.1}, words)
    assert said in unwrapped(evaluate(tmp_path))


def test_a_line_for_each_layer_and_a_column_for_each_size(tmp_path):
    label_curve(tmp_path, {8: 0.5, 16: 0.3, None: 0.1}, layers=(1,))
    label_curve(tmp_path, {8: 0.4, 32: 0.2}, {8: 0.6, 16: 0.32, 32: 0.1, None: 0.05}, layers=(2,))
    text = evaluate(tmp_path)
    assert [row["Layers"] for row in tables(text)[0]][:1] == ["1"]  # the runs on few titles are no rows of the first
    two, one, words = tables(text)[1]
    assert list(one) == ["Labels a category", "8", "16", "32", "all"]
    assert (
        one["Labels a category"] == "layer 1 (linear probe, [CLS])"
        and one["32"] == ""
        and two["16"] == two["all"] == ""
    )
    wanted = {
        size: f1_score(THREE, of_class(THREE, share, 1), average="macro") for size, share in ((8, 0.5), (16, 0.3))
    }
    assert [one["8"], one["16"]] == [f"{value:.4f}" for value in wanted.values()]
    assert words["Labels a category"].startswith("TF-IDF") and "" not in words.values()
    said = "From 16 labels a category on, TF-IDF is not significantly behind layer 1 (linear probe, [CLS])."
    assert said in unwrapped(text)  # 0.70 and 0.67 at 16 could be chance, 0.50 and 0.40 at 8 could not


@pytest.mark.parametrize(
    "layers, text",
    [
        ([12], "12"),
        ([12, 11, 10, 9], "12, 11, 10, 9"),
        ([6, 5, 4, 3, 2, 1], "6 to 1"),
        ([9, 7, 5, 3, 1], "9, 7, 5, 3, 1"),
    ],
)
def test_many_layers_that_follow_one_another_are_named_by_their_ends(layers, text):
    assert naming.spell(layers) == text


def test_whether_the_curve_still_rises_at_its_end(tmp_path):
    label_curve(tmp_path / "rises", {8: 0.5, 16: 0.3, None: 0.1})
    text = unwrapped(evaluate(tmp_path / "rises"))
    assert "With one repeat, the choice of the labelled titles is not in these intervals" in text
    said = re.search(r"The last step, from 16 to all labels, brought (\S+) .*: it still rises", text)
    assert 0.15 < float(said[1]) < 0.25
    label_curve(tmp_path / "flat", {8: 0.5, 16: 0.1, 32: 0.1})
    text = unwrapped(evaluate(tmp_path / "flat"))
    assert "that it still rises is not shown" in text
    assert "Nothing here was trained on all titles" in text and "Recommended" not in text


# --- verify -------------------------------------------------------------------------------------------------------


def rewrite(folder, change, *files):
    """Change a run's configuration, and make all checksums fit, as somebody would who wants other figures."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["checksum"]
    change(config)
    config["contents"].update({name: disk.sha256(folder / name) for name in files})
    disk.write_json(folder / "config.json", config)


def test_verify_computes_everything_again(results):
    evaluate(results, "--baselines")
    done = call("evaluate", "--results", results, "--verify")
    assert done.code == 0 and done.err.count("verified") == len(list(results.glob("*/config.json"))), done.err


@pytest.mark.parametrize("head", ["epochs-2", "linear", "linear-labels-4"])
@pytest.mark.parametrize("figure, value", [("macro_f1", 0.99), ("temperature", 3.0), ("log_loss", 0.01)])
def test_verify_finds_a_figure_that_was_made_up(results, head, figure, value):
    run = sorted(results.glob(f"*-layers-2-*{head}*"))[0]
    rewrite(run, lambda config: config["results"].update({figure: value}))
    refused(call("evaluate", "--results", results, "--verify", "--quiet"), run.name, figure, str(value))


@pytest.mark.parametrize("name", ["probabilities.npy", "heads.safetensors", "history.csv"])
def test_verify_finds_files_that_were_changed(results, name):
    run = next(path for path in results.iterdir() if path.name.endswith("layers-2-repeats-2-epochs-2"))
    if name == "probabilities.npy":
        np.save(run / name, np.load(run / name)[:, ::-1].copy())
    elif name == "history.csv":
        lines = (run / name).read_text().splitlines()
        (run / name).write_text("\n".join([*lines[:-1], re.sub(r"[^,]+$", "0.999", lines[-1])]) + "\n")
    else:
        other = next(path for path in results.iterdir() if path.name.endswith("layers-1-repeats-2-epochs-2"))
        shutil.copy(other / name, run / name)
    found = refused(call("evaluate", "--results", results, "--verify", "--quiet"), run.name)
    assert "changed since" in found
    rewrite(run, lambda config: None, name)
    found = refused(call("evaluate", "--results", results, "--verify", "--quiet"), run.name)
    assert "changed since" not in found


def test_verify_finds_a_baseline_that_words_did_not_give(results):
    evaluate(results, "--baselines")
    (folder,) = [path for path in results.glob("*-tfidf-*") if "labels" not in path.name]
    probabilities = np.load(folder / "probabilities.npy")
    np.save(folder / "probabilities.npy", np.roll(probabilities, 1, axis=2))
    rewrite(folder, lambda config: None, "probabilities.npy")
    refused(call("evaluate", "--results", results, "--verify", "--quiet"), folder.name)


def test_verify_finds_weights_that_other_titles_gave(results):
    from whichlayer.heads import words

    evaluate(results, "--baselines")
    (folder,) = [path for path in results.glob("*-tfidf-*") if "labels" not in path.name]
    assert call("evaluate", "--results", results, "--verify", "--quiet").code == 0
    for name, content in words.files(
        words.fit(words.count([f"title {i}" for i in range(90)], np.arange(90) % 3))
    ).items():
        (folder / name).write_bytes(content)
    rewrite(folder, lambda config: None, *words.FILES)
    refused(call("evaluate", "--results", results, "--verify", "--quiet"), folder.name, "weights.safetensors")


def test_other_features_than_the_runs_are_refused(results, tmp_path):
    write_features(tmp_path / "other", ["one", "two"], ["a", "b"])
    options = ["--suspects", tmp_path / "s.csv", "--features", tmp_path / "other", "--quiet"]
    refused(call("evaluate", "--results", results, *options), "not the features", "--features")
    assert not (tmp_path / "s.csv").exists()


# --- files, commands, terminals -----------------------------------------------------------------------------------


def test_files_of_several_tables_say_which_and_are_checked_before_anything_is_computed(tmp_path):
    labels = np.arange(40) % 2
    features = write_features(tmp_path / "f", [f"title {i}" for i in range(40)], [f"c{label}" for label in labels])
    for seed in (0, 1):
        write_run(tmp_path / "r", labels, of_class(labels, 0.3, 1), seed=seed, features=features)
    (tmp_path / "p-seed-1.svg").write_text("an older picture")
    options = ["--plot", tmp_path / "p.svg", "--suspects", tmp_path / "s.csv", "--features", tmp_path / "f"]
    (tmp_path / "s-seed-1.csv").mkdir()
    done = call("evaluate", "--results", tmp_path / "r", "--baselines", *options)
    refused(done, "s-seed-1.csv", "folder")
    assert done.out == "" and not list(tmp_path.glob("r/*baseline*")) and not (tmp_path / "p.svg").exists()
    (tmp_path / "s-seed-1.csv").rmdir()
    (tmp_path / "s-seed-1.csv").write_text("marked by hand")
    refused(call("evaluate", "--results", tmp_path / "r", *options), "s-seed-1.csv", "there already")
    assert (tmp_path / "s-seed-1.csv").read_text() == "marked by hand"
    done = call("evaluate", "--results", tmp_path / "r", *options[:2])
    assert done.code == 0, done.err
    assert (tmp_path / "p.svg").exists() and "<svg" in (tmp_path / "p-seed-1.svg").read_text()
    assert f"Picture: {tmp_path / 'p-seed-1.svg'}" in done.err


def test_outputs_that_cannot_be_written_are_refused(results, tmp_path):
    for option, name, word in (
        ("--plot", "a.gif", ".png or .svg"),
        ("--plot", "no/a.png", "no such folder"),
        ("--suspects", "no/s.csv", "no such folder"),
        ("--suspects", "a.svg", "both name"),
    ):
        both = ["--plot", tmp_path / name] if word == "both name" else []
        done = call("evaluate", "--results", results, option, tmp_path / name, *both, "--quiet")
        refused(done, option, word)
        assert done.out == ""


def test_every_command_named_as_next_works_when_pasted(tmp_path, bert, titles, monkeypatch):
    (tmp_path / "ein Ordner").mkdir()
    monkeypatch.chdir(tmp_path / "ein Ordner")
    options = ["--model", bert, "--pooling", "mean", "--layers", "-1", "--out", "the features"]
    done, ran = call("extract", "--data", titles, *options), []
    while lines := re.findall(r"Next: (.*)", done.err):
        python, script, *arguments = shlex.split(lines[-1])
        assert Path(python).name.startswith("python")
        ran.append(Path(script).stem)
        done = call(ran[-1], *arguments)
        assert done.code == 0, (lines[-1], done.err)
    assert ran[:2] == ["train", "evaluate"]
    # random features may teach nothing: then there is no row to apply
    assert ran[2:] == ["predict"] or "Recommended: none" in done.out


def test_the_commands_of_all_tables_are_named_and_quoted(tmp_path):
    labels = np.arange(40) % 2
    for seed in (0, 1):
        write_run(tmp_path / "my results", labels, labels, seed=seed)
    done = call("evaluate", "--results", tmp_path / "my results")
    commands = [shlex.split(line) for line in re.findall(r"Next: (.*)", done.err)]
    assert [Path(words[3]).parent.name for words in commands] == ["my results"] * 2
    assert [Path(words[3]).name for words in commands] == [
        "enc-d.csv-layers-1-repeats-1",
        "enc-d.csv-layers-1-repeats-1-seed-1",
    ]


def test_each_run_finds_its_own_features_among_several_folders(tmp_path, bert):
    """Two encoders whose features were moved: both are verified, and both speak of the suspects."""
    titles = write_titles(tmp_path / "titles.csv", rows=90)
    folders = []
    for name in ("one", "two"):
        encoder = bert if name == "one" else write_bert(tmp_path / "other", seed=5)
        made = call("extract", "--data", titles, "--model", encoder, "--pooling", "mean", "--out", tmp_path / name)
        assert made.code == 0, made.err
        done = call(
            "train", "--features", tmp_path / name, "--results", tmp_path / "r", "--layers", 2, "--head", "linear"
        )
        assert done.code == 0, done.err
        folders.append(tmp_path / f"moved {name}")
        (tmp_path / name).rename(folders[-1])
    refused(call("evaluate", "--results", tmp_path / "r", "--verify", "--quiet"), "there are no features")
    options = ["--suspects", tmp_path / "s.csv", "--baselines", "--features", *folders]
    done = call("evaluate", "--results", tmp_path / "r", "--verify", *options)
    assert done.code == 0 and done.err.count("verified") == 4, done.err


def test_damaged_runs_are_refused_by_name(results):
    run = sorted(results.glob("*layers-2-*epochs*"))[0]
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"macro_f1": 0', '"macro_f1": 1', 1))
    refused(call("evaluate", "--results", results), str(run), "checksum")
    (run / "config.json").write_text(text)
    rewrite(run, lambda config: config["results"].pop("fold_mean"))
    refused(call("evaluate", "--results", results), str(run), "fold_mean")


@pytest.mark.parametrize(
    "place, value",
    [("results.temperature", "x"), ("classes", 5), ("encoder", "x"), ("encoder.layers", None), ("columns", {})],
)
def test_values_of_a_wrong_kind_are_refused_where_a_run_is_opened(results, place, value):
    run = sorted(results.glob("*layers-2-*epochs*"))[0]

    def change(config):
        *path, key = place.split(".")
        for part in path:
            config = config[part]
        config[key] = value

    rewrite(run, change)
    refused(call("evaluate", "--results", results), str(run), place)
    refused(call("predict", "--run", run, "a title"), str(run), place)


def test_changed_probabilities_are_refused_without_verify_too(results):
    run = sorted(results.glob("*layers-2-*epochs*"))[0]
    (run / "probabilities.npy").write_bytes((run / "probabilities.npy").read_bytes()[:-1] + b"\1")
    refused(call("evaluate", "--results", results), "probabilities.npy", "train again")


def test_runs_of_other_labels_are_refused_in_one_table(tmp_path):
    write_run(tmp_path, THREE, THREE)
    run = write_run(tmp_path, (THREE + 1) % 3, THREE, layers=(2,))
    refused(call("evaluate", "--results", tmp_path), run.name, "labels")


def test_leftovers_are_mentioned_and_ignored(results):
    (results / ".unfinished-run").mkdir()
    (results / "notes").mkdir()
    done = call("evaluate", "--results", results)
    assert done.code == 0 and ".unfinished-run" in done.err and "ignored" in done.err and "notes" not in done.err


def test_an_encoder_among_the_runs_is_no_row_and_costs_no_table(results, bert):
    alone = call("evaluate", "--results", results)
    shutil.copytree(bert, results / "encoder")
    beside = call("evaluate", "--results", results)
    assert beside.code == 0 and beside.out == alone.out, beside.err
    assert f"{results / 'encoder'}: no run of train.py; ignored" in beside.err


def test_what_is_no_folder_of_runs_is_told_from_one_that_is_empty(kept, tmp_path):
    refused(call("evaluate", "--results", kept.titles), "this is a file")
    refused(call("evaluate", "--results", kept.linear), "one run", f"--results {kept.linear.parent}")
    refused(call("evaluate", "--results", kept.features), "these are features", f"--features {kept.features}")
    refused(call("evaluate", "--results", tmp_path), "no runs are there; train some first", f"--results {tmp_path}")
    for place in (kept.titles, kept.linear):
        assert "--out" not in refused(call("train", "--features", place), "there are no features, but something else")
    refused(call("train", "--features", tmp_path / "f"), "there are no features; make them with", "extract.py --out")


def test_where_labels_have_changed_a_run_is_trained_again_by_the_command_that_is_named(tmp_path, bert):
    titles = Path(write_titles(tmp_path / "titles.csv", rows=90))
    extract = ["extract", "--data", titles, "--model", bert, "--out", tmp_path / "f"]
    train = ["train", "--features", tmp_path / "f", "--results", tmp_path / "r", "--head", "linear", "--layers", "2"]
    assert call(*extract).code == 0 and call(*train).code == 0
    titles.write_text(titles.read_text().replace(",art\n", ",food\n", 2))
    assert call(*extract).code == 0
    done = call("evaluate", "--results", tmp_path / "r", "--verify")
    line = done.err.splitlines()[-1]
    again = shlex.split(re.search(r"titles or labels differ \(if that is meant, train it again with: (.*?)\)", line)[1])
    assert done.code == 2 and again[:2] == ["python", "train.py"] and again[2:] == list(map(str, train[1:]))
    assert call("train", *again[2:]).code == 0
    assert call("evaluate", "--results", tmp_path / "r", "--verify").code == 0


def test_a_copy_of_a_run_is_no_row_of_its_own(results):
    evaluate(results, "--baselines")
    page = evaluate(results, "--baselines")
    for number, run in enumerate([*results.glob("*layers-2-*epochs*"), *results.glob("*baseline-tfidf*")]):
        shutil.copytree(run, results / f"z{number}")
    for options in ([], ["--baselines"]):
        done = call("evaluate", "--results", results, *options)
        assert done.code == 0 and done.out == page
        copies = [line for line in done.err.splitlines() if "is a copy of" in line]
        assert number > 1 and len(copies) == number + 1 and copies[0].startswith(f"{results / 'z0'}: left out"), (
            done.err
        )


def test_nothing_trained_says_what_to_run(tmp_path):
    refused(call("evaluate", "--results", tmp_path), "train.py")
    refused(call("evaluate", "--results", tmp_path / "nowhere"), "train.py")


def test_the_table_needs_neither_torch_nor_transformers_nor_a_terminal_nor_a_home(trained, tmp_path):
    """In a narrow, dumb, ASCII terminal of a user without a home: the table, the picture, and no warning."""
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); "
        "sys.modules['torch'] = sys.modules['transformers'] = None; "
        f"sys.argv = ['evaluate.py', '--results', {str(trained / 'results')!r}, '--plot', 'p.png']; "
        f"runpy.run_path({str(ROOT / 'evaluate.py')!r}, run_name='__main__')"
    )
    odd = {"TERM": "dumb", "COLUMNS": "60", "PYTHONIOENCODING": "ascii", "HOME": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path, env=os.environ | odd
    )
    assert done.returncode == 0 and "Layers |" in done.stdout, done.stderr
    assert "\\u2013" in done.stdout and "arning" not in done.stderr and "matplotlib" not in done.stderr
    assert (tmp_path / "p.png").stat().st_size > 10_000
    assert json.loads((next((trained / "results").iterdir()) / "config.json").read_text())
