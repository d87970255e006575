"""The log-linear pool: exponents are the best there are, are fitted on other titles, and keep probabilities honest."""

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import log_loss
from synthetic import by_scipy, combined, drawn, pooled

from whichlayer.scores import calibration, comparison, decision, figures, metrics


def views(random, titles, strengths=(1.5, 1.2)):
    """Labels, two noisy looks at each that know nothing of one another, and what both say by Bayes' rule.

    One is twice as sure as it should be, the other not sure enough.
    """
    labels = random.integers(0, 4, titles)
    logits = [s * (s * np.eye(4)[labels] + random.normal(size=(titles, 4))) for s in strengths]
    parts = [special.softmax(sure * each, axis=1) for sure, each in zip((2, 0.6), logits, strict=True)]
    return labels, parts, special.softmax(sum(logits), axis=1)


# --- the exponents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_exponents_are_scipys_whichever_of_them_are_on_their_bound(count):
    held = 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        labels, exact = drawn(random, 200)
        # too sure, not sure enough, or the opposite of the truth; and all err together
        noise = random.normal(size=exact.shape)
        powers = [random.choice([-0.5, 0.4, 2.5]) for _ in range(count)]
        logits = [power * np.log(exact) + noise + random.normal(size=exact.shape) for power in powers]
        parts = special.softmax(logits, axis=-1)
        wanted = by_scipy(labels, parts)
        if wanted.sum() < 0.05:
            wanted = np.full(count, 0.05 / count)  # no category could be named
        held += (wanted == 0).sum()
        np.testing.assert_allclose(calibration.fit(labels, parts), wanted, atol=2e-3)
    assert held > 3 or count == 1


@pytest.mark.parametrize("titles", [20, 100, 400])
@pytest.mark.parametrize("sure", [0.6, 0.9, 1.0])
def test_titles_that_are_all_told_apart_do_not_make_probabilities_certain(titles, sure):
    """A title in so many may be wrong, whatever these were: the exponent does not run to its bound."""
    labels = np.arange(titles) % 2
    probabilities = np.where(labels[:, None] == [0, 1], sure, 1 - sure)
    calibrated = calibration.pool([probabilities], calibration.fit(labels, [probabilities]))
    assert 0.02 / titles < 1 - calibrated.max() < 2 / titles


def test_what_says_nothing_adds_nothing():
    """Chance favours or contradicts random probabilities as often; those that are the same for all never count."""
    exponents = []
    for seed in range(40):
        labels, exact = drawn(np.random.default_rng(seed), 300)
        useless = drawn(np.random.default_rng(99 - seed), 300)[1]
        exponents.append(calibration.fit(labels, [exact, useless])[1])
    assert 10 < np.count_nonzero(exponents) < 30 and max(exponents) < 0.1
    assert calibration.fit(labels, [np.full((300, 4), 0.25), exact])[0] == 0


def test_of_many_titles_a_sample_tells_nearly_the_same(monkeypatch):
    labels, parts, _ = views(np.random.default_rng(1), 20_000)
    exact = calibration.fit(labels, parts)
    monkeypatch.setattr(calibration, "SAMPLE", 16_000)
    np.testing.assert_allclose(calibration.fit(labels, parts), exact, rtol=0.1)
    assert (calibration.fit(labels, parts) != exact).all()


def test_the_temperature_of_a_larger_pool_follows_from_those_of_smaller_ones():
    """Fitted on one head and on three, used on fifteen: as good as fitted on fifteen, which nobody can do."""
    random = np.random.default_rng(4)
    truth = 2 * random.normal(size=(4000, 4))
    labels = (truth + random.gumbel(size=truth.shape)).argmax(1)
    heads = special.softmax(truth + 1.5 * random.normal(size=(15, 4000, 4)), axis=-1)  # each with noise of its own
    one, three, fifteen = (1 / calibration.fit(labels, [calibration.pool(heads[:n])])[0] for n in (1, 3, 15))
    found = calibration.temperature_of_all(one, three, 3, 15)
    assert one > three > fifteen and abs(np.log(found / fifteen)) < 0.5 * abs(np.log(three / fifteen))
    assert calibration.temperature_of_all(one, three, 3, 3) == pytest.approx(three)
    assert calibration.temperature_of_all(one, one, 1, 5) == one  # one repeat does not show what a pool would do


