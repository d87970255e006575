"""Newton's method of the linear probe: where features nearly repeat each other, and with either type of products."""

import numpy as np
import pytest
import torch
from test_probe import noisy, oracle, solve

from whichlayer.heads import logistic

KINDS = (torch.float32, torch.bfloat16)


def alike(rows=400, hidden=24, classes=4, seed=0):
    """Features, (titles, 1, hidden), of which many are nearly the same, as neighbouring layers are; and labels."""
    x, labels = noisy(rows=rows, hidden=hidden // 4, classes=classes, seed=seed)
    random = np.random.default_rng(seed)
    copies = np.repeat(x / x.std(0), 4, 2)
    return (copies + 0.03 * random.normal(size=copies.shape)).astype(np.float32), labels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made", [noisy, alike])
def test_probabilities_are_scikit_learns_with_either_type_of_products(made, kind, monkeypatch):
    monkeypatch.setattr(logistic, "choose_rough", lambda x: kind)
    x, labels = made()
    solved = solve(x, labels)
    np.testing.assert_allclose(solved.probabilities, oracle(x, labels, solved), atol=2e-3)


def test_a_curvature_lost_in_rounding_costs_steps_and_changes_no_answer(monkeypatch):
    product = logistic.hessian_product
    lost = iter([True, True])  # of the first products, only the sign is left, and that is wrong

    def rounded(problems, point, vector):
        return -vector if next(lost, False) else product(problems, point, vector)

    monkeypatch.setattr(logistic, "hessian_product", rounded)
    x, labels = alike()
    solved = solve(x, labels)
    assert next(lost, None) is None
    np.testing.assert_allclose(solved.probabilities, oracle(x, labels, solved), atol=2e-3)
