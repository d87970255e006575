"""Training: the head is the report's, all heads at once equal one after the other, no head sees its held-out titles."""

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
from filelock import FileLock
from safetensors.numpy import load_file
from torch.nn.functional import cross_entropy

import cli
import model
import probe
import runs
import splits
import store
import train

CLASSES = ("art", "food", "history", "travel")


def write_features(folder, arrays, names, depth=2, titles=None, encoder="some/encoder", data="titles.csv"):
    """A features folder with the given arrays, {(pooling, layer): (titles, hidden) float32}, and labels."""
    folder.mkdir(parents=True)
    titles = titles or [f"title number {i}" for i in range(len(names))]
    lines = [f"{title},{name}\n" for title, name in zip(titles, names, strict=True)]
    (folder / "titles.csv").write_text("title,label\n" + "".join(lines), encoding="utf-8")
    files = {}
    for column, array in arrays.items():
        path = folder / store.feature_file(*column)
        np.save(path, array.astype(np.float32))
        files[path.name] = {"bytes": path.stat().st_size, "sha256": store.sha256(path)}
    hidden = next(iter(arrays.values())).shape[1]
    manifest = {
        "format": store.FORMAT,
        "encoder": {
            "name": encoder,
            "revision": None,
            "kind": "bert",
            "layers": depth,
            "hidden": hidden,
            "weights": "w",
            "tokenizer": "t",
        },
        "data": {
            "name": data,
            "sha256": "s",
            "text_column": "title",
            "label_column": "category",
            "rows": len(names),
            "titles": store.sha256(folder / "titles.csv"),
            "classes": {n: names.count(n) for n in sorted(set(names))},
        },
        "settings": {"max_length": 128, "dtype": "float32", "store": "float32"},
        "truncated": 0,
        "files": files,
    }
    store.write_json(folder / "manifest.json", manifest)
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


def train_on(features, results, *options):
    """Call train.py on a features folder; what takes long is small, unless `options` say otherwise."""
    small = ["--folds", 3, "--repeats", 2]
    small += [] if "linear" in options else ["--epochs", 2, "--hidden", 16]
    return call("train", "--features", features, "--results", results, *small, *options)


def trained(features, results, *options):
    """Train on a features folder; returns what the script said, after asserting that it worked."""
    result = train_on(features, results, *options)
    assert result.code == 0 and result.out == "", result.err
    return result.err


def folders(results):
    """The runs in a folder of results, by name."""
    return sorted(path for path in results.iterdir() if not path.name.startswith("."))


def settings(results):
    """The configurations of the runs in a folder of results, by name of the run."""
    return [json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in folders(results)]


def config_of(rows=90, layers=2, hidden=16, classes=3, size=None, **options):
    """Random inputs for train.train_heads: (x, labels, folds, config, training)."""
    random = np.random.default_rng(5)
    labels = random.permutation(np.arange(rows) % classes)
    small = {"hidden": 20, "epochs": 3, "batch_size": 16, "repeats": 2, "folds": 3}
    options = {**cli.OPTIONS, **small, **options}
    x = torch.from_numpy(random.normal(size=(rows, layers, hidden)).astype(np.float32) * 3 + 1)
    config = {
        "columns": [("cls", n) for n in range(layers)],
        "classes": list(range(classes)),
        "encoder": {"hidden": hidden},
        "options": options,
    }
    folds = splits.repeat_folds(labels, np.arange(rows), options)
    drawn = splits.draw_titles(labels, np.arange(rows), folds, options["seed"], size)
    return x, labels, folds, config, [titles for titles, _ in drawn]


def plain_loop(x, labels, folds, config, training):
    """The same training, one head after the other: ordinary modules and optimizers on the same batches.

    Returns (heads, probabilities of (repeats, titles, classes)).
    """
    options, heads, target = config["options"], train.new_heads(config), torch.as_tensor(labels)
    probabilities = torch.zeros(*folds.shape, len(config["classes"]))
    for number, (head, rows) in enumerate(zip(heads, training, strict=True)):
        if options["standardize"]:
            head.mean.copy_(x[rows].mean(0))
            head.deviation.copy_(x[rows].std(0, correction=0))
        optimizer = torch.optim.Adam(head.parameters(), lr=options["lr"])
        for epoch in range(1, options["epochs"] + 1):
            for batch, counts in zip(*train.epoch_batches(training, options, epoch), strict=True):
                titles = batch[number][: counts[number]]
                optimizer.zero_grad()
                cross_entropy(head(x[titles]), target[titles]).backward()
                optimizer.step()
        repeat, fold = divmod(number, options["folds"])
        held = torch.from_numpy(folds[repeat] == fold)
        with torch.no_grad():
            probabilities[repeat, held] = head(x[held]).softmax(1)
    return heads, probabilities.numpy()


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


