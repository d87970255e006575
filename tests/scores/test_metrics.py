"""Metrics: the figures are scikit-learn's, standard errors are those of a plain bootstrap, odd tables stay sound."""

import conftest  # noqa: F401  puts the scripts on the path
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as scikit
from synthetic import drawn

from whichlayer.scores import comparison, metrics

CLASSES = 4


@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn warns of classes that never occur
@pytest.mark.parametrize("seed", range(6))
def test_figures_of_classes_equal_scikit_learn(seed):
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 9))
    here = random.choice(classes, size=int(random.integers(1, classes + 1)), replace=False)  # some classes never occur
    labels, predictions = random.choice(here, 50), random.choice(here[: max(1, len(here) - seed % 3)], 50)
    both = np.stack([predictions, random.permutation(predictions)])
    expected = scikit.f1_score(labels, predictions, average="macro")
    assert metrics.macro_f1(labels, predictions, classes) == pytest.approx(expected, abs=1e-12)
    options = {"labels": range(classes), "zero_division": 0}
    by_hand = [scikit.precision_recall_fscore_support(labels, own, **options)[:3] for own in both]
    found = comparison.influence(labels, both, classes).scores
    np.testing.assert_allclose(found[[1, 2, 0]], np.mean(by_hand, axis=0), atol=1e-12)


