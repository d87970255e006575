"""A GPU gives what the processor gives: features, heads, predictions. Skipped where there is none."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import call, truth
from killing import torchrun

from whichlayer.common import windows
from whichlayer.encoder import store

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use is here")
SETTINGS = ("--pooling", "cls", "mean", "--dtype", "float32")


def extract(bert, titles, out, *options):
    result = call("extract", "--data", titles, "--model", bert, *SETTINGS, *options, "--out", out)
    assert result.code == 0, result.err
    return store.open_features(out)


def train(features, results, *options):
    result = call("train", "--features", features, "--results", results, "--repeats", 1, *options)
    assert result.code == 0, result.err
    (path,) = results.glob("*/config.json")
    return path.parent, json.loads(path.read_text())


def test_features_are_the_hidden_states_that_transformers_has_on_the_processor(tmp_path, bert, titles):
    features = extract(bert, titles, tmp_path / "features", "--device", "cuda")
    expected = truth(bert, features.titles()[0])
    for column, values in expected.items():
        if column[1]:
            np.testing.assert_allclose(features.read(*column), values, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(tmp_path, bert, titles, dtype):
    half = extract(bert, titles, tmp_path / "half", "--device", "cuda", "--dtype", dtype)
    whole = extract(bert, titles, tmp_path / "whole", "--device", "cpu")
    a = half.read("mean", 2)
    b = whole.read("mean", 2)
    assert half.settings.dtype == dtype
    assert np.linalg.norm(a - b) < 0.03 * np.linalg.norm(b)


def test_two_processes_share_one_gpu(tmp_path, bert, titles, monkeypatch):
    monkeypatch.setattr(windows, "WINDOW", 7)
    one = extract(bert, titles, tmp_path / "one", "--device", "cuda")
    command = ("--data", titles, "--model", bert, *SETTINGS, "--device", "cuda")
    two = torchrun("extract", *command, "--out", tmp_path / "two", window=7)
    assert two.returncode == 0, two.stderr
    again = store.open_features(tmp_path / "two")
    for column in (("cls", 1), ("mean", 2)):
        assert (one.read(*column) == again.read(*column)).all()


@pytest.mark.parametrize(
    "options, tolerance",
    [(("--head", "linear", "--layers", 2), 2e-3), (("--layers", 2, 1, "--standardize", "--epochs", 3), 0.02)],
    ids=["probe", "head"],
)
def test_heads_learn_as_on_the_processor(tmp_path, bert, titles, options, tolerance):
    extract(bert, titles, tmp_path / "features", "--device", "cpu")
    found = []
    for device in ("cpu", "cuda"):
        folder, _ = train(tmp_path / "features", tmp_path / device, *options, "--device", device)
        found.append(np.load(folder / "probabilities.npy"))
    np.testing.assert_allclose(found[0], found[1], atol=tolerance)


def test_predictions_are_those_of_the_processor(tmp_path, bert, titles):
    extract(bert, titles, tmp_path / "features", "--device", "cuda")
    folder, _ = train(tmp_path / "features", tmp_path / "runs", "--head", "linear", "--layers", 2)
    found = []
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.csv"
        result = call("predict", "--run", folder, "--csv", titles, "--device", device, "--out", out)
        assert result.code == 0, result.err
        found.append(pd.read_csv(out))
    assert (found[0].prediction == found[1].prediction).all()
    np.testing.assert_allclose(found[0].probability, found[1].probability, atol=2e-3)
