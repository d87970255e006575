"""Training: the head is the report's, all folds at once equals one by one, no head sees its held-out titles."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, call, refused
from safetensors.numpy import load_file

import bench
import cli
import data
import model
import store
import train

CLASSES = ("art", "food", "history", "travel")


def write_features(folder, arrays, names, depth=2, titles=None):
    """A features folder with the given arrays, {(pooling, layer): (titles, hidden) float32}, and labels."""
    folder.mkdir(parents=True)
    titles = titles or [f"title number {i}" for i in range(len(names))]
    text = "title,label\n" + "".join(f"{title},{name}\n" for title, name in zip(titles, names))
    (folder / "titles.csv").write_text(text)
    files = {}
    for (pooling, layer), array in arrays.items():
        path = folder / store.feature_file(pooling, layer)
        np.save(path, array.astype(np.float32))
        files[path.name] = {"bytes": path.stat().st_size, "sha256": store.sha256(path)}
    digest = hashlib.sha256(text.encode()).hexdigest()
    store.write_json(
        folder / "manifest.json",
        {
            "format": store.FORMAT,
            "encoder": {
                "name": "some/encoder",
                "revision": None,
                "kind": "bert",
                "layers": depth,
                "hidden": next(iter(arrays.values())).shape[1],
                "weights": "w",
                "tokenizer": "t",
            },
            "data": {
                "name": "titles.csv",
                "sha256": "s",
                "text_column": "title",
                "label_column": "category",
                "rows": len(names),
                "titles": digest,
                "classes": {n: names.count(n) for n in sorted(set(names))},
            },
            "settings": {"max_length": 128, "dtype": "float32", "store": "float32", "window": 4096, "device": "cpu"},
            "truncated": 0,
            "files": files,
        },
    )
    return folder


def made_up(rows=120, hidden=12, layers=(1, 2), poolings=("cls",), seed=0, classes=CLASSES):
    """Arrays in which each class has a centre of its own, and the names of the classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % len(classes)
    arrays = {
        (pooling, layer): random.normal(size=(len(classes), hidden))[labels] + random.normal(size=(rows, hidden))
        for pooling in poolings
        for layer in layers
    }
    return arrays, [classes[label] for label in labels]


@pytest.fixture
def planted(tmp_path):
    """Features of a 2-layer encoder, 120 titles of four classes that can be told apart."""
    return write_features(tmp_path / "features", *made_up(poolings=("cls", "mean")))


def trained(features, results, *options, epochs=3):
    """Train on a features folder; returns what the script said, after asserting that it worked."""
    result = call("train", "--features", features, "--results", results, "--epochs", epochs, *options)
    assert result.code == 0, result.err
    return result


def runs(results):
    return sorted(path.name for path in results.iterdir() if not path.name.startswith("."))


def config_of(rows=90, layers=2, hidden=16, classes=3, **options):
    """Random inputs and a configuration for train.train_heads: (x, labels, folds, config)."""
    random = np.random.default_rng(5)
    labels = random.permutation(np.arange(rows) % classes)
    options = {**cli.HEAD, "hidden": 20, "epochs": 3, "batch_size": 16, **options}
    x = torch.from_numpy(random.normal(size=(rows, layers, hidden)).astype(np.float32) * 3 + 1)
    config = {
        "columns": [("cls", n) for n in range(layers)],
        "classes": list(range(classes)),
        "encoder": {"hidden": hidden},
        "options": options,
    }
    return x, labels, data.make_folds(labels, np.arange(rows), options["folds"], 0), config


# --- the head -----------------------------------------------------------------------------------------------------


def shapes(**options):
    return {name: tuple(value.shape) for name, value in model.Head(**options).state_dict().items()}


def test_head_on_one_layer_is_the_reports():
    assert shapes(layers=1, hidden=768, classes=4) == {
        "reduce.weight": (1, 1, 3),
        "reduce.bias": (1,),
        "mlp.0.weight": (512, 256),
        "mlp.0.bias": (512,),
        "mlp.2.weight": (4, 512),
        "mlp.2.bias": (4,),
    }


