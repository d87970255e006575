"""Titles that change: features follow them, only new texts are encoded, and runs of earlier labels are told apart."""

import csv
import json
import random
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import call, refused, write_titles

import extract
from whichlayer.common import disk, windows
from whichlayer.encoder import store
from whichlayer.report.rows import read_tables

SETTINGS = ["--dtype", "float32", "--max-length", "6"]


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def write_rows(path, rows, header=("title", "category")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def source(tmp_path):
    """The user's file: 60 titles of 3 categories, which the tests change."""
    return Path(write_titles(tmp_path / "mine.csv"))


@pytest.fixture
def go(tmp_path, bert, source, monkeypatch):
    """Call extract.py on the user's file, into the test's own `features` unless another --out is given."""
    monkeypatch.setattr(windows, "WINDOW", 16)
    command = ["--data", source, "--model", bert, *SETTINGS, "--out", tmp_path / "features"]
    return lambda *options: call("extract", *command, *options)


def arrays(folder):
    features = store.open_features(folder)
    return {name: np.array(features.read(*store.column_of(name))) for name in features.files}


def manifest_of(folder):
    """The manifest without what tells two extractions of the same titles apart."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("made", "software", "checksum", "files"):
        del manifest[name]
    return manifest


def edit_labels(rows):
    for row in (3, 20, 41):
        rows[row][1] = "food" if rows[row][1] != "food" else "art"
    return rows


def append(rows):
    return [*rows, ["a new title about pasta", "food"], ["rome by night", "travel"], ["rome by night", "travel"]]


def edit(rows):
    rows[7][0] = "how to paint a museum"
    return rows


def remove(rows):
    return rows[:10] + rows[14:50]


def shuffle(rows):
    random.Random(0).shuffle(rows)
    return rows


def everything(rows):
    return append(edit(edit_labels(shuffle(rows)[5:])))


CASES = {
    "appended": (append, "63 titles: 60 kept, 3 to encode", 3),
    "removed": (remove, "46 titles: 46 kept, 0 to encode", 0),
    "everything": (everything, "58 titles: 54 kept, 4 to encode", 4),
    "copies": (lambda rows: rows + rows[:20], "80 titles: 80 kept, 0 to encode", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_features_follow_titles_that_change(tmp_path, go, source, encoded, case):
    """As a whole extraction gives them; what was there is copied, bit for bit."""
    change, sentence, new = CASES[case]
    assert go().code == 0
    before = arrays(tmp_path / "features")
    old = {title: [values[row] for values in before.values()] for row, (title, _) in enumerate(rows_of(source))}
    write_rows(source, change(rows_of(source)))
    encoded.clear()
    result = go()
    assert result.code == 0 and result.err.splitlines()[0] == sentence, result.err
    assert sum(encoded) == new

    assert go("--out", tmp_path / "whole").code == 0
    whole = arrays(tmp_path / "whole")
    found = arrays(tmp_path / "features")
    assert found.keys() == whole.keys() and len(found) == 4
    for values, true in zip(found.values(), whole.values(), strict=True):
        np.testing.assert_allclose(values, true, rtol=0, atol=1e-6 * np.abs(true).max())
    for row, (title, _) in enumerate(rows_of(source)):
        if title in old:
            for values, copied in zip(found.values(), old[title], strict=True):
                assert np.array_equal(values[row], copied)
    assert (tmp_path / "features" / "titles.csv").read_bytes() == (tmp_path / "whole" / "titles.csv").read_bytes()
    assert manifest_of(tmp_path / "features") == manifest_of(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.csv", "features", "whole"}
    assert "holds all of that already" in go().err


def test_new_labels_leave_the_features_files_as_they_are(tmp_path, go, source, encoded):
    """Also where another column becomes the label."""
    assert go().code == 0
    files = list((tmp_path / "features").glob("*.npy"))
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
    rows = edit_labels(rows_of(source))
    write_rows(source, [[*row, f"{row[1]} too"] for row in rows], ("title", "category", "topic"))
    encoded.clear()
    for options, labels in (
        ([], [row[1] for row in rows]),
        (["--label-column", "topic"], [f"{r[1]} too" for r in rows]),
    ):
        assert "0 layer files" in go(*options).err and not encoded
        assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files} == before
        assert store.open_features(tmp_path / "features").titles()[1] == labels


def test_another_set_of_titles_is_refused(tmp_path, go, source):
    assert go().code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()}
    source.write_text("title,category\n" + "".join(f"quite another {i},{'ab'[i % 2]}\n" for i in range(60)))
    refused(go(), "other titles (mine.csv, now mine.csv)", "--out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()} == before


def test_layers_that_are_added_with_new_titles_have_all_encoded(tmp_path, go, source):
    """And layers that are not asked for follow, too."""
    assert go("--layers", "2", "--pooling", "mean").code == 0
    write_rows(source, everything(rows_of(source)))
    assert go("--layers", "1").code == 0
    assert go("--out", tmp_path / "whole").code == 0
    found = arrays(tmp_path / "features")
    assert list(found) == ["cls-01.npy", "mean-01.npy", "mean-02.npy"]
    whole = arrays(tmp_path / "whole")
    assert all(np.array_equal(found[name], whole[name]) for name in found)
    assert go().code == 0 and arrays(tmp_path / "features").keys() == whole.keys()


def test_titles_that_change_again_before_the_features_have_followed(tmp_path, go, source, monkeypatch):
    first = rows_of(source)
    out = tmp_path / "features"
    assert go().code == 0

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(extract.folder, "write", stop)
        write_rows(source, append(first))
        assert "extract.py: stopped" in go().err
    assert len(store.open_features(out).titles()[0]) == 60, "the earlier features are not whole any more"
    write_rows(source, remove(first))
    work = disk.beside(out)
    refused(go(), "an unfinished extraction is there, with another titles", f"delete {work}")
    shutil.rmtree(work)
    assert go().code == 0 and len(store.open_features(out).titles()[0]) == 46


def test_damage_is_not_copied(tmp_path, go, source):
    assert go().code == 0
    path = tmp_path / "features" / "mean-01.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    write_rows(source, append(rows_of(source)))
    refused(go(), str(path), "gone or changed")


# --- the user's file, and runs of earlier labels ------------------------------------------------------------------


@pytest.fixture
def train(tmp_path):
    small = ["--head", "linear", "--pooling", "mean", "--folds", 3, "--repeats", 1]
    command = ["--features", tmp_path / "features", "--results", tmp_path / "results", *small]
    return lambda *options: call("train", *command, *options)


def test_training_says_that_the_file_has_changed_and_the_command_works_when_pasted(tmp_path, go, source, train):
    assert go("--layers", "2").code == 0
    assert "has changed" not in train("--each").err
    write_rows(source, edit_labels(rows_of(source)))
    result = train("--each")
    assert result.code == 0 and result.err.count("has changed") == 1 and "trained already" in result.err
    found = re.search(rf"^{source} has changed since {tmp_path / 'features'} was made; .*: (.+)$", result.err, re.M)
    words = shlex.split(found[1])
    result = call("extract", *words[2:])
    assert "0 layer files" in result.err and result.code == 0, result.err
    assert "has changed" not in train("--each").err


def test_runs_of_earlier_labels_are_trained_again_and_share_no_table(tmp_path, go, source, train):
    assert go().code == 0
    assert train("--each").code == 0
    results = tmp_path / "results"
    before = {path.parent.name: json.loads(path.read_text())["data"] for path in results.glob("*/config.json")}
    assert len(before) == 2
    write_rows(source, edit_labels(rows_of(source)))
    assert go().code == 0

    # one of the two is trained again
    result = train("--layers", "2")
    name = next(name for name in before if "layers-2" in name)
    (other,) = before.keys() - {name}
    assert result.code == 0 and "trained already" not in result.err, result.err
    assert "1 run of an earlier state of mine.csv: out of date, trained again in the same place" in result.err
    assert sorted(path.name for path in results.iterdir() if path.is_dir()) == sorted(before)
    now = json.loads((results / name / "config.json").read_text())
    assert now["data"]["titles"] != before[name]["titles"]
    labels = [now["classes"][number] for number in np.load(results / name / "labels.npy")]
    assert labels == [label for _, label in rows_of(source)]

    # the two states stand in tables of their own
    tables = read_tables(results)
    assert sorted([row.run.folder.name for row in each.rows] for each in tables) == sorted([[name], [other]])
    assert "trained already" in train("--layers", "2").err


def test_a_table_of_earlier_labels_is_left_out_beside_that_of_the_present_ones(tmp_path, go, source, train):
    results = tmp_path / "results"
    assert go().code == 0
    assert train("--each").code == train("--layers", "1", "2").code == 0
    write_rows(source, edit_labels(rows_of(source)))
    assert go().code == 0
    assert train("--layers", "2").code == 0
    # two rows of earlier labels, whose titles are gone, and one of the present ones
    result = call("evaluate", "--results", results, "--baselines", "--suspects", tmp_path / "s.csv")
    assert result.code == 0 and "2 runs of an earlier state" in result.err, result.err
    assert result.out.count("## ") == 1 and "TF-IDF" in result.out
    assert call("evaluate", "--results", results, "--suspects", tmp_path / "s.csv").out == result.out


def test_a_table_of_earlier_labels_is_called_that_until_it_is_trained_anew(tmp_path, go, source, train):
    results = tmp_path / "results"
    evaluate = ["evaluate", "--results", results]
    assert go().code == 0
    assert train("--each").code == 0
    assert "out of date" not in call(*evaluate).err
    write_rows(source, edit_labels(rows_of(source)))
    # nothing is known of it yet: the features are those that the runs were trained on
    assert "out of date" not in call(*evaluate).err
    assert go().code == 0

    result = call(*evaluate)
    said = "2 runs of an earlier state of mine.csv: out of date, and so is their table, "
    said += "which is left out beside others; train anew with: "
    (line,) = [line for line in result.err.splitlines() if line.startswith(said)]
    assert result.code == 0 and "probe" in result.out, result.err
    script, *words = shlex.split(line.removeprefix(said))[1:]
    assert script == "train.py" and "&&" not in words and call("train", *words).code == 0
    assert "out of date" not in call(*evaluate).err
