"""Baselines: words learn from what the heads beside them learn from, and decide as they do, out of fold."""

from dataclasses import dataclass

import numpy as np
import pytest
from conftest import call, refused
from filelock import FileLock
from pages import THREE, evaluate, of_class, recommendation, tables, unwrapped
from synthetic import chances, guesses, scikit_learn, write_baseline, write_features, write_run

from whichlayer.heads import baselines, runs, splits
from whichlayer.heads.options import Options
from whichlayer.scores import decision


@dataclass
class Titles:
    """What baselines.out_of_fold needs of a table."""

    labels: np.ndarray  # (titles,) int
    groups: np.ndarray  # (titles,) int
    folds: np.ndarray  # (repeats, titles) int
    classes: list[str]


def worded(labels, seed=0):
    """Titles with a word of their own and four of 30 others, of which ten are more frequent in each category."""
    random = np.random.default_rng(seed)
    titles = []
    for number, label in enumerate(labels):
        typical = 10 * label + random.integers(0, 10, 4)
        any_word = random.integers(0, 30, 4)
        words = np.where(random.random(4) < 0.4, typical, any_word)
        titles.append(" ".join([f"own{number}", *(f"word{word}" for word in words)]))
    return titles


def unequal(titles=240):
    """Titles in three unequal categories, in one repeat of 3 folds: (list of str, Titles)."""
    labels = np.random.default_rng(9).choice(3, titles, p=[0.75, 0.15, 0.1])
    groups = np.arange(titles)
    folds = splits.repeat_folds(labels, groups, Options(folds=3, repeats=1))
    return worded(labels), Titles(labels, groups, folds, ["c0", "c1", "c2"])


# --- what words learn from ----------------------------------------------------------------------------------------


def test_with_few_labels_words_learn_from_the_titles_that_the_heads_learn_from(tmp_path):
    titles, labels = np.array(worded(THREE[:200]), object), THREE[:200]
    features = write_features(tmp_path / "features", titles, [f"c{label}" for label in labels])
    write_run(tmp_path / "r", labels, guesses(labels, 3, 0.8), features=features, labels=4)
    evaluate(tmp_path / "r", "--baselines")
    (folder,) = [path for path in (tmp_path / "r").glob("*-tfidf-*") if "labels-4" in path.name]
    stored, folds = np.load(folder / "probabilities.npy"), np.load(folder / "folds.npy")
    draws = splits.draw_titles(labels, np.arange(200), folds, 0, 4)
    for fold, draw in enumerate(draws):
        assert len(draw.rows) == 3 * 4
        test = folds[0] == fold
        expected = scikit_learn(titles[draw.rows], labels[draw.rows], titles[test])
        np.testing.assert_allclose(stored[0, test], expected, atol=1e-5)


def test_words_decide_by_titles_that_they_learn_from_but_that_were_held_out():
    """τ is the best on the last quarter of a head's titles, for words that know the other three quarters."""
    titles, table = unequal()
    options = Options(folds=3, repeats=1, decide="macro-f1")
    _, offsets = baselines.out_of_fold("tfidf", titles, table, options)
    titles = np.array(titles, object)
    draws = splits.draw_titles(table.labels, table.groups, table.folds, 0)
    for own, draw in zip(offsets[0], draws, strict=True):
        learn, held = draw.rows[draw.parts < 3], draw.rows[draw.parts == 3]
        values = scikit_learn(titles[learn], table.labels[learn], titles[held])
        learned = table.labels[draw.rows]
        tau = decision.choose_tau(table.labels[held], values, learned, 3)
        np.testing.assert_allclose(own, decision.offsets_of(tau, learned, 3), rtol=1e-5)
    assert abs(offsets).max(2).all()  # none of them names the likeliest, as titles that were learned would have it


def test_held_out_titles_change_nothing_of_the_decision_of_words():
    """One fold's titles get the labels that words find likeliest: on these, no other decision is better."""
    titles, table = unequal()
    options = Options(folds=3, repeats=1, decide="macro-f1")
    probabilities, before = baselines.out_of_fold("tfidf", titles, table, options)
    held_out = table.folds[0] == 1
    likeliest = probabilities[0].argmax(1)
    table.labels = np.where(held_out, likeliest, table.labels)
    _, after = baselines.out_of_fold("tfidf", titles, table, options)
    assert abs(before[0, 1]).max() > 0.1
    np.testing.assert_array_equal(after[0, 1], before[0, 1])


# --- what they are compared with ----------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [1, 2, 3])
def test_words_are_averaged_with_the_best_row_wherever_it_stands(tmp_path, best):
    """It is the mean of both rows' calibrated probabilities."""
    written = {}
    for layer in (1, 2, 3):
        share = 0.05 if layer == best else 0.4
        values = chances(of_class(THREE, share, layer), 3, 0.7)
        written[layer] = write_run(tmp_path, THREE, values, layers=(layer,), depth=3)
    written["words"] = write_baseline(written[1], "tfidf", chances(of_class(THREE, 0.3, 9), 3, 0.6))
    both = [runs.open_run(written[key]) for key in (best, "words")]
    mean = sum(run.calibrated for run in both) / 2
    average = [row for row in tables(evaluate(tmp_path))[0] if row["Head"] == "report's head + TF-IDF"]
    write_run(tmp_path / "mean", THREE, mean[None])
    assert average[0]["Layers"] == str(best)
    score = "F1-macro, last epoch"
    assert average[0][score] == tables(evaluate(tmp_path / "mean"))[0][0][score]


def test_words_compete_with_the_rows(tmp_path):
    """Where they are better than all rows, they are recommended; where they are worse, nothing changes."""
    for name, share in (("better", 0.01), ("worse", 0.6)):
        for layer in (1, 2):
            run = write_run(tmp_path / name, THREE, of_class(THREE, 0.1 * layer, layer), layers=(layer,))
        before = recommendation(evaluate(tmp_path / name))
        write_baseline(run, "tfidf", of_class(THREE, share, 3))
        after = recommendation(evaluate(tmp_path / name))
        assert "**Recommended: layer 1 (" in before
        assert f"**Recommended: {'TF-IDF' if name == 'better' else 'layer 1 ('}" in after


# --- where they are kept ------------------------------------------------------------------------------------------


def test_baselines_wait_for_a_training_that_runs(tmp_path):
    labels = THREE[:60]
    features = write_features(tmp_path / "features", worded(labels), [f"c{label}" for label in labels])
    write_run(tmp_path / "r", labels, guesses(labels, 3, 0.8), features=features)
    with FileLock(tmp_path / "r" / ".lock"):
        refused(call("evaluate", "--results", tmp_path / "r", "--baselines", "--quiet"), "a training is running")
        assert "TF-IDF" not in unwrapped(evaluate(tmp_path / "r")).replace("adds TF-IDF", "")  # a table needs no lock
    assert not list((tmp_path / "r").glob("*baseline*"))
    assert call("evaluate", "--results", tmp_path / "r", "--baselines").code == 0
