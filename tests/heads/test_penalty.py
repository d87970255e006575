"""The penalty that a linear probe chooses, beside scikit-learn on the whole grid, where categories are unequal."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.preprocessing import StandardScaler

from whichlayer.heads import probe, splits
from whichlayer.heads.options import Options
from whichlayer.scores import decision

SIZES = {
    "4 of 150, 10 of 4": [150] * 4 + [4] * 10,
    "600 to 4": [600, 200, 60, 20, 8, 4],
    "1,000, 100 and 10": [1000, 100, 10],
    "40 of 3": [3] * 40,
    "8 labels each": [200] * 5,
}


def made(sizes, noise, hidden=20, seed=0):
    """Features (titles, hidden) float32 of categories of these sizes, and their labels."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = random.normal(size=(len(sizes), hidden))
    x = centres[labels] + noise * random.normal(size=(len(labels), hidden))
    return x.astype(np.float32), labels


def trained(x, labels, size=None, folds=2, decide="likeliest"):
    """(model.Trained, folds, draws) of linear probes on these features."""
    options = Options(head="linear", folds=folds, repeats=1)
    groups = np.arange(len(labels))
    held = splits.repeat_folds(labels, groups, options)
    draws = splits.draw_titles(labels, groups, held, 0, size)
    scaled = torch.from_numpy(x[:, None].copy())
    scale = probe.rescale(scaled)
    classes = int(labels.max()) + 1
    return probe.train(scaled, scale, labels, held, draws, classes, decide), held, draws


def fitted(x, labels, c):
    """scikit-learn's logistic regression on standardised features."""
    scaler = StandardScaler().fit(x)
    with warnings.catch_warnings(action="ignore"):  # many categories for so few titles
        regression = LogisticRegression(C=c, tol=1e-5, max_iter=5000).fit(scaler.transform(x), labels)
    return lambda new: regression.predict_proba(scaler.transform(new)), regression.classes_


def held_out_losses(x, labels, draw):
    """The mean log loss on all parts of a head's titles, each held out in turn, for each C of the grid."""
    losses = []
    for c in probe.GRID:
        total = titles = 0
        for part in range(int(draw.parts.max()) + 1):
            learn = draw.rows[draw.parts != part]
            held = draw.rows[draw.parts == part]
            held = held[np.isin(labels[held], labels[learn])]  # nothing can be learned of the others
            if len(held):
                predict, classes = fitted(x[learn], labels[learn], c)
                total += len(held) * log_loss(labels[held], predict(x[held]), labels=classes)
                titles += len(held)
        losses.append(total / titles)
    return np.array(losses)


@pytest.mark.parametrize("noise", [0.5, 3.0])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_choice_is_the_best_of_the_whole_grid(sizes, noise):
    x, labels = made(SIZES[sizes], noise)
    found, folds, draws = trained(x, labels, size=8 if "labels" in sizes else None)
    losses = held_out_losses(x.astype(np.float64), labels, draws[0])
    chosen = np.argmin(np.abs(np.array(probe.GRID) - found.penalties[0][0]))
    assert losses[chosen] <= 1.02 * losses.min()

    held = folds[0] == 0
    predict, classes = fitted(x[draws[0].rows].astype(np.float64), labels[draws[0].rows], probe.GRID[losses.argmin()])
    theirs = classes[predict(x[held].astype(np.float64)).argmax(1)]
    ours = found.probabilities[0, held].argmax(1)
    reached = [f1_score(labels[held], named, average="macro") for named in (ours, theirs)]
    assert reached[0] >= reached[1] - 0.01


def test_a_valley_behind_a_rise_is_found():
    """Beside 150 features of noise, only the small difference of two tells the categories: a strong penalty cannot see
    it, a weaker one learns the noise first.
    """
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(1200) % 2)
    told = 2 * labels - 1 + 0.5 * random.normal(size=1200)
    first = random.normal(size=1200)
    noise = random.normal(size=(1200, 150))
    x = np.c_[first, first + 0.1 * told, noise].astype(np.float32)
    found, _, draws = trained(x, labels)
    losses = held_out_losses(x.astype(np.float64), labels, draws[0])
    before = losses[: losses.argmin()]
    assert before.max() > 1.3 * before[0] > 1.3 * losses.min()
    assert found.penalties[0][0] == probe.GRID[losses.argmin()]


def test_penalties_far_behind_the_best_are_left_out(monkeypatch):
    x, labels = made([200] * 4, noise=3.0, hidden=60)
    walked = []
    penalty = probe.l2_penalty
    monkeypatch.setattr(probe, "l2_penalty", lambda c, *others: walked.append(c) or penalty(c, *others))
    found, _, draws = trained(x, labels)
    # the last one is what was chosen, for each head
    tried = walked[:-1]
    losses = held_out_losses(x.astype(np.float64), labels, draws[0])
    assert losses[-1] > 2 * losses.min()
    assert tried == probe.GRID[: len(tried)] and losses.argmin() < len(tried) < len(probe.GRID)
    assert found.penalties[0][0] == probe.GRID[losses.argmin()]


def test_where_each_penalty_is_as_good_the_strongest_is_taken():
    x = np.zeros((60, 5), np.float32)  # says nothing
    found, *_ = trained(x, np.arange(60) % 3)
    assert np.ravel(found.penalties).tolist() == [probe.GRID[0]] * 2


def test_a_category_of_two_titles_in_training_does_not_decide_the_penalty():
    """Of 40 categories of two titles one is in training: held out, nothing could be learned of it by any penalty."""
    x, labels = made([60, 60] + [2] * 40, noise=0.3)
    found, folds, _ = trained(x, labels)
    assert np.min(found.penalties) > 1e-3
    named = found.probabilities[0].argmax(1)
    assert f1_score(labels, named, average="macro") > 0.5


def test_rare_categories_are_named_where_macro_f1_wants_it():
    """With offsets, which no title has chosen that is scored by them, the rare category is found more often."""
    x, labels = made([600, 60, 30], noise=4.0)
    found, folds, _ = trained(x, labels, folds=5, decide="macro-f1")
    likeliest = found.probabilities[0].argmax(1)
    decided = decision.predictions(found.probabilities, folds, found.offsets)[0]
    assert f1_score(labels, decided, average="macro") > f1_score(labels, likeliest, average="macro") + 0.03
    assert (decided == 2).sum() > (likeliest == 2).sum()
