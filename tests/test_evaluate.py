"""Evaluation: the table says what the stored predictions say, marks what it cannot tell apart, and answers the question."""

import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, call, refused, write_titles
from sklearn.metrics import f1_score

import cli
import data
import store

CELL = re.compile(r"(?<!\\)\|")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bert):
    """Features and a results folder with four runs of a random encoder, trained for two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    titles = write_titles(folder / "titles.csv", rows=90)
    assert (
        call(
            "extract", "--data", titles, "--model", bert, "--pooling", "cls", "mean", "--out", folder / "features"
        ).code
        == 0
    )
    for options in ([], ["--each", "--standardize", "--pooling", "mean"]):
        result = call(
            "train", "--features", folder / "features", "--results", folder / "results", "--epochs", 2, *options
        )
        assert result.code == 0, result.err
    return folder


@pytest.fixture
def results(trained, tmp_path):
    return shutil.copytree(trained / "results", tmp_path / "results")


def table(text):
    """The rows of the first markdown table in a text, as dictionaries."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in CELL.split(line)[1:-1]] for line in lines]
    assert len({len(row) for row in cells}) == 1
    return [dict(zip(cells[0], row)) for row in cells[2:]]


def fake_run(folder, name, predictions, labels, layers=(1,), depth=2, collapsed=(), **changes):
    """A run with given predictions, written as train.py writes one."""
    classes, count = [f"c{i}" for i in range(int(max(labels)) + 1)], len(labels)
    probabilities = np.full((count, len(classes)), 0.1, np.float32)
    probabilities[np.arange(count), predictions] = 0.9
    config = {
        "format": store.FORMAT,
        "columns": [["cls", layer] for layer in layers],
        "classes": classes,
        "options": {**cli.HEAD, **changes.pop("options", {})},
        "encoder": {
            "name": "enc",
            "revision": None,
            "kind": "bert",
            "layers": depth,
            "hidden": 8,
            "weights": "w",
            "tokenizer": "t",
        },
        "data": {"name": "d.csv", "sha256": "s", "titles": "t", "rows": count},
        "settings": {"dtype": "float32"},
        "features": "f",
        "files": {},
        "made": {"features": "nowhere"},
        "results": {
            "macro_f1": f1_score(labels, predictions, average="macro"),
            "fold_mean": 0.5,
            "fold_deviation": 0.1,
            "fold_macro_f1": [0.5],
            "collapsed": list(collapsed),
            "layer_weights": None,
        },
    }
    for key, value in changes.items():
        config[key] = {**config[key], **value}
    folds = np.arange(count) % 5
    store.write_run(
        folder / name,
        config,
        {
            "probabilities": probabilities,
            "labels": np.array(labels, np.int32),
            "folds": folds.astype(np.int32),
            "groups": np.arange(count, dtype=np.int32),
        },
    )


def test_the_figures_are_those_of_the_stored_predictions(trained):
    result = call("evaluate", "--results", trained / "results")
    assert result.code == 0, result.err
    rows = table(result.out)
    assert [row["Layers"] for row in rows[:3]] == ["2", "1", "2, 1"]  # the report's order; the encoder has two layers
    for row in rows:
        pooling = "-mean-standardize" if "mean" in row["Head"] else ""
        (folder,) = (trained / "results").glob(f"*-layers-{row['Layers'].replace(', ', '-')}{pooling}-epochs-2")
        labels, probabilities = np.load(folder / "labels.npy"), np.load(folder / "probabilities.npy")
        wanted = f1_score(labels, probabilities.argmax(1), average="macro")
        assert row["F1-macro, last epoch"] == f"{wanted:.4f}"
        low, high = map(float, row["95% interval"].split(" to "))
        assert low <= round(wanted, 4) <= high
        assert row["Depth"] == ("50%" if row["Layers"] == "1" else "100%")
    assert sum(row["Against the best"] == "**best**" for row in rows) == 1
    assert "The report" not in result.out  # other titles than the report's
    assert result.out.rstrip().splitlines()[-1].startswith("**Recommended:")


def test_rows_that_cannot_be_told_from_the_best_are_marked_and_the_cheapest_is_recommended(tmp_path):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)

    def wrong(share):
        return np.where(random.random(600) < share, (labels + 1) % 3, labels)

    best = wrong(0.05)
    nearly = best.copy()
    nearly[np.flatnonzero(best == labels)[:2]] = (labels[np.flatnonzero(best == labels)[:2]] + 1) % 3
    fake_run(tmp_path, "top", best, labels, layers=(4,), depth=4)
    fake_run(tmp_path, "middle", nearly, labels, layers=(2,), depth=4)
    fake_run(tmp_path, "low", wrong(0.3), labels, layers=(1,), depth=4)
    out = call("evaluate", "--results", tmp_path).out
    marks = {row["Layers"]: row["Against the best"] for row in table(out)}
    assert marks["4"] == "**best**" and marks["2"].startswith("≈ -0.0") and marks["1"].startswith("-0.")
    last = out.rstrip().splitlines()[-1]
    assert "Recommended: layer 2" in last and "50% of the encoder instead of 100%" in last
    loss = float(re.search(r"loses (0\.\d+)", last)[1])
    assert loss == pytest.approx(
        f1_score(labels, best, average="macro") - f1_score(labels, nearly, average="macro"), abs=1e-4
    )


