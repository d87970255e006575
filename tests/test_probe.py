"""The linear probe: scikit-learn's answer for the penalty it chose, and a choice that sees no held-out title."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

import cli
import probe
import splits


def noisy(rows=400, hidden=30, classes=4, layers=1, noise=2.0, seed=0):
    """Features (titles, layers, hidden) float32 of any mean and scale, correlated, and labels they tell in part."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(rows) % classes)
    centres, mixing = random.normal(size=(classes, hidden)), random.normal(size=(hidden, hidden)) / hidden**0.5
    x = [(centres[labels] + noise * random.normal(size=(rows, hidden))) @ mixing for _ in range(layers)]
    return (np.stack(x, 1) * 10.0 ** random.uniform(-2, 1, hidden) + random.normal(size=hidden)).astype(
        np.float32
    ), labels


def solve(x, labels, size=None, groups=None, **options):
    """Train the probes of all folds and repeats; returns (state, chosen, probabilities, folds, drawn)."""
    options = {**cli.OPTIONS, "head": "linear", "folds": 3, "repeats": 1, **options}
    groups = np.arange(len(labels)) if groups is None else groups
    classes = int(labels.max()) + 1
    folds = splits.repeat_folds(labels, groups, options)
    drawn = splits.draw_titles(labels, groups, folds, options["seed"], size)
    config = {
        "columns": [("cls", layer) for layer in range(x.shape[1])],
        "classes": list(range(classes)),
        "encoder": {"hidden": x.shape[2]},
        "options": options,
    }
    tensor = torch.from_numpy(x.copy())
    scale = probe.rescale(tensor)
    return *probe.train(tensor, scale, labels, folds, config, drawn), folds, drawn


def oracle(x, labels, chosen, folds, drawn):
    """Out-of-fold probabilities of scikit-learn's logistic regressions with the same C: (repeats, titles, classes)."""
    flat, out = x.reshape(len(x), -1).astype(np.float64), np.zeros((*folds.shape, int(labels.max()) + 1))
    for head, (rows, _) in enumerate(drawn):
        repeat, fold = divmod(head, int(folds.max()) + 1)
        scaler, own = StandardScaler().fit(flat[rows]), folds[repeat] == fold
        model = LogisticRegression(C=np.ravel(chosen)[head], tol=1e-8, max_iter=10000)
        model.fit(scaler.transform(flat[rows]), labels[rows])
        out[np.ix_([repeat], own)] = model.predict_proba(scaler.transform(flat[own]))
    return out


def outputs(state, x):
    """Probabilities from each head's kept weights, applied to the features as they are: (heads, titles, classes)."""
    weight, bias = (state[name].double().numpy() for name in ("linear.weight", "linear.bias"))
    logits = np.einsum("td,hcd->htc", x.reshape(len(x), -1).astype(np.float64), weight) + bias[:, None]
    return torch.from_numpy(logits).softmax(-1).numpy()


@pytest.mark.parametrize(
    "made, options",
    [
        ({}, {"repeats": 2}),
        ({"layers": 2, "hidden": 20}, {}),
        ({"classes": 2}, {}),
        ({"rows": 60, "hidden": 150}, {}),  # more dimensions than titles
        ({"noise": 0.1}, {}),  # easily told apart: nearly no penalty is best
        ({"noise": 30.0}, {}),  # hardly at all: a strong one is
        ({}, {"size": 8}),
        ({"rows": 3000, "classes": 6}, {}),  # many titles: one part is held out
    ],
)
def test_probabilities_are_scikit_learns(made, options):
    x, labels = noisy(**made)
    _, chosen, probabilities, folds, drawn = solve(x, labels, **options)
    expected = oracle(x, labels, chosen, folds, drawn)
    assert probabilities.shape == expected.shape and probabilities.dtype == np.float32
    assert abs(probabilities - expected).mean() < 1e-3
    for one, other in zip(probabilities.argmax(2), expected.argmax(2), strict=True):
        assert abs(f1_score(labels, one, average="macro") - f1_score(labels, other, average="macro")) <= 1e-3


def test_weaker_penalties_are_chosen_where_the_features_tell_more():
    easy, hard = (np.ravel(solve(*noisy(noise=noise))[1]) for noise in (0.1, 30.0))
    assert min(easy) > 10 * max(hard)
    assert all(np.isclose(value, probe.GRID).any() for value in (*easy, *hard))


def test_few_labels_do_not_end_the_search_at_the_strongest_penalty():
    x, labels = noisy(rows=300, noise=0.5)
    _, chosen, probabilities, _, _ = solve(x, labels, 8)
    assert np.min(chosen) > 1e-3 and probabilities.max(2).mean() > 0.5


