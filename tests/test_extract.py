"""Extraction: the features are transformers' own, whatever the batching, and only what was asked for is computed."""

import numpy as np
import pytest
from conftest import call, truth

import store


@pytest.mark.parametrize("window", [7, 4096])
def test_features_equal_transformers_hidden_states(tmp_path, bert, titles, window):
    result = call(
        "extract",
        "--data",
        titles,
        "--model",
        bert,
        "--pooling",
        "cls",
        "mean",
        "--dtype",
        "float32",
        "--window",
        window,
        "--out",
        tmp_path / "f",
    )
    assert result.code == 0, result.err
    features = store.open_features(tmp_path / "f")
    wanted = truth(bert, features.titles()[0])
    for pooling in ("cls", "mean"):
        assert features.layers(pooling) == [1, 2]
        for layer in (1, 2):
            got = features.read(pooling, layer)
            scale = np.abs(wanted[pooling, layer]).max()
            assert np.abs(got - wanted[pooling, layer]).max() < 1e-5 * scale
            assert np.load(tmp_path / "f" / f"{pooling}-{layer:02d}.npy", mmap_mode="r").shape == (60, 24)
