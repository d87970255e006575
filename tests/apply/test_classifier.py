"""Runs that predict: alone or averaged, on one encoder, on several or on words, in several threads at once."""

import contextlib
import csv
import io
import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, call, refused, write_bert
from test_predict import TITLES, by_hand, changed, read, with_offsets

import model
import predict
from whichlayer.common import cli
from whichlayer.heads import runs, words

NEW = [
    *TITLES,
    "cheap flights to rome",
    "piano cover of a love song",
    "street food",
    "x",
    "history of the ancient king",
]


@pytest.fixture(scope="module")
def other(kept, tmp_path_factory):
    """A run of a probe on layer 2 of an encoder of its own, on the same titles and folds: run and encoder."""
    folder = tmp_path_factory.mktemp("other")
    encoder = write_bert(folder / "encoder", layers=3, hidden=16, seed=7)
    options = ["--pooling", "mean", "--dtype", "float32", "--out", folder / "features"]
    assert call("extract", "--data", kept.titles, "--model", encoder, *options).code == 0
    options = ["--layers", 2, "--head", "linear", "--repeats", 1, "--results", folder / "r"]
    assert call("train", "--features", folder / "features", *options).code == 0
    (run,) = folder.glob("r/[!.]*")
    return SimpleNamespace(run=run, encoder=encoder, features=folder / "features")


def probabilities(folders, titles=NEW, **options):
    """What predict.table says of titles, (titles, classes)."""
    frame = predict.table(predict.load(folders, **options), titles)
    return frame.filter(like="probability of ").to_numpy()


# --- the average --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [("linear", "top"), ("linear", "mlp", "top"), ("linear", "other"), ("words", "linear"), ("other", "words", "mlp")],
)
def test_several_runs_give_the_mean_of_what_each_gives(kept, other, names):
    folders = [other.run if name == "other" else getattr(kept, name) for name in names]
    each = [probabilities(folder) for folder in folders]
    together = probabilities(folders)
    assert np.abs(together - np.mean(each, axis=0)).max() < 1e-12
    assert all(np.abs(together - one).max() > 1e-3 for one in each)
    np.testing.assert_array_equal(probabilities(folders[::-1]).argmax(1), together.argmax(1))


def test_the_average_of_training_titles_is_that_of_the_cached_features(kept, other):
    """By hand: each run's heads one after the other, on its own features, sharpened by its own temperature."""
    hot = [(kept.mlp, kept.features), (kept.top, kept.features), (other.run, other.features)]
    wanted = np.mean([by_hand(run, features, 90)[0] for run, features in hot], axis=0)
    titles = [title for title, _ in read(kept.titles)[1:]]
    assert np.abs(probabilities([run for run, _ in hot], titles) - wanted).max() < 1e-5


def test_each_encoder_is_loaded_once_and_runs_once_no_deeper_than_needed(kept, other, loaded):
    for folders, depths in (
        ([kept.linear], [1]),
        ([kept.linear, kept.mlp, kept.top, kept.words], [2]),
        ([kept.linear, other.run], [1, 2]),
        ([kept.words], []),
    ):
        loaded.clear()
        classifier = predict.load(folders)
        assert len(loaded) == len(depths)
        calls = [[] for _ in loaded]
        for encoder, own in zip(loaded, calls, strict=True):
            for number, block in enumerate(encoder.blocks, 1):
                block.register_forward_hook(lambda *_, own=own, number=number: own.append(number))
        predict.table(classifier, ["a title"])
        assert calls == [list(range(1, depth + 1)) for depth in depths]


