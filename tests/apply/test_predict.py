"""Prediction: a kept run gives the categories of new titles, as its heads and its encoder would have it."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch
from conftest import ROOT, call, refused, write_bert
from safetensors.torch import load_file
from synthetic import write_offsets

import model
import predict
from whichlayer.common import cli, disk
from whichlayer.encoder import store
from whichlayer.heads import runs

TITLES = ["how to cook the best pasta", "ancient egypt: war of empire | 10 things", 'a, "quoted" title']
EVIL = "red \x1b[31m \x9b1m \x7f \u202egnp.exe"  # escape sequences, and letters turned around


@pytest.fixture(scope="module")
def classifier(kept):
    return predict.load(kept.linear)


def changed(run, folder, **changes):
    """A copy of a run with other values in its configuration, whose checksum is right.

    changes: part__key=value, or key=value; one that is None is left out.
    """
    copy = shutil.copytree(run, folder)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    del config["checksum"]
    for name, value in changes.items():
        *parts, key = name.split("__")
        place = config[parts[0]] if parts else config
        if value is None:
            del place[key]
        else:
            place[key] = value
    disk.write_json(copy / "config.json", config)
    return copy


def with_offsets(run, folder, offsets, **changes):
    """A changed copy of a run that decides with these offsets, (repeats, folds, classes) float32."""
    copy = changed(run, folder, **changes)
    write_offsets(copy, offsets)
    return copy


def read(path):
    return list(csv.reader(open(path, newline="", encoding="utf-8")))


def by_hand(run, features, rows):
    """Class probabilities of the first training titles from the cached features, one head after the other."""
    config = runs.open_run(run)
    state = load_file(run / "heads.safetensors")
    features = store.open_features(features)
    x = torch.tensor(np.stack([features.read(*column)[:rows] for column in config.columns], axis=1)).float()
    logs = []
    for number in range(config.options.folds * config.options.repeats):
        head = model.build(config.options, len(config.columns), config.encoder.hidden, len(config.classes))
        head.load_state_dict({name: value[number] for name, value in state.items()})
        logs.append(head(x).log_softmax(-1))
    mean = torch.stack(logs).mean(0).detach().double().numpy()
    powers = np.exp(mean / config.results.temperature)
    return powers / powers.sum(1, keepdims=True), config.classes


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_predictions_of_training_titles_agree_with_the_cached_features(kept, tmp_path, kind):
    own = getattr(kept, kind)
    hot = changed(own, tmp_path / "hot", results__temperature=3.0)
    files = ["--csv", kept.titles, "--out", tmp_path / "o.csv"]
    names = []
    for run in (own, hot):
        result = call("predict", "--run", run, *files)
        assert result.code == 0, result.err
        wanted, classes = by_hand(run, kept.features, 90)
        rows = read(tmp_path / "o.csv")
        assert rows[0] == ["title", "category", "prediction", "probability", *(f"probability of {c}" for c in classes)]
        got = np.array([[float(cell) for cell in row[4:]] for row in rows[1:]])
        assert np.abs(got - wanted).max() < 1e-4
        names.append([row[2] for row in rows[1:]])
        assert [row[:2] for row in rows] == read(kept.titles)
        assert "90 titles predicted" in result.err and result.out == ""
    assert names[0] == names[1] == [classes[i] for i in wanted.argmax(1)]  # no temperature changes what is predicted


def test_arguments_lines_and_formats_agree(kept, monkeypatch):
    text = call("predict", "--run", kept.mlp, *TITLES)
    assert text.code == 0, text.err
    lines = [line.split(maxsplit=2) for line in text.out.splitlines()]
    assert [line[2] for line in lines] == TITLES
    piped = "\ufeff" + "\r\n".join([*TITLES, "", "  ", "last"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped.encode())))
    as_json = call("predict", "--run", kept.mlp, "--format", "jsonl")
    items = [json.loads(line) for line in as_json.out.splitlines()]
    assert [item["title"].strip() for item in items] == [*TITLES, "", "", "last"]  # in step with what was read
    assert [(item["prediction"], item["probabilities"]) for item in items[3:5]] == [(None, {})] * 2
    assert [[i["prediction"], f"{i['probability']:.3f}", i["title"]] for i in items[:3]] == lines
    assert all(abs(sum(item["probabilities"].values()) - 1) < 1e-4 for item in items[:3])
    assert "6 titles predicted" in as_json.err and "2 without text" in as_json.err


def test_top_gives_the_likeliest_categories_in_every_format(kept, tmp_path):
    ask = ["predict", "--run", kept.mlp, "--top", 2]
    whole = json.loads(call("predict", "--run", kept.mlp, "--format", "jsonl", TITLES[0]).out)["probabilities"]
    best = sorted(whole.items(), key=lambda item: -item[1])[:2]
    item = json.loads(call(*ask, "--format", "jsonl", TITLES[0]).out)
    assert list(item["probabilities"].items()) == best and item["prediction"] == best[0][0]
    flat = [cell for name, value in best for cell in (name, f"{value:.6f}")]
    words = call(*ask, TITLES[0]).out.split()[:4]
    assert words == [cell for name, value in best for cell in (name, f"{value:.3f}")]
    (tmp_path / "in.csv").write_text(f'title\n"{TITLES[0]}"\n" "\n')
    assert call(*ask, "--csv", tmp_path / "in.csv", "--out", tmp_path / "o.csv").code == 0
    header, row, blank = read(tmp_path / "o.csv")
    assert header == ["title", "prediction", "probability", "prediction 2", "probability 2"]
    assert row == [TITLES[0], *flat] and blank == [" ", "", "", "", ""]


def test_labels_come_out_as_they_went_in_and_nothing_reaches_the_terminal(kept, tmp_path):
    labels = ["-1", "=x", EVIL]
    run = changed(kept.mlp, tmp_path / "run", classes=labels)
    outs = {}
    for kind in ("text", "jsonl"):
        result = call("predict", "--run", run, "--format", kind, "--top", 3, EVIL)
        assert result.code == 0, result.err
        assert all(c.isprintable() or c == "\n" for c in result.out), (kind, result.out)
        outs[kind] = result.out
    item = json.loads(outs["jsonl"])
    assert item["title"] == EVIL and set(item["probabilities"]) == set(labels)  # JSON loses nothing
    # nor does a spreadsheet run what is written
    assert call("predict", "--run", run, "--top", 3, "--csv", kept.titles, "--out", tmp_path / "o.csv").code == 0
    assert {"-1", "'=x"} < set(read(tmp_path / "o.csv")[1])


@pytest.mark.parametrize("wrong, words", [(b"a\0b", "a NUL byte"), (b"caf\xe9", "bytes that are not UTF-8")])
def test_a_line_that_is_no_text_is_refused(kept, monkeypatch, wrong, words):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"museum tour\n" + wrong + b"\nnight market\n")))
    refused(call("predict", "--run", kept.words), "title", words)


def test_a_pipe_is_answered_line_by_line_whatever_the_machine(kept):
    """The writer waits for each answer, so that an answer that waits for more input never comes."""
    odd = {"TERM": "dumb", "PYTHONIOENCODING": "ascii", "HOME": "/nonexistent", "COLUMNS": "20"}
    environment = {name: value for name, value in os.environ.items() if name != "HF_HOME"} | odd
    command = [sys.executable, ROOT / "predict.py", "--run", kept.linear, "--format", "jsonl"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        for burst in (["café 🍰"], ["one", "two", "three", "four", "five"], ["", "six"]):
            process.stdin.write("".join(f"{title}\n" for title in burst).encode())
            process.stdin.flush()
            assert [json.loads(process.stdout.readline())["title"] for _ in burst] == burst
        out, err = process.communicate(b"no end of line")
    assert json.loads(out)["title"] == "no end of line"
    assert process.returncode == 0 and b"9 titles predicted" in err and len(err.splitlines()) == 1, err


def test_without_standard_input(kept, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it where it is closed
    refused(call("predict", "--run", kept.linear), "no titles", "--csv")
    assert call("predict", "--run", kept.linear, "a").code == 0


def test_from_python_a_table_says_what_the_script_says(kept, classifier):
    frame = predict.table(classifier, [*TITLES, " "])
    names = ["art", "food", "travel"]
    assert list(frame) == ["title", "prediction", "probability", *(f"probability of {name}" for name in names)]
    items = call("predict", "--run", kept.linear, "--format", "jsonl", *TITLES, " ").out.splitlines()
    items = [json.loads(item) for item in items]
    assert frame["prediction"].tolist()[:3] == [item["prediction"] for item in items[:3]]
    for name in names:
        wanted = [item["probabilities"][name] for item in items[:3]]
        assert frame[f"probability of {name}"][:3].tolist() == pytest.approx(wanted, abs=1e-5)
    assert frame.iloc[3, 1:].isna().all()


@pytest.mark.parametrize(
    "titles",
    [
        "Street food in Rome",
        pandas.DataFrame({"title": ["fine"]}),
        pandas.Series(["fine", float("nan")]),
        ["fine", b"bytes"],
    ],
)
def test_what_is_no_list_of_titles_is_a_type_error_that_says_what_to_pass(classifier, titles):
    with pytest.raises(TypeError, match="a list or a Series, and each of them a str"):
        predict.table(classifier, titles)


def test_titles_come_as_a_list_or_a_series_that_keeps_its_index(classifier):
    wanted = predict.table(classifier, TITLES)
    assert wanted.index.tolist() == [0, 1, 2] and wanted["title"].tolist() == TITLES
    for titles in (tuple(TITLES), np.array(TITLES)):
        pandas.testing.assert_frame_equal(predict.table(classifier, titles), wanted)
    series = pandas.Series(TITLES, index=[7, 7, 3], name="anything")
    pandas.testing.assert_frame_equal(predict.table(classifier, series), wanted.set_axis([7, 7, 3]))
    assert predict.table(classifier, []).shape == predict.table(classifier, series[:0]).shape == (0, 6)


def test_titles_are_cut_and_their_features_rounded_as_in_training(kept, tmp_path, bert):
    """Predictions of training titles are those of the cached features: of 5 tokens each, in half precision."""
    options = ["--max-length", 5, "--store", "float16", "--dtype", "float32", "--pooling", "mean"]
    made = call("extract", "--data", kept.titles, "--model", bert, *options, "--out", tmp_path / "features")
    assert made.code == 0 and "90 titles cut at 5 tokens" in made.err, made.err
    options = ["--layers", 2, "--head", "linear", "--repeats", 1, "--results", tmp_path / "results"]
    assert call("train", "--features", tmp_path / "features", *options).code == 0
    (run,) = (tmp_path / "results").glob("*linear*")
    wanted, _ = by_hand(run, tmp_path / "features", 90)
    titles = [title for title, _ in read(kept.titles)[1:]]
    got = predict.table(predict.load(run), titles).filter(like="probability of ").to_numpy()
    assert abs(got - wanted).max() < 1e-5


def test_another_dtype_gives_nearly_the_same(kept, loaded):
    exact = predict.table(predict.load(kept.linear), TITLES)
    rounded = predict.load(kept.linear, dtype="bfloat16")
    assert [encoder.dtype for encoder in loaded] == [torch.float32, torch.bfloat16]
    off = np.abs(predict.table(rounded, TITLES)["probability of art"] - exact["probability of art"]).max()
    assert 0 < off < 0.1


def test_all_columns_are_kept_whatever_the_file(kept, tmp_path):
    (tmp_path / "in.tsv").write_text('id\tname\tx\n1\t=1+1\ta\n2\t \tb\n3\tmuseum tour\t"c\nd"\n', encoding="utf-8-sig")
    files = ["--csv", tmp_path / "in.tsv", "--out", tmp_path / "o.csv"]
    result = call("predict", "--run", kept.mlp, *files, "--text-column", "name")
    assert result.code == 0 and "1 without text" in result.err, result.err
    rows = read(tmp_path / "o.csv")
    # with the byte order mark that the file has
    given = [["\ufeffid", "name", "x"], ["1", "=1+1", "a"], ["2", " ", "b"], ["3", "museum tour", "c\nd"]]
    assert [row[:3] for row in rows] == given
    assert rows[2][3:] == [""] * 5 and rows[1][3] and rows[3][3]


# --- the decision -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decided(kept, tmp_path_factory):
    """A run whose heads name the last category early, on average; and what it names for the training titles.

    Its temperature is 3: the decision is that of the probabilities before it.
    """
    folder = tmp_path_factory.mktemp("decided") / "run"
    changed(kept.linear, folder, results__temperature=1.0)
    plain, classes = by_hand(folder, kept.features, 90)
    shutil.rmtree(folder)
    likeliest = plain.argmax(1)
    ahead = np.log(plain.max(1) / plain[:, 2])[likeliest != 2]
    offsets = np.zeros((2, 5, 3), np.float32)
    offsets[:, :, 2] = [7.0, -5.0, -1.0, -1.0, 0.0] - np.median(ahead)
    with_offsets(kept.linear, folder, offsets, results__temperature=3.0)
    named = (np.log(plain) - offsets.mean((0, 1))).argmax(1)
    assert 5 < (named != likeliest).sum() < 85 and set(named[named != likeliest]) == {2}
    values, _ = by_hand(folder, kept.features, 90)
    return SimpleNamespace(run=folder, named=[classes[i] for i in named], values=values, classes=classes)


def test_every_format_names_the_category_that_the_run_decides_for(kept, decided, tmp_path):
    titles = [title for title, _ in read(kept.titles)[1:]]
    ask = ["predict", "--run", decided.run]
    own = [decided.values[i, decided.classes.index(name)] for i, name in enumerate(decided.named)]

    def check(predicted, probabilities):
        assert predicted == decided.named
        assert np.array(probabilities, float) == pytest.approx(np.array(own), abs=2e-3)

    lines = [line.split(maxsplit=2) for line in call(*ask, *titles).out.splitlines()]
    check([line[0] for line in lines], [line[1] for line in lines])
    items = [json.loads(line) for line in call(*ask, "--format", "jsonl", *titles).out.splitlines()]
    check([item["prediction"] for item in items], [item["probability"] for item in items])
    assert [next(iter(item["probabilities"])) for item in items] == decided.named
    assert call(*ask, "--csv", kept.titles, "--out", tmp_path / "o.csv").code == 0
    rows = read(tmp_path / "o.csv")[1:]
    check([row[2] for row in rows], [row[3] for row in rows])
    table = predict.table(predict.load(decided.run), titles)
    check(table["prediction"].tolist(), table["probability"])


# --- what cannot be used ------------------------------------------------------------------------------------------


def test_a_copied_run_works_elsewhere_with_the_encoders_name_alone(kept, tmp_path, monkeypatch, bert):
    copy = shutil.copytree(kept.mlp, tmp_path / "a füßer folder")
    shutil.copytree(bert, tmp_path / "encoder")
    monkeypatch.chdir(tmp_path)
    there = call("predict", *TITLES, "--run", copy, "--model", "encoder")
    assert there.code == 0 and there.out == call("predict", "--run", kept.mlp, *TITLES).out


def test_the_encoder_has_to_be_the_runs_own(kept, tmp_path):
    other = write_bert(tmp_path / "other", seed=1)
    refused(call("predict", "a", "--run", kept.mlp, "--model", other), "not the encoder")
    moved = changed(kept.mlp, tmp_path / "moved", encoder__name="./enc")
    refused(call("predict", "--run", moved, "a"), "--model", "./enc")


def test_a_damaged_or_foreign_run_is_refused(kept, tmp_path):
    copy = shutil.copytree(kept.mlp, tmp_path / "copy")
    heads = copy / "heads.safetensors"
    heads.write_bytes(heads.read_bytes()[:-4] + b"\1\2\3\4")
    refused(call("predict", "--run", copy, "a"), "heads.safetensors")
    refused(call("predict", "--run", tmp_path / "none", "a"), "no run is there")
    changes = [
        {"classes": None},
        {"results__temperature": None},
        {"encoder__hidden": 2**33},  # no memory is taken for more than there is
        {"options__repeats": 7},
        {"options__head": "linear"},
    ]
    for number, change in enumerate(changes):
        run = changed(kept.mlp, tmp_path / f"{number}", **change)
        refused(call("predict", "--run", run, "a"), f"{number}/")
    refused(call("predict", "--run", kept.majority, "a"), "majority class", "it cannot predict")


def test_behind_the_runs_what_is_no_folder_is_a_title_and_so_is_all_after_it(kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "food").mkdir()
    wanted = call("predict", "a title", "food", "", "--run", kept.words)
    assert wanted.code == 0 and call("predict", "--run", kept.words, "a title", "food", "").out == wanted.out
    refused(call("predict", "--run", kept.words, "food"), "food", "no run is there")
    refused(call("predict", "--run", "no such folder", "a title"), "no such folder", "no run is there")


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_no_run_at_all_is_a_problem_from_python_too(nothing):
    with pytest.raises(cli.Problem, match="no run is named"):
        predict.load(nothing)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--run", "RUN", "--csv", "in.csv"], ["--csv needs --out", "--label-column"]),
        (["--run", "RUN", "--out", "o.csv"], ["need --csv"]),
        (["--run", "RUN", "--csv", "in.csv", "--out", "o.csv", "a title"], ["exclude one another"]),
        (["--run", "RUN", "--csv", "in.csv", "--out", "in.csv"], ["input file"]),
        (["--run", "RUN", "--csv", "in.csv", "--out", "o.csv.gz"], ["o.csv.gz", "must end in .csv"]),
        (["--run", "RUN", "--features", "x", "a"], ["--features", "--label-column"]),
        (["--run", "RUN", "caf\udce9"], ["title", "not UTF-8"]),
        (["--run", "RUN", "--csv", "in.csv", "--out", "o.csv", "--text-column", "x"], ["'x'", "'title'"]),
        (["--run", "RUN", "--csv", "taken.csv", "--out", "o.csv"], ["'prediction'", "rename"]),
        (["--run", "RUN", "--csv", "ragged.csv", "--out", "o.csv"], ["row 2"]),
    ],
)
def test_what_contradicts_itself_is_refused_and_nothing_is_written(kept, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("title\na\n")
    (tmp_path / "taken.csv").write_text("title,prediction\na,b\n")
    (tmp_path / "ragged.csv").write_text("title,x\na,b\nc\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    refused(call("predict", *[kept.mlp if a == "RUN" else a for a in arguments]), *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