# --- all heads in one loop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layers, options",
    [
        (1, {}),
        (3, {"standardize": True}),
        (2, {"standardize": True, "fusion": "mix", "size": 8}),
        (2, {"fusion": "concat", "reduction": "none"}),
        (1, {"folds": 4, "repeats": 1, "batch_size": 7, "seed": 9}),
        (2, {"batch_size": 1000}),
    ],
)
def test_training_all_heads_at_once_equals_one_after_the_other(layers, options):
    inputs = config_of(layers=layers, **options)
    config = inputs[3]
    state, history, probabilities = train.train_heads(*inputs)
    heads, expected = plain_loop(*inputs)
    assert len(heads) == config["options"]["folds"] * config["options"]["repeats"]
    for number, head in enumerate(heads):
        assert set(state) == set(head.state_dict())
        for name, value in head.state_dict().items():
            torch.testing.assert_close(state[name][number], value, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    assert len(history) == len(heads) * config["options"]["epochs"]
    fresh = train.new_heads(config)
    assert not torch.allclose(fresh[0].mlp[0].weight, state["mlp.0.weight"][0], atol=1e-3)  # they did learn


def test_first_weights_depend_on_seed_repeat_and_fold_alone():
    def first(**options):
        config = config_of(**options)[3]
        heads = [head.mlp[0].weight for head in train.new_heads(config)]
        return dict(zip(np.ndindex(config["options"]["repeats"], config["options"]["folds"]), heads, strict=True))

    many, few, other = first(folds=5, repeats=3), first(folds=3, repeats=2, epochs=9), first(seed=1)
    assert all(torch.equal(many[place], weight) for place, weight in few.items())
    assert len({weight.detach().numpy().tobytes() for weight in (*many.values(), *other.values())}) == 21


def test_making_heads_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train.new_heads(config_of()[3])
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("rows, folds, size", [(90, 5, 16), (91, 2, 64), (17, 4, 1), (33, 3, 1000), (128, 2, 64)])
def test_an_epoch_shows_each_training_title_once(rows, folds, size):
    training = config_of(rows=rows, folds=folds, classes=2)[4]
    options = {"folds": folds, "batch_size": size, "seed": 3}
    numbers, counts = train.epoch_batches(training, options, 1)
    assert numbers.shape[:2] == counts.shape and numbers.shape[1] == 2 * folds
    assert counts.min() >= 1 and np.ptp(counts, 0).max() <= 1
    assert numbers.shape[2] == counts.max() <= max(size, 2)  # single titles: a fold may have one more
    for head, titles in enumerate(training):
        shown = [batch[:count] for batch, count in zip(numbers[:, head], counts[:, head], strict=True)]
        assert sorted(np.concatenate(shown)) == titles.tolist()
    assert not np.array_equal(numbers, train.epoch_batches(training, options, 2)[0])
    assert not np.array_equal(numbers, train.epoch_batches(training, {**options, "seed": 4}, 1)[0])


@pytest.mark.parametrize("shift, scale", [(0, 1), (10, 1e-3)])  # the second: digits are easily lost
def test_standardization_is_measured_on_the_training_titles_alone(shift, scale):
    x, _, folds, _, training = config_of(rows=60)
    x = shift + scale * (x + 100 * torch.from_numpy(folds[0] == 1)[:, None, None])  # fold 1 is far away
    learn = torch.tensor(np.stack([np.isin(np.arange(60), rows) for rows in training]))
    mean, deviation = (value.view(6, 2, 16) for value in probe.standardization(x.flatten(1), learn))
    for head, titles in enumerate(training):
        kept = x.double().numpy()[titles]
        np.testing.assert_allclose(mean[head], kept.mean(0), rtol=1e-5)
        np.testing.assert_allclose(deviation[head], kept.std(0), rtol=1e-4)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1234.567])
def test_constant_dimension_stays_finite(constant):
    inputs = config_of(standardize=True)
    inputs[0][:, 0, 3] = constant
    state, _, probabilities = train.train_heads(*inputs)
    assert np.isfinite(probabilities).all()
    assert (state["deviation"][:, 0, 3] == 1).all()
    np.testing.assert_allclose(state["mean"][:, 0, 3], constant, rtol=1e-6)


