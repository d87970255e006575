"""Baselines: words learn from what the heads beside them learn from, and decide as they do, out of fold."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import call, refused
from filelock import FileLock
from pages import evaluate
from synthetic import guesses, scikit_learn, write_features, write_run

from whichlayer.heads import splits, words
from whichlayer.heads.options import Options
from whichlayer.report import baselines
from whichlayer.scores import decision


def worded(labels, seed=0):
    """Titles with a word of their own and four of 30 others, of which ten are more frequent in each category."""
    random = np.random.default_rng(seed)
    titles = []
    for number, label in enumerate(labels):
        typical = 10 * label + random.integers(0, 10, 4)
        any_word = random.integers(0, 30, 4)
        chosen = np.where(random.random(4) < 0.4, typical, any_word)
        titles.append(" ".join([f"own{number}", *(f"word{word}" for word in chosen)]))
    return np.array(titles, object)


def of_titles(labels):
    """What baselines.out_of_fold needs of a table of titles in three categories, in one repeat of 3 folds."""
    groups = np.arange(len(labels))
    folds = splits.repeat_folds(labels, groups, Options(folds=3, repeats=1))
    return SimpleNamespace(labels=labels, groups=groups, folds=folds, classes=["c0", "c1", "c2"])


def computed(titles, table, **options):
    """(probabilities, offsets) of TF-IDF, and the titles that each of the three learned from."""
    options = Options(**{"folds": 3, "repeats": 1, "decide": "macro-f1", **options})
    found = baselines.out_of_fold("tfidf", words.count(titles, table.labels), table, options)
    return *found, splits.draw_titles(table.labels, table.groups, table.folds, 0, options.labels)


UNEQUAL = np.random.default_rng(9).choice(3, 240, p=[0.75, 0.15, 0.1])


# --- what words learn from ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 4])
def test_words_learn_from_the_titles_that_the_heads_learn_from(size):
    titles = worded(UNEQUAL)
    table = of_titles(UNEQUAL)
    stored, _, draws = computed(titles, table, labels=size)
    for fold, draw in enumerate(draws):
        test = table.folds[0] == fold
        expected = scikit_learn(titles[draw.rows], UNEQUAL[draw.rows], titles[test])
        np.testing.assert_allclose(stored[0, test], expected, atol=1e-5)
        assert len(draw.rows) == (3 * 4 if size else (~test).sum())


def test_where_one_category_is_left_to_learn_from_it_is_named():
    counts = words.count(["a b", "c", "c d"], np.array([1, 1, 0]))
    for kind in ("tfidf", "majority"):
        found = words.BASELINES[kind].predict(counts, [0, 1], [2, 0])
        np.testing.assert_array_equal(found, [[0, 1], [0, 1]])


def test_words_decide_by_titles_that_they_learn_from_but_that_were_held_out():
    """τ is the best on the last quarter of a head's titles, for words that know the other three quarters."""
    titles = worded(UNEQUAL)
    _, offsets, draws = computed(titles, of_titles(UNEQUAL))
    for own, draw in zip(offsets[0], draws, strict=True):
        learn, held = draw.rows[draw.parts < 3], draw.rows[draw.parts == 3]
        values = scikit_learn(titles[learn], UNEQUAL[learn], titles[held])
        learned = UNEQUAL[draw.rows]
        wanted = decision.choose_offsets(UNEQUAL[held], values, learned, 3)
        np.testing.assert_allclose(own, wanted, rtol=1e-5)
    assert abs(offsets).max(2).all()  # none of them names the likeliest, as titles that were learned would have it
    # where categories are equal, no τ changes anything
    assert not computed(titles, of_titles(UNEQUAL), labels=8)[1].any()


# --- where they are kept ------------------------------------------------------------------------------------------


def prepare(folder, labels, results, layer=1):
    """Features of titles with these labels, and a run on them."""
    features = write_features(folder, worded(labels), [f"c{label}" for label in labels])
    write_run(results, labels, guesses(labels, 3, 0.8), layers=(layer,), features=features)


def test_each_set_of_titles_has_baselines_of_its_own(tmp_path):
    labels, changed = np.arange(60) % 3, (np.arange(60) + 1) % 3
    results = tmp_path / "r"
    prepare(tmp_path / "before", labels, results)
    evaluate(results, "--baselines")
    first = set(results.glob("*baseline*"))
    prepare(tmp_path / "after", changed, results)
    evaluate(results, "--baselines")
    later = set(results.glob("*baseline*")) - first
    for own, learned in ((first, labels), (later, changed)):
        assert len(own) == 2 and all((np.load(path / "labels.npy") == learned).all() for path in own)

    # where runs of both are there, so are their tables
    write_run(results, labels, guesses(labels, 3, 0.8), layers=(2,), features=tmp_path / "before")
    page = evaluate(results)
    assert page.count("majority class") == 2
    assert evaluate(results, "--baselines") == page


def test_baselines_wait_for_a_training_that_runs(tmp_path):
    prepare(tmp_path / "features", np.arange(60) % 3, tmp_path / "r")
    with FileLock(tmp_path / "r" / ".lock"):
        refused(call("evaluate", "--results", tmp_path / "r", "--baselines", "--quiet"), "a training is running")
        evaluate(tmp_path / "r")  # a table needs no lock
    assert not list((tmp_path / "r").glob("*baseline*"))