def test_head_on_several_layers_begins_with_a_pointwise_convolution():
    assert shapes(layers=4, hidden=768, classes=2) == {
        "fuse.weight": (1, 4, 1),
        "fuse.bias": (1,),
        "reduce.weight": (1, 1, 3),
        "reduce.bias": (1,),
        "mlp.0.weight": (512, 256),
        "mlp.0.bias": (512,),
        "mlp.2.weight": (2, 512),
        "mlp.2.bias": (2,),
    }
    head = model.Head(layers=4, hidden=768, classes=2)
    assert isinstance(head.fuse, torch.nn.Conv1d) and (head.fuse.kernel_size, head.fuse.out_channels) == ((1,), 1)
    assert isinstance(head.reduce, torch.nn.Conv1d) and (head.reduce.kernel_size, head.reduce.stride) == ((3,), (3,))


@pytest.mark.parametrize("hidden, width", [(3, 1), (5, 1), (384, 128), (385, 128), (1024, 341)])
def test_width_after_the_reduction_is_the_number_of_whole_steps(hidden, width):
    assert shapes(layers=1, hidden=hidden, classes=2)["mlp.0.weight"] == (512, width)
    assert model.Head(layers=1, hidden=hidden, classes=2)(torch.ones(2, 1, hidden)).shape == (2, 2)


@pytest.mark.parametrize("layers, hidden, classes", [(1, 2, 2), (1, 6, 1), (0, 6, 2)])
def test_head_that_cannot_be_is_refused(layers, hidden, classes):
    with pytest.raises(ValueError, match=f"{hidden}.*{classes}.*{layers}"):
        model.Head(layers, hidden, classes)


def head_by_hand(state, x, fusion, reduction, standardize):
    """The head's formula in numpy, one step at a time, with loops where the text of the report has a convolution."""
    state, x = {k: v.double().numpy() for k, v in state.items()}, x.double().numpy()
    if standardize:
        x = (x - state["mean"]) / state["deviation"]
    if x.shape[1] == 1:
        x = x[:, 0]
    elif fusion == "conv":
        x = sum(state["fuse.weight"][0, layer, 0] * x[:, layer] for layer in range(x.shape[1])) + state["fuse.bias"][0]
    elif fusion == "mix":
        weights = np.exp(state["weights"]) / np.exp(state["weights"]).sum()
        x = sum(weights[layer] * x[:, layer] for layer in range(x.shape[1]))
    else:
        x = np.concatenate([x[:, layer] for layer in range(x.shape[1])], axis=1)
    if reduction == "conv":
        kernel, bias = state["reduce.weight"][0, 0], state["reduce.bias"][0]
        x = np.stack([x[:, i : i + 3] @ kernel + bias for i in range(0, x.shape[1] - 2, 3)], axis=1)
    x = np.maximum(x @ state["mlp.0.weight"].T + state["mlp.0.bias"], 0)
    return x @ state["mlp.2.weight"].T + state["mlp.2.bias"]


