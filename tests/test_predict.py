"""Prediction: a kept run gives the categories of new titles, as its heads and its encoder would have it."""

import csv
import io
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import call, refused, write_bert, write_titles

import model
import predict
import store

TITLES = ["how to cook the best pasta", "ancient egypt: war of empire | 10 things", 'a, "quoted" title']


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bert):
    """Features and one run on both layers and poolings, standardised, of a random encoder."""
    folder = tmp_path_factory.mktemp("kept")
    titles = write_titles(folder / "titles.csv", rows=90)
    assert (
        call(
            "extract",
            "--data",
            titles,
            "--model",
            bert,
            "--pooling",
            "cls",
            "mean",
            "--out",
            folder / "features",
            "--dtype",
            "float32",
        ).code
        == 0
    )
    for options in (
        ["--layers", "2", "1", "--standardize", "--pooling", "cls", "mean", "--epochs", 12],
        ["--layers", "1", "--epochs", 12],
    ):
        result = call("train", "--features", folder / "features", "--results", folder / "results", *options)
        assert result.code == 0, result.err
    (both,) = (folder / "results").glob("*-2-1-*")
    (one,) = (folder / "results").glob("*layers-1-*")
    return SimpleNamespace(folder=folder, features=folder / "features", run=both, one=one, titles=titles)


def by_hand(trained, rows):
    """Probabilities of the first `rows` training titles from the cached features, one head and title after the other."""
    config = store.read_json(trained.run / "config.json", "a run")
    from safetensors.torch import load_file

    state, features = load_file(trained.run / "heads.safetensors"), store.open_features(trained.features)
    out = []
    for row in range(rows):
        x = torch.tensor(np.stack([features.read(*column)[row] for column in map(tuple, config["columns"])]))
        heads = []
        for fold in range(5):
            head = model.build(config)
            head.load_state_dict({name: value[fold] for name, value in state.items()})
            heads.append(head(x[None]).softmax(-1)[0])
        out.append(torch.stack(heads).mean(0).detach().numpy())
    return np.stack(out), config["classes"]


def test_predictions_of_training_titles_agree_with_the_cached_features(trained, tmp_path):
    result = call("predict", "--run", trained.run, "--csv", trained.titles, "--out", tmp_path / "o.csv", "--window", 13)
    assert result.code == 0, result.err
    rows = list(csv.reader(open(tmp_path / "o.csv", newline="", encoding="utf-8")))
    wanted, classes = by_hand(trained, 90)
    assert rows[0] == ["title", "category", "prediction", "probability", *(f"probability of {c}" for c in classes)]
    got = np.array([[float(cell) for cell in row[4:]] for row in rows[1:]])
    assert np.abs(got - wanted).max() < 1e-4
    assert [row[2] for row in rows[1:]] == [classes[i] for i in got.argmax(1)]
    original = list(csv.reader(open(trained.titles, newline="", encoding="utf-8")))
    assert [row[:2] for row in rows] == original
    assert "90 titles predicted" in result.err and result.out == ""


def test_arguments_lines_and_formats_agree(trained, monkeypatch):
    text = call("predict", "--run", trained.run, *TITLES)
    assert text.code == 0, text.err
    lines = [line.split(maxsplit=2) for line in text.out.splitlines()]
    assert [line[2] for line in lines] == TITLES
    piped = "\r\n".join(TITLES + ["", "  "]) + "\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(piped.encode())))
    as_json = call("predict", "--run", trained.run, "--format", "jsonl")
    items = [json.loads(line) for line in as_json.out.splitlines()]
    assert [item["title"].strip() for item in items] == TITLES + ["", ""]  # in step with what was read
    assert [(item["prediction"], item["probabilities"]) for item in items[3:]] == [(None, {})] * 2
    items = items[:3]
    assert [[i["prediction"], f"{i['probability']:.3f}", i["title"]] for i in items] == lines
    assert all(abs(sum(item["probabilities"].values()) - 1) < 1e-4 for item in items)
    assert "2 without text" in as_json.err
    as_csv = list(csv.DictReader(io.StringIO(call("predict", "--run", trained.run, "--format", "csv", *TITLES).out)))
    assert [row["title"] for row in as_csv] == TITLES
    assert [row["prediction"] for row in as_csv] == [item["prediction"] for item in items]


def test_the_encoder_runs_no_deeper_than_the_run_needs(trained):
    classifier = predict.load_classifier(trained.one)
    calls = []
    for number, block in enumerate(classifier[1].blocks, 1):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    ((_, probabilities, _),) = predict.predict(classifier, [(0, TITLES)])
    assert set(calls) == {1} and probabilities.shape == (3, 3)


