"""Thresholds: from a probability on, answers are right as often as was promised, on titles that chose nothing, too."""

import numpy as np
import pytest
from pages import evaluate, tables, unwrapped
from synthetic import write_run

from whichlayer.scores import decision


def calibrated(random, titles):
    """(sure, right): many titles with high probabilities, right as often as these say."""
    sure = random.beta(4, 1, titles)
    return sure, random.random(titles) < sure


def smallest(sure, right, wanted):
    """The smallest probability from which on answers are right, with one more wrong: by trying all."""
    if right.mean() >= wanted:
        return 0.0
    found = np.inf
    for level in np.unique(sure)[::-1]:
        answered = sure >= level
        if right[answered].sum() / (answered.sum() + 1) >= wanted:
            found = level
    return found


# --- what is chosen -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", decision.WANTED)
@pytest.mark.parametrize("digits", [1, 2, 9])
def test_a_threshold_is_the_smallest_that_does_it(wanted, digits):
    """With one digit, many titles have the same probability, and are answered together."""
    random = np.random.default_rng(digits)
    for _ in range(20):
        sure, right = calibrated(random, 300)
        sure = sure.round(digits)
        assert decision.choose_threshold(sure, right, wanted) == smallest(sure, right, wanted)


def test_coverage_and_precision_are_those_of_folds_that_chose_nothing():
    """What at least half of the folds do not reach is not reachable."""
    random = np.random.default_rng(5)
    reached = 0
    for wanted in decision.WANTED * 5:
        sure, right = calibrated(random, 500)
        folds = random.integers(0, 5, 500)
        levels = [smallest(sure[folds != fold], right[folds != fold], wanted) for fold in range(5)]
        answers = [right[title] for title in range(500) if sure[title] >= levels[folds[title]]]
        found = decision.find_threshold(sure, right, folds, wanted)
        if levels.count(np.inf) > 2:
            assert found == decision.Threshold(wanted, None)
            continue
        reached += 1
        assert found.probability == smallest(sure, right, wanted)
        assert found.coverage == pytest.approx(len(answers) / 500)
        assert found.precision == pytest.approx(np.mean(answers))
    assert 8 < reached < 20


# --- what it is worth on other titles -----------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [0.9, 0.95, 0.98])
@pytest.mark.parametrize("titles", [400, 3000])
def test_fresh_titles_are_right_as_often_as_was_promised(wanted, titles):
    """Many draws of titles choose thresholds, and 300,000 others are answered by them."""
    random = np.random.default_rng(6)
    fresh, correct = calibrated(random, 300_000)
    order = np.argsort(-fresh)
    fresh, precise = fresh[order], np.cumsum(correct[order]) / np.arange(1, 300_001)
    folds = np.arange(titles) % 5
    found = [decision.find_threshold(*calibrated(random, titles), folds, wanted) for _ in range(200)]
    found = [each for each in found if each.probability is not None]
    assert len(found) > 50
    places = np.maximum(np.searchsorted(-fresh, [-each.probability for each in found], "right") - 1, 0)
    short = wanted - precise[places]
    assert abs(short.mean()) < 0.01
    # and what is said of held-out titles is what fresh ones show
    assert abs(np.mean([each.precision for each in found]) - precise[places].mean()) < 0.01
    assert abs(np.mean([each.coverage for each in found]) - (places + 1).mean() / 300_000) < 0.02
    if titles == 3000:
        assert np.mean(short > 0.015) < 0.05


@pytest.mark.parametrize("titles", [100, 1000])
def test_where_probabilities_say_nothing_no_threshold_is_promised(titles):
    """Right in half of the titles, whatever the probability: the luckiest titles on top are no promise."""
    random = np.random.default_rng(7)
    for wanted in decision.WANTED:
        promised = 0
        for _ in range(200):
            sure, right = random.random(titles), random.random(titles) < 0.5
            promised += decision.find_threshold(sure, right, np.arange(titles) % 5, wanted).probability is not None
        assert promised <= 4, (wanted, promised)


# --- what is printed ----------------------------------------------------------------------------------------------


def test_the_table_says_what_to_accept_and_what_held_out_titles_show(tmp_path):
    random = np.random.default_rng(8)
    labels = np.arange(1000) % 2
    sure, right = calibrated(random, 1000)
    named = np.where(right, labels, 1 - labels)
    values = np.where(np.arange(2) == named[:, None], sure[:, None], 1 - sure[:, None])
    write_run(tmp_path, labels, values[None].astype(np.float32))
    text = evaluate(tmp_path)
    assert "When to accept its answers (`predict.py --at-least`)" in unwrapped(text)
    rows = tables(text)[2]
    assert [row["To be right in"] for row in rows] == ["90%", "95%", "98%", "99%"]
    reached = [row for row in rows if row["accept from"] != "not reachable"]
    accept, answered = ([float(row[name].rstrip("%")) for row in reached] for name in ("accept from", "answered"))
    assert len(reached) >= 2 and accept == sorted(accept) and answered == sorted(answered, reverse=True)
    for row in reached:
        assert abs(float(row["right in, held out"].rstrip("%")) - float(row["To be right in"].rstrip("%"))) < 3


@pytest.mark.parametrize(
    "wrong, cells", [(0, ("any", "100.0%", "100.0%")), (0.3, ("not reachable", "", ""))], ids=["all", "none"]
)
def test_where_all_answers_can_be_accepted_or_none_that_is_said(tmp_path, wrong, cells):
    labels = np.arange(600) % 2
    write_run(tmp_path, labels, np.where(np.random.default_rng(9).random(600) < wrong, 1 - labels, labels))
    assert {tuple(row.values())[1:] for row in tables(evaluate(tmp_path))[2]} == {cells}