# --- out of fold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_exponents_are_those_of_other_folds_and_only_where_they_help_these_titles(count):
    folds = np.stack([np.arange(60) % 5] * 2)
    kept = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        labels, exact = drawn(random, 60)
        # hardly too sure: sometimes 60 titles say so
        parts = [pooled([exact, drawn(random, 60)[1]], [1.25, 0.05]) for _ in range(count)]
        judged = figures.judge(labels, folds, [(np.stack([part] * 2), None) for part in parts])
        exponents, _, values = combined(labels, folds[0], parts)
        np.testing.assert_allclose(judged.exponents, exponents, atol=1e-3)
        np.testing.assert_allclose(judged.probabilities, values, atol=1e-3)
        kept.append(exponents[0] != 1 / count)
        if count == 1:
            found = figures.measure(labels, np.stack(parts * 2), folds, 4)
            assert found.log_loss == pytest.approx(log_loss(labels, values), abs=1e-4)
            assert (found.pooled_temperature != 1) == (found.temperature != 1) == kept[-1]
    assert 0 < sum(kept) < 8


def test_a_run_names_the_same_categories_however_sharp_it_becomes():
    """All is right; the offset of a category makes up for a half of the probability, not for a thousandth."""
    labels = np.arange(300) % 3
    folds = (np.arange(300) % 2)[None]
    values = np.where(labels[:, None] == np.arange(3), 0.5, 0.25)[None]
    values[0, (labels > 0) & (np.arange(300) >= 150), 0] /= 1000
    offsets = np.full((1, 2, 3), np.float32([-5, 0, 0]))
    judged = figures.judge(labels, folds, [(values, offsets)])
    (named,) = decision.predictions(values, folds, offsets)
    assert judged.exponents[0] > 6 and (named != labels).sum() == 100
    np.testing.assert_array_equal(judged.predictions[0], named)
    np.testing.assert_array_equal(judged.named, named)


# --- what it is worth on other titles -----------------------------------------------------------------------------


def test_two_looks_together_are_worth_what_bayes_rule_makes_of_them():
    random = np.random.default_rng(3)
    labels, parts, _ = views(random, 2000)
    new, fresh, truth = views(random, 20_000)
    together = calibration.pool(fresh, calibration.fit(labels, parts))
    alone = [pooled([each], calibration.fit(labels, [part])) for part, each in zip(parts, fresh, strict=True)]
    values = (together, np.mean(alone, axis=0), truth)
    pool, mean, best = (log_loss(new, each) for each in values)
    assert best <= pool < best + 0.003 and pool < 0.95 * mean
    pool, mean, best = (metrics.expected_calibration_error(new, each) for each in values)
    assert pool < best + 0.01 and pool < 0.2 * mean


def test_thresholds_of_a_combination_keep_their_promise_and_its_interval_holds_the_truth():
    random = np.random.default_rng(5)
    new, fresh, _ = views(random, 5000)
    covered = []
    short = []
    for _ in range(150):
        labels, parts, _ = views(random, 300)
        folds = (np.arange(300) % 5)[None]
        judged = figures.judge(labels, folds, [(part[None], None) for part in parts])
        low, high = comparison.interval(comparison.influence(labels, judged.predictions, 4))
        values = calibration.pool(fresh, judged.exponents)
        right = values.argmax(1) == new
        covered.append(low <= metrics.macro_f1(new, values.argmax(1), 4) <= high)
        for each in decision.thresholds_of(judged, labels, folds)[:2]:
            if each.probability is not None:
                short.append(each.wanted - right[values.max(1) >= each.probability].mean())
    assert np.mean(covered) >= 0.9
    assert len(short) > 100 and abs(np.mean(short)) < 0.01