def test_the_reports_figures_stand_only_beside_the_reports_titles(tmp_path):
    labels = np.arange(40) % 4
    report = {"data": {"sha256": data.YOUTUBE_SHA256}}
    fake_run(
        tmp_path / "a", "run", labels, labels, layers=(12,), depth=12, encoder={"name": "bert-base-uncased"}, **report
    )
    fake_run(
        tmp_path / "a",
        "both",
        labels,
        labels,
        layers=(12, 11),
        depth=12,
        encoder={"name": "bert-base-uncased"},
        **report,
    )
    fake_run(
        tmp_path / "a",
        "other",
        labels,
        labels,
        layers=(12,),
        depth=12,
        encoder={"name": "bert-base-uncased"},
        options={"standardize": True},
        **report,
    )
    rows = table(call("evaluate", "--results", tmp_path / "a").out)
    assert [row["The report"] for row in rows] == ["0.9565", "0.9546", ""]
    fake_run(tmp_path / "b", "run", labels, labels, layers=(6, 5), depth=6, **report)
    out = call("evaluate", "--results", tmp_path / "b").out
    assert table(out)[0]["The report, with bert-base-uncased"] == "0.9546"
    assert "figures are those of another encoder" in out


def test_encoders_data_and_splits_never_share_a_table(tmp_path):
    labels = np.arange(40) % 4
    fake_run(tmp_path, "a", labels, labels)
    fake_run(tmp_path, "b", labels, labels, encoder={"weights": "other"})
    fake_run(tmp_path, "c", labels, labels, data={"titles": "other"})
    fake_run(tmp_path, "d", labels, labels, options={"split": "random"})
    out = call("evaluate", "--results", tmp_path).out
    assert out.count("## enc on d.csv") == 4 and out.count("**best**") == 4


def test_names_from_data_cannot_break_the_table(tmp_path):
    labels = np.arange(40) % 4
    fake_run(tmp_path, "a", labels, labels, data={"name": "a|b\n# `x` <b>.csv"}, encoder={"name": "e|*n*"})
    out = call("evaluate", "--results", tmp_path).out
    assert "## e\\|\\*n\\* on a\\|b \\# \\`x\\` \\<b\\>.csv" in out and len(table(out)) == 1


def test_collapsed_heads_are_said_in_words(tmp_path):
    labels = np.arange(40) % 4
    fake_run(tmp_path, "a", np.zeros(40, int), labels, collapsed=[0, 1, 2, 3, 4])
    fake_run(tmp_path, "b", labels, labels, layers=(2,))
    rows = table(call("evaluate", "--results", tmp_path).out)
    assert [row["Head"] for row in rows if row["Layers"] == "1"] == [
        "report's head; predicts one class only in 5 of 5 folds, try --standardize"
    ]


def test_baselines_on_the_same_folds_are_kept_for_later(trained, results):
    first = call("evaluate", "--results", results, "--baselines")
    assert first.code == 0, first.err
    names = [row["Head"] for row in table(first.out)]
    assert names[-2:] == ["majority class", "TF-IDF of words and word pairs, logistic regression"]
    assert "TF-IDF with logistic regression reaches" in first.out
    for folder in results.glob("*baseline*"):
        run = next(path for path in results.iterdir() if "layers" in path.name)
        assert (folder / "folds.npy").read_bytes() == (run / "folds.npy").read_bytes()
    (majority,) = results.glob("*baseline-majority*")
    assert len(np.unique(np.load(majority / "probabilities.npy").argmax(1))) <= 2
    shutil.move(trained / "features", trained / "away")
    try:
        assert call("evaluate", "--results", results).out == first.out  # needs neither features nor another fit
    finally:
        shutil.move(trained / "away", trained / "features")


