"""The script that trains: which runs it makes, what is in them, what it refuses, what it leaves when it ends early."""

import functools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

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
    if "linear" not in options and "--survey" not in options:
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


# --- the survey -----------------------------------------------------------------------------------


def pairs(layers, *poolings):
    """The columns of layers side by side with some poolings."""
    return [(pooling, layer) for pooling in poolings for layer in layers]


def test_survey_is_each_layer_the_last_four_all_and_both_poolings(tmp_path):
    arrays, names = made_up(rows=60, layers=range(1, 7), poolings=("cls", "mean"))
    features = write_features(tmp_path / "features", arrays, names, depth=6)
    said = trained(features, tmp_path / "results", "--survey")
    six = range(6, 0, -1)
    expected = [[(pooling, layer)] for pooling in ("cls", "mean") for layer in six]
    # side by side, [CLS] alone is not worth a run
    expected += [pairs(range(6, 2, -1), "mean"), pairs(six, "mean"), pairs(six, "cls", "mean")]
    assert columns_of(tmp_path / "results") == sorted(expected)
    assert "15 of 15 runs" in said and re.search("Next: .*evaluate.py", said)
    for run in runs_in(tmp_path / "results"):
        assert run.options.head == "linear" and run.options.decide == "macro-f1"


@pytest.mark.parametrize(
    "held, expected",
    [
        # of an encoder of four layers, the last four are all
        ({"mean": [1, 2, 3, 4]}, [[4], [3], [2], [1], [4, 3, 2, 1]]),
        ({"mean": [1, 3, 4]}, [[4], [3], [1], [4, 3, 1]]),
        # the last four that were extracted, the embeddings among them
        ({"mean": [0, 2, 4, 6, 8]}, [[8], [6], [4], [2], [0], [8, 6, 4, 2], [8, 6, 4, 2, 0]]),
        ({"cls": [7]}, [[7]]),
    ],
)
def test_survey_of_one_pooling_trains_sets_that_coincide_once(tmp_path, held, expected):
    ((pooling, layers),) = held.items()
    arrays, names = made_up(rows=40, layers=layers, poolings=(pooling,))
    features = write_features(tmp_path / "features", arrays, names, depth=8)
    said = trained(features, tmp_path / "results", "--survey")
    assert columns_of(tmp_path / "results") == sorted(pairs(layers, pooling) for layers in expected)
    assert f"{len(expected)} of {len(expected)} run" in said and "trained already" not in said


def test_survey_of_poolings_with_other_layers_joins_those_that_both_have(tmp_path):
    first, names = made_up(rows=40, layers=(1, 2), poolings=("cls",))
    second, _ = made_up(rows=40, layers=(2, 3), poolings=("mean",))
    features = write_features(tmp_path / "both", first | second, names, depth=3)
    trained(features, tmp_path / "results", "--survey")
    alone = [[("cls", 2)], [("cls", 1)], [("mean", 3)], [("mean", 2)]]
    joined = [pairs((3, 2), "mean"), [("cls", 2), ("mean", 2)]]
    assert columns_of(tmp_path / "results") == sorted(alone + joined)

    second = {("mean", 3): second["mean", 3]}
    features = write_features(tmp_path / "neither", first | second, names, depth=3)
    trained(features, tmp_path / "other", "--survey")
    assert columns_of(tmp_path / "other") == sorted([[("cls", 2)], [("cls", 1)], [("mean", 3)]])


def unequal(poolings, large):
    """Arrays of two layers and names, so many of them of one class and ten of another."""
    arrays, _ = made_up(rows=large + 10, poolings=poolings)
    return arrays, ["large"] * large + ["small"] * 10


