"""The script that trains: which runs it makes, what is in them, what it refuses, what it leaves when it ends early."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, call, refused, spelled
from filelock import FileLock
from safetensors.numpy import load_file
from sklearn.metrics import f1_score

import train
from whichlayer.common import disk
from whichlayer.encoder import store
from whichlayer.heads import plan, runs

CLASSES = ("art", "food", "history", "travel")


def write_features(folder, arrays, names, depth=2, encoder="some/encoder", weights="w", cost=None, **settings):
    """A features folder with the given arrays, {(pooling, layer): (titles, hidden) float32}, and labels.

    settings: of the store.Settings, what differs from the usual.
    """
    folder.mkdir(parents=True)
    lines = [f"title {spelled(number)},{name}" for number, name in enumerate(names)]
    (folder / "titles.csv").write_text("\n".join(["title,label", *lines, ""]), encoding="utf-8")

    files = {}
    for (pooling, layer), array in arrays.items():
        path = folder / store.feature_file(pooling, layer)
        np.save(path, array.astype(np.float32))
        files[path.name] = store.FileInfo(path.stat().st_size, disk.sha256(path))
        hidden = array.shape[1]

    manifest = store.Features(
        format=store.FORMAT,
        encoder=store.EncoderInfo(
            name=encoder,
            revision=None,
            layers=depth,
            hidden=hidden,
            weights=weights,
            tokenizer="t",
        ),
        data=store.TitlesInfo(
            name="titles.csv",
            sha256="s",
            rows=len(names),
            titles=disk.sha256(folder / "titles.csv"),
        ),
        settings=store.Settings(**{"max_length": 128, "dtype": "float32", "store": "float32"} | settings),
        files=files,
        cost=cost,
    )
    disk.write_json(folder / "manifest.json", manifest)
    return folder


def made_up(rows=60, hidden=9, layers=(1, 2), poolings=("cls",), seed=0, classes=CLASSES):
    """Arrays in which each class has a centre of its own, and the names of the classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % len(classes)
    arrays = {}
    for pooling in poolings:
        for layer in layers:
            centres = random.normal(size=(len(classes), hidden))
            arrays[pooling, layer] = centres[labels] + random.normal(size=(rows, hidden))
    return arrays, [classes[label] for label in labels]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Features of a 2-layer encoder, titles of four classes that can be told apart."""
    cost = store.Cost(tokens=18.5, flop=[0.0, 10.0, 25.0])
    return write_features(
        tmp_path_factory.mktemp("planted") / "features", *made_up(poolings=("cls", "mean")), cost=cost
    )


def train_on(features, results, *options):
    """Call train.py on features folders; what takes long is small, unless `options` say otherwise."""
    small = ["--folds", 3, "--repeats", 2]
    if "linear" not in options and "--survey" not in options:
        small += ["--epochs", 2, "--hidden", 16]
    every = features if isinstance(features, list) else [features]
    return call("train", "--features", *every, "--results", results, *small, *options)


def trained(features, results, *options):
    """Train on features folders; returns what the script said, after asserting that it worked."""
    result = train_on(features, results, *options)
    assert result.code == 0 and result.out == "", result.err
    return result.err


def runs_in(results):
    """The runs in a folder of results, by name."""
    return [runs.open_run(folder) for folder in sorted(results.glob("[!.]*"))]


def columns_of(results):
    """The (pooling, layer) of each run, sorted."""
    return sorted(run.columns for run in runs_in(results))


def pairs(layers, *poolings):
    """The columns of layers side by side with some poolings."""
    return [(pooling, layer) for pooling in poolings for layer in layers]


# --- what is trained ------------------------------------------------------------------------------


def every(layers, *poolings):
    """What features hold: these layers with each of the poolings."""
    return dict.fromkeys(poolings, layers)


def alone(layers, pooling):
    """The columns of a run for each layer."""
    return [pairs([layer], pooling) for layer in layers]


@pytest.mark.parametrize(
    "held, options, expected",
    [
        # the report's six sets, those of them that were extracted, or, where none was, each layer alone
        (
            every(range(9, 13), "cls"),
            "",
            [*alone((9, 10, 11, 12), "cls"), pairs([12, 11], "cls"), pairs([12, 11, 10, 9], "cls")],
        ),
        (every([3, 2], "cls"), "", alone((2, 3), "cls")),
        # those asked for, with the pooling that the head usually takes, or that is there
        (every([1, 3, 12], "mean", "cls"), "--layers 12", [pairs([12], "cls")]),
        (every([1, 3, 12], "mean", "cls"), "--layers all --pooling mean cls", [pairs([12, 3, 1], "cls", "mean")]),
        (every([1, 3, 12], "mean", "cls"), "--layers 3 -1 --head linear", [pairs([12, 3], "mean")]),
        (every([1, 3, 12], "mean", "cls"), "--each --head linear --layers 12 1", alone((1, 12), "mean")),
        # the last four that were extracted
        (
            every([0, 2, 3, 4, 6], "mean"),
            "--survey",
            [*alone([6, 4, 3, 2, 0], "mean"), pairs([6, 4, 3, 2], "mean"), pairs([6, 4, 3, 2, 0], "mean")],
        ),
        # several poolings join where both are; side by side, [CLS] alone is not worth a run
        (
            {"cls": [1, 2], "mean": [2, 3]},
            "--survey",
            [*alone([1, 2], "cls"), *alone([2, 3], "mean"), pairs([3, 2], "mean"), pairs([2], "cls", "mean")],
        ),
    ],
)
def test_layers_and_poolings_are_those_asked_for_or_the_usual(tmp_path, held, options, expected):
    array = np.zeros((4, 3))
    arrays = {(pooling, layer): array for pooling, layers in held.items() for layer in layers}
    features = store.open_features(write_features(tmp_path / "f", arrays, list(CLASSES), depth=12))
    args = train.parse_arguments(options.split())
    sets = plan.choose_sets(args, features, plan.choose_options(args).head)
    assert sorted(sets) == sorted(expected)


def test_a_run_for_each_number_of_labels(tmp_path, planted):
    said = trained(planted, tmp_path / "results", "--layers", "2", "--head", "linear", "--labels", "all", "4")
    assert {run.labels_per_category for run in runs_in(tmp_path / "results")} == {4, None}
    assert "2 of 2 runs" in said


# --- several encoders -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Features of the same titles by two encoders, of two layers and of three."""
    place = tmp_path_factory.mktemp("two")
    small = write_features(place / "small", *made_up(), encoder="org/small", weights="1")
    arrays = made_up(layers=(1, 2, 3), hidden=12, seed=1)
    return [small, write_features(place / "large", *arrays, depth=3, encoder="/models/large", weights="2")]