def test_score_is_over_repeats_and_folds():
    random = np.random.default_rng(0)
    labels, folds = random.integers(0, 3, 90), np.stack([np.arange(90) % 5, np.arange(90) // 18])
    predictions = np.where(random.random((2, 90)) < 0.7, labels, 0)
    predictions[1, folds[1] == 2] = 1
    found = metrics.score(labels, predictions, folds, 3)
    whole = [scikit.f1_score(labels, own, average="macro") for own in predictions]
    parts = np.zeros((2, 5))
    for repeat, fold in np.ndindex(2, 5):
        test = folds[repeat] == fold
        parts[repeat, fold] = scikit.f1_score(labels[test], predictions[repeat, test], average="macro")
    assert found == {
        "macro_f1": pytest.approx(np.mean(whole)),
        "repeat_macro_f1": pytest.approx(whole),
        "fold_macro_f1": [pytest.approx(own) for own in parts],
        "collapsed": [[1, 2]],
    }


def test_chance_is_what_shuffled_predictions_reach_or_the_commonest_class():
    random = np.random.default_rng(1)
    labels = random.choice(3, 2000, p=[0.7, 0.2, 0.1])
    predictions = np.where(random.random((2, 2000)) < 0.6, labels, 0)
    shuffled = [scikit.f1_score(labels, random.permutation(p), average="macro") for p in predictions for _ in range(50)]
    assert comparison.influence(labels, predictions, 3).chance == pytest.approx(np.mean(shuffled), abs=0.003)
    commonest = scikit.f1_score(labels, np.zeros(2000), average="macro", zero_division=0)
    for named in (0, 1):
        assert comparison.influence(labels, np.full((1, 2000), named), 3).chance == pytest.approx(commonest)


def simulated(random, n, copies=1, repeats=3):
    """Labels, predictions (repeats, titles) and groups of copies of titles from one population of unequal classes."""
    labels = random.choice(CLASSES, n, p=[0.4, 0.3, 0.2, 0.1])
    right = random.random(n) < np.array([0.95, 0.85, 0.75, 0.8])[labels]
    changed = random.random((repeats, n)) < 0.1
    predictions = np.where(right ^ changed, labels, (labels + 1) % CLASSES)
    sizes = random.integers(1, 2 * copies, n) if copies > 1 else np.ones(n, int)
    return np.repeat(labels, sizes), np.repeat(predictions, sizes, axis=1), np.repeat(np.arange(n), sizes)


def plain_bootstrap(labels, rows, groups, resamples):
    """As a textbook says it: draw groups with replacement, take all their titles, score them; (rows, resamples)."""
    random, members = np.random.default_rng(1), [np.flatnonzero(groups == g) for g in np.unique(groups)]
    scores = []
    for _ in range(resamples):
        drawn = np.concatenate([members[i] for i in random.integers(0, len(members), len(members))])
        scores.append([np.mean([metrics.macro_f1(labels[drawn], p[drawn], CLASSES) for p in row]) for row in rows])
    return np.array(scores).T


@pytest.mark.parametrize("copies", [1, 4])
def test_standard_errors_are_those_of_a_plain_bootstrap(copies):
    random = np.random.default_rng(7)
    labels, first, groups = simulated(random, 600, copies)
    rows = [first, np.where(random.random(first.shape) < 0.1, 0, first)]
    scores = plain_bootstrap(labels, rows, groups, 1000)
    found = [comparison.influence(labels, row, CLASSES, groups) for row in rows]
    for row, resampled in zip(found, scores, strict=True):
        assert row.titles_variance**0.5 == pytest.approx(resampled.std(), rel=0.07)
        assert row.contributions.sum() == pytest.approx(0, abs=1e-12)
    apart = found[0].contributions - found[1].contributions
    assert (apart**2).sum() ** 0.5 == pytest.approx((scores[0] - scores[1]).std(), rel=0.07)
    single = comparison.influence(labels, first, CLASSES).titles_variance
    assert copies == 1 or single < 0.5 * found[0].titles_variance  # copies taken for titles of their own say too much


@pytest.mark.parametrize("freedom", [1, 1.3, 2, 3.7, 10, 80, 999, 1e7])
@pytest.mark.parametrize("probability", [0.5, 0.8, 0.95, 0.975, 0.995])
def test_quantile_of_student_is_scipys(probability, freedom):
    expected = stats.t.ppf(probability, freedom) if freedom < 1000 else stats.norm.ppf(probability)
    assert comparison.t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("counts", [[20] * 4, [5] * 8, [3], [1, 1]])
def test_few_titles_without_an_error_do_not_make_the_interval_a_point(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    low, high = comparison.interval(comparison.influence(labels, labels, len(counts)))
    assert high == pytest.approx(1) and 0 <= low < 1 - 1 / len(labels)
    low, high = comparison.interval(comparison.influence(labels, labels + 1, len(counts) + 1))
    assert low == 0 and 0 < high < 1


def test_class_of_two_titles_that_is_never_predicted():
    """The interval does not pretend that the class could be absent, and the class is named as too small."""
    labels = np.repeat([0, 1, 2], [150, 150, 2])
    row = comparison.influence(labels, np.where(labels == 2, 0, labels), 3)
    low, high = comparison.interval(row)
    assert low < 0.6 < row.value < 0.75 < high < 0.95 and row.scarce == [2]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("repeats", [1, 3])
def test_equal_collapsed_and_perfect_rows_compare_without_warnings(repeats):
    random = np.random.default_rng(5)
    labels, predictions, groups = simulated(random, 200, repeats=repeats)
    other = np.where(random.random(predictions.shape) < 0.2, 0, predictions)
    collapsed = np.zeros_like(predictions)
    table = [predictions, predictions, other, collapsed, collapsed, [labels] * repeats]
    rows = [comparison.influence(labels, row, CLASSES, groups) for row in table]
    result = comparison.compare(rows[:5], 0)
    assert result.difference[1] == result.low[1] == result.high[1] == 0
    assert result.significant[[1, 3, 4]].tolist() == [False, True, True]
    assert result.loss_bound[3] == result.loss_bound[4]
    assert comparison.compare(rows[:1], 0).corrected == pytest.approx(rows[0].value, abs=1e-9)
    best = comparison.compare(rows, 5)
    assert best.significant[:5].all() and best.corrected == pytest.approx(1)
    assert comparison.interval(rows[3], 0.9)[0] < rows[3].chance
    assert comparison.interval(rows[0], 0.9)[0] > rows[0].chance
    only = comparison.compare(rows, 0, candidates=[True, True, True, False, False, False])
    assert only.significant[5] and only.loss_bound[0] < 0.05 and only.corrected < 0.95


@pytest.mark.parametrize("times, least, most", [(1, 0.02, 0.1), (50, 0, 0.002)])
def test_few_titles_that_rows_agree_on_do_not_show_that_rows_are_equal(times, least, most):
    labels = np.arange(40 * times) % 4
    predictions = np.where(np.arange(40 * times) % 40 < 4, (labels + 1) % 4, labels)
    rows = [comparison.influence(labels, predictions, 4)] * 2
    assert least < comparison.compare(rows, 0).loss_bound[1] < most


def test_titles_needed_are_enough_and_not_many_more():
    random = np.random.default_rng(6)

    def loss_bound(titles, second):
        labels = np.arange(titles) % 4
        wrong = (labels + 1) % 4
        rare = (
            random.permutation(np.arange(titles) < 0.03 * titles),
            random.permutation(np.arange(titles) < second * titles),
        )
        rows = [comparison.influence(labels, [np.where(r, wrong, labels)], 4) for r in rare]
        result = comparison.compare(rows, 0)
        return result.loss_bound[1], result.titles_needed(1, 0.01, titles)

    bound, needed = loss_bound(1000, 0.032)
    assert bound > 0.01 and 1500 < needed < 5000
    assert loss_bound(int(1.1 * needed), 0.032)[0] < 0.01 < loss_bound(int(needed / 1.1), 0.032)[0]
    bound, needed = loss_bound(1000, 0.06)  # worse by more than the margin; that is what more titles would settle
    assert needed and loss_bound(needed, 0.06)[0] > 0.01


def test_log_loss_is_scikit_learns_and_finite_at_zero():
    labels, probabilities = drawn(np.random.default_rng(0), 500)
    expected = scikit.log_loss(labels, probabilities, labels=range(4))
    assert metrics.log_loss(labels, probabilities) == pytest.approx(expected)
    assert metrics.log_loss([0, 1], np.eye(2)[[1, 1]]) < np.inf