def test_averages_answer_in_every_way_that_one_run_does(kept, other, tmp_path, monkeypatch):
    """As arguments, on standard input, from a file, with --top, in Python: the same categories and probabilities."""
    folders = [kept.linear, other.run, kept.words]
    frame = predict.table(predict.load(folders), NEW)

    def agree(names, values):
        # other titles in a batch may change the last digits
        return list(names) == frame.prediction.tolist() and np.allclose(
            list(map(float, values)), frame.probability, 0, 1e-5
        )

    ask = ["predict", "--run", *folders]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(NEW).encode())))
    items = [json.loads(line) for line in call(*ask, "--format", "jsonl").out.splitlines()]
    assert agree([item["prediction"] for item in items], [item["probability"] for item in items])
    with open(tmp_path / "in.csv", "w", newline="") as file:
        csv.writer(file).writerows([["title"], *([title] for title in NEW)])
    assert call(*ask, "--csv", tmp_path / "in.csv", "--out", tmp_path / "o.csv").code == 0
    rows = read(tmp_path / "o.csv")[1:]
    assert agree([row[1] for row in rows], [row[2] for row in rows])
    two = [line.split()[:4] for line in call(*ask, "--top", 2, *NEW).out.splitlines()]
    assert [line[0] for line in two] == frame.prediction.tolist() and all(line[2] != line[0] for line in two)


def test_the_average_names_the_category_that_its_runs_decide_for(kept, tmp_path):
    """Offsets belong to each run's own probabilities, which its temperature sharpens; the average has their mean."""
    offsets = np.zeros((1, 5, 3), np.float32)
    offsets[..., 2] = -12
    decided = with_offsets(kept.top, tmp_path / "decided", offsets)
    titles = [title for title, _ in read(kept.titles)[1:]]
    frame = predict.table(predict.load([decided, kept.linear]), titles)
    values = frame.filter(like="probability of ").to_numpy()
    own = offsets[0, 0] / runs.open_run(kept.top).figures.temperature / 2
    named = (np.log(values) - own).argmax(1)
    assert 3 < (named != values.argmax(1)).sum() < 87
    assert frame.prediction.tolist() == [["art", "food", "travel"][i] for i in named]
    np.testing.assert_allclose(frame.probability, values[np.arange(90), named])


# --- words --------------------------------------------------------------------------------------------------------


def test_words_predict_without_torch(kept):
    """A fresh process, with torch out of reach: as a script, and from Python."""
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); "
        "sys.modules['torch'] = sys.modules['transformers'] = sys.modules['sklearn'] = None; "
        f"sys.argv = ['predict.py', '--run', {str(kept.words)!r}, 'street food']; "
        "import predict; print(len(predict.table(predict.load(sys.argv[2]), ['street food']))); "
        f"runpy.run_path({str(ROOT / 'predict.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, line = done.stdout.splitlines()
    assert first == "1" and line + "\n" == call("predict", "--run", kept.words, "street food").out
    assert "1 title predicted" in done.stderr


def test_words_are_sharpened_by_the_temperature_of_their_run(kept):
    own = runs.open_run(kept.words)
    plain = words.probabilities(words.read(own), NEW)
    powers = plain ** (1 / own.figures.temperature)
    np.testing.assert_allclose(probabilities(kept.words), powers / powers.sum(1, keepdims=True), rtol=1e-9)


# --- what cannot be averaged ----------------------------------------------------------------------------------------


def test_runs_that_do_not_fit_together_are_refused(kept, other, tmp_path):
    ask = ["predict", "--run", kept.linear]
    swapped = changed(kept.top, tmp_path / "swapped", classes=["art", "food", "sport"])
    refused(call(*ask, swapped, "a title"), "swapped", "categories are not the same")
    refused(call(*ask, kept.majority, "a title"), "the majority class")
    refused(call(*ask, kept.linear, "a title"), "named twice")
    again = tmp_path / "link"
    again.symlink_to(kept.linear)
    refused(call(*ask, again, "a title"), "named twice")
    refused(call(*ask, tmp_path / "none", "a title"), "there is no such folder", "before --run")
    (tmp_path / "empty").mkdir()
    refused(call(*ask, tmp_path / "empty", "a title"), "empty", "no run is there")
    with pytest.raises(cli.Problem, match="named twice"):
        predict.load([kept.linear, kept.linear])


