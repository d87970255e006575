"""The linear probe: scikit-learn's answer for the penalty it chose, and a choice that sees no held-out title."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

from whichlayer.heads import logistic, probe, splits
from whichlayer.heads.options import Options
from whichlayer.scores import decision


def noisy(rows=400, hidden=30, classes=4, layers=1, noise=2.0, seed=0):
    """Features (titles, layers, hidden) float32 of any mean and scale, correlated, and labels they tell in part."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(rows) % classes)
    centres = random.normal(size=(classes, hidden))
    mixing = random.normal(size=(hidden, hidden)) / hidden**0.5
    x = np.empty((rows, layers, hidden))
    for layer in range(layers):
        x[:, layer] = (centres[labels] + noise * random.normal(size=(rows, hidden))) @ mixing
    scale = 10.0 ** random.uniform(-2, 1, hidden)
    mean = random.normal(size=hidden)
    return (x * scale + mean).astype(np.float32), labels


def train(x, labels, folds, draws, decide="likeliest"):
    rescaled = torch.from_numpy(x.copy())
    scale = probe.rescale(rescaled)
    return probe.train(rescaled, scale, labels, folds, draws, int(labels.max()) + 1, decide)


def solve(x, labels, size=None, decide="likeliest", **options):
    """Train the probes of all folds and repeats, with so many labels of each category: what model.Trained holds, with
    the folds, (repeats, titles), and the titles that each head learned from.
    """
    options = Options(**{"head": "linear", "folds": 3, "repeats": 1, **options})
    groups = np.arange(len(labels))
    folds = splits.repeat_folds(labels, groups, options)
    draws = splits.draw_titles(labels, groups, folds, options.seed, size)
    return SimpleNamespace(**vars(train(x, labels, folds, draws, decide)), folds=folds, draws=draws)


def scikit_learn(x, labels, c, tol=1e-8):
    """A function that gives the probabilities of scikit-learn's logistic regression on standardised features."""
    scaler = StandardScaler().fit(x)
    regression = LogisticRegression(C=c, tol=tol, max_iter=10000).fit(scaler.transform(x), labels)
    return lambda new: regression.predict_proba(scaler.transform(new))


def oracle(x, labels, solved):
    """Out-of-fold probabilities of scikit-learn's logistic regressions with the same C: (repeats, titles, classes)."""
    flat = x.reshape(len(x), -1).astype(np.float64)
    out = np.zeros(solved.probabilities.shape)
    heads = np.ndindex(np.shape(solved.penalties))
    for (repeat, fold), draw in zip(heads, solved.draws, strict=True):
        predict = scikit_learn(flat[draw.rows], labels[draw.rows], solved.penalties[repeat][fold])
        held_out = solved.folds[repeat] == fold
        out[repeat, held_out] = predict(flat[held_out])
    return out


def outputs(state, x):
    """Probabilities from each head's kept weights, applied to the features as they are: (heads, titles, classes)."""
    weight = state["linear.weight"].double().numpy()
    bias = state["linear.bias"].double().numpy()
    flat = x.reshape(len(x), -1).astype(np.float64)
    logits = np.einsum("td,hcd->htc", flat, weight) + bias[:, None]
    return torch.from_numpy(logits).softmax(-1).numpy()


@pytest.mark.parametrize(
    "made, options",
    [
        ({"layers": 2, "hidden": 20}, {"repeats": 2}),
        ({"classes": 2}, {}),
        ({"rows": 60, "hidden": 150}, {}),  # more dimensions than titles
        ({"noise": 0.1}, {}),  # easily told apart: nearly no penalty is best
        ({"noise": 30.0}, {"size": 8}),  # hardly at all: a strong one is
        ({"rows": 3001, "hidden": 10, "classes": 6}, {}),  # many titles: one part is held out
    ],
)
def test_probabilities_are_scikit_learns(made, options):
    x, labels = noisy(**made)
    solved = solve(x, labels, **options)
    expected = oracle(x, labels, solved)
    assert solved.probabilities.dtype == np.float32
    assert abs(solved.probabilities - expected).mean() < 1e-3
    for ours, theirs in zip(solved.probabilities, expected, strict=True):
        scores = [f1_score(labels, values.argmax(1), average="macro") for values in (ours, theirs)]
        assert abs(scores[0] - scores[1]) <= 1e-3


def test_kept_weights_apply_to_the_features_as_they_are():
    x, labels = noisy(layers=2)
    solved = solve(x, labels, repeats=2)
    shapes = {name: tuple(value.shape) for name, value in solved.state.items()}
    assert shapes == {"linear.weight": (6, 4, 60), "linear.bias": (6, 4)}
    heads = outputs(solved.state, x).reshape(2, 3, len(x), 4)
    for repeat, fold_of in enumerate(solved.folds):
        expected = heads[repeat, fold_of, np.arange(len(x))]
        np.testing.assert_allclose(solved.probabilities[repeat], expected, atol=1e-4)


