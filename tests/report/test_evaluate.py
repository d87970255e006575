"""Evaluation: the tables say what the stored predictions say, and what is not whole or not ours is refused."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, call, refused
from pages import THREE, evaluate, label_curve, of_class, recommendation, recommended, tables, unwrapped
from sklearn.metrics import f1_score, log_loss, precision_recall_fscore_support
from synthetic import chances, guesses, rewrite, write_baseline, write_features, write_run

SCORE = "F1-macro, last epoch"


@pytest.fixture
def results(tmp_path):
    """A results folder with a probe, also with few labels, beside its features."""
    titles = [f"word{label} {number}" for number, label in enumerate(THREE)]
    features = write_features(tmp_path / "features", titles, [f"c{label}" for label in THREE])
    for size in (4, None):
        options = {"labels": size, "head": "linear", "poolings": ("mean",)}
        write_run(tmp_path / "results", THREE, guesses(THREE, 3, 0.8), features=features, **options)
    return tmp_path / "results"


# --- the table ----------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_stored_predictions(tmp_path):
    values = {}
    for layer, right in ((1, 0.9), (2, 0.7)):
        values[str(layer)] = chances(guesses(THREE, 3, right, layer, repeats=3), 3, 0.6)
        write_run(tmp_path, THREE, values[str(layer)], layers=(layer,))
    text = evaluate(tmp_path)
    assert "600 titles in 3 categories, 5 grouped folds, 3 repeats, seed 0. enc has 2 layers" in unwrapped(text)
    rows = tables(text)[0]
    assert [row["Layers"] for row in rows] == ["1", "2"]  # the best first
    for row in rows:
        probabilities = values[row["Layers"]]
        wanted = np.mean([f1_score(THREE, p.argmax(1), average="macro") for p in probabilities])
        assert row[SCORE] == f"{wanted:.4f}"
        low, high = map(float, row["95% interval"].split("–"))
        assert low < wanted < high
        pooled = np.exp(np.log(probabilities).mean(0))
        before = log_loss(THREE, pooled / pooled.sum(1, keepdims=True))
        assert float(row["Log loss"]) < before  # these heads are right more often than they are sure
    assert rows[0]["Difference"] == "best" and rows[1]["Difference"].startswith("-0.")
    assert "**First try the linear probe**" in text and " --survey\n" in text
    (bold,) = [line for line in text.splitlines() if line.startswith("|") and "**report's head**" in line]
    assert bold.split()[1] == "1"  # the recommended row


def test_a_page_is_short(tmp_path):
    label_curve(tmp_path, {8: 0.4, 16: 0.3, None: 0.2}, {8: 0.6, 16: 0.5, None: 0.4})
    done = call("evaluate", "--results", tmp_path)
    assert len(tables(done.out)) == 4 and done.out.count("README") == 1 and "3 rows in 1 table" in done.err
    assert len(re.sub(r"(?m)^\|.*$", "", done.out).split()) <= 200
    assert max(map(len, done.out.splitlines())) <= 120
    assert "one repeat, so intervals leave out folds and weights" in unwrapped(done.out)


def test_titles_and_protocols_never_share_a_table_and_encoders_do(tmp_path):
    labels = np.arange(40) % 4
    others = [{"name": "other", "weights": "other"}, {"name": "other", "titles": "other"}]
    for options in ({}, {"encoder": others[0]}, {"data": others[1]}, {"split": "random"}, {"seed": 1}, {"folds": 4}):
        write_run(tmp_path, labels, labels, **options)
    text = evaluate(tmp_path)
    assert text.count("\n## ") == 4 and text.startswith("## enc and other on d.csv") and text.count("**best**") == 5


def test_rows_of_two_encoders_are_compared_and_the_work_decides(tmp_path):
    """A small encoder whose last layer is nearly as good as a large one's."""
    large = of_class(THREE, 0.05, 1)
    small = large.copy()
    right = np.flatnonzero(large == THREE)[:2]
    small[right] = (THREE[right] + 1) % 3
    for name, flop, depth, values in (("large", 12e9, 12, large), ("small", 3e9, 6, small)):
        encoder = {"encoder": {"name": name, "weights": name}, "depth": depth}
        write_run(tmp_path, THREE, values, layers=(depth,), flop=flop, **encoder)
        run = write_run(tmp_path, THREE, of_class(THREE, 0.3, 2), layers=(depth // 2,), flop=flop / 2, **encoder)
    write_baseline(run, "tfidf", of_class(THREE, 0.4, 4))
    done = call("evaluate", "--results", tmp_path)
    rows = tables(done.out)[0]
    own = [row for row in rows if "+" not in row["Head"]]
    assert [row["Encoder"] for row in own] == ["small", "small", "large", "large", "none"]
    assert [row["GFLOP"] for row in rows if row["Head"] == "report's head"] == ["3.00", "1.50", "12.00", "6.00"]
    said = recommendation(done.out)
    assert said.startswith("**Recommended: small, layer 6 (report's head)**")
    assert "to the best one, large, layer 12 (report's head)" in said and "25% of the encoder's work" in said
    assert done.err.count("Next:") == 1 and recommended(tmp_path)[0].startswith("small-d.csv-layers-6")
    assert "small has 6 layers of 8 dimensions, computed in float32; large has 12 layers" in unwrapped(done.out)
    # without it in some run, layers and their size are the cost
    write_run(tmp_path, THREE, of_class(THREE, 0.4, 3), layers=(1,), depth=6, encoder={"name": "old", "weights": "old"})
    text = evaluate(tmp_path)
    assert "GFLOP" not in text and "50% of the encoder's work" in recommendation(text)


def test_two_encoders_of_one_name_are_told_apart(tmp_path):
    for layer, weights in ((1, "0123456789"), (2, "abcdefghij")):
        encoder = {"name": "/home/me/run/checkpoint-500", "weights": weights}
        write_run(tmp_path, THREE, guesses(THREE, 3, 0.8), layers=(layer,), encoder=encoder)
    rows = tables(evaluate(tmp_path))[0]
    assert {row["Encoder"] for row in rows} == {"checkpoint-500", "checkpoint-500 abcdefgh"}


def test_names_from_data_cannot_break_the_table(tmp_path):
    labels = np.arange(40) % 2
    data = {"name": "a|b\n# `x` <b>.csv"}
    write_run(tmp_path, labels, labels, classes=["a|b", "`x` <b>\x1b[31m"], data=data, encoder={"name": "e|*n*"})
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
    assert heads == {"report's head, collapsed", "standardised, collapsed"}
    assert "Collapsed heads predict one class only; try --standardize or a smaller --lr" in unwrapped(text)


def test_categories_of_the_recommended_row_are_scored(tmp_path):
    predictions = guesses(THREE, 3, 0.8, repeats=2)
    write_run(tmp_path, THREE, predictions)
    rows = tables(evaluate(tmp_path))[1]
    scores = np.mean([precision_recall_fscore_support(THREE, p)[:3] for p in predictions], axis=0)
    wanted = []
    for i in np.argsort(scores[2]):
        precision, recall, f1 = (f"{value:.4f}" for value in scores[:, i])
        wanted.append([f"c{i}", f1, precision, recall, str(np.bincount(THREE)[i])])
    assert [list(row.values()) for row in rows] == wanted


def test_of_many_categories_the_worst_are_shown(tmp_path):
    labels = np.arange(1000) % 25
    write_run(tmp_path, labels, np.where((labels == 7) & (np.arange(1000) < 500), 8, labels))
    rows = tables(evaluate(tmp_path))[1]
    assert len(rows) == 20 and [row["Category"] for row in rows[:2]] == ["c7", "c8"]


# --- baselines ----------------------------------------------------------------------------------------------------


def test_baselines_on_the_same_folds_are_kept_for_later(results, tmp_path):
    (run, _) = results.glob("*layers*")
    first = evaluate(results, "--baselines")
    heads = {row["Head"] for row in tables(first)[0]}
    assert heads == {"probe, mean pooling", "majority class", "TF-IDF", "probe, mean pooling + TF-IDF"}
    assert [row["Labels a category"] for row in tables(first)[1]][-1] == "TF-IDF"
    kept = list(results.glob("*baseline*"))
    assert len(kept) == 3  # the majority class, TF-IDF, and TF-IDF with 4 labels a category
    assert {(folder / "folds.npy").read_bytes() for folder in kept} == {(run / "folds.npy").read_bytes()}
    (tmp_path / "features").rename(tmp_path / "away")
    assert evaluate(results) == evaluate(results, "--baselines") == first  # no features, and no fitting again


def test_words_of_a_category_that_is_in_one_fold_only(tmp_path):
    """Copies of one another are all in one fold, numbers modulo 5: no words learn from them what they score."""
    labels = np.where(np.arange(60) % 5 == 0, 2, np.arange(60) % 2)
    titles = ["the same" if label == 2 else f"title {i} of {label}" for i, label in enumerate(labels)]
    features = write_features(tmp_path / "f", titles, [f"c{label}" for label in labels])
    write_run(tmp_path / "r", labels, of_class(labels, 0.2, 1), features=features)
    (row,) = [row for row in tables(evaluate(tmp_path / "r", "--baselines"))[0] if row["Head"] == "TF-IDF"]
    assert float(row[SCORE]) <= 0.6667


# --- how many labels ----------------------------------------------------------------------------------------------


def test_a_line_for_each_layer_and_a_column_for_each_size(tmp_path):
    label_curve(tmp_path, {8: 0.5, None: 0.1}, layers=(1,))
    label_curve(tmp_path, {8: 0.4, 32: 0.2}, {8: 0.6, 32: 0.1, None: 0.05}, layers=(2,))
    text = evaluate(tmp_path)
    assert "2" not in [row["Layers"] for row in tables(text)[0]]  # the runs on few titles are no rows of the first
    one, two, words = tables(text)[1]
    assert list(one) == ["Labels a category", "8", "32", "all"]
    assert one["Labels a category"] == "layer 1 (probe, [CLS])" and one["32"] == two["all"] == ""
    assert one["8"] == f"{f1_score(THREE, of_class(THREE, 0.5, 1), average='macro'):.4f}"
    assert words["Labels a category"] == "TF-IDF" and "" not in words.values()


# --- files, commands, terminals -----------------------------------------------------------------------------------


def test_files_of_several_tables_are_numbered_and_checked_before_anything_is_computed(tmp_path):
    labels = np.arange(40) % 2
    features = write_features(tmp_path / "f", [f"title {i}" for i in range(40)], [f"c{label}" for label in labels])
    own = [write_run(tmp_path / "my r", labels, labels, seed=seed, features=features) for seed in (0, 1)]
    options = ["--results", tmp_path / "my r", "--plot", tmp_path / "p.svg", "--suspects", tmp_path / "s.csv"]
    mine = tmp_path / "s-2.csv"
    mine.write_text("marked by hand")
    done = call("evaluate", *options, "--baselines")
    refused(done, "s-2.csv", "there already")
    assert done.out == "" and not list(tmp_path.glob("my r/*baseline*")) and not (tmp_path / "p.svg").exists()
    assert mine.read_text() == "marked by hand"
    mine.unlink()
    done = call("evaluate", *options)
    assert done.code == 0 and "2 rows in 2 tables" in done.err
    assert all("<svg" in (tmp_path / name).read_text() for name in ("p.svg", "p-2.svg")) and mine.exists()
    # a command for each table: what is recommended in the first one needs no name
    commands = [shlex.split(line) for line in re.findall(r"Next: (.*)", done.err)]
    assert [words[3] for words in commands] == [str(tmp_path / "my r"), str(own[1])]


@pytest.mark.parametrize(
    "option, word, missing",
    [
        ("--plot=a.gif", ".png or .svg", "nothing"),
        ("--plot=no/a.png", "its folder be there", "nothing"),
        ("--suspects=s.txt", ".csv", "nothing"),
        ("--plot=p.png", "pip install", "matplotlib"),
        ("--baselines", "pip install", "sklearn.feature_extraction.text"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(results, monkeypatch, option, word, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    done = call("evaluate", "--results", results, option, "--quiet")
    refused(done, word)
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


def test_each_run_finds_its_own_features_among_several_folders(tmp_path):
    """Two encoders whose features were moved: either of them may be named first."""
    folders = []
    for name in ("one", "two"):
        folders.append(write_features(tmp_path / name, [f"{i}" for i in range(40)], ["c0", "c1"] * 20, name))
        labels = np.arange(40) % 2
        write_run(tmp_path / "r", labels, labels, layers=(len(folders),), features=folders[-1])
        folders[-1] = folders[-1].rename(tmp_path / f"moved {name}")
    suspects = ["--results", tmp_path / "r", "--suspects", tmp_path / "s.csv", "--quiet"]
    refused(call("evaluate", *suspects), "there are no features")
    # and others are refused
    other = write_features(tmp_path / "different", ["one", "two"], ["a", "b"])
    refused(call("evaluate", *suspects, "--features", other), "not the titles of", "--features")
    assert not (tmp_path / "s.csv").exists()
    for order in (folders, folders[::-1]):
        assert call("evaluate", *suspects, "--features", *order).code == 0


def test_damaged_runs_are_refused_by_name(tmp_path):
    run = write_run(tmp_path, THREE, THREE)
    path = run / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"macro_f1": 1', '"macro_f1": 0', 1))
    refused(call("evaluate", "--results", tmp_path), str(run), "edited or damaged")
    path.write_text(text)
    # whose checksums fit: something is missing, of another kind, or of an earlier version
    for change, words in (
        (lambda config: config["results"].pop("fold_macro_f1"), "edited or damaged"),
        (lambda config: config.update(encoder="x"), "edited or damaged"),
        (lambda config: config.update(format=3), "format 3"),
    ):
        rewrite(run, change)
        refused(call("evaluate", "--results", tmp_path), str(run), words)
        refused(call("predict", "--run", run, "a title"), str(run), words)
        path.write_text(text)
    np.save(run / "probabilities.npy", np.zeros((1, 600, 3), np.float32))
    refused(call("evaluate", "--results", tmp_path), "probabilities.npy", "make it again")


def test_what_is_no_run_is_no_row_and_costs_no_table(results):
    alone = evaluate(results)
    shutil.copytree(next(results.glob("*layers*")), results / ".unfinished-run")
    (results / "notes").mkdir()
    assert evaluate(results) == alone


def test_where_no_runs_are_one_line_says_what_to_run(kept, tmp_path):
    for place in (kept.titles, kept.linear, kept.features, tmp_path, tmp_path / "nowhere"):
        refused(call("evaluate", "--results", place), "no runs are there", "train.py --results")


def test_the_table_needs_neither_torch_nor_transformers_nor_a_terminal_nor_a_home(results, tmp_path):
    """In a narrow, dumb, ASCII terminal of a user without a home: the table, the picture, and no warning."""
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); "
        "sys.modules['torch'] = sys.modules['transformers'] = None; "
        f"sys.argv = ['evaluate.py', '--results', {str(results)!r}, '--plot', 'p.png']; "
        f"runpy.run_path({str(ROOT / 'evaluate.py')!r}, run_name='__main__')"
    )
    odd = {"TERM": "dumb", "COLUMNS": "60", "PYTHONIOENCODING": "ascii", "HOME": "/nowhere"}
    options = {"capture_output": True, "text": True, "cwd": tmp_path, "env": os.environ | odd}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], **options)
    assert done.returncode == 0 and "Layers |" in done.stdout, done.stderr
    assert "\\u2013" in done.stdout and "arning" not in done.stderr and "matplotlib" not in done.stderr
    assert (tmp_path / "p.png").stat().st_size > 10_000
