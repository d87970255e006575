"""The script that trains: which runs it makes, what is in them, what it refuses, what it leaves when it ends early."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, call, refused
from filelock import FileLock
from safetensors.numpy import load_file
from sklearn.metrics import f1_score

import disk
import runs
import store
import train

CLASSES = ("art", "food", "history", "travel")


def write_features(folder, arrays, names, depth=2):
    """A features folder with the given arrays, {(pooling, layer): (titles, hidden) float32}, and labels."""
    folder.mkdir(parents=True)
    lines = ["title,label"]
    for number, name in enumerate(names):
        lines.append(f"title number {number},{name}")
    (folder / "titles.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    files = {}
    for (pooling, layer), array in arrays.items():
        path = folder / store.feature_file(pooling, layer)
        np.save(path, array.astype(np.float32))
        files[path.name] = store.FileInfo(path.stat().st_size, disk.sha256(path))
        hidden = array.shape[1]

    manifest = store.Manifest(
        format=store.FORMAT,
        encoder=store.EncoderInfo(
            name="some/encoder",
            revision=None,
            kind="bert",
            layers=depth,
            hidden=hidden,
            weights="w",
            tokenizer="t",
        ),
        data=store.TitlesInfo(
            name="titles.csv",
            sha256="s",
            text_column="title",
            label_column="category",
            rows=len(names),
            titles=disk.sha256(folder / "titles.csv"),
            classes={name: names.count(name) for name in sorted(set(names))},
        ),
        settings=store.Settings(max_length=128, dtype="float32", store="float32"),
        files=files,
    )
    disk.write_json(folder / "manifest.json", manifest)
    return folder


def made_up(rows=120, hidden=12, layers=(1, 2), poolings=("cls",), seed=0, classes=CLASSES):
    """Arrays in which each class has a centre of its own, and the names of the classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % len(classes)
    arrays = {}
    for pooling in poolings:
        for layer in layers:
            centres = random.normal(size=(len(classes), hidden))
            arrays[pooling, layer] = centres[labels] + random.normal(size=(rows, hidden))
    return arrays, [classes[label] for label in labels]


@pytest.fixture
def planted(tmp_path):
    """Features of a 2-layer encoder, 120 titles of four classes that can be told apart."""
    return write_features(tmp_path / "features", *made_up(poolings=("cls", "mean")))


def train_on(features, results, *options):
    """Call train.py on a features folder; what takes long is small, unless `options` say otherwise."""
    small = ["--folds", 3, "--repeats", 2]
    if "linear" not in options:
        small += ["--epochs", 2, "--hidden", 16]
    return call("train", "--features", features, "--results", results, *small, *options)


def trained(features, results, *options):
    """Train on a features folder; returns what the script said, after asserting that it worked."""
    result = train_on(features, results, *options)
    assert result.code == 0 and result.out == "", result.err
    return result.err


def folders(results):
    """The folders of runs in a folder of results, by name."""
    return sorted(path for path in results.iterdir() if not path.name.startswith("."))


def runs_in(results):
    """The runs in a folder of results, by name."""
    return [runs.open_run(folder) for folder in folders(results)]


def layers_of(results):
    """The layers of each run, sorted."""
    return sorted(run.layers for run in runs_in(results))


def columns_of(results):
    """The (pooling, layer) of each run, sorted."""
    return sorted(run.columns for run in runs_in(results))


# --- what is trained ------------------------------------------------------------------------------


def test_default_is_the_reports_six_sets_of_which_those_not_extracted_are_left_out(tmp_path):
    whole = write_features(tmp_path / "whole", *made_up(rows=40, layers=range(9, 13)), depth=12)
    said = trained(whole, tmp_path / "a", "--epochs", 1)
    assert layers_of(tmp_path / "a") == [[9], [10], [11], [12], [12, 11], [12, 11, 10, 9]]
    assert "6 of 6 runs" in said and "left out" not in said

    part = write_features(tmp_path / "part", *made_up(rows=40, layers=(9, 12)), depth=12)
    said = trained(part, tmp_path / "b", "--epochs", 1)
    assert columns_of(tmp_path / "b") == [[("cls", 9)], [("cls", 12)]]
    assert "since not extracted with cls: 11; 10; 12, 11; 12, 11, 10, 9" in said

    none = write_features(tmp_path / "none", *made_up(rows=40, layers=(3,)), depth=12)
    said = trained(none, tmp_path / "c", "--epochs", 1)
    assert columns_of(tmp_path / "c") == [[("cls", 3)]]
    assert "none of them is left" in said