def test_without_scikit_learn_or_matplotlib_one_line_says_what_to_install(results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    refused(call("evaluate", "--results", results, "--baselines", "--quiet"), "scikit-learn", "pip install")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.chdir(tmp_path)
    result = call("evaluate", "--results", results, "--plot", "p.png")
    assert result.code == 2 and "matplotlib" in result.err and "Traceback" not in result.err


def test_suspects_are_the_contradicted_labels_least_likely_first(trained, results, tmp_path):
    result = call("evaluate", "--results", results, "--suspects", tmp_path / "s.csv")
    assert result.code == 0, result.err
    rows = list(csv.DictReader(open(tmp_path / "s.csv", newline="", encoding="utf-8")))
    runs = [path.parent for path in results.glob("*/config.json")]
    sound = [path for path in runs if not json.loads((path / "config.json").read_text())["results"]["collapsed"]]
    mean = np.mean([np.load(path / "probabilities.npy") for path in sound or runs], axis=0)
    titles, labels = store.open_features(trained / "features").titles()
    classes = sorted(set(labels))
    wrong = {i for i in range(90) if classes[mean[i].argmax()] != labels[i]}
    assert {int(row["row"]) - 1 for row in rows} == wrong and rows
    values = [float(row["probability_of_label"]) for row in rows]
    assert values == sorted(values)
    for row in rows:
        i = int(row["row"]) - 1
        assert (row["title"], row["label"], row["predicted"]) == (titles[i], labels[i], classes[mean[i].argmax()])


def test_suspects_cannot_carry_formulas(tmp_path, bert, monkeypatch):
    lines = ["title,category"] + [f"=HYPERLINK({i}),{'+a' if i % 2 else '@b'}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    assert call("extract", "--data", "t.csv", "--model", bert).code == 0
    assert call("train", "--layers", "2", "--epochs", 1).code == 0
    assert call("evaluate", "--suspects", "s.csv").code == 0
    rows = list(csv.reader(open("s.csv", newline="")))[1:]
    assert rows and all(cell.startswith("'") for row in rows for cell in row[1:4])


def test_pictures_are_written_in_both_formats_and_are_the_same_twice(results, tmp_path):
    for name in ("a.png", "a.svg"):
        result = call("evaluate", "--results", results, "--plot", tmp_path / name)
        assert result.code == 0, result.err
        first = (tmp_path / name).read_bytes()
        assert first[:4] == (b"\x89PNG" if name.endswith("png") else b"<?xm")
        call("evaluate", "--results", results, "--plot", tmp_path / name)
        assert (tmp_path / name).read_bytes() == first
    refused(call("evaluate", "--results", results, "--plot", tmp_path / "a.gif"), ".png or .svg")
    refused(call("evaluate", "--results", results, "--plot", tmp_path / "no" / "a.png"), "no such folder")


def test_verify_computes_everything_again(trained, results):
    assert call("evaluate", "--results", results, "--baselines", "--features", trained / "features").code == 0
    result = call("evaluate", "--results", results, "--verify", "--features", trained / "features")
    assert result.code == 0 and result.err.count("verified") == len(list(results.glob("*/config.json"))), result.err


def rewrite(folder, change):
    """Change a run's configuration and make its checksum fit, as somebody would who wants another figure."""
    config = store.read_json(folder / "config.json", "a run")
    change(config)
    store.write_json(folder / "config.json", config)


def test_verify_finds_a_figure_that_was_made_up(trained, results):
    run = sorted(results.glob("*layers-2-epochs*"))[0]
    rewrite(run, lambda config: config["results"].update(macro_f1=0.99))
    refused(
        call("evaluate", "--results", results, "--verify", "--features", trained / "features", "--quiet"),
        "macro_f1",
        "0.99",
    )


def test_verify_finds_probabilities_that_the_heads_did_not_give(trained, results):
    run = sorted(results.glob("*layers-2-epochs*"))[0]
    probabilities = np.load(run / "probabilities.npy")
    np.save(run / "probabilities.npy", probabilities[::-1].copy())
    rewrite(
        run, lambda config: config["contents"].update({"probabilities.npy": store.sha256(run / "probabilities.npy")})
    )
    refused(
        call("evaluate", "--results", results, "--verify", "--features", trained / "features", "--quiet"),
        "probabilities.npy",
    )


def test_damaged_runs_are_refused_by_name(results):
    run = sorted(results.glob("*layers-2-epochs*"))[0]
    (run / "config.json").write_text((run / "config.json").read_text().replace('"macro_f1": 0', '"macro_f1": 1', 1))
    refused(call("evaluate", "--results", results), str(run), "checksum")


def test_changed_probabilities_are_refused_without_verify_too(results):
    run = sorted(results.glob("*layers-2-epochs*"))[0]
    (run / "probabilities.npy").write_bytes((run / "probabilities.npy").read_bytes()[:-1] + b"\0")
    refused(call("evaluate", "--results", results), "probabilities.npy", "train again")


def test_other_features_than_the_runs_are_refused(results, tmp_path, bert):
    titles = write_titles(tmp_path / "other.csv", rows=45)
    call("extract", "--data", titles, "--model", bert, "--out", tmp_path / "other")
    refused(
        call(
            "evaluate",
            "--results",
            results,
            "--suspects",
            tmp_path / "s.csv",
            "--features",
            tmp_path / "other",
            "--quiet",
        ),
        "not the features",
        "titles",
    )
    assert not (tmp_path / "s.csv").exists()


def test_leftovers_are_mentioned_and_ignored(results):
    (results / ".unfinished-run").mkdir()
    result = call("evaluate", "--results", results)
    assert result.code == 0 and ".unfinished-run" in result.err and "ignored" in result.err


def test_nothing_trained_says_what_to_run(tmp_path):
    refused(call("evaluate", "--results", tmp_path), "python train.py")
    refused(call("evaluate", "--results", tmp_path / "nowhere"), "python train.py")


def test_the_table_needs_neither_torch_nor_transformers(trained):
    code = (
        "import sys, runpy; sys.modules['torch'] = sys.modules['transformers'] = None; "
        f"sys.argv = ['evaluate.py', '--results', {str(trained / 'results')!r}]; "
        f"runpy.run_path({str(ROOT / 'evaluate.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "| Layers |" in done.stdout, done.stderr
