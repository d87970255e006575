"""Extraction: the features are transformers' own, titles are checked first, and what it prints and keeps is of use."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, call, refused, truth

import data
import extract
from whichlayer.common import cli, disk
from whichlayer.encoder import jobs, store


@pytest.mark.parametrize("window", [7, 4096])
def test_features_equal_transformers_hidden_states(tmp_path, bert, titles, window):
    command = ["--data", titles, "--model", bert, "--pooling", "cls", "mean", "--dtype", "float32"]
    result = call("extract", *command, "--window", window, "--out", tmp_path / "f")
    assert result.code == 0, result.err
    features = store.open_features(tmp_path / "f")
    wanted = truth(bert, features.titles()[0])
    for pooling in ("cls", "mean"):
        assert features.layers(pooling) == [1, 2]
        for layer in (1, 2):
            got = features.read(pooling, layer)
            true = wanted[pooling, layer]
            assert np.abs(got - true).max() < 1e-5 * np.abs(true).max()
            assert np.load(tmp_path / "f" / f"{pooling}-{layer:02d}.npy", mmap_mode="r").shape == (60, 24)


def test_half_precision_is_kept_as_asked(tmp_path, bert, titles):
    """Also on processors without instructions for it, where the arithmetic is float32."""
    for dtype in ("float32", "bfloat16"):
        result = call("extract", "--data", titles, "--model", bert, "--dtype", dtype, "--out", tmp_path / dtype)
        assert result.code == 0 and f"in {dtype}" in result.err, result.err
    exact = store.open_features(tmp_path / "float32")
    rough = store.open_features(tmp_path / "bfloat16")
    assert rough.manifest.settings.dtype == "bfloat16"
    assert rough.manifest.machine["arithmetic"] in ("bfloat16", "float32")
    true = exact.read("cls", 2)
    difference = np.abs(rough.read("cls", 2) - true).max()
    assert 0 < difference < 0.05 * np.abs(true).max()


@pytest.mark.parametrize(
    "text, options, words",
    [
        ('title,category\na,b\n"open,c\n', [], ["row 2", "quote"]),
        ("title,category\na,b\nc\n", [], ["row 2"]),
        ("title,category\na,b\nc,d\n", ["--text-column", "name"], ["column 'name'"]),
    ],
    ids=["quote", "cells", "column"],
)
def test_titles_are_checked_before_the_encoder_is_loaded(tmp_path, monkeypatch, text, options, words):
    monkeypatch.setattr(extract, "load_encoder", lambda *_: pytest.fail("the encoder was loaded"))
    (tmp_path / "t.csv").write_text(text)
    refused(call("extract", "--data", tmp_path / "t.csv", "--out", tmp_path / "f", *options), "t.csv", *words)
    assert [path.name for path in (tmp_path / "f").iterdir()] == [".lock"]


def test_likely_mistakes_in_the_titles_are_said_and_nothing_is_changed(tmp_path, bert):
    titles = tmp_path / "t.csv"
    titles.write_text("title,category\nthe war,News\na song,news\nthe war,Music\npasta,Music\n")
    result = call("extract", "--data", titles, "--model", bert, "--out", tmp_path / "f")
    assert result.code == 0 and "News" in result.err and "rows 1 and 3" in result.err, result.err
    manifest = store.open_features(tmp_path / "f").manifest
    assert manifest.data.classes == {"Music": 2, "News": 1, "news": 1}


def test_a_folder_is_kept_by_its_full_path(tmp_path, bert, titles, monkeypatch):
    shutil.copytree(bert, tmp_path / "models" / "own")
    monkeypatch.chdir(tmp_path / "models")
    result = call("extract", "--data", titles, "--model", "./own", "--out", tmp_path / "f")
    assert result.code == 0 and "from ./own in" in result.err, result.err
    assert store.open_features(tmp_path / "f").manifest.encoder.name == str(tmp_path / "models" / "own")


@pytest.mark.parametrize("options", [["--pooling", "mean"], ["--layers", "-1", "-2"]], ids=["mean", "two layers"])
def test_the_command_to_run_next_works_when_pasted(tmp_path, bert, titles, options):
    result = call("extract", "--data", titles, "--model", bert, "--out", tmp_path / "it's mine", *options)
    words = shlex.split(result.err.partition("Next: ")[2].splitlines()[0])  # as a shell reads it
    assert words[1:] == ["train.py", "--features", str(tmp_path / "it's mine"), "--survey"]
    result = call("train", *words[2:], "--results", tmp_path / "results", "--repeats", 1)
    assert result.code == 0, result.err
    assert len(list((tmp_path / "results").glob("*/config.json"))) >= 2  # layer 2, and layer 1


def test_next_of_the_reports_titles_is_the_reports_head(tmp_path, bert, titles, monkeypatch):
    monkeypatch.setattr(data, "find_titles", lambda name: Path(titles))
    result = call("extract", "--data", "youtube", "--model", bert, "--out", tmp_path / "f")
    assert result.err.splitlines()[-1].endswith(f"train.py --features {tmp_path / 'f'}"), result.err
    again = call("extract", "--data", "youtube", "--model", bert, "--out", tmp_path / "f")
    assert again.err.endswith(f"train.py --features {tmp_path / 'f'}\n"), again.err


def test_it_says_what_disk_it_needs_and_how_fast_it_was(tmp_path, bert, titles, monkeypatch):
    class Disk:
        free = 5_000_000_000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Disk)
    command = ["--data", titles, "--model", bert, "--layers", -1, "--out", tmp_path / "f"]
    first = call("extract", *command).err.splitlines()
    assert first[0] == "1 layer file of 60 titles needs 0.01 GB; the disk has 5.00 GB free"
    assert re.search(r", [\d,.]+ titles a second once loaded\. Next: ", first[-1]), first
    assert len(first) == 2  # nothing on how long it takes: it takes no minute
    second = call("extract", *command, "--pooling", "cls", "mean", "--layers", "all").err.splitlines()
    assert second[0].startswith("3 layer files of 60 titles need 0.01 GB")
    assert call("extract", *command, "--quiet", "--pooling", "mean", "--layers", "all").err == ""


def test_what_the_reports_features_need(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(cli.STATE, "quiet", False)
    names = [store.feature_file("cls", layer) for layer in range(1, 13)]
    encoder = store.EncoderInfo("bert-base-uncased", None, 12, 768, "", "")
    titles = store.TitlesInfo("youtube", "", "", 3599)
    settings = store.Settings(128, "float32", "float32")
    jobs.check_room(jobs.Job(1, encoder, titles, settings, {}, names=names), tmp_path)
    assert capsys.readouterr().err.startswith("12 layer files of 3,599 titles need 0.13 GB; the disk has ")


def test_a_folder_written_before_can_be_read_and_added_to(tmp_path, bert, titles):
    """Folders of the first version say less of the software and the machine, and nothing else has changed."""
    command = ["--data", titles, "--model", bert, "--dtype", "float32", "--out", tmp_path / "f"]
    assert call("extract", *command, "--layers", 2).code == 0
    manifest = json.loads((tmp_path / "f" / "manifest.json").read_text())
    assert manifest.pop("checksum") and manifest["format"] == 1
    manifest |= {"software": {"torch": "2.9"}, "machine": {"processor": "x86_64", "threads": 2, "processes": 1}}
    disk.write_json(tmp_path / "f" / "manifest.json", manifest)
    assert call("extract", *command, "--layers", 1).code == 0
    assert store.open_features(tmp_path / "f").layers("cls") == [1, 2]


def test_help_names_each_default_once(capsys):
    with pytest.raises(SystemExit):
        extract.parse_arguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for example in ("--data titles.csv --label-column topic --pooling cls mean", "--model ../my-encoder"):
        assert f" {example} " in text
    for default in ("youtube", "bert-base-uncased", "all", "cls", "128", "auto", "4096", "features"):
        assert f"(default: {default})" in text
    assert "None" not in text and "False" not in text and "['" not in text


def test_a_folder_that_begins_with_a_dash_is_named_so_that_it_can_be_pasted(tmp_path, bert, titles, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("extract", "--data", titles, "--model", bert, "--out=-f")
    assert result.code == 0 and result.err.splitlines()[-1].endswith("train.py --features=-f --survey"), result.err


def test_a_standard_output_that_is_closed_is_no_fault(tmp_path, bert, titles):
    command = [sys.executable, ROOT / "extract.py", "--data", titles, "--model", bert, "--out", tmp_path / "f"]
    line = f"exec {shlex.join(map(str, command))} >&-"
    done = subprocess.run(["sh", "-c", line], text=True, stderr=subprocess.PIPE)
    assert done.returncode == 0 and "Next: " in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("how to cook the best street food", None),
        ("qwxk zzvqj kkxw", "4.3 tokens a word"),
        ("qwxkzzvqjkkxwqqz" * 2, None),
        ("味 the 道", "40% of all tokens are [UNK], "),
    ],
)
def test_a_language_that_the_encoder_does_not_know_is_named(tmp_path, bert, title, said):
    """The vocabulary has some English words, and single letters; the third title has no spaces, as Chinese has none."""
    rows = [f"{title},{name}" for name in ("art", "food") for _ in range(8)]
    (tmp_path / "titles.csv").write_text("\n".join(["title,category", *rows]) + "\n")
    result = call("extract", "--data", tmp_path / "titles.csv", "--model", bert, "--out", tmp_path / "features")
    assert result.code == 0, result.err
    lines = [line for line in result.err.splitlines() if "multilingual" in line]
    assert len(lines) == (1 if said else 0), result.err
    assert not said or said in lines[0]