def test_each_layer_alone_and_pooling_is_cls_where_there_is(tmp_path):
    arrays, names = made_up(layers=(1, 3, 4), poolings=("mean", "cls"))
    features = write_features(tmp_path / "features", arrays, names, depth=6)
    trained(features, tmp_path / "all", "--each", "--head", "linear")
    assert columns_of(tmp_path / "all") == [[("cls", 1)], [("cls", 3)], [("cls", 4)]]
    trained(features, tmp_path / "two", "--each", "--head", "linear", "--layers", "4", "1")
    assert columns_of(tmp_path / "two") == [[("cls", 1)], [("cls", 4)]]

    mean = write_features(tmp_path / "mean", *made_up(poolings=("mean",)))
    trained(mean, tmp_path / "results", "--layers", "-1", "--head", "linear")
    assert columns_of(tmp_path / "results") == [[("mean", 2)]]


def test_a_run_for_each_number_of_labels(tmp_path, planted):
    options = ["--layers", "2", "--head", "linear", "--labels", "all", "4", "500"]
    said = trained(planted, tmp_path / "results", *options)
    assert {run.labels_per_category for run in runs_in(tmp_path / "results")} == {4, None}
    assert "left out: --labels 500" in said and "2 of 2 runs" in said


# --- what a run keeps -----------------------------------------------------------------------------


