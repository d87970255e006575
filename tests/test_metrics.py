"""Metrics: macro-F1 is scikit-learn's, and the bootstrap interval holds the truth as often as it says."""

import conftest  # noqa: F401  puts the scripts on the path
import numpy as np
import pytest
from sklearn import metrics as scikit

import metrics

CLASSES = 4


@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn warns of classes that never occur
@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_and_confusion_equal_scikit_learn(seed):
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 9))
    here = random.choice(classes, size=int(random.integers(1, classes + 1)), replace=False)  # some classes never occur
    labels, predictions = random.choice(here, 50), random.choice(here[: max(1, len(here) - seed % 3)], 50)
    assert metrics.macro_f1(labels, predictions, classes) == pytest.approx(
        scikit.f1_score(labels, predictions, average="macro"), abs=1e-12
    )
    np.testing.assert_array_equal(
        metrics.confusion_matrix(labels, predictions, classes),
        scikit.confusion_matrix(labels, predictions, labels=range(classes)),
    )


def test_classes_that_never_occur_and_are_never_predicted_do_not_count():
    assert metrics.macro_f1([0, 1, 1], [0, 1, 1], 2) == metrics.macro_f1([0, 1, 1], [0, 1, 1], 9) == 1.0


def test_class_that_is_predicted_but_never_occurs_counts_as_zero():
    assert metrics.macro_f1([0, 0, 1, 1], [0, 0, 1, 2], 3) == pytest.approx((1 + 2 / 3 + 0) / 3)


def simulated(random, n, copies=1):
    """Labels and predictions of titles that come from one and the same population, and the groups of their copies."""
    labels = random.choice(CLASSES, n, p=[0.4, 0.3, 0.2, 0.1])
    right = random.random(n) < np.array([0.95, 0.85, 0.75, 0.8])[labels]
    predictions = np.where(right, labels, (labels + 1) % CLASSES)
    sizes = random.integers(1, 2 * copies, n) if copies > 1 else np.ones(n, int)
    return np.repeat(labels, sizes), np.repeat(predictions, sizes), np.repeat(np.arange(n), sizes)


def coverage(copies, groups, simulations=300):
    """In how many simulated data sets the 95% interval holds the macro-F1 of the population."""
    truth = metrics.macro_f1(*simulated(np.random.default_rng(0), 2_000_000)[:2], CLASSES)
    random, held = np.random.default_rng(1), 0
    for simulation in range(simulations):
        labels, predictions, group = simulated(random, 300, copies)
        scores = metrics.bootstrap_macro_f1(labels, predictions, CLASSES, group if groups else None, 400, simulation)
        low, high = metrics.interval(scores)[:, 0]
        held += low <= truth <= high
    return held / simulations


def test_interval_holds_the_truth_as_often_as_it_says():
    assert 0.91 <= coverage(copies=1, groups=False) <= 0.985


def test_interval_holds_the_truth_where_titles_have_copies_and_copies_are_groups():
    assert 0.91 <= coverage(copies=4, groups=True) <= 0.985


def test_interval_that_takes_copies_for_titles_of_their_own_is_too_narrow():
    assert coverage(copies=4, groups=False) < 0.85


def naive_bootstrap(labels, predictions, groups, resamples, seed):
    """The bootstrap as a textbook says it: draw groups with replacement, take all their titles, score them."""
    random, members = np.random.default_rng(seed), [np.flatnonzero(groups == g) for g in np.unique(groups)]
    scores = []
    for _ in range(resamples):
        rows = np.concatenate([members[i] for i in random.integers(0, len(members), len(members))])
        scores.append([scikit.f1_score(labels[rows], row[rows], average="macro") for row in predictions])
    return np.array(scores).T


@pytest.mark.parametrize("copies", [1, 4])
def test_bootstrap_is_distributed_as_a_naive_one(copies):
    random = np.random.default_rng(7)
    labels, first, groups = simulated(random, 150, copies)
    second = np.where(random.random(len(labels)) < 0.15, 0, first)
    predictions = np.stack([first, second])
    fast = metrics.bootstrap_macro_f1(labels, predictions, CLASSES, groups, 4000, 0)
    naive = naive_bootstrap(labels, predictions, groups, 1500, 1)
    for row in (0, 1):
        spread = naive[row].std()
        assert fast[row].std() == pytest.approx(spread, rel=0.12)
        points = [0.025, 0.25, 0.5, 0.75, 0.975]
        np.testing.assert_allclose(np.quantile(fast[row], points), np.quantile(naive[row], points), atol=0.2 * spread)
    # rows see the same draws: their difference varies as much as in the naive loop, far less than unpaired rows would
    assert (fast[0] - fast[1]).std() == pytest.approx((naive[0] - naive[1]).std(), rel=0.15)


def test_rows_see_the_same_draws_and_a_row_does_not_depend_on_its_company():
    labels, predictions, groups = simulated(np.random.default_rng(3), 200, 3)
    rows = np.stack([predictions, predictions[::-1], predictions])
    scores = metrics.bootstrap_macro_f1(labels, rows, CLASSES, groups, 300, 5)
    assert scores.shape == (3, 300)
    np.testing.assert_array_equal(scores[0], scores[2])
    assert abs(scores[0] - scores[1]).max() > 0.1
    np.testing.assert_array_equal(scores, metrics.bootstrap_macro_f1(labels, rows, CLASSES, groups, 300, 5))
    assert not np.array_equal(scores, metrics.bootstrap_macro_f1(labels, rows, CLASSES, groups, 300, 6))


def test_everything_right_is_one_in_every_resample():
    labels = np.arange(100) % 5
    assert (metrics.bootstrap_macro_f1(labels, labels, 5, resamples=100) == 1).all()


def test_blocks_of_resamples_change_nothing_but_memory():
    """A data set so rich in classes and rows that resamples are drawn in several blocks."""
    random = np.random.default_rng(2)
    labels = random.integers(0, 3000, 6000)
    predictions = np.where(random.random(6000) < 0.7, labels, 0)
    scores = metrics.bootstrap_macro_f1(labels, predictions, 3000, np.arange(6000), 1500)[0]
    assert np.isfinite(scores).all() and scores.min() > 0.2 and len(np.unique(scores)) > 1490


def test_interval_is_the_percentile_interval_of_each_row():
    scores = np.stack([np.arange(1001) / 1000, np.full(1001, 0.5)])
    np.testing.assert_allclose(metrics.interval(scores), [[0.025, 0.5], [0.975, 0.5]])
    np.testing.assert_allclose(metrics.interval(scores, 0.5)[:, 0], [0.25, 0.75])
