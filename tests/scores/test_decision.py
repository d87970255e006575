"""The decision: the category with the largest p / prior^τ, and τ by macro-F1."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from whichlayer.scores import decision


def unsure(seed=0, titles=2000, shares=(0.8, 0.15, 0.05)):
    """Labels of unequal categories, and calibrated probabilities that are often unsure."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, titles, p=shares)
    evidence = np.eye(3)[labels] + random.normal(size=(titles, 3))
    odds = np.array(shares) * np.exp(evidence)
    return labels, odds / odds.sum(1, keepdims=True)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_the_category_with_the_largest_ratio_is_named(tau):
    labels, probabilities = unsure()
    prior = np.bincount(labels) / len(labels)
    named = decision.decide(probabilities, decision.offsets_of(tau, labels, 3))
    np.testing.assert_array_equal(named, (probabilities / prior**tau).argmax(1))


def test_tau_is_the_one_with_the_highest_macro_f1_and_the_smallest_of_equal_ones():
    labels, probabilities = unsure()
    reached = []
    for tau in decision.TAUS:
        named = decision.decide(probabilities, decision.offsets_of(tau, labels, 3))
        reached.append(f1_score(labels, named, average="macro"))
    best = decision.offsets_of(decision.TAUS[np.argmax(reached)], labels, 3)
    np.testing.assert_array_equal(decision.choose_offsets(labels, probabilities, labels, 3), best)
    assert max(reached) > reached[0] + 0.02
    certain = np.eye(3)[labels]
    assert not decision.choose_offsets(labels, certain, labels, 3).any()
    assert not decision.choose_offsets(labels[:0], certain[:0], labels, 3).any()  # nothing was held out


def test_every_title_is_decided_by_the_head_that_has_not_seen_it():
    labels, probabilities = unsure(titles=60)
    folds = np.stack([np.arange(60) % 3, np.arange(60) // 20])
    offsets = np.random.default_rng(1).normal(size=(2, 3, 3))
    named = decision.predictions(np.stack([probabilities] * 2), folds, offsets)
    for repeat, title in np.ndindex(2, 60):
        own = np.log(probabilities[title]) - offsets[repeat, folds[repeat, title]]
        assert named[repeat, title] == own.argmax()