def test_several_features_are_trained_on_the_same_titles_and_folds(tmp_path, two):
    last = ["--layers", "-1", "--head", "linear"]
    said = trained(two, tmp_path / "results", *last)
    found = runs_in(tmp_path / "results")
    assert [(run.encoder.name, run.layers) for run in found] == [("/models/large", [3]), ("org/small", [2])]
    assert all(f"{run.folder.name}: macro-F1 {run.figures.macro_f1:.4f}" in said for run in found)
    assert "2 of 2 runs" in said
    assert [run.made.features for run in found] == [str(folder.resolve()) for folder in two[::-1]]


def test_features_that_go_ill_together_are_refused_before_anything_is_trained(tmp_path, planted, two):
    results = tmp_path / "results"
    other = write_features(tmp_path / "other", *made_up(rows=40))
    refused(train_on([planted, other], results, "--survey"), str(planted), str(other), "different titles")
    refused(train_on(two, results, "--layers", "3"), "org/small")
    # a table could not tell their runs apart
    for name, changes in (("encoder", {"weights": "other"}), ("settings", {"dtype": "bfloat16"})):
        same_name = write_features(tmp_path / name, *made_up(seed=1), **changes)
        refused(train_on([planted, same_name], results, "--layers", "2"), "other features", "another --results")
    assert not list(results.glob("[!.]*"))


# --- what a run keeps -----------------------------------------------------------------------------


def test_what_a_run_keeps(tmp_path, planted, monkeypatch):
    monkeypatch.chdir(planted.parent)
    options = "--layers 2 1 --fusion mix --epochs 9 --hidden 64 --batch-size 8 --lr 0.01"
    trained("features", tmp_path, *options.split())
    (run,) = runs_in(tmp_path)
    assert run.classes == sorted(CLASSES) and run.columns == [("cls", 2), ("cls", 1)]
    assert run.made.features == str(planted.resolve())  # wherever the next command is typed
    assert [run.classes[label] for label in run.array("labels")] == made_up()[1]
    assert run.flop == 25  # of its deepest layer
    assert run.probabilities.shape == (2, 60, 4) and run.probabilities.dtype == np.float32
    for repeat, predicted in enumerate(run.probabilities.argmax(2)):
        whole = f1_score(run.array("labels"), predicted, average="macro")
        assert run.figures.repeat_macro_f1[repeat] == pytest.approx(whole, abs=1e-12)
        assert whole > 0.5  # the classes can be told apart, and were
    heads = load_file(run.file("heads.safetensors"))
    assert all(len(value) == 6 for value in heads.values())

    # checksums of all
    files = {path.name for path in run.folder.iterdir()}
    assert files == {*run.contents, "config.json"}
    for name, checksum in run.contents.items():
        assert disk.sha256(run.folder / name) == checksum
    # every epoch of every head, down to the figures of the run
    lines = [line.split(",") for line in run.file("history.csv").read_text().split()]
    assert lines[0] == ["repeat", "fold", "epoch", "loss", "macro_f1"]
    assert len({tuple(line[:3]) for line in lines[1:]}) == len(lines) - 1 == 2 * 3 * 9
    for repeat, fold, epoch, loss, score in lines[1:]:
        assert float(loss) > 0
        if epoch == "9":
            assert float(score) == pytest.approx(run.figures.fold_macro_f1[int(repeat)][int(fold)])