def test_what_a_run_keeps(tmp_path, planted, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--layers", "2", "1", "--batch-size", "8", "--epochs", "9", "--hidden", "64"]
    trained("features", "results", *options)
    (run,) = runs_in(tmp_path / "results")
    assert run.classes == sorted(CLASSES) and run.columns == [("cls", 2), ("cls", 1)]
    assert run.config.made.features == str(planted.resolve())  # wherever the next command is typed
    labels = run.array("labels")
    assert [run.classes[label] for label in labels] == made_up()[1]
    assert run.probabilities.shape == (2, 120, 4) and run.probabilities.dtype == np.float32
    for repeat, predicted in enumerate(run.probabilities.argmax(2)):
        whole = f1_score(labels, predicted, average="macro")
        assert run.figures.repeat_macro_f1[repeat] == pytest.approx(whole, abs=1e-12)
        assert whole > 0.5  # the classes can be told apart, and were
    assert all(len(value) == 6 for value in load_file(run.file("heads.safetensors")).values())

    files = {path.name for path in run.folder.iterdir()}
    assert files == {*run.config.contents, "config.json", "README.md"}
    for name, checksum in run.config.contents.items():
        assert disk.sha256(run.folder / name) == checksum
    card = (run.folder / "README.md").read_text()
    for text in ("pipeline_tag: text-classification", run.folder.name, "some/encoder", *CLASSES):
        assert text in card
    assert f"{run.figures.macro_f1:.4f}" in card and "predict.py --run" in card


def test_history_has_every_epoch_and_ends_with_the_runs_own_figures(tmp_path, planted):
    trained(planted, tmp_path / "results", "--layers", "2", "1", "--epochs", "9")
    (run,) = runs_in(tmp_path / "results")
    lines = run.file("history.csv").read_text().split()
    assert lines[0] == "repeat,fold,epoch,loss,macro_f1"
    places = set()
    for line in lines[1:]:
        repeat, fold, epoch = map(int, line.split(",")[:3])
        loss, score = map(float, line.split(",")[3:])
        places.add((repeat, fold, epoch))
        assert loss > 0
        if epoch == 9:
            assert score == pytest.approx(run.figures.fold_macro_f1[repeat][fold])
    assert len(lines) - 1 == len(places) == 2 * 3 * 9


def test_learned_layer_weights_are_printed_and_kept(tmp_path, planted):
    said = trained(planted, tmp_path / "results", "--layers", "2", "1", "--fusion", "mix")
    (run,) = runs_in(tmp_path / "results")
    powers = np.exp(load_file(run.file("heads.safetensors"))["weights"])
    weights = (powers / powers.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(run.figures.layer_weights, weights, rtol=1e-5)
    assert f"layer 2 (cls) {weights[0]:+.3f}, layer 1 (cls) {weights[1]:+.3f}" in said


def contents(results):
    """Every file of every run, {name: content}, without what says when, where and how it was made."""
    found = {}
    for path in sorted(results.glob("*/*")):
        if path.name == "config.json":
            config = json.loads(path.read_text())
            for part in ("made", "checksum", "software", "machine"):
                del config[part]
            found[path.name] = config
        elif path.name == "README.md":
            found[path.name] = re.sub(r"Made with `.*?`", "", path.read_text())
        else:
            found[path.name] = path.read_bytes()
    return found


@pytest.mark.parametrize(
    "head, files",
    [
        (["--standardize"], 8),
        (["--head", "linear"], 8),
        (["--head", "linear", "--decide", "likeliest", "--labels", "4"], 7),
    ],
)
def test_same_command_same_bytes_other_seed_other_heads(tmp_path, planted, head, files):
    for results, seed in (("a", 1), ("b", 1), ("c", 2)):
        trained(planted, tmp_path / results, "--layers", "2", "1", "--seed", seed, *head)
    one, two, other = (contents(tmp_path / results) for results in "abc")
    assert one == two and len(one) == files
    assert one["heads.safetensors"] != other["heads.safetensors"]
    assert one["folds.npy"] != other["folds.npy"]


# --- what is refused, and said --------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        (["--layers", "9"], ["9", "2 layers"]),
        (["--layers", "2", "2"], ["twice"]),
        (["--layers", "0"], ["--layers 0", "--pooling mean"]),
        (["--device", "gpu"], ["--device gpu"]),
        (["--head", "linear", "--lr", "0.1"], ["--lr", "--head mlp"]),
        (["--decide", "macro-f1"], ["--decide macro-f1", "--head linear"]),
        (["--head", "linear", "--batch-size", "8"], ["--batch-size", "--head mlp"]),
        (["--folds", "31"], ["distinct titles", "--folds 31"]),
        (["--labels", "1000"], ["--labels 1000", "--labels all"]),
    ],
)
def test_refusals(tmp_path, planted, options, words):
    refused(train_on(planted, tmp_path / "results", "--quiet", *options), *words)
    assert not list(tmp_path.glob("results/*"))


@pytest.mark.parametrize(
    "options",
    [
        "--folds 1",
        "--repeats 0",
        "--epochs 0",
        "--lr 0",
        "--lr nan",
        "--batch-size 0",
        "--hidden 0",
        "--seed -1",
        "--labels 0",
        "--fusion sum",
        "--head tree",
    ],
)
def test_meaningless_options_are_refused_before_anything_is_read(tmp_path, options, capsys):
    with pytest.raises(SystemExit) as stop:
        train.parse_arguments(["--features", str(tmp_path / "nowhere"), *options.split()])
    assert stop.value.code == 2
    assert f"argument {options.split()[0]}" in capsys.readouterr().err.splitlines()[-1]


def test_what_is_not_extracted_is_refused_with_the_command_that_adds_it(tmp_path):
    features = write_features(tmp_path / "features", *made_up(layers=(1, 3)), depth=4)
    layers = train_on(features, tmp_path / "results", "--layers", "3", "2", "4")
    refused(layers, "extract.py --layers 4 2")
    pooling = train_on(features, tmp_path / "results", "--pooling", "mean")
    refused(pooling, "extract.py --pooling mean")
    refused(train_on(tmp_path / "none", tmp_path / "results"), "python extract.py")


