"""Newton's method of the linear probe: where features nearly repeat each other, and with either type of products."""

import numpy as np
import pytest
import torch
from test_probe import noisy, oracle, solve

from whichlayer.heads import logistic, newton

KINDS = (torch.float32, torch.bfloat16)


def alike(rows=400, hidden=24, classes=4, seed=0):
    """Features, (titles, 1, hidden), of which many are nearly the same, as neighbouring layers are; and labels."""
    x, labels = noisy(rows=rows, hidden=hidden // 4, classes=classes, seed=seed)
    random = np.random.default_rng(seed)
    copies = np.repeat(x / x.std(0), 4, 2)
    return (copies + 0.03 * random.normal(size=copies.shape)).astype(np.float32), labels


def problems_of(x, labels, penalty):
    """The Problems of one head that learns from all titles."""
    features = torch.from_numpy((x[:, 0] - x[:, 0].mean(0)) / x[:, 0].std(0))
    learn = torch.ones(1, len(x), dtype=torch.bool)
    strength = torch.tensor([penalty])
    classes = int(labels.max()) + 1
    sketch = logistic.make_sketch(features)
    return logistic.make_problems(features, sketch, torch.from_numpy(labels), learn, strength, classes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made", [noisy, alike])
def test_probabilities_are_scikit_learns_with_either_type_of_products(made, kind, monkeypatch):
    monkeypatch.setattr(logistic, "choose_rough", lambda x: kind)
    x, labels = made()
    solved = solve(x, labels)
    np.testing.assert_allclose(solved.probabilities, oracle(x, labels, solved), atol=2e-3)


def test_features_that_nearly_repeat_each_other_take_fewer_products(monkeypatch):
    x, labels = alike(rows=1000, hidden=80)
    problems = problems_of(x, labels, penalty=1e-4)
    start = torch.zeros(4, 1, x.shape[2] + 1)
    product = logistic.hessian_product
    counted = []
    monkeypatch.setattr(logistic, "hessian_product", lambda *these: counted.append(1) or product(*these))

    newton.minimise(problems, start, 0.01)
    with_directions = len(counted)
    known = problems.sketch
    problems.sketch = logistic.Sketch(known.rough, known.basis[:, :0], torch.ones_like(known.squares[:, :1]))
    newton.minimise(problems, start, 0.01)
    assert with_directions < (len(counted) - with_directions) / 2


def test_a_curvature_lost_in_rounding_leaves_the_preconditioned_gradient(monkeypatch):
    x, labels = alike()
    problems = problems_of(x, labels, penalty=1e-4)
    point = logistic.evaluate(problems, torch.zeros(4, 1, x.shape[2] + 1))
    precondition = newton.preconditioner(problems, point)
    target = newton.enough(problems, point, 0.01)
    monkeypatch.setattr(logistic, "hessian_product", lambda problems, point, vector: -vector)
    going = torch.tensor([True])
    direction = newton.newton_direction(problems, point, target, going)
    torch.testing.assert_close(direction, precondition(-point.gradient))
    after, stuck = newton.descend(problems, point, direction)
    assert after.loss < point.loss and not stuck.any()
