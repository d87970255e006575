"""The script that trains: which runs it makes, what is in them, what it refuses, what it leaves when it ends early."""

import functools
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, call, refused, shell
from filelock import FileLock
from safetensors.numpy import load_file
from sklearn.metrics import f1_score

import train
from whichlayer.common import disk
from whichlayer.encoder import store
from whichlayer.heads import runs

CLASSES = ("art", "food", "history", "travel")


def write_features(folder, arrays, names, depth=2, encoder="some/encoder", weights="w", cost=None, **settings):
    """A features folder with the given arrays, {(pooling, layer): (titles, hidden) float32}, and labels.

    settings: of the store.Settings, what differs from the usual.
    """
    folder.mkdir(parents=True)
    lines = [f"title number {number},{name}" for number, name in enumerate(names)]
    (folder / "titles.csv").write_text("\n".join(["title,label", *lines, ""]), encoding="utf-8")

    files = {}
    for (pooling, layer), array in arrays.items():
        path = folder / store.feature_file(pooling, layer)
        np.save(path, array.astype(np.float32))
        files[path.name] = store.FileInfo(path.stat().st_size, disk.sha256(path))
        hidden = array.shape[1]

    manifest = store.Manifest(
        format=store.FORMAT,
        encoder=store.EncoderInfo(
            name=encoder,
            revision=None,
            kind="bert",
            layers=depth,
            hidden=hidden,
            weights=weights,
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
    return write_features(tmp_path_factory.mktemp("planted") / "features", *made_up(poolings=("cls", "mean")))


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


@pytest.mark.parametrize(
    "there, expected, said",
    [
        (range(9, 13), [[9], [10], [11], [12], [12, 11], [12, 11, 10, 9]], "6 of 6 runs"),
        ((9, 12), [[9], [12]], "only 2 of the report's 6 sets of layers were extracted"),
        ((3, 2), [[2], [3]], "2 of 2 runs"),  # none of them is there: each layer alone
    ],
)
def test_default_is_the_reports_six_sets_or_those_that_were_extracted(tmp_path, there, expected, said):
    features = write_features(tmp_path / "features", *made_up(layers=there), depth=12)
    assert said in trained(features, tmp_path / "results", "--epochs", 1)
    assert columns_of(tmp_path / "results") == [pairs(layers, "cls") for layers in expected]


@pytest.mark.parametrize(
    "options, expected",
    [
        ("--layers 4", [pairs([4], "cls")]),
        ("--layers all --pooling mean cls", [pairs([4, 3, 1], "cls", "mean")]),
        ("--layers 3 4 --head linear", [pairs([4, 3], "mean")]),
        ("--layers -1 --head linear --pooling cls", [pairs([4], "cls")]),
        ("--each --head linear", [pairs([layer], "mean") for layer in (1, 3, 4)]),
        ("--each --head linear --layers 4 1", [pairs([layer], "mean") for layer in (1, 4)]),
    ],
)
def test_layers_and_poolings_are_those_asked_for_or_what_the_head_usually_takes(tmp_path, options, expected):
    features = write_features(tmp_path / "f", *made_up(layers=(1, 3, 4), poolings=("mean", "cls")), depth=4)
    trained(features, tmp_path / "results", *options.split())
    assert columns_of(tmp_path / "results") == expected


@pytest.mark.parametrize("head, pooling", [("mlp", "mean"), ("linear", "cls")])
def test_a_head_takes_the_pooling_that_is_there(tmp_path, head, pooling):
    features = write_features(tmp_path / "features", *made_up(poolings=(pooling,)))
    trained(features, tmp_path / "results", "--layers", "-1", "--head", head)
    assert columns_of(tmp_path / "results") == [[(pooling, 2)]]


def test_a_run_for_each_number_of_labels(tmp_path, planted):
    options = ["--layers", "2", "--head", "linear", "--labels", "all", "4", "500"]
    said = trained(planted, tmp_path / "results", *options)
    assert {run.labels_per_category for run in runs_in(tmp_path / "results")} == {4, None}
    assert "left out: --labels 500" in said and "2 of 2 runs" in said


@pytest.mark.parametrize(
    "held, expected",
    [
        (
            {"cls": range(1, 7), "mean": range(1, 7)},
            # side by side, [CLS] alone is not worth a run
            [
                *([(pooling, layer)] for pooling in ("cls", "mean") for layer in range(1, 7)),
                *(pairs((6, 5, 4, 3), "mean"), pairs(range(6, 0, -1), "mean"), pairs(range(6, 0, -1), "cls", "mean")),
            ],
        ),
        # the last four that were extracted
        (
            {"mean": [0, 2, 3, 4, 6]},
            [pairs(layers, "mean") for layers in ([6], [4], [3], [2], [0], [6, 4, 3, 2], [6, 4, 3, 2, 0])],
        ),
        ({"cls": [3]}, [[("cls", 3)]]),
        # several poolings join where both are
        (
            {"cls": [1, 2], "mean": [2, 3]},
            [
                [("cls", 1)],
                [("cls", 2)],
                [("mean", 2)],
                [("mean", 3)],
                pairs([3, 2], "mean"),
                pairs([2], "cls", "mean"),
            ],
        ),
        ({"cls": [1], "mean": [3]}, [[("cls", 1)], [("mean", 3)]]),
    ],
)
def test_survey_is_each_layer_the_last_four_all_and_all_poolings(tmp_path, held, expected):
    arrays = {}
    for pooling, layers in held.items():
        own, names = made_up(layers=layers, poolings=(pooling,))
        arrays |= own
    features = write_features(tmp_path / "features", arrays, names, depth=6)
    said = trained(features, tmp_path / "results", "--survey")
    assert columns_of(tmp_path / "results") == sorted(expected)
    assert f"{len(expected)} of {len(expected)} run" in said and "trained already" not in said
    assert {(run.options.head, run.options.decide) for run in runs_in(tmp_path / "results")} == {("linear", "macro-f1")}


@pytest.mark.parametrize(
    "large, options, poolings, expected",
    [
        (31, [], ("cls", "mean"), {"likeliest": 1, "macro-f1": 6}),
        (31, ["--decide", "likeliest"], ("cls",), {"likeliest": 3, "macro-f1": 1}),
        # as many titles of each category leave nothing to decide
        (31, ["--labels", "5"], ("cls",), {"macro-f1": 3}),
        (30, [], ("cls",), {"macro-f1": 3}),
    ],
)
def test_survey_of_unequal_categories_shows_what_the_decision_brings(tmp_path, large, options, poolings, expected):
    arrays, _ = made_up(rows=large + 10, poolings=poolings)
    features = write_features(tmp_path / "features", arrays, ["large"] * large + ["small"] * 10)
    trained(features, tmp_path / "results", "--survey", *options)
    found = runs_in(tmp_path / "results")
    assert Counter(run.options.decide for run in found) == expected
    if len(expected) == 2:
        # the same heads, on all layers, decide in two ways
        one, other = (run for run in found if run.columns == pairs([2, 1], poolings[-1]))
        np.testing.assert_array_equal(one.probabilities, other.probabilities)


def test_survey_goes_with_labels_and_protocol_and_finds_runs_of_its_parts(tmp_path, planted):
    options = ["--split", "random", "--seed", "5", "--device", "cpu"]
    trained(planted, tmp_path / "results", "--each", "--head", "linear", *options)
    said = trained(planted, tmp_path / "results", "--survey", "--labels", "4", "all", *options)
    found = runs_in(tmp_path / "results")
    assert len(found) == 12 and "10 of 12 runs" in said and said.count("trained already") == 2
    assert all(run.options.protocol == (3, 2, "random", 5) for run in found)
    assert sum(run.labels_per_category == 4 for run in found) == 6


# --- several encoders -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Features of the same titles by two encoders, of two layers and of three."""
    place = tmp_path_factory.mktemp("two")
    small = write_features(place / "small", *made_up(), encoder="org/small", weights="1")
    arrays = made_up(layers=(1, 2, 3), hidden=12, seed=1)
    return [small, write_features(place / "large", *arrays, depth=3, encoder="/models/large", weights="2")]


def test_several_features_are_trained_on_the_same_titles_and_folds(tmp_path, two, monkeypatch):
    read = []
    titles = store.Features.titles
    monkeypatch.setattr(store.Features, "titles", lambda features: read.append(features) or titles(features))
    last = ["--layers", "-1", "--head", "linear"]
    # one that is named twice is trained once
    said = trained([*two, two[0]], tmp_path / "results", *last)
    assert len(read) == 1  # the titles, and so groups, folds and draws, are read once
    found = runs_in(tmp_path / "results")
    assert [(run.encoder.name, run.layers) for run in found] == [("/models/large", [3]), ("org/small", [2])]
    assert "org/small, layer 2 (probe, [CLS]): macro-F1" in said and "large, layer 3 (" in said
    assert "2 of 2 runs" in said
    assert [run.config.made.features for run in found] == [str(folder.resolve()) for folder in two[::-1]]

    # and are what one after the other is
    for folder in two:
        trained(folder, tmp_path / "each", *last)
    assert [run.config.contents for run in runs_in(tmp_path / "each")] == [run.config.contents for run in found]


def test_features_that_go_ill_together_are_refused_before_anything_is_trained(tmp_path, planted, two):
    results = tmp_path / "results"
    other = write_features(tmp_path / "other", *made_up(rows=40))
    refused(train_on([planted, other], results, "--survey"), str(planted), str(other), "different titles")
    refused(train_on(two, results, "--layers", "3"), "org/small")
    # a table could not tell their runs apart
    for name, changes in (("encoder", {"weights": "other"}), ("settings", {"dtype": "bfloat16"})):
        same_name = write_features(tmp_path / name, *made_up(seed=1), **changes)
        refused(train_on([planted, same_name], results, "--layers", "2"), name, "another --results")
    assert not list(results.glob("[!.]*"))


# --- what a run keeps -----------------------------------------------------------------------------


def test_what_a_run_keeps(tmp_path, planted, monkeypatch):
    monkeypatch.chdir(planted.parent)
    options = "--layers 2 1 --fusion mix --epochs 9 --hidden 64 --batch-size 8 --lr 0.01"
    said = trained("features", tmp_path, *options.split())
    (run,) = runs_in(tmp_path)
    assert run.classes == sorted(CLASSES) and run.columns == [("cls", 2), ("cls", 1)]
    assert run.config.made.features == str(planted.resolve())  # wherever the next command is typed
    assert [run.classes[label] for label in run.array("labels")] == made_up()[1]
    assert run.probabilities.shape == (2, 60, 4) and run.probabilities.dtype == np.float32
    for repeat, predicted in enumerate(run.probabilities.argmax(2)):
        whole = f1_score(run.array("labels"), predicted, average="macro")
        assert run.figures.repeat_macro_f1[repeat] == pytest.approx(whole, abs=1e-12)
        assert whole > 0.5  # the classes can be told apart, and were
    heads = load_file(run.file("heads.safetensors"))
    assert all(len(value) == 6 for value in heads.values())

    # how layers are weighed is learned, printed and kept
    powers = np.exp(heads["weights"])
    weights = (powers / powers.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(run.figures.layer_weights, weights, rtol=1e-5)
    assert f"{weights[0]:+.3f}, {weights[1]:+.3f}" in said

    # checksums of all but the model card
    files = {path.name for path in run.folder.iterdir()}
    assert files == {*run.config.contents, "config.json", "README.md"}
    for name, checksum in run.config.contents.items():
        assert disk.sha256(run.folder / name) == checksum
    card = (run.folder / "README.md").read_text()
    for text in (
        "whichlayer",
        run.folder.name,
        "some/encoder",
        *CLASSES,
        f"{run.figures.macro_f1:.4f}",
        "predict.py --run",
    ):
        assert text in card

    # every epoch of every head, down to the figures of the run
    lines = [line.split(",") for line in run.file("history.csv").read_text().split()]
    assert lines[0] == ["repeat", "fold", "epoch", "loss", "macro_f1"]
    assert len({tuple(line[:3]) for line in lines[1:]}) == len(lines) - 1 == 2 * 3 * 9
    for repeat, fold, epoch, loss, score in lines[1:]:
        assert float(loss) > 0
        if epoch == "9":
            assert float(score) == pytest.approx(run.figures.fold_macro_f1[int(repeat)][int(fold)])


def test_a_run_knows_what_the_encoder_computes_for_its_deepest_layer(tmp_path):
    cost = store.Cost(tokens=18.5, flop=[0.0, 10.0, 25.0])
    features = write_features(tmp_path / "features", *made_up(), cost=cost)
    trained(features, tmp_path / "results", "--each", "--epochs", 1)
    assert [(run.config.flop, run.config.tokens) for run in runs_in(tmp_path / "results")] == [
        (10.0, 18.5),
        (25.0, 18.5),
    ]


@pytest.mark.parametrize("head", ["--standardize", "--head linear", "--head linear --decide likeliest --labels 4"])
def test_same_command_same_bytes_other_seed_other_heads(tmp_path, planted, head):
    for results, seed in (("a", 1), ("b", 1), ("c", 2)):
        trained(planted, tmp_path / results, "--layers", "2", "1", "--seed", seed, *head.split())
    (one,), (same,), (other,) = (runs_in(tmp_path / results) for results in "abc")
    assert replace(one.config, made=None, software=None, machine=None) == replace(
        same.config, made=None, software=None, machine=None
    )
    for name in ("heads.safetensors", "folds.npy"):
        assert one.config.contents[name] != other.config.contents[name]


# --- what is refused, and said --------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        ("--layers 9", ["--layers 9"]),
        ("--layers 2 2", ["--layers 2 2"]),
        ("--layers 0", ["--layers 0"]),
        ("--device gpu", ["--device gpu"]),
        ("--head linear --lr 0.1", ["--lr", "--head linear", "leave it out"]),
        ("--decide macro-f1", ["--decide macro-f1", "--head linear"]),
        ("--survey --head mlp", ["--survey --head"]),
        ("--survey --layers 2", ["--survey --layers"]),
        ("--survey --each", ["--survey --each"]),
        ("--survey --pooling cls", ["--survey --pooling"]),
        ("--survey --batch-size 3", ["--batch-size", "leave it out"]),
        ("--folds 16", ["4 of 4 categories have fewer titles than 16 folds need", "--folds 15"]),
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
        "--repeats 0",
        "--epochs 0",
        "--lr nan",
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
    refused(train_on(features, tmp_path / "results", "--layers", "3", "2", "4"), "extract.py --layers 4 2")
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
    assert "predicts one class only in 6 of 6 heads; try --standardize" in said
    assert "predicts one class only" not in trained(features, tmp_path / "results", *options, "--standardize")
    bad, good = sorted(runs_in(tmp_path / "results"), key=lambda run: run.options.standardize)
    assert bad.figures.macro_f1 < 0.2 and good.figures.macro_f1 > 0.4
    assert bad.figures.collapsed == [[repeat, fold] for repeat in range(2) for fold in range(3)]


# --- runs that are there --------------------------------------------------------------------------


def written(results):
    """When and what was written in the folders of runs."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in results.glob("*/*")}


def test_run_that_is_there_is_kept_and_one_on_other_features_is_refused(tmp_path, planted):
    trained(planted, tmp_path / "results", "--layers", "2")
    before = written(tmp_path / "results")
    said = trained(planted, tmp_path / "results", "--layers", "2")
    (run,) = runs_in(tmp_path / "results")
    again = f"(macro-F1 {run.figures.macro_f1:.4f}); delete {run.folder} to train it again"
    assert f"{run.folder.name}: trained already {again}" in said and "0 of 1" in said
    other = write_features(tmp_path / "other", *made_up(seed=1))
    refused(train_on(other, tmp_path / "results", "--layers", "2"), "another --results", "files differ")
    assert before and before == written(tmp_path / "results")


def test_runs_of_an_earlier_state_of_the_titles_are_trained_again_in_the_same_place(tmp_path):
    arrays, names = made_up()
    features = write_features(tmp_path / "features", arrays, names)
    trained(features, tmp_path / "results", "--layers", "2")
    (before,) = runs_in(tmp_path / "results")
    features.rename(tmp_path / "old")
    write_features(features, arrays, [names[1], *names[1:]])
    said = trained(features, tmp_path / "results", "--layers", "2")
    assert "1 run of an earlier state of titles.csv: out of date, trained again in the same place" in said
    (after,) = runs_in(tmp_path / "results")
    assert after.folder == before.folder and after.config.data.titles != before.config.data.titles


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda text: text.replace('"format": 4', '"format": 3'), ["an earlier version", "make it again with: python"]),
        (lambda text: text.replace('"folds": 3', '"folds": 4'), ["edited or damaged"]),
        (lambda text: text[:100], ["damaged"]),
    ],
)
def test_runs_of_earlier_versions_and_edited_ones_are_refused(tmp_path, planted, damage, words):
    trained(planted, tmp_path / "results", "--layers", "2")
    (run,) = runs_in(tmp_path / "results")
    path = run.folder / "config.json"
    path.write_text(damage(path.read_text()))
    refused(train_on(planted, tmp_path / "results", "--layers", "2"), str(run.folder), *words)
    refused(call("evaluate", "--results", tmp_path / "results"), str(run.folder), *words)


# --- what is left where it ends early -------------------------------------------------------------


def test_interrupted_while_writing_leaves_no_run(tmp_path, planted, monkeypatch):
    def interrupted(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
        assert train_on(planted, tmp_path / "results", "--layers", "2").code == 130
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


def test_a_disk_that_is_full_where_heads_are_written_is_one_line_and_no_run(tmp_path, planted):
    """A limit on the size of files, which the heads are the first to pass, fails like a full disk."""
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (9000, 9000))
    options = ["--features", planted, "--results", tmp_path / "r", "--layers", 2, "--epochs", 1, "--folds", 3]
    done = shell("train", *options, preexec_fn=limit)
    assert done.returncode == 1 and "File too large" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and [path.name for path in (tmp_path / "r").iterdir()] == [".lock"]
    assert call("train", *options).code == 0
    (run,) = (tmp_path / "r").glob("[!.]*")
    assert (run / "heads.safetensors").stat().st_size > 9000 > (run / "probabilities.npy").stat().st_size
    # and whoever may read one of its files may read all
    assert len({path.stat().st_mode for path in run.iterdir()}) == 1