def test_results_that_are_a_file_or_in_use_are_refused(tmp_path, planted):
    (tmp_path / "file").write_text("mine")
    refused(train_on(planted, tmp_path / "file", "--layers", "2"), "file", "name a folder")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "results").mkdir()
    with FileLock(tmp_path / "results" / ".lock"):
        refused(train_on(planted, tmp_path / "results", "--layers", "2"), "a training is running in this folder")
    trained(planted, tmp_path / "results", "--layers", "2")


def test_exploding_loss_is_one_line_and_leaves_no_run(tmp_path):
    arrays, names = made_up()
    arrays = {column: 1e12 * array for column, array in arrays.items()}
    features = write_features(tmp_path / "features", arrays, names)
    options = ["--layers", "2", "--lr", "1e9", "--epochs", "20", "--quiet"]
    refused(train_on(features, tmp_path / "results", *options), "smaller --lr", "--standardize")
    assert folders(tmp_path / "results") == []


def test_collapsed_heads_are_said_in_words_with_a_remedy_that_works(tmp_path):
    arrays, names = made_up(layers=(2,))
    arrays = {column: 50 + 1e-4 * array for column, array in arrays.items()}
    features = write_features(tmp_path / "features", arrays, names)
    options = ["--layers", "2", "--epochs", "6", "--batch-size", "8", "--hidden", "64"]
    said = trained(features, tmp_path / "a", *options)
    assert "predicts one class only in 6 of 6 heads; try --standardize" in said
    said = trained(features, tmp_path / "b", *options, "--standardize")
    assert "predicts one class only" not in said
    (bad,) = runs_in(tmp_path / "a")
    (good,) = runs_in(tmp_path / "b")
    assert bad.figures.macro_f1 < 0.2 and good.figures.macro_f1 > 0.5
    assert bad.figures.collapsed == [[repeat, fold] for repeat in range(2) for fold in range(3)]


def test_run_that_is_there_is_kept_and_one_on_other_features_is_refused(tmp_path, planted):
    trained(planted, tmp_path / "results", "--layers", "2")

    def written():
        paths = (tmp_path / "results").glob("*/*")
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}

    before = written()
    said = trained(planted, tmp_path / "results", "--layers", "2")
    assert "trained already" in said and "0 of 1" in said
    other = write_features(tmp_path / "other", *made_up(seed=1))
    result = train_on(other, tmp_path / "results", "--layers", "2")
    refused(result, "another --results", "files differ")
    assert before and before == written()


def test_linear_probes_take_standardize_as_said_already(tmp_path, planted):
    trained(planted, tmp_path / "results", "--layers", "2", "--head", "linear", "--standardize")
    (run,) = runs_in(tmp_path / "results")
    assert not run.options.standardize and "standardize" not in run.folder.name


# --- what is left where it ends early -------------------------------------------------------------


def test_interrupted_while_writing_leaves_no_run(tmp_path, planted, monkeypatch):
    def interrupted(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
        assert train_on(planted, tmp_path / "results", "--layers", "2").code == 130
    assert [path.name for path in (tmp_path / "results").iterdir()] in ([], [".lock"])
    trained(planted, tmp_path / "results", "--layers", "2")
    assert len(folders(tmp_path / "results")) == 1


def test_killed_training_leaves_no_run_and_the_next_one_clears_up(tmp_path, planted):
    results = tmp_path / "results"
    command = [sys.executable, ROOT / "train.py", "--features", planted, "--results", results, "--layers", "2"]
    process = subprocess.Popen([*map(str, command), "--epochs", "1000000"], stderr=subprocess.DEVNULL)
    try:
        while not (results / ".lock").exists() and process.poll() is None:
            time.sleep(0.05)
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert folders(results) == []
    half = results / ".unfinished-some-run"  # as a kill in the midst of writing leaves it
    half.mkdir()
    (half / "probabilities.npy").write_bytes(b"half")
    trained(planted, results, "--layers", "2")
    assert len(folders(results)) == 1 and not half.exists()
