"""Intervals, verdicts and advice hold on simulated titles whose truth is known; `make drill` repeats it at length."""

import conftest  # noqa: F401  puts the scripts on the path
import numpy as np
import pytest
from drills import drill_comparison as drill

from whichlayer.scores import comparison, metrics


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(comparison, "DRAWS", 2000)


@pytest.mark.parametrize(("repeats", "seeds"), [(1, 0), (3, 0), (3, 0.0045)])
def test_interval_covers_titles_and_repeats(repeats, seeds):
    covered, _ = drill.coverage(3599, repeats, seeds, drill.ALIKE, 300)
    assert 0.925 <= covered <= 0.985


@pytest.mark.parametrize("case", list(drill.SMALL))
def test_interval_of_few_titles_covers_or_says_that_they_are_too_few(case):
    covered, _, few = drill.small_coverage(case, 300)
    assert covered >= 0.91 or few > 0.9


def test_small_classes_are_not_said_to_be_too_few_where_intervals_cover():
    for case in ("8 × 5, 70%", "4 × 20, 98%", "2 × 30, 90%", "400, 100, 20 and 8; 97, 90, 80, 70%"):
        assert drill.small_coverage(case, 50)[2] < 0.4


@pytest.mark.parametrize(
    ("titles", "rows", "repeats", "seeds"), [(600, 6, 3, 0.0045), (600, 12, 1, 0), (600, 12, 3, 0)]
)
def test_rows_of_equal_truth_are_seldom_told_apart(titles, rows, repeats, seeds):
    wrong = drill.false_alarms(titles, rows, repeats, seeds, 150)
    assert wrong <= 0.075  # in the long run at most 5%


def test_rows_of_two_encoders_are_compared_as_truly():
    wrong = drill.false_alarms(600, 12, 3, 0.0045, 80, encoders=2)
    intervals, bounds = drill.encoder_coverage(600, 3, 0.0045, 80)
    assert wrong <= 0.09 and intervals >= 0.9 and bounds >= 0.9  # in the long run at most 5%, at least 95%


def test_real_differences_are_found():
    assert drill.power(3000, 12, 0.0025, 15) >= 0.95


@pytest.mark.parametrize("titles", [60, 250, 520])
def test_advice_loses_nothing_that_the_margin_does_not_allow(titles):
    own = drill.costs(titles, 3, 0.0045, 20)[:, 2]
    assert np.mean(own <= 0.01) >= 0.95 and own.mean() < 0.001


def test_best_of_many_equal_rows_is_flattered_and_its_corrected_figure_is_not():
    best, corrected = drill.chosen_bias(600, 12, 3, 0.0045, 60)
    assert best > 0.01 and abs(corrected) < 0.003


def test_correction_is_that_of_a_plain_bias_corrected_bootstrap():
    """Choose the best row in a resample, score it out of it, as Tsamardinos, Greasidou & Borboudakis (2018) say."""
    random = np.random.default_rng(3)
    labels, predictions = drill.simulate(random, 600, np.full(10, 0.9))
    out_of_bag = []
    for _ in range(500):
        drawn = random.integers(0, 600, 600)
        left = np.setdiff1d(np.arange(600), drawn)
        inside = [metrics.macro_f1(labels[drawn], row[0, drawn], 4) for row in predictions]
        out_of_bag.append(metrics.macro_f1(labels[left], predictions[np.argmax(inside), 0, left], 4))
    rows, best, compared = drill.compare(labels, predictions)
    assert compared.corrected == pytest.approx(np.mean(out_of_bag), abs=0.002)
    assert rows[best].value - compared.corrected > 0.005