@pytest.mark.parametrize("layers, hidden", [(1, 12), (4, 12), (2, 14), (3, 3)])
@pytest.mark.parametrize("fusion", ["conv", "mix", "concat"])
@pytest.mark.parametrize("reduction", ["conv", "none"])
@pytest.mark.parametrize("standardize", [False, True])
def test_forward_equals_the_formula(layers, hidden, fusion, reduction, standardize):
    torch.manual_seed(1)
    head = model.Head(layers, hidden, 3, fusion, reduction, width=7, standardize=standardize)
    for value in head.state_dict().values():  # nothing may be at a value where it has no effect
        value.copy_(torch.rand_like(value) + 0.1)
    x = torch.randn(5, layers, hidden)
    expected = head_by_hand(head.state_dict(), x, fusion, reduction, standardize)
    np.testing.assert_allclose(head(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_new_mix_weighs_all_layers_alike():
    head = model.Head(3, 9, 2, fusion="mix")
    head.reduce, head.mlp = torch.nn.Identity(), torch.nn.Identity()
    x = torch.randn(4, 3, 9)
    torch.testing.assert_close(head(x).squeeze(1), x.mean(1))


# --- all folds in one loop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layers, options",
    [
        (1, {}),
        (3, {}),
        (1, {"standardize": True}),
        (2, {"standardize": True, "fusion": "mix"}),
        (2, {"fusion": "concat"}),
        (2, {"reduction": "none"}),
        (1, {"folds": 3, "batch_size": 7, "seed": 9}),
        (2, {"batch_size": 1000}),
    ],
)
def test_training_all_folds_at_once_equals_one_after_the_other(layers, options):
    x, labels, folds, config = config_of(layers=layers, **options)
    state, history, probabilities = train.train_heads(x, labels, folds, config)
    heads, expected = bench.plain_loop(x, labels, folds, config)
    assert len(heads) == config["options"]["folds"]
    for fold, head in enumerate(heads):
        assert set(state) == set(head.state_dict())
        for name, value in head.state_dict().items():
            torch.testing.assert_close(state[name][fold], value, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    fresh = train.new_heads(config)
    assert not torch.allclose(fresh[0].mlp[0].weight, state["mlp.0.weight"][0], atol=1e-3)  # they did learn


def test_first_weights_of_a_fold_do_not_depend_on_the_other_folds():
    five, three = (train.new_heads(config_of(folds=folds)[3]) for folds in (5, 3))
    for one, other in zip(five, three):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    assert not torch.equal(five[0].mlp[0].weight, five[1].mlp[0].weight)


@pytest.mark.parametrize("rows, folds, size", [(90, 5, 16), (91, 2, 64), (17, 4, 1), (33, 3, 1000), (128, 2, 64)])
def test_an_epoch_shows_each_training_title_once(rows, folds, size):
    held = np.random.default_rng(rows).permutation(np.arange(rows) % folds)
    options = {"folds": folds, "batch_size": size, "seed": 3}
    numbers, weights = train.epoch_batches(held, options, 1)
    assert numbers.shape == weights.shape and numbers.shape[2] <= max(
        size, 2
    )  # single titles: a fold may have one more
    np.testing.assert_allclose(weights.sum(2), 1, rtol=1e-6)
    for fold in range(folds):
        shown = numbers[:, fold][weights[:, fold] > 0]
        assert sorted(shown) == np.flatnonzero(held != fold).tolist()
        for batch in weights[:, fold]:  # all titles of a batch count alike
            assert len(set(batch[batch > 0])) == 1
    assert not np.array_equal(numbers, train.epoch_batches(held, options, 2)[0])
    assert not np.array_equal(numbers, train.epoch_batches(held, {**options, "seed": 4}, 1)[0])


def test_standardization_is_measured_on_the_training_folds_alone():
    x, _, folds, _ = config_of(rows=60, layers=2)
    x = x + 100 * torch.from_numpy(folds == 1)[:, None, None]  # the held-out titles of fold 1 are far away
    mean, deviation = train.standardization(x, folds)
    for fold in range(5):
        kept = x.double().numpy()[folds != fold]
        np.testing.assert_allclose(mean[fold], kept.mean(0), rtol=1e-5)
        np.testing.assert_allclose(deviation[fold], kept.std(0), rtol=1e-5)
    assert (mean[1].abs() < 10).all() and (mean[0] > 10).all()


def test_standardization_of_a_large_mean_and_a_tiny_deviation_keeps_its_digits():
    x, _, folds, _ = config_of(rows=200, layers=1)
    x = 10 + 1e-3 * x
    mean, deviation = train.standardization(x, folds)
    kept = x.double().numpy()[folds != 2]
    np.testing.assert_allclose(deviation[2], kept.std(0), rtol=1e-4)
    np.testing.assert_allclose(mean[2], kept.mean(0), rtol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1234.567])
def test_constant_dimension_stays_finite(constant):
    x, labels, folds, config = config_of(standardize=True)
    x[:, 0, 3] = constant
    state, _, probabilities = train.train_heads(x, labels, folds, config)
    assert np.isfinite(probabilities).all()
    assert (state["deviation"][:, 0, 3] == 1).all()
    np.testing.assert_allclose(state["mean"][:, 0, 3], constant, rtol=1e-6)


def test_probabilities_come_from_the_head_that_has_not_seen_the_title():
    x, labels, folds, config = config_of(layers=2, standardize=True)
    state, _, probabilities = train.train_heads(x, labels, folds, config)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    for row, fold in enumerate(folds):
        logits = head_by_hand(
            {name: value[fold] for name, value in state.items()}, x[row : row + 1], "conv", "conv", True
        )[0]
        expected = np.exp(logits - logits.max())
        np.testing.assert_allclose(probabilities[row], expected / expected.sum(), atol=1e-5)


def test_labels_of_held_out_titles_are_never_learned():
    """Change the labels of one fold: its own head, and so its probabilities, must stay what they were."""
    x, labels, folds, config = config_of()
    other = np.where(folds == 2, (labels + 1) % 3, labels)
    before, after = (train.train_heads(x, y, folds, config)[2] for y in (labels, other))
    np.testing.assert_allclose(before[folds == 2], after[folds == 2], atol=1e-6)
    assert abs(before[folds == 0] - after[folds == 0]).max() > 1e-3


def test_blocks_of_titles_change_no_probability():
    x, labels, folds, config = config_of()
    head = train.new_heads(config)
    state, _ = torch.func.stack_module_state(head)
    whole, parts = (model.held_out_probabilities(model.stacked(head[0]), state, x, folds, block) for block in (4096, 5))
    np.testing.assert_allclose(whole, parts, atol=1e-6)


# --- the script ---------------------------------------------------------------------------------------------------


def test_default_is_the_reports_six_sets(tmp_path):
    features = write_features(tmp_path / "features", *made_up(rows=40, layers=range(9, 13)), depth=12)
    result = trained(features, tmp_path / "results", "--folds", "2", epochs=1)
    found = [
        json.loads((tmp_path / "results" / name / "config.json").read_text())["columns"]
        for name in runs(tmp_path / "results")
    ]
    assert sorted([layer for _, layer in columns] for columns in found) == [
        [9],
        [10],
        [11],
        [12],
        [12, 11],
        [12, 11, 10, 9],
    ]
    assert "6 of 6 layer sets" in result.err and result.out == ""


def test_default_of_a_shallow_encoder_leaves_out_what_does_not_exist(tmp_path, features):
    trained(features, tmp_path / "results", "--folds", "2", epochs=1)
    names = runs(tmp_path / "results")
    assert len(names) == 3 and all(re.search(r"-layers-(2|1|2-1)-folds-2-epochs-1$", name) for name in names), names


def test_each_layer_alone(tmp_path):
    features = write_features(tmp_path / "features", *made_up(layers=(1, 3, 4)), depth=6)
    trained(features, tmp_path / "results", "--each", epochs=1)
    assert [re.search(r"layers-([\d-]+)-epochs", name)[1] for name in runs(tmp_path / "results")] == ["1", "3", "4"]


def test_what_a_run_keeps(tmp_path, planted):
    trained(planted, tmp_path / "results", "--layers", "2", "1", "--folds", "3", "--batch-size", "8", epochs=4)
    folder = tmp_path / "results" / runs(tmp_path / "results")[0]
    config = json.loads((folder / "config.json").read_text())
    labels, folds, probabilities = (np.load(folder / f"{name}.npy") for name in ("labels", "folds", "probabilities"))
    assert config["classes"] == sorted(CLASSES) and config["columns"] == [["cls", 2], ["cls", 1]]
    assert [config["classes"][label] for label in labels] == made_up()[1]
    assert probabilities.shape == (120, 4) and probabilities.dtype == np.float32
    from sklearn.metrics import f1_score

    predicted = probabilities.argmax(1)
    assert config["results"]["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-12)
    for fold in range(3):
        expected = f1_score(labels[folds == fold], predicted[folds == fold], average="macro")
        assert config["results"]["fold_macro_f1"][fold] == pytest.approx(expected, abs=1e-12)
    assert config["results"]["macro_f1"] > 0.5  # the classes can be told apart, and were
    history = np.loadtxt(folder / "history.csv", delimiter=",", skiprows=1)
    assert [tuple(row[:2]) for row in history] == [(epoch, fold) for epoch in range(1, 5) for fold in range(3)]
    assert history[-1, 2] < history[0, 2]
    assert all(value.shape[0] == 3 for value in load_file(folder / "heads.safetensors").values())
    for name, checksum in config["contents"].items():
        assert store.sha256(folder / name) == checksum
    assert set(config["contents"]) | {"config.json", "README.md"} == {path.name for path in folder.iterdir()}


def test_learned_layer_weights_are_printed_and_kept(tmp_path, planted):
    for fusion in ("conv", "mix"):
        said = trained(planted, tmp_path / fusion, "--layers", "2", "1", "--fusion", fusion).err
        folder = tmp_path / fusion / runs(tmp_path / fusion)[0]
        state = load_file(folder / "heads.safetensors")
        if fusion == "conv":
            weights = state["fuse.weight"][:, 0, :, 0].mean(0)
        else:
            weights = (np.exp(state["weights"]) / np.exp(state["weights"]).sum(1, keepdims=True)).mean(0)
            assert weights.sum() == pytest.approx(1)
        kept = json.loads((folder / "config.json").read_text())["results"]["layer_weights"]
        np.testing.assert_allclose(kept, weights, rtol=1e-5)
        assert f"layer 2 (cls) {weights[0]:+.3f}, layer 1 (cls) {weights[1]:+.3f}" in said
    assert "weights:" not in trained(planted, tmp_path / "one", "--layers", "2").err


def contents(results):
    """Every file of every run: {name: bytes}, config.json without what says when and how it was made."""
    found = {}
    for path in sorted(results.glob("*/*")):
        found[path.relative_to(results).as_posix()] = path.read_bytes()
        if path.name == "config.json":
            config = json.loads(path.read_text())
            del config["made"], config["checksum"]
            found[path.relative_to(results).as_posix()] = config
        if path.name == "README.md":
            found[path.relative_to(results).as_posix()] = re.sub(r"Made with `.*?`", "", path.read_text())
    return found


def test_same_seed_same_bytes_other_seed_other_heads(tmp_path, planted):
    for results, seed in (("a", 1), ("b", 1), ("c", 2)):
        trained(planted, tmp_path / results, "--layers", "2", "1", "--standardize", "--seed", seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and len(contents(tmp_path / "a")) == 8
    arrays = [np.load(next((tmp_path / results).glob("*/probabilities.npy"))) for results in "ac"]
    assert abs(arrays[0] - arrays[1]).max() > 1e-4


@pytest.mark.parametrize(
    "options, words",
    [
        (["--layers", "9"], ["9", "2 layers"]),
        (["--layers", "one"], ["--layers one"]),
        (["--layers", "2", "2"], ["twice"]),
        (["--layers", "0"], ["--layers 0", "--pooling mean"]),
        (["--device", "gpu"], ["--device gpu"]),
    ],
)
def test_refusals(tmp_path, planted, options, words):
    refused(call("train", "--features", planted, "--results", tmp_path / "results", *options), *words)
    assert not list(tmp_path.glob("results/*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA, so asking for it is right")
def test_cuda_where_there_is_none_is_refused(tmp_path, planted):
    refused(call("train", "--features", planted, "--results", tmp_path / "results", "--device", "cuda"), "--device cpu")


@pytest.mark.parametrize(
    "options",
    [
        ("--folds", "1"),
        ("--epochs", "0"),
        ("--lr", "0"),
        ("--lr", "-1"),
        ("--lr", "nan"),
        ("--batch-size", "0"),
        ("--hidden", "0"),
        ("--seed", "-1"),
        ("--fusion", "sum"),
        ("--layers", "2", "--each"),
    ],
)
def test_meaningless_options_are_refused_before_anything_is_read(tmp_path, options, capsys):
    with pytest.raises(SystemExit) as stop:
        train.parse_arguments(["--features", str(tmp_path / "nowhere"), *options])
    assert stop.value.code == 2
    assert f"argument {options[-1] if '--each' in options else options[0]}" in capsys.readouterr().err.splitlines()[-1]


def test_layers_that_are_not_extracted_are_refused_with_the_command_that_adds_them(tmp_path):
    features = write_features(tmp_path / "features", *made_up(layers=(1, 3)), depth=4)
    line = refused(call("train", "--features", features, "--results", tmp_path / "results", "--layers", "3", "2", "4"))
    assert "extract.py --layers 4 2" in line
    refused(call("train", "--features", features, "--results", tmp_path / "results"), "extract.py --layers 4")


def test_pooling_that_is_not_extracted_is_refused_with_the_command_that_adds_it(tmp_path):
    features = write_features(tmp_path / "features", *made_up())
    refused(
        call("train", "--features", features, "--results", tmp_path / "results", "--pooling", "mean"),
        "extract.py --pooling mean",
    )


def test_no_features(tmp_path):
    refused(call("train", "--features", tmp_path / "none", "--results", tmp_path / "results"), "python extract.py")


def test_category_with_fewer_titles_than_folds_is_refused_by_name(tmp_path):
    arrays, names = made_up(rows=40)
    names[0:4] = ["rare"] * 4
    features = write_features(tmp_path / "features", arrays, names)
    refused(call("train", "--features", features, "--results", tmp_path / "results"), "'rare'", "--folds 5")


def test_copies_of_a_title_stand_on_one_side_unless_random(tmp_path):
    titles = [f"{'Copy ' if i % 2 else 'copy'}{i // 8}{'!' * (i % 2)}" for i in range(160)]
    arrays, names = made_up(rows=160, classes=("a", "b"))
    names = ["a" if (i // 8) % 2 else "b" for i in range(160)]
    features = write_features(tmp_path / "features", arrays, names, titles=titles)
    torn = {}
    for split in ("grouped", "random"):
        trained(features, tmp_path / split, "--layers", "2", "--split", split, epochs=1)
        folds = np.load(next((tmp_path / split).glob("*/folds.npy")))
        torn[split] = sum(len(set(folds[start : start + 8])) > 1 for start in range(0, 160, 8))
        assert sorted(np.bincount(folds)) == [32] * 5
    assert torn["grouped"] == 0 and torn["random"] > 10


def test_exploding_loss_is_one_line_and_leaves_no_run(tmp_path):
    arrays, names = made_up()
    features = write_features(tmp_path / "features", {key: 1e12 * value for key, value in arrays.items()}, names)
    result = call(
        "train",
        "--features",
        features,
        "--results",
        tmp_path / "results",
        "--layers",
        "2",
        "--lr",
        "1e9",
        "--epochs",
        "20",
        "--quiet",
    )
    refused(result, "smaller --lr", "--standardize")
    assert runs(tmp_path / "results") == []


def test_collapsed_heads_are_said_in_words_with_a_remedy_that_works(tmp_path):
    arrays, names = made_up(layers=(2,))
    features = write_features(tmp_path / "features", {key: 50 + 1e-4 * value for key, value in arrays.items()}, names)
    said = trained(features, tmp_path / "results", "--layers", "2", epochs=4).err
    assert "predicts one class only in 5 of 5 folds; try --standardize" in said
    said = trained(features, tmp_path / "results", "--layers", "2", "--standardize", "--batch-size", "8", epochs=4).err
    assert "predicts one class only" not in said
    scores = sorted(
        json.loads(p.read_text())["results"]["macro_f1"] for p in (tmp_path / "results").glob("*/config.json")
    )
    assert scores[0] < 0.2 and scores[1] > 0.5


def test_second_identical_training_changes_nothing(tmp_path, planted):
    trained(planted, tmp_path / "results", "--layers", "2")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("*/*")}
    said = trained(planted, tmp_path / "results", "--layers", "2").err
    assert "trained already" in said and "0 of 1" in said
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("*/*")} and before


def test_run_of_the_same_name_on_other_features_is_refused(tmp_path, planted):
    trained(planted, tmp_path / "results", "--layers", "2")
    other = write_features(tmp_path / "other", *made_up(seed=1))
    refused(
        call("train", "--features", other, "--results", tmp_path / "results", "--layers", "2", "--epochs", "3"),
        "another --results",
        "differ",
    )


def test_interrupted_while_writing_leaves_no_run(tmp_path, planted, monkeypatch):
    real = os.rename

    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    assert (
        call("train", "--features", planted, "--results", tmp_path / "results", "--layers", "2", "--epochs", "1").code
        == 130
    )
    assert runs(tmp_path / "results") == [] and not list((tmp_path / "results").glob(".unfinished-*"))
    monkeypatch.setattr(os, "rename", real)
    trained(planted, tmp_path / "results", "--layers", "2", epochs=1)
    assert len(runs(tmp_path / "results")) == 1


def test_killed_training_leaves_no_run_and_the_next_one_clears_up(tmp_path, planted):
    results = tmp_path / "results"
    command = [
        sys.executable,
        ROOT / "train.py",
        "--features",
        planted,
        "--results",
        results,
        "--layers",
        "2",
        "--epochs",
        "1000000",
    ]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    try:
        limit = time.time() + 60
        while not (results / ".lock").exists() and process.poll() is None and time.time() < limit:
            time.sleep(0.05)
        assert process.poll() is None and (results / ".lock").exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert runs(results) == []
    half = results / ".unfinished-some-run"  # as a kill in the midst of writing leaves it
    half.mkdir()
    (half / "probabilities.npy").write_bytes(b"half")
    trained(planted, results, "--layers", "2", epochs=1)
    assert len(runs(results)) == 1 and not half.exists()


def test_names_of_runs_tell_options_apart(tmp_path, planted):
    """No two different trainings share a folder."""
    options = [
        [],
        ["--standardize"],
        ["--fusion", "mix"],
        ["--fusion", "concat"],
        ["--reduction", "none"],
        ["--hidden", "8"],
        ["--folds", "4"],
        ["--split", "random"],
        ["--batch-size", "32"],
        ["--lr", "0.002"],
        ["--seed", "3"],
        ["--pooling", "mean"],
        ["--pooling", "cls", "mean"],
    ]
    names = set()
    for extra in options:
        trained(planted, tmp_path / "results", "--layers", "2", "1", *extra, epochs=1)
        new = set(runs(tmp_path / "results")) - names
        assert len(new) == 1, extra
        names |= new
