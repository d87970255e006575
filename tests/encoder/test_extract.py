"""Extraction: the features are transformers' own, titles are checked first, and what it prints and keeps is of use."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import call, truth

import data
from whichlayer.common import windows
from whichlayer.encoder import store


@pytest.mark.parametrize("window", [7, 4096])
def test_features_equal_transformers_hidden_states(tmp_path, bert, titles, monkeypatch, window):
    monkeypatch.setattr(windows, "WINDOW", window)
    result = call("extract", "--data", titles, "--model", bert, "--dtype", "float32", "--out", tmp_path / "f")
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


def test_likely_mistakes_in_the_titles_are_said_and_nothing_is_changed(tmp_path, bert):
    titles = tmp_path / "t.csv"
    titles.write_text("title,category\nthe war,News\na song,news\nthe war,Music\npasta,Music\n")
    result = call("extract", "--data", titles, "--model", bert, "--out", tmp_path / "f")
    assert result.code == 0 and "News" in result.err and "rows 1 and 3" in result.err, result.err
    store.open_features(tmp_path / "f")


def test_a_folder_is_kept_by_its_full_path(tmp_path, bert, titles, monkeypatch):
    shutil.copytree(bert, tmp_path / "models" / "own")
    monkeypatch.chdir(tmp_path / "models")
    result = call("extract", "--data", titles, "--model", "./own", "--out", tmp_path / "f")
    assert result.code == 0 and "from ./own in" in result.err, result.err
    assert store.open_features(tmp_path / "f").encoder.name == str(tmp_path / "models" / "own")


def test_next_of_the_reports_titles_is_the_reports_head(tmp_path, bert, titles, monkeypatch):
    monkeypatch.setattr(data, "find_titles", lambda name: Path(titles))
    result = call("extract", "--data", "youtube", "--model", bert, "--out", tmp_path / "f")
    assert f"train.py --features {tmp_path / 'f'}, then " in result.err.splitlines()[-1], result.err