@pytest.mark.parametrize("name", ["linear", "words"])
def test_a_copy_of_a_run_counts_for_no_average(kept, tmp_path, name):
    run = getattr(kept, name)
    copy = shutil.copytree(run, tmp_path / "copy")
    refused(call("predict", "--run", run, copy, "a title"), "copy is a copy of it", "name one of them")
    refused(call("predict", "--run", copy, kept.top, run, "a title"), f"{run.name} is a copy of it")
    # trained anew in the same way, it holds the same
    again = changed(run, tmp_path / "again", made__at="2020-01-01T00:00:00Z")
    refused(call("predict", "--run", run, again, "a title"), "again is a copy of it")
    other = changed(run, tmp_path / "other", results__temperature=7.0)
    assert call("predict", "--run", run, other, "a title").code == 0


def test_titles_may_stand_behind_the_runs_and_behind_the_models(kept, bert, other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = call("predict", *NEW, "--run", kept.linear, other.run).out
    assert len(wanted.splitlines()) == len(NEW)
    assert call("predict", "--run", kept.linear, other.run, *NEW).out == wanted
    assert call("predict", "--run", kept.linear, other.run, "--", *NEW).out == wanted
    one, two = shutil.copytree(bert, "one"), shutil.copytree(other.encoder, "two")
    there = ["--run", kept.linear, other.run, "--model", one, two]
    assert call("predict", *there, *NEW).out == call("predict", *NEW, *there).out == wanted
    assert call("predict", "--model", one, two, "--run", kept.linear, other.run, *NEW).out == wanted
    refused(call("predict", "--run", kept.linear, "--model", one, two, "a"), "--model two", "need 1 encoder")
    refused(call("predict", *NEW, *there[:-1]), "--model names 1", "need 2 encoders")
    refused(call("predict", *NEW, *there[:3], "--model", two, one), "two: not the encoder")


@pytest.mark.parametrize("option", [["--dtype", "float32"], ["--device", "cpu"], ["--model", "minilm"]])
def test_options_of_an_encoder_are_refused_where_words_alone_predict(kept, tmp_path, option):
    wrong = f"{option[0]}: words need no encoder; leave out {option[0]}"
    refused(call("predict", "a title", "--run", kept.words, *option), wrong)
    for use in (["--out", tmp_path / "o.csv"], ["--label-column", "category"]):
        refused(call("predict", "--run", kept.words, "--csv", kept.titles, *use, *option), wrong)
    assert list(tmp_path.iterdir()) == []
    if "--model" not in option:
        assert call("predict", "a title", "--run", kept.words, kept.linear, *option).code == 0


# --- threads ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deep(kept, bert12, tmp_path_factory):
    """Runs on layer 3, on layer 6 and on all layers of an encoder with twelve: {name: folder}."""
    folder = tmp_path_factory.mktemp("deep")
    options = ["--pooling", "cls", "mean", "--dtype", "float32", "--out", folder / "features"]
    assert call("extract", "--data", kept.titles, "--model", bert12, *options).code == 0
    found = {}
    for name, layers in (("three", [3]), ("six", [6]), ("all", range(1, 13))):
        options = ["--head", "linear", "--repeats", 1, "--pooling", "mean", "--results", folder / name]
        assert call("train", "--features", folder / "features", *options, "--layers", *layers).code == 0
        (found[name],) = folder.glob(f"{name}/[!.]*")
    return found


@pytest.mark.parametrize("names", [("three",), ("six",), ("all",), ("three", "all"), ("three", "words")])
def test_threads_that_share_a_classifier_get_the_answers_of_one(kept, deep, names):
    """Titles of many lengths, one at a time and several at once."""
    folders = [kept.words if name == "words" else deep[name] for name in names]
    classifier = predict.load(folders)
    asked = []
    for number in range(36):
        many = 1 + number % 3
        asked.append([" ".join(NEW[(number + i) % len(NEW)].split()[: 1 + number % 7]) for i in range(many)])
    alone = [predict.table(classifier, titles) for titles in asked]
    start = threading.Barrier(4)

    def answer(thread):
        start.wait()
        return [(number, predict.table(classifier, asked[number])) for number in range(thread % 2, 36, 1 + thread // 2)]

    with ThreadPoolExecutor(4) as threads:
        answers = [each for found in threads.map(answer, range(4)) for each in found]
    assert len(answers) == 36 + 35 + 18 + 18
    for number, table in answers:
        assert table.prediction.tolist() == alone[number].prediction.tolist()
        for name in table.columns[2:]:
            np.testing.assert_allclose(table[name], alone[number][name], atol=1e-6)


def test_heads_are_applied_for_one_thread_at_a_time(kept, monkeypatch):
    """Their module holds the values of the heads while it is called: who comes in between has none, or wrong ones."""
    classifier = predict.load(kept.linear)
    alone = predict.table(classifier, NEW)
    busy, met = threading.Lock(), threading.Event()
    apply = model.mean_probabilities

    def noted(*arguments):
        if not busy.acquire(blocking=False):
            met.set()
            return apply(*arguments)
        with contextlib.closing(SimpleNamespace(close=busy.release)):
            # leaves others the time to come in, which they do at once if they can
            met.wait(0.3)
            return apply(*arguments)

    monkeypatch.setattr(model, "mean_probabilities", noted)
    with ThreadPoolExecutor(4) as threads:
        tables = list(threads.map(lambda _: predict.table(classifier, NEW), range(4)))
    assert not met.is_set()
    for table in tables:
        assert table.prediction.tolist() == alone.prediction.tolist()


# --- only what is likely enough -----------------------------------------------------------------------------------


def test_below_at_least_no_category_is_named_in_any_format(kept, tmp_path):
    frame = predict.table(predict.load(kept.linear), NEW)
    least = float(frame.probability.median())
    sure = (frame.probability >= least).tolist()
    assert 0 < sum(sure) < len(NEW)
    named = [name if each else None for name, each in zip(frame.prediction, sure, strict=True)]
    ask = ["predict", "--run", kept.linear, "--at-least", least]

    text = call(*ask, *NEW)
    lines = [line.split(maxsplit=2) for line in text.out.splitlines()]
    assert [line[0] for line in lines] == [name or "-" for name in named]
    assert [line[1] for line in lines] == [f"{value:.3f}" for value in frame.probability]  # is there, all the same
    assert f"{sure.count(False)} without an answer, as no category reaches a probability of {least:g}" in text.err
    assert "without an answer" not in call("predict", "--run", kept.linear, *NEW).err

    items = [json.loads(line) for line in call(*ask, "--format", "jsonl", *NEW).out.splitlines()]
    assert [item["prediction"] for item in items] == named
    assert [item["probability"] for item in items] == pytest.approx(frame.probability.tolist(), abs=1e-6)
    for options in ([], ["--top", 2]):
        rows = list(csv.DictReader(io.StringIO(call(*ask, "--format", "csv", *options, *NEW).out)))
        assert [row["prediction"] or None for row in rows] == named
        assert all(row["probability"] for row in rows)
    assert [row["prediction 2"] != "" for row in rows] == sure

    with open(tmp_path / "in.csv", "w", newline="") as file:
        csv.writer(file).writerows([["title"], *([title] for title in NEW)])
    done = call(*ask, "--csv", tmp_path / "in.csv", "--out", tmp_path / "o.csv")
    assert done.code == 0 and f"{sure.count(False)} without an answer" in done.err
    assert [row[1] or None for row in read(tmp_path / "o.csv")[1:]] == named


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "x"])
def test_at_least_is_a_probability(kept, value):
    done = call("predict", "--run", kept.linear, f"--at-least={value}", "a")
    assert done.code == 2 and "--at-least" in done.err
