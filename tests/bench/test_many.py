"""What bench/ measures: which titles those are, and that both contenders learn from the same."""

import numpy as np
from conftest import write_titles

from bench import many, measuring, steps, usual


def test_titles_are_those_of_the_file_each_once_and_then_with_a_number(tmp_path):
    path = write_titles(tmp_path / "titles.csv", rows=50)
    there = set(zip(*measuring.read_titles(path), strict=True))
    titles, categories = many.distinct_titles(path, 30)
    assert len(set(titles)) == 30 and set(zip(titles, categories, strict=True)) <= there
    titles, categories = many.distinct_titles(path, 80)
    assert len(set(titles)) == 80 == len(categories) and sum(title.endswith(" 1") for title in titles) >= 30


def test_made_up_categories_are_of_titles_near_each_other():
    x = np.repeat(np.eye(8, dtype=np.float32), 5, axis=0)
    labels = steps.near_each_other(x, 3, 5)
    assert np.bincount(labels + 1).tolist() == [25, 5, 5, 5] or labels.max() < 2


def test_the_usual_ways_predict_each_title_out_of_fold(monkeypatch):
    monkeypatch.setattr(usual, "EPOCHS", 2)
    labels = np.arange(60) % 2
    x = (np.random.default_rng(0).standard_normal((60, 9)) + 3 * labels[:, None]).astype(np.float32)
    folds = np.stack([np.arange(60) // 2 % 3] * 2)
    for found in (usual.train_heads(x, labels, folds), usual.train_probes(x, labels, folds, is_chosen=True)):
        assert found.shape == (2, 60, 2)
        np.testing.assert_allclose(found.sum(2), 1, rtol=1e-4)
    assert (found.argmax(2) == labels).mean() > 0.9