@pytest.mark.parametrize("poolings, decided", [(("cls", "mean"), "mean"), (("cls",), "cls")])
def test_survey_of_unequal_categories_shows_what_the_decision_brings(tmp_path, poolings, decided):
    features = write_features(tmp_path / "features", *unequal(poolings, 31))
    said = trained(features, tmp_path / "a", "--survey")
    (other,) = [run for run in runs_in(tmp_path / "a") if run.options.decide == "likeliest"]
    assert other.columns == pairs((2, 1), decided) and "likeliest" in other.folder.name
    assert f"layers 2, 1 ({decided}), likeliest: macro-F1" in said
    same = [run for run in runs_in(tmp_path / "a") if run.columns == other.columns]
    assert len(same) == 2  # the same heads, that decide in two ways
    np.testing.assert_array_equal(same[0].probabilities, same[1].probabilities)

    # the other way is that which was not asked for
    trained(features, tmp_path / "b", "--survey", "--decide", "likeliest")
    (other,) = [run for run in runs_in(tmp_path / "b") if run.options.decide == "macro-f1"]
    assert other.columns == pairs((2, 1), decided)

    # as many titles of each category leave nothing to decide
    trained(features, tmp_path / "c", "--survey", "--labels", "5")
    assert all(run.labels_per_category == 5 for run in runs_in(tmp_path / "c"))
    assert all(run.options.decide == "macro-f1" for run in runs_in(tmp_path / "c"))


def test_survey_of_categories_that_are_not_so_unequal_decides_in_one_way(tmp_path):
    features = write_features(tmp_path / "features", *unequal(("mean",), 30))
    trained(features, tmp_path / "results", "--survey")
    assert {run.options.decide for run in runs_in(tmp_path / "results")} == {"macro-f1"}


def test_survey_goes_with_labels_and_protocol(tmp_path, planted):
    options = ["--labels", "4", "all", "--split", "random", "--seed", "5", "--device", "cpu"]
    said = trained(planted, tmp_path / "results", "--survey", *options)
    found = runs_in(tmp_path / "results")
    assert len(found) == 12 and "12 of 12 runs" in said  # 4 layers alone, mean pooling and both, two sizes
    assert all(run.options.protocol == (3, 2, "random", 5) for run in found)
    assert sum(run.labels_per_category == 4 for run in found) == 6


def test_survey_finds_its_own_runs_and_those_of_its_parts(tmp_path, planted):
    trained(planted, tmp_path / "results", "--each", "--head", "linear", "--pooling", "mean")
    trained(planted, tmp_path / "results", "--layers", "all", "--head", "linear", "--pooling", "cls", "mean")
    said = trained(planted, tmp_path / "results", "--survey")
    assert said.count("trained already") == 3 and "3 of 6 runs" in said
    said = trained(planted, tmp_path / "results", "--survey")
    assert said.count("trained already") == 6 and "0 of 6 runs" in said


def test_help_says_which_head_to_prefer(capsys):
    with pytest.raises(SystemExit):
        train.parse_arguments(["--help"])
    shown = capsys.readouterr().out
    described = " ".join(shown.split("options:")[0].split())
    assert "Prefer the linear probe (--survey, --head linear): it is solved to convergence" in described
    assert "--head mlp, the default, repeats the report" in described
    examples = re.findall(r"python train\.py(.*?)\s+#", shown)
    assert examples[:2] == ["", " --survey"]


# --- several encoders -----------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    """Features of the same titles by two encoders, of two layers and of three."""
    small = write_features(tmp_path / "small", *made_up(rows=60), encoder="org/small", weights="1")
    arrays = made_up(rows=60, layers=(1, 2, 3), hidden=15, seed=1)
    large = write_features(tmp_path / "large", *arrays, depth=3, encoder="/models/large", weights="2")
    return small, large


def train_both(two, results, *options):
    """Train on two features folders; returns what the script said, after asserting that it worked."""
    small = ["--folds", 3, "--repeats", 2, *options]
    result = call("train", "--features", *two, "--results", results, *small)
    assert result.code == 0 and result.out == "", result.err
    return result.err


def encoders_of(results):
    """(encoder, layers) of each run, sorted."""
    return sorted((run.encoder.name, run.layers) for run in runs_in(results))