@pytest.mark.parametrize("size", [None, 8])
def test_held_out_titles_change_nothing_of_their_head(size):
    """Other features and labels of one fold's titles: the head that is scored on them stays what it was."""
    x, labels = noisy(rows=300, hidden=200, noise=0.5)
    solved = solve(x, labels, size)
    held_out = solved.folds[0] == 1
    other_x = x.copy()
    other_x[held_out] = 5 * np.random.default_rng(1).normal(size=x[held_out].shape) + 3
    other_labels = np.where(held_out, (labels + 1) % 4, labels)
    draws = splits.draw_titles(other_labels, np.arange(300), solved.folds, 0, size)
    assert np.array_equal(solved.draws[1].rows, draws[1].rows)
    assert np.array_equal(solved.draws[1].parts, draws[1].parts)

    changed = train(other_x, other_labels, solved.folds, draws)
    assert changed.penalties[0][1] == solved.penalties[0][1]
    before = outputs(solved.state, x)
    after = outputs(changed.state, x)
    np.testing.assert_allclose(before[1], after[1], atol=2e-3)
    assert abs(before[0] - after[0]).max() > 0.1  # the others learned from them


@pytest.fixture(scope="module")
def unequal():
    """(x, labels, probes that decide for macro-F1): 4 of 6 titles are of the first category, some far away."""
    x, labels = noisy(rows=600, hidden=10, classes=6, noise=1.5)
    x[::7] *= 3  # each set of titles has a scale of its own
    labels = np.maximum(labels - 3, 0)
    return x, labels, solve(x, labels, decide="macro-f1")


def test_a_head_decides_by_parts_of_its_own_titles_that_were_held_out(unequal):
    """τ is the best for what scikit-learn says of each part, scaled and fitted on the head's other parts alone."""
    x, labels, solved = unequal
    flat = x[:, 0].astype(np.float64)
    for offsets, c, draw in zip(solved.offsets[0], solved.penalties[0], solved.draws, strict=True):
        held, said = [], []
        for part in range(4):
            learn = draw.rows[draw.parts != part]
            held.append(draw.rows[draw.parts == part])
            said.append(scikit_learn(flat[learn], labels[learn], c)(flat[held[-1]]))
        learned = labels[draw.rows]
        best = decision.choose_offsets(labels[np.concatenate(held)], np.concatenate(said), learned, 3)
        np.testing.assert_allclose(offsets, best, rtol=1e-5)
    assert abs(solved.offsets).max() > 0.1


def test_held_out_titles_change_nothing_of_the_decision_of_their_head(unequal):
    """One fold's titles get the labels that their head finds likeliest: on these, no other decision is better."""
    x, labels, before = unequal
    assert abs(before.offsets[0, 1]).max() > 0.1
    likeliest = before.probabilities[0].argmax(1)
    other = np.where(before.folds[0] == 1, likeliest, labels)
    draws = splits.draw_titles(other, np.arange(600), before.folds, 0)
    after = train(x, other, before.folds, draws, "macro-f1")
    np.testing.assert_array_equal(after.offsets[0, 1], before.offsets[0, 1])


def test_dimensions_that_say_nothing_change_nothing():
    """MiniLM has two with numbers such as 1e-36, which made training ten times slower; others never vary."""
    x, labels = noisy(hidden=12)
    constant = np.zeros_like(x[..., :2]) + np.float32([0, -1234.567])
    tiny = np.float32(1e-36) * np.random.default_rng(0).normal(size=(len(x), 1, 2)).astype(np.float32)
    assert tiny.any()
    wide = np.concatenate([x, constant, tiny], 2)
    rescaled = torch.from_numpy(wide.copy())
    probe.rescale(rescaled)
    assert not rescaled[..., -4:].any()
    without, beside = solve(x, labels), solve(wide, labels)
    assert beside.penalties == without.penalties
    np.testing.assert_allclose(beside.probabilities, without.probabilities, atol=2e-3)


@pytest.mark.parametrize(
    "module, name, value",
    [
        (logistic, "ROWS", dict.fromkeys(logistic.ROWS, 1)),  # each problem alone
        (logistic, "BLOCK", 1 << 12),  # fewer titles at a time while many problems are unsolved
        (probe, "STATE", 1),  # each head alone
        (probe, "SEARCH", 140),  # penalties chosen by some of the titles
    ],
)
def test_problems_are_solved_alike_however_they_are_shared_out(module, name, value, monkeypatch):
    x, labels = noisy(rows=300, hidden=16, classes=6)
    monkeypatch.setattr(module, name, value)
    solved = solve(x, labels)
    assert abs(solved.probabilities - oracle(x, labels, solved)).mean() < 1e-3


def assert_finite(solved):
    assert np.isfinite(solved.probabilities).all()
    assert all(value.isfinite().all() for value in solved.state.values())


def test_a_dimension_that_varies_in_one_title_only_stays_finite():
    x, labels = noisy(hidden=12)
    x[:, 0, 5] = 0
    x[7, 0, 5] = 1000
    assert_finite(solve(x, labels))


@pytest.mark.parametrize("seed", range(2))
def test_heads_with_nothing_to_choose_by_beside_others(seed):
    """Two titles of each category in one fold, three in the others: some heads have no second part to hold out."""
    x, labels = noisy(rows=15, hidden=6, classes=3, noise=0.5, seed=seed)
    assert_finite(solve(x, labels, folds=2, repeats=3, seed=seed))


def test_one_label_a_category():
    x, labels = noisy(noise=0.1)
    solved = solve(x, labels, size=1)
    np.testing.assert_allclose(solved.penalties, probe.ALONE)  # nothing is left to choose it by
    assert f1_score(labels, solved.probabilities[0].argmax(1), average="macro") > 0.8