def test_probabilities_come_from_the_head_that_has_not_seen_the_title():
    x, labels, folds, config, training = config_of(standardize=True)
    state, _, probabilities = train.train_heads(x, labels, folds, config, training)
    np.testing.assert_allclose(probabilities.sum(2), 1, rtol=1e-5)
    for repeat, row in np.ndindex(*folds.shape):
        own = {name: value[repeat * 3 + folds[repeat, row]] for name, value in state.items()}
        logits = head_by_hand(own, x[row : row + 1], "conv", "conv", True)[0]
        expected = np.exp(logits - logits.max())
        np.testing.assert_allclose(probabilities[repeat, row], expected / expected.sum(), atol=1e-5)


def test_held_out_titles_are_never_learned():
    """Change features and labels of one fold: its own head's weights must stay what they were."""
    x, labels, folds, config, training = config_of(standardize=True, repeats=1)
    held = folds[0] == 2
    other, wrong = x.clone(), np.where(held, (labels + 1) % 3, labels)
    other[held] = 50 - other[held]
    before, after = (train.train_heads(*pair, folds, config, training)[0] for pair in ((x, labels), (other, wrong)))
    for name, value in before.items():
        torch.testing.assert_close(value[2], after[name][2], rtol=1e-3, atol=1e-5)
    assert abs(before["mlp.0.weight"][0] - after["mlp.0.weight"][0]).max() > 1e-3


def test_blocks_of_titles_change_no_probability():
    x, _, folds, config, _ = config_of()
    heads = train.new_heads(config)
    state, _ = torch.func.stack_module_state(heads)
    whole, parts = (model.held_out_probabilities(heads[0], state, x, folds, block) for block in (1 << 21, 500))
    np.testing.assert_allclose(whole, parts, atol=1e-6)


# --- the script ---------------------------------------------------------------------------------------------------


def test_default_is_the_reports_six_sets_of_which_those_not_extracted_are_left_out(tmp_path):
    whole = write_features(tmp_path / "whole", *made_up(rows=40, layers=range(9, 13)), depth=12)
    said = trained(whole, tmp_path / "a", "--epochs", 1)
    found = sorted([layer for _, layer in config["columns"]] for config in settings(tmp_path / "a"))
    assert found == [[9], [10], [11], [12], [12, 11], [12, 11, 10, 9]]
    assert "6 of 6 runs" in said and "left out" not in said
    part = write_features(tmp_path / "part", *made_up(rows=40, layers=(9, 12)), depth=12)
    said = trained(part, tmp_path / "b", "--epochs", 1)
    assert sorted(config["columns"] for config in settings(tmp_path / "b")) == [[["cls", 9]], [["cls", 12]]]
    assert "since not extracted with cls: 11; 10; 12, 11; 12, 11, 10, 9" in said
    none = write_features(tmp_path / "none", *made_up(rows=40, layers=(3,)), depth=12)
    said = trained(none, tmp_path / "c", "--epochs", 1)
    assert "none of them is left" in said and settings(tmp_path / "c")[0]["columns"] == [["cls", 3]]


def test_each_layer_alone_and_pooling_is_cls_where_there_is(tmp_path):
    features = write_features(tmp_path / "features", *made_up(layers=(1, 3, 4), poolings=("mean", "cls")), depth=6)
    for name, options in (("all", []), ("two", ["--layers", "4", "1"])):
        trained(features, tmp_path / name, "--each", "--head", "linear", *options)
    assert sorted(c["columns"][0] for c in settings(tmp_path / "all")) == [["cls", 1], ["cls", 3], ["cls", 4]]
    assert sorted(c["columns"] for c in settings(tmp_path / "two")) == [[["cls", 1]], [["cls", 4]]]
    mean = write_features(tmp_path / "mean", *made_up(poolings=("mean",)))
    trained(mean, tmp_path / "results", "--layers", "-1", "--head", "linear")
    assert settings(tmp_path / "results")[0]["columns"] == [["mean", 2]]


