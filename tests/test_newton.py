"""Newton's method of the linear probe: where features nearly repeat each other, and with either type of products."""

import numpy as np
import pytest
import torch
from test_probe import noisy, oracle, solve

import logistic
import newton

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
    return logistic.make_problems(features, torch.from_numpy(labels), learn, strength, int(labels.max()) + 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made", [noisy, alike])
def test_probabilities_are_scikit_learns_with_either_type_of_products(made, kind, monkeypatch):
    monkeypatch.setattr(logistic, "choose_rough", lambda x: kind)
    x, labels = made()
    solved = solve(x, labels)
    np.testing.assert_allclose(solved.probabilities, oracle(x, labels, solved), atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_problem_is_solved_as_well_with_either_type_of_products(kind, monkeypatch):
    monkeypatch.setattr(logistic, "choose_rough", lambda x: kind)
    x, labels = alike()
    problems = problems_of(x, labels, penalty=1e-4)
    start = torch.zeros(4, 1, x.shape[2] + 1)
    theta = newton.minimise(problems, start, 0.01, newton.main_directions(problems.x))
    point = logistic.evaluate(problems, theta)
    assert newton.within(point.gradient, newton.enough(problems, point, 0.01)).all()


def test_directions_are_those_of_the_covariance():
    x, _ = alike(rows=600, hidden=240)
    features = torch.from_numpy((x[:, 0] - x[:, 0].mean(0)) / x[:, 0].std(0))
    found = newton.main_directions(features)
    values, vectors = np.linalg.eigh(features.numpy().T.astype(float) @ features.numpy() / len(x))
    count = newton.DIRECTIONS
    assert found.basis.shape == (240, count)
    # the 60 large ones, whose like is four features; behind them all are about the same
    np.testing.assert_allclose(found.variances[-60:], values[-60:], rtol=1e-3)
    shared = np.linalg.svd(vectors[:, -60:].T @ found.basis[:, -60:].numpy(), compute_uv=False)
    np.testing.assert_allclose(shared, 1, atol=1e-3)
    assert found.rest == pytest.approx((values.sum() - float(found.variances.sum())) / (240 - count), rel=0.01)


def test_directions_of_few_features_leave_no_rest():
    x, _ = alike()
    found = newton.main_directions(torch.from_numpy((x[:, 0] - x[:, 0].mean(0)) / x[:, 0].std(0)))
    assert found.basis.shape == (24, 24) and found.rest == pytest.approx(0, abs=1e-3)


def test_features_that_nearly_repeat_each_other_take_fewer_products(monkeypatch):
    x, labels = alike(rows=1000, hidden=80)
    problems = problems_of(x, labels, penalty=1e-4)
    start = torch.zeros(4, 1, x.shape[2] + 1)
    product = logistic.hessian_product
    counted = []
    monkeypatch.setattr(logistic, "hessian_product", lambda *these: counted.append(1) or product(*these))

    known = newton.main_directions(problems.x)
    newton.minimise(problems, start, 0.01, known)
    with_directions = len(counted)
    none = newton.Directions(known.basis[:, :0], known.variances[:0], 1.0)
    newton.minimise(problems, start, 0.01, none)
    assert with_directions < (len(counted) - with_directions) / 2


def test_a_curvature_lost_in_rounding_leaves_the_preconditioned_gradient(monkeypatch):
    x, labels = alike()
    problems = problems_of(x, labels, penalty=1e-4)
    point = logistic.evaluate(problems, torch.zeros(4, 1, x.shape[2] + 1))
    inverse = newton.inverse_hessian(problems, point, newton.main_directions(problems.x))
    target = newton.enough(problems, point, 0.01)
    monkeypatch.setattr(logistic, "hessian_product", lambda problems, point, vector: -vector)
    going = torch.tensor([True])
    direction = newton.newton_direction(problems, point, target, going, inverse)
    torch.testing.assert_close(direction, newton.multiply(inverse, -point.gradient))
    after, stuck = newton.descend(problems, point, direction)
    assert after.loss < point.loss and not stuck.any()