def test_several_features_are_trained_in_turn_on_the_same_titles_and_folds(tmp_path, two, monkeypatch):
    read = []
    titles = store.Features.titles
    monkeypatch.setattr(store.Features, "titles", lambda features: read.append(features) or titles(features))
    said = train_both(two, tmp_path / "results", "--survey")
    assert len(read) == 1  # the titles, and so groups, folds and draws, are read once
    small = [("org/small", layers) for layers in ([1], [2], [2, 1])]
    large = [("/models/large", layers) for layers in ([1], [2], [3], [3, 2, 1])]
    assert encoders_of(tmp_path / "results") == sorted(small + large)
    assert "7 of 7 runs" in said
    assert said.index("small, org/small:") < said.index("large, large:") < said.index("layer 3 (cls)")
    found = runs_in(tmp_path / "results")
    for name in ("labels", "groups", "folds"):
        for run in found[1:]:
            np.testing.assert_array_equal(run.array(name), found[0].array(name))
    assert {run.config.made.features for run in found} == {str(folder.resolve()) for folder in two}
    table = call("evaluate", "--results", tmp_path / "results")
    assert table.code == 0 and "Encoder" in table.out, table.err


def test_several_features_are_what_one_after_the_other_is(tmp_path, two):
    train_both(two, tmp_path / "both", "--layers", "-1", "--head", "linear")
    assert encoders_of(tmp_path / "both") == [("/models/large", [3]), ("org/small", [2])]
    for folder in two:
        trained(folder, tmp_path / "each", "--layers", "-1", "--head", "linear")
    for run in runs_in(tmp_path / "both"):
        other = runs.open_run(tmp_path / "each" / run.folder.name)
        assert other.config.contents == run.config.contents
    said = train_both(
        two, tmp_path / "sets", "--epochs", 1, "--hidden", 8
    )  # the report's sets, of each encoder its own
    assert "8 of 8 runs" not in said and "7 of 7 runs" in said
    assert ("/models/large", [3, 2]) in encoders_of(tmp_path / "sets")


def test_features_that_are_named_twice_are_trained_once(tmp_path, two, monkeypatch):
    monkeypatch.chdir(two[0].parent)
    said = train_both([two[0], two[0].name], tmp_path / "results", "--layers", "-1", "--head", "linear")
    assert encoders_of(tmp_path / "results") == [("org/small", [2])]
    assert "of 2 runs" not in said


def test_features_of_other_titles_are_refused_before_anything_is_trained(tmp_path, planted):
    other = write_features(tmp_path / "other", *made_up(rows=60))
    result = call("train", "--features", planted, other, "--results", tmp_path / "results", "--survey")
    refused(result, str(planted), str(other), "different titles")
    assert not (tmp_path / "results").exists()


def test_layers_that_one_of_the_encoders_lacks_are_refused_before_anything_is_trained(tmp_path, two):
    result = call("train", "--features", *two, "--results", tmp_path / "results", "--layers", "3")
    refused(result, "org/small has 2 layers")
    assert not (tmp_path / "results").exists()


def test_two_encoders_of_one_name_get_names_that_differ(tmp_path):
    first = write_features(tmp_path / "a", *made_up(), encoder="/x/checkpoint-500", weights="1234567890")
    second = write_features(tmp_path / "b", *made_up(seed=1), encoder="/y/checkpoint-500", weights="abcdef0123")
    said = train_both((first, second), tmp_path / "results", "--layers", "2", "--head", "linear")
    assert "2 of 2 runs" in said
    names = {run.encoder.weights: run.folder.name for run in runs_in(tmp_path / "results")}
    plain = "checkpoint-500-titles.csv-layers-2-linear-folds-3-repeats-2"
    assert names["1234567890"] == plain
    assert names["abcdef0123"] == plain.replace("500-", "500-abcdef01-")

    # the same command finds its own run, each encoder alone too, in whatever order
    for folders in ((first, second), (second, first), (second,), (first,)):
        said = train_both(folders, tmp_path / "results", "--layers", "2", "--head", "linear")
        assert said.count("trained already") == len(folders) and "0 of" in said
        assert not (tmp_path / "results" / plain.replace("500-", "500-12345678-")).exists()

    # where the name has become free, it is still its own
    shutil.rmtree(tmp_path / "results" / plain)
    said = train_both((second,), tmp_path / "results", "--layers", "2", "--head", "linear")
    assert "0 of 1 run" in said