def test_what_a_run_keeps(tmp_path, planted, monkeypatch):
    from sklearn.metrics import f1_score

    monkeypatch.chdir(tmp_path)
    trained("features", "results", "--layers", "2", "1", "--batch-size", "8", "--epochs", "9", "--hidden", "64")
    (folder,), (config,) = folders(tmp_path / "results"), settings(tmp_path / "results")
    labels, folds, probabilities = (np.load(folder / f"{name}.npy") for name in ("labels", "folds", "probabilities"))
    assert config["classes"] == sorted(CLASSES) and config["columns"] == [["cls", 2], ["cls", 1]]
    assert config["made"]["features"] == str(planted.resolve())  # wherever the next command is typed
    assert [config["classes"][label] for label in labels] == made_up()[1]
    assert probabilities.shape == (2, 120, 4) and probabilities.dtype == np.float32
    for repeat, predicted in enumerate(probabilities.argmax(2)):
        whole = f1_score(labels, predicted, average="macro")
        assert config["results"]["repeat_macro_f1"][repeat] == pytest.approx(whole, abs=1e-12)
        assert whole > 0.5  # the classes can be told apart, and were
    lines = (folder / "history.csv").read_text().split()
    assert lines[0] == "repeat,fold,epoch,loss,macro_f1"
    history = [[float(cell) for cell in line.split(",")] for line in lines[1:]]
    assert sorted(row[:3] for row in history) == [[r, f, e] for r in range(2) for f in range(3) for e in range(1, 10)]
    for repeat, fold, epoch, loss, score in history:
        assert loss > 0
        if epoch == 9:
            assert score == pytest.approx(config["results"]["fold_macro_f1"][int(repeat)][int(fold)])
    assert all(len(value) == 6 for value in load_file(folder / "heads.safetensors").values())
    assert all(store.sha256(folder / name) == checksum for name, checksum in config["contents"].items())
    assert set(config["contents"]) | {"config.json", "README.md"} == {path.name for path in folder.iterdir()}
    card = (folder / "README.md").read_text()
    for text in ("pipeline_tag: text-classification", folder.name, "some/encoder", *CLASSES):
        assert text in card
    assert f"{config['results']['macro_f1']:.4f}" in card and "predict.py --run" in card


