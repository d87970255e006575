"""The penalty that a linear probe chooses, beside scikit-learn on the whole grid, where categories are unequal."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss
from test_probe import scikit_learn, solve

from whichlayer.heads import probe

pytestmark = pytest.mark.filterwarnings("ignore:The number of unique classes")  # many categories for so few titles


def made(sizes, noise, hidden=20, seed=0):
    """Features (titles, 1, hidden) float32 of categories of these sizes, and their labels."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = random.normal(size=(len(sizes), hidden))
    x = centres[labels] + noise * random.normal(size=(len(labels), hidden))
    return x[:, None].astype(np.float32), labels


def held_out_losses(x, labels, draw):
    """The mean log loss on all parts of a head's titles, each held out in turn, for each C of the grid."""
    x = x[:, 0].astype(np.float64)
    losses = np.zeros(len(probe.GRID))
    titles = 0
    for part in range(int(draw.parts.max()) + 1):
        learn = draw.rows[draw.parts != part]
        held = draw.rows[draw.parts == part]
        held = held[np.isin(labels[held], labels[learn])]  # nothing can be learned of the others
        if len(held):
            titles += len(held)
            for number, c in enumerate(probe.GRID):
                predict = scikit_learn(x[learn], labels[learn], c, tol=1e-5)
                losses[number] += len(held) * log_loss(labels[held], predict(x[held]), labels=np.unique(labels[learn]))
    return losses / titles


@pytest.mark.parametrize(
    "sizes, noise, size",
    [
        ([60] * 4 + [4] * 10, 3.0, None),
        ([240, 80, 40, 16, 8, 4], 0.5, None),
        ([3] * 40, 3.0, None),
        ([200] * 5, 3.0, 8),
    ],
)
def test_the_choice_is_the_best_of_the_whole_grid(sizes, noise, size):
    x, labels = made(sizes, noise)
    found = solve(x, labels, size, folds=2)
    rows = found.draws[0].rows
    losses = held_out_losses(x, labels, found.draws[0])
    chosen = probe.GRID.index(found.penalties[0][0])
    assert losses[chosen] <= 1.02 * losses.min()

    held = found.folds[0] == 0
    predict = scikit_learn(x[rows, 0], labels[rows], probe.GRID[losses.argmin()], tol=1e-5)
    theirs = np.unique(labels[rows])[predict(x[held, 0]).argmax(1)]
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
    x = np.c_[first, first + 0.1 * told, noise].astype(np.float32)[:, None]
    found = solve(x, labels, folds=2)
    losses = held_out_losses(x, labels, found.draws[0])
    before = losses[: losses.argmin()]
    assert before.max() > 1.3 * before[0] > 1.3 * losses.min()
    assert found.penalties[0][0] == probe.GRID[losses.argmin()]


def test_penalties_far_behind_the_best_are_left_out(monkeypatch):
    x, labels = made([200] * 4, noise=3.0, hidden=60)
    walked = []
    penalty = probe.l2_penalty
    monkeypatch.setattr(probe, "l2_penalty", lambda c, *others: walked.append(c) or penalty(c, *others))
    found = solve(x, labels, folds=2)
    # the last one is what was chosen, for each head
    tried = walked[:-1]
    losses = held_out_losses(x, labels, found.draws[0])
    assert losses[-1] > 2 * losses.min()
    assert tried == probe.GRID[: len(tried)] and losses.argmin() < len(tried) < len(probe.GRID)
    assert found.penalties[0][0] == probe.GRID[losses.argmin()]


def test_where_each_penalty_is_as_good_the_strongest_is_taken():
    x = np.zeros((60, 1, 5), np.float32)  # says nothing
    found = solve(x, np.arange(60) % 3, folds=2)
    assert np.ravel(found.penalties).tolist() == [probe.GRID[0]] * 2


def test_a_category_of_two_titles_in_training_does_not_decide_the_penalty():
    """Of 40 categories of two titles one is in training: held out, nothing could be learned of it by any penalty."""
    x, labels = made([60, 60] + [2] * 40, noise=0.3)
    found = solve(x, labels, folds=2)
    assert np.min(found.penalties) > 1e-3
    named = found.probabilities[0].argmax(1)
    assert f1_score(labels, named, average="macro") > 0.5