def test_kept_weights_apply_to_the_features_as_they_are():
    x, labels = noisy(layers=2)
    state, _, probabilities, folds, _ = solve(x, labels, repeats=2)
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "linear.weight": (6, 4, 60),
        "linear.bias": (6, 4),
    }
    heads = outputs(state, x).reshape(2, 3, len(x), 4)
    for repeat, held in enumerate(folds):
        np.testing.assert_allclose(probabilities[repeat], heads[repeat, held, np.arange(len(x))], atol=1e-4)


@pytest.mark.parametrize("size", [None, 8])
def test_held_out_titles_change_nothing_of_their_head(size):
    """Other features and labels of one fold's titles: the head that is scored on them stays what it was."""
    x, labels = noisy(rows=300, hidden=200, noise=0.5)
    state, chosen, _, folds, drawn = solve(x, labels, size)
    held, random = folds[0] == 1, np.random.default_rng(1)
    other, wrong = x.copy(), np.where(held, (labels + 1) % 4, labels)
    other[held] = 5 * random.normal(size=other[held].shape) + 3
    options = {**cli.OPTIONS, "head": "linear", "folds": 3, "repeats": 1}
    config = {"columns": [("cls", 0)], "classes": list(range(4)), "encoder": {"hidden": 200}, "options": options}
    tensor = torch.from_numpy(other)
    scale = probe.rescale(tensor)
    again = splits.draw_titles(wrong, np.arange(300), folds, 0, size)
    assert all(np.array_equal(a, b) for a, b in zip(drawn[1], again[1], strict=True))
    changed, penalties, _ = probe.train(tensor, scale, wrong, folds, config, again)
    assert np.ravel(penalties)[1] == np.ravel(chosen)[1]
    before, after = outputs(state, x), outputs(changed, x)
    np.testing.assert_allclose(before[1], after[1], atol=2e-3)
    assert abs(before[0] - after[0]).max() > 0.1  # the others learned from them


def test_same_bytes_twice():
    x, labels = noisy()
    (one, chosen, *_), (two, again, *_) = solve(x, labels), solve(x, labels)
    assert chosen == again and all(one[name].numpy().tobytes() == two[name].numpy().tobytes() for name in one)


@pytest.mark.parametrize("constant", [0.0, -1234.567])
def test_a_dimension_that_never_varies_changes_nothing(constant):
    x, labels = noisy(hidden=12)
    flat = np.concatenate([x, np.full((len(x), 1, 3), constant, np.float32)], 2)
    (_, chosen, probabilities, *_), (_, same, without, *_) = solve(flat, labels), solve(x, labels)
    assert chosen == same
    np.testing.assert_allclose(probabilities, without, atol=2e-3)


def test_a_dimension_that_varies_in_one_title_only_stays_finite():
    x, labels = noisy(hidden=12)
    x[:, 0, 5] = 0
    x[7, 0, 5] = 1000
    state, _, probabilities, _, _ = solve(x, labels)
    assert np.isfinite(probabilities).all() and all(value.isfinite().all() for value in state.values())


def test_many_categories_with_few_titles():
    x, labels = noisy(rows=1200, hidden=24, classes=300, noise=0.3)
    _, chosen, probabilities, folds, drawn = solve(x, labels, folds=2)
    assert f1_score(labels, probabilities[0].argmax(1), average="macro") > 0.3
    np.testing.assert_allclose(probabilities.sum(2), 1, rtol=1e-4)


def test_heads_with_nothing_to_choose_by_beside_others():
    """Two titles of each category in one fold, three in the others: some heads have no second part to hold out."""
    for seed in range(5):
        x, labels = noisy(rows=15, hidden=6, classes=3, noise=0.5, seed=seed)
        state, _, probabilities, _, _ = solve(x, labels, folds=2, repeats=3, seed=seed)
        assert np.isfinite(probabilities).all() and all(value.isfinite().all() for value in state.values())


def test_many_titles_choose_their_penalty_by_a_sample(monkeypatch):
    x, labels = noisy(rows=600)
    monkeypatch.setattr(probe, "SEARCH", 200)
    _, chosen, probabilities, folds, drawn = solve(x, labels)
    assert abs(probabilities - oracle(x, labels, chosen, folds, drawn)).mean() < 1e-3


def test_one_label_a_category():
    x, labels = noisy(noise=0.1)
    _, chosen, probabilities, _, _ = solve(x, labels, 1)
    np.testing.assert_allclose(chosen, probe.ALONE)  # nothing is left to choose it by
    assert f1_score(labels, probabilities[0].argmax(1), average="macro") > 0.8