def test_learned_layer_weights_are_printed_and_kept(tmp_path, planted):
    said = trained(planted, tmp_path / "results", "--layers", "2", "1", "--fusion", "mix")
    state = load_file(folders(tmp_path / "results")[0] / "heads.safetensors")
    weights = (np.exp(state["weights"]) / np.exp(state["weights"]).sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(settings(tmp_path / "results")[0]["results"]["layer_weights"], weights, rtol=1e-5)
    assert f"layer 2 (cls) {weights[0]:+.3f}, layer 1 (cls) {weights[1]:+.3f}" in said


def contents(results):
    """Every file of every run: {name: content}, without what says when, where and how it was made."""
    found = {}
    for path in sorted(results.glob("*/*")):
        found[path.name] = path.read_bytes()
        if path.name == "config.json":
            found[path.name] = json.loads(path.read_text())
            for part in ("made", "checksum", "software", "machine"):
                del found[path.name][part]
        if path.name == "README.md":
            found[path.name] = re.sub(r"Made with `.*?`", "", path.read_text())
    return found


@pytest.mark.parametrize("head", [["--standardize"], ["--head", "linear"], ["--head", "linear", "--labels", "4"]])
def test_same_command_same_bytes_other_seed_other_heads(tmp_path, planted, head):
    for results, seed in (("a", 1), ("b", 1), ("c", 2)):
        trained(planted, tmp_path / results, "--layers", "2", "1", "--seed", seed, *head)
    one, two, other = (contents(tmp_path / results) for results in "abc")
    assert one == two and len(one) == 8 - ("linear" in head)
    assert one["heads.safetensors"] != other["heads.safetensors"] and one["folds.npy"] != other["folds.npy"]


def test_a_run_for_each_number_of_labels(tmp_path, planted):
    said = trained(planted, tmp_path / "results", "--layers", "2", "--head", "linear", "--labels", "all", "4", "500")
    assert sorted(str(config["options"]["labels"]) for config in settings(tmp_path / "results")) == ["4", "None"]
    assert "left out: --labels 500" in said and "2 of 2 runs" in said


@pytest.mark.parametrize(
    "options, words",
    [
        (["--layers", "9"], ["9", "2 layers"]),
        (["--layers", "2", "2"], ["twice"]),
        (["--layers", "0"], ["--layers 0", "--pooling mean"]),
        (["--device", "gpu"], ["--device gpu"]),
        (["--head", "linear", "--lr", "0.1"], ["--lr", "--head mlp"]),
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
    ["--folds 1", "--repeats 0", "--epochs 0", "--lr 0", "--lr nan", "--batch-size 0", "--hidden 0", "--seed -1"]
    + ["--labels 0", "--fusion sum", "--head tree"],
)
def test_meaningless_options_are_refused_before_anything_is_read(tmp_path, options, capsys):
    with pytest.raises(SystemExit) as stop:
        train.parse_arguments(["--features", str(tmp_path / "nowhere"), *options.split()])
    assert stop.value.code == 2
    assert f"argument {options.split()[0]}" in capsys.readouterr().err.splitlines()[-1]


def test_what_is_not_extracted_is_refused_with_the_command_that_adds_it(tmp_path):
    features = write_features(tmp_path / "features", *made_up(layers=(1, 3)), depth=4)
    for options, words in (
        (["--layers", "3", "2", "4"], "extract.py --layers 4 2"),
        (["--pooling", "mean"], "extract.py --pooling mean"),
    ):
        refused(train_on(features, tmp_path / "results", *options), words)
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
    features = write_features(tmp_path / "features", {key: 1e12 * value for key, value in arrays.items()}, names)
    options = ["--layers", "2", "--lr", "1e9", "--epochs", "20", "--quiet"]
    refused(train_on(features, tmp_path / "results", *options), "smaller --lr", "--standardize")
    assert folders(tmp_path / "results") == []


def test_collapsed_heads_are_said_in_words_with_a_remedy_that_works(tmp_path):
    arrays, names = made_up(layers=(2,))
    features = write_features(tmp_path / "features", {key: 50 + 1e-4 * value for key, value in arrays.items()}, names)
    options = ["--layers", "2", "--epochs", "6", "--batch-size", "8", "--hidden", "64"]
    assert "predicts one class only in 6 of 6 heads; try --standardize" in trained(features, tmp_path / "a", *options)
    assert "predicts one class only" not in trained(features, tmp_path / "b", *options, "--standardize")
    (bad,), (good,) = (settings(tmp_path / results) for results in "ab")
    assert bad["results"]["macro_f1"] < 0.2 and good["results"]["macro_f1"] > 0.5
    assert bad["results"]["collapsed"] == [[r, f] for r in range(2) for f in range(3)]


def test_run_that_is_there_is_kept_and_one_on_other_features_is_refused(tmp_path, planted):
    trained(planted, tmp_path / "results", "--layers", "2")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "results").glob("*/*")}
    said = trained(planted, tmp_path / "results", "--layers", "2")
    assert "trained already" in said and "0 of 1" in said
    other = write_features(tmp_path / "other", *made_up(seed=1))
    refused(train_on(other, tmp_path / "results", "--layers", "2"), "another --results", "files differ")
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} and before


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


# --- names of runs ------------------------------------------------------------------------------------------------


def named(columns=(("cls", 2), ("cls", 1)), encoder="some/encoder", data="titles.csv", **options):
    """The name of a run's folder with these options."""
    return runs.name_of(
        {
            "columns": columns,
            "encoder": {"name": encoder},
            "data": {"name": data},
            "options": {**cli.OPTIONS, **options},
        }
    )


def test_names_of_runs_show_every_option_that_is_not_the_default():
    assert named() == "encoder-titles.csv-layers-2-1"
    other = {"head": "linear", "standardize": True, "fusion": "mix", "reduction": "none", "hidden": 8, "labels": 16}
    other |= {"folds": 4, "repeats": 9, "split": "random", "epochs": 7, "batch_size": 32, "lr": 0.002, "seed": 3}
    assert set(other) == set(cli.OPTIONS)
    for option, value in other.items():
        shown = option if value is True else str(value)
        assert shown in named(**{option: value}).removeprefix(named()), option
    names = [named(), named([("mean", 2), ("mean", 1)]), named([("cls", 2), ("mean", 2)]), named([("cls", 2)])]
    assert len({*names, *(named(**{option: value}) for option, value in other.items())}) == 4 + len(other)


@pytest.mark.parametrize("name", ["n" * 70, "題" * 70, "/".join("ab") + "é" * 200, "a b/c\\d:e*?\n"])
def test_names_of_runs_fit_every_disk(name):
    columns = [("cls", layer) for layer in range(48, 0, -1)]
    one, other = (named(columns, name, name, seed=seed, standardize=True) for seed in (12345, 12346))
    assert one != other and len(one.encode()) <= 200 and not set("/\\:*?\n ") & set(one)