# --- what is refused, and said --------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        ("--layers 9", ["--layers 9"]),
        ("--device gpu", ["--device gpu"]),
        ("--head linear --lr 0.1", ["--lr", "--head linear", "leave it out"]),
        ("--decide macro-f1", ["--decide", "--head mlp", "leave it out"]),
        ("--survey --layers 2", ["--survey --layers"]),
        ("--survey --batch-size 3", ["--batch-size", "leave it out"]),
        ("--folds 16", ["category 'art'", "--folds 16", "use fewer folds"]),
        ("--labels 1000", ["--labels 1000", "--labels all"]),
    ],
)
def test_refusals(tmp_path, planted, options, words):
    refused(train_on(planted, tmp_path / "results", "--quiet", *options.split()), *words)
    assert not list(tmp_path.glob("results/*"))


@pytest.mark.parametrize(
    "options",
    [
        "--folds 1",
        "--lr nan",
        "--labels 0",
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
    refused(
        train_on(features, tmp_path / "results", "--layers", "3", "2", "4"),
        "there are layers 1 and 3 ",
        "extract others first",
    )
    refused(train_on(features, tmp_path / "results", "--pooling", "mean"), "extract.py --pooling mean")
    refused(train_on(tmp_path / "none", tmp_path / "results"), "extract.py --out")


def test_results_that_are_a_file_or_in_use_are_refused(tmp_path, planted):
    (tmp_path / "file").write_text("mine")
    refused(train_on(planted, tmp_path / "file", "--layers", "2"), "file", "name a folder")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "results").mkdir()
    with FileLock(tmp_path / "results" / ".lock"):
        refused(train_on(planted, tmp_path / "results", "--layers", "2"), "a training is running in this folder")
    trained(planted, tmp_path / "results", "--layers", "2")


def test_exploding_loss_is_one_line_and_leaves_no_run(tmp_path):
    arrays, names = made_up(poolings=("cls",))
    features = write_features(tmp_path / "f", {column: 1e12 * array for column, array in arrays.items()}, names)
    options = ["--layers", "2", "--lr", "1e9", "--epochs", "20", "--quiet"]
    refused(train_on(features, tmp_path / "results", *options), "smaller --lr", "--standardize")
    assert runs_in(tmp_path / "results") == []


def test_collapsed_heads_are_said_in_words_with_a_remedy_that_works(tmp_path):
    arrays, names = made_up(layers=(2,))
    features = write_features(tmp_path / "f", {column: 50 + 1e-4 * array for column, array in arrays.items()}, names)
    options = ["--layers", "2", "--epochs", "20", "--batch-size", "8", "--hidden", "64"]
    said = trained(features, tmp_path / "results", *options)
    assert "collapsed to one class: try --standardize" in said
    assert "collapsed to" not in trained(features, tmp_path / "results", *options, "--standardize")
    bad, good = sorted(runs_in(tmp_path / "results"), key=lambda run: run.options.standardize)
    assert bad.figures.macro_f1 < 0.2 and good.figures.macro_f1 > 0.4
    assert bad.figures.collapsed == [[repeat, fold] for repeat in range(2) for fold in range(3)]


# --- runs that are there --------------------------------------------------------------------------


def written(results):
    """When and what was written in the folders of runs."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in results.glob("*/*")}


def test_a_run_that_is_there_is_kept(tmp_path, planted):
    trained(planted, tmp_path / "results", "--layers", "2")
    before = written(tmp_path / "results")
    said = trained(planted, tmp_path / "results", "--layers", "2")
    (run,) = runs_in(tmp_path / "results")
    again = f"(macro-F1 {run.figures.macro_f1:.4f}); delete {run.folder} to train it again"
    assert f"{run.folder.name}: trained already {again}" in said and "0 of 1" in said
    assert before and before == written(tmp_path / "results")


# --- what is left where it ends early -------------------------------------------------------------


@pytest.mark.parametrize(
    "module, step, error, code",
    [(os, "rename", KeyboardInterrupt(), 130), (disk, "write_json", OSError(28, "No space left on device"), 1)],
)
def test_interrupted_while_writing_or_on_a_full_disk_leaves_no_run(
    tmp_path, planted, monkeypatch, module, step, error, code
):
    def fails(*arguments):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(module, step, fails)
        done = train_on(planted, tmp_path / "results", "--layers", "2", "--quiet")
    assert done.code == code and len(done.err.splitlines()) == 1, done.err
    assert [path.name for path in (tmp_path / "results").iterdir()] in ([], [".lock"])
    trained(planted, tmp_path / "results", "--layers", "2")
    assert len(runs_in(tmp_path / "results")) == 1


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
    assert runs_in(results) == []
    half = results / ".unfinished-some-run"  # as a kill in the midst of writing leaves it
    half.mkdir()
    (half / "probabilities.npy").write_bytes(b"half")
    trained(planted, results, "--layers", "2")
    assert len(runs_in(results)) == 1 and not half.exists()