def test_one_encoder_with_two_settings_is_refused_before_anything_is_trained(tmp_path):
    first = write_features(tmp_path / "a", *made_up())
    second = write_features(tmp_path / "b", *made_up(seed=1), dtype="bfloat16")
    small = ["--folds", 3, "--repeats", 2, "--survey"]
    result = call("train", "--features", first, second, "--results", tmp_path / "results", *small)
    refused(result, "settings", "another --results")
    assert folders(tmp_path / "results") == []
    assert train_both((first, first), tmp_path / "results", "--layers", "2", "--head", "linear")


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


def test_a_run_knows_what_the_encoder_computes_for_its_deepest_layer(tmp_path):
    cost = store.Cost(tokens=18.5, flop=[0.0, 10.0, 25.0])
    features = write_features(tmp_path / "features", *made_up(), cost=cost)
    trained(features, tmp_path / "results", "--survey")
    assert [run.config.flop for run in runs_in(tmp_path / "results")] == [10.0, 25.0, 25.0]
    assert {run.config.tokens for run in runs_in(tmp_path / "results")} == {18.5}
    old = write_features(tmp_path / "old", *made_up())  # as earlier versions made them
    trained(old, tmp_path / "other", "--layers", "2")
    (run,) = runs_in(tmp_path / "other")
    assert run.config.flop is None and run.config.tokens is None


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
        (["--survey", "--head", "mlp"], ["--survey --head mlp"]),
        (["--survey", "--layers", "2"], ["--survey --layers"]),
        (["--survey", "--each"], ["--survey --each"]),
        (["--survey", "--pooling", "cls"], ["--survey --pooling"]),
        (["--survey", "--epochs", "3"], ["--epochs", "leave it out"]),
        (["--survey", "--fusion", "mix"], ["--fusion", "leave it out"]),
        (["--folds", "31"], ["4 of 4 categories have fewer titles than 31 folds need", "--folds 30"]),
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
    (run,) = runs_in(tmp_path / "results")
    again = f"(macro-F1 {run.figures.macro_f1:.4f}); delete {run.folder} to train it again"
    assert f"{run.folder.name}: trained already {again}" in said and "0 of 1" in said
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


def test_that_copies_count_once_is_said_where_it_leaves_a_category_with_too_few(tmp_path, bert):
    (tmp_path / "t.csv").write_text("title,category\n" + "rome,a\ntroy,b\n" * 20)
    assert call("extract", "--data", tmp_path / "t.csv", "--model", bert, "--out", tmp_path / "f").code == 0
    done = call("train", "--features", tmp_path / "f", "--results", tmp_path / "r")
    refused(done, "'a' 1, 'b' 1", "copies of a title count once")


# --- the machine's faults -----------------------------------------------------------------------------------------


def test_a_disk_that_is_full_where_heads_are_written_is_one_line_and_no_run(features, tmp_path):
    """A limit on the size of files, which the heads are the first to pass, fails like a full disk."""
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (3000, 3000))
    train = ["--features", features, "--results", tmp_path / "r", "--head", "linear", "--layers", 2]
    done = shell("train", *train, preexec_fn=limit)
    assert done.returncode == 1 and "File too large" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and [path.name for path in (tmp_path / "r").iterdir()] == [".lock"]
    assert shell("train", *train).returncode == 0
    (run,) = (tmp_path / "r").glob("[!.]*")
    assert (run / "heads.safetensors").stat().st_size > 3000 > (run / "probabilities.npy").stat().st_size
    # and whoever may read one of its files may read all
    assert len({path.stat().st_mode for path in run.iterdir()}) == 1