def test_all_columns_are_kept_whatever_the_file(trained, tmp_path):
    (tmp_path / "in.tsv").write_text('id\tname\tx\n1\t=1+1\ta\n2\t \tb\n3\tmuseum tour\t"c\nd"\n', encoding="utf-8-sig")
    result = call(
        "predict",
        "--run",
        trained.run,
        "--csv",
        tmp_path / "in.tsv",
        "--out",
        tmp_path / "o.csv",
        "--text-column",
        "name",
        "--window",
        1,
    )
    assert result.code == 0 and "1 without text" in result.err, result.err
    rows = list(csv.reader(open(tmp_path / "o.csv", newline="", encoding="utf-8")))
    assert [row[:3] for row in rows] == [
        ["id", "name", "x"],
        ["1", "=1+1", "a"],
        ["2", " ", "b"],
        ["3", "museum tour", "c\nd"],
    ]
    assert rows[2][3:] == [""] * 5 and rows[1][3] and rows[3][3]


def test_a_copied_run_works_elsewhere_with_the_encoders_name_alone(trained, tmp_path, monkeypatch, bert):
    copy = shutil.copytree(trained.run, tmp_path / "a füßer folder")
    shutil.copytree(bert, tmp_path / "encoder")
    monkeypatch.chdir(tmp_path)
    there = call("predict", "--run", copy, "--model", "encoder", *TITLES)
    assert there.code == 0 and there.out == call("predict", "--run", trained.run, *TITLES).out
    card = (copy / "README.md").read_text(encoding="utf-8")
    config = store.read_json(copy / "config.json", "a run")
    assert f"{config['results']['macro_f1']:.4f}" in card and config["data"]["sha256"] in card
    assert all(f"- {name}" in card for name in config["classes"])


def test_another_version_of_the_encoder_is_refused(trained, tmp_path):
    other = write_bert(tmp_path / "other", seed=1)
    refused(call("predict", "--run", trained.run, "--model", other, "a"), "not the encoder", "weights")


def test_a_damaged_or_foreign_run_is_refused(trained, tmp_path):
    copy = shutil.copytree(trained.run, tmp_path / "copy")
    heads = copy / "heads.safetensors"
    heads.write_bytes(heads.read_bytes()[:-4] + b"\1\2\3\4")
    refused(call("predict", "--run", copy, "a"), "heads.safetensors")
    refused(call("predict", "--run", tmp_path, "a"), "no run is there")
    call("evaluate", "--results", trained.folder / "results", "--baselines", "--features", trained.features)
    baseline = next((trained.folder / "results").glob("*baseline-majority*"))
    refused(call("predict", "--run", baseline, "a"), "baseline")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["a"], ["--run"]),
        (["--run", "RUN", "--csv", "in.csv"], ["--csv and --out go together"]),
        (["--run", "RUN", "--out", "o.csv"], ["--csv and --out go together"]),
        (["--run", "RUN", "--csv", "in.csv", "--out", "o.csv", "a title"], ["exclude one another"]),
        (["--run", "RUN", "--csv", "in.csv", "--out", "o.csv", "--format", "csv"], ["--format"]),
        (["--run", "RUN", "--csv", "none.csv", "--out", "o.csv"], ["none.csv", "no such file"]),
        (["--run", "RUN", "--csv", "in.csv", "--out", "in.csv"], ["input file"]),
        (["--run", "RUN", "--csv", "in.csv", "--out", "/dev/null"], ["/dev/null", "not a plain file"]),
        (["--run", "RUN", "caf\udce9"], ["TITLE", "not UTF-8"]),
        (["--run", "RUN", "--csv", "in.csv", "--out", "none/o.csv"], ["none/o.csv"]),
        (["--run", "RUN", "--csv", "in.csv", "--out", "o.csv", "--text-column", "x"], ["'x'", "'title'"]),
        (["--run", "RUN", "--csv", "taken.csv", "--out", "o.csv"], ["'prediction'", "rename"]),
        (["--run", "RUN", "--csv", "ragged.csv", "--out", "o.csv"], ["row 2"]),
    ],
)
def test_what_contradicts_itself_is_refused_and_nothing_is_written(trained, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("title\na\n")
    (tmp_path / "taken.csv").write_text("title,prediction\na,b\n")
    (tmp_path / "ragged.csv").write_text("title,x\na,b\nc\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    refused(call("predict", *[trained.run if a == "RUN" else a for a in arguments]), *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
