"""Newton's method for the logistic regressions of logistic.py: each step by conjugate gradients,
and halved until the loss falls.
"""

import torch

from whichlayer.heads import logistic

# a component of a gradient may be off by so much
NOISE = {torch.float32: 1e-5, torch.float64: 1e-9}


def minimise(problems, theta, tolerance):
    """Solve every problem from theta on; returns the new theta. tolerance: see enough."""
    groups = logistic.groups(problems)
    solved = [minimise_group(problems.only(some), theta[:, some], tolerance) for some in groups]
    return torch.cat(solved, 1)


def minimise_group(problems, theta, tolerance, most=200):
    """Solve problems from theta on by Newton's method, in at most so many steps.

    When more than half of them are solved, the others go on without them.
    """
    solution = theta.clone()
    # numbers of the problems in progress
    going = torch.arange(theta.shape[1], device=theta.device)
    stuck = torch.zeros_like(going, dtype=torch.bool)
    point = logistic.evaluate(problems, theta)
    for _ in range(most):
        solution[:, going] = point.theta
        target = enough(problems, point, tolerance)
        unsolved = ~within(point.gradient, target) & ~stuck
        if not unsolved.any():
            break
        if unsolved.sum() * 2 < len(unsolved):
            going = going[unsolved]
            problems = problems.only(unsolved)
            point = point.only(unsolved)
            target = target[:, unsolved]
            unsolved = unsolved[unsolved]
        direction = newton_direction(problems, point, target, unsolved)
        point, stuck = descend(problems, point, direction)
    return solution


def enough(problems, point, tolerance):
    """How large each component of a solution's gradient may be: (classes, problems, 2), by the
    weights and by the bias.

    The slope of no weight exceeds the tolerance times what the penalty adds to it at most, and each
    class is predicted as often as it occurs, within the tolerance: a strong penalty says nothing of
    the bias. Below NOISE there is no better.
    """
    largest_weight = point.theta[..., :-1].abs().amax((0, 2))
    weights = (problems.penalty * largest_weight).expand_as(problems.shares)
    both = torch.stack([weights, problems.shares], -1)
    return (tolerance * both).clamp(min=NOISE[problems.x.dtype])


def within(gradient, target):
    """Which problems' gradients are as small as a target, see enough: (problems,) bool."""
    slopes = gradient.abs()
    weights_solved = slopes[..., :-1].amax(2) <= target[..., 0]
    biases_solved = slopes[..., -1] <= target[..., 1]
    return (weights_solved & biases_solved).all(0)


def newton_direction(problems, point, target, going, most=200):
    """About Newton's step from a Point, of theta's shape, by preconditioned conjugate gradients.

    Nocedal & Wright (2006), algorithms 5.3 and 7.1. A problem is left alone as soon as its gradient
    would be half the target, or in the preconditioner's measure a quarter of what it is. going:
    (problems,) bool, those that move at all.
    """
    precondition = preconditioner(problems, point)
    direction = torch.zeros_like(point.theta)
    residual = -point.gradient
    search = precondition(residual)
    product = dot(residual, search)
    first = product
    for number in range(most):
        changed = logistic.hessian_product(problems, point, search)
        curvature = dot(search, changed)
        # by rounding, where features nearly cancel each other: the first search direction, the
        # preconditioned gradient, is still one in which the loss falls
        is_flat = curvature <= 0
        step = torch.where(is_flat, float(number == 0), product / curvature)
        step = torch.where(going, step, 0.0)[:, None]
        going = going & ~is_flat
        direction.addcmul_(step, search)
        residual.addcmul_(step, changed, value=-1)

        preconditioned = precondition(residual)
        older = product
        product = dot(residual, preconditioned)
        going = going & (product > first / 16) & ~within(residual, target / 2)
        # the last few wait for the next direction, rather than all for them
        if going.sum() * 4 < len(going):
            break
        search = preconditioned.addcmul_((product / older)[:, None], search)
    return direction


def preconditioner(problems, point):
    """A function that multiplies a gradient, of theta's shape, with about the inverse of each
    problem's Hessian at a Point.

    The curvature along each of the sketch's directions is right; that classes and directions depend
    on one another is left out, as is how curvatures differ outside of them.
    """
    squares = problems.sketch.squares
    by_bias = point.theta.new_zeros(problems.shares.shape)
    along = point.theta.new_zeros(by_bias.numel(), squares.shape[1])
    for block in logistic.blocks(problems, point.theta):
        shares = point.shares[..., block]
        weights = shares - shares.square() / problems.title_weight[:, None]
        by_bias += weights.sum(2)
        along += (weights.flatten(0, 1).to(squares.dtype) @ squares[block]).to(along.dtype)
    # (classes, problems, directions + 1)
    inverse = 1 / (along.view(*by_bias.shape, -1) + problems.penalty[:, None])
    outside = inverse[..., -1:]
    inside = inverse[..., :-1] - outside
    basis = problems.sketch.basis.to(inside.dtype)

    def precondition(gradient):
        product = torch.empty_like(gradient)
        weights = gradient[..., :-1]
        product[..., :-1] = weights * outside
        product[..., :-1] += ((weights @ basis) * inside) @ basis.T
        product[..., -1] = gradient[..., -1] / by_bias.clamp(min=1e-9)
        return product

    return precondition


def descend(problems, point, direction):
    """The Point after a step in a direction, halved for each problem until its loss falls by enough
    (Armijo's condition), but for rounding; and which are stuck as no step does: (problems,) bool.
    """
    slope = dot(direction, point.gradient)
    rounding = 2 * torch.finfo(direction.dtype).eps * point.loss.abs()
    step = torch.ones_like(slope)
    while True:
        trial = logistic.evaluate(problems, point.theta + step[:, None] * direction)
        accepted = trial.loss <= point.loss + 1e-4 * step * slope + rounding
        if accepted.all():
            return trial, step == 0
        step = torch.where(accepted, step, step / 2)
        step = torch.where(step < 1e-6, 0.0, step)


def dot(a, b):
    """The product of a and b, tensors of theta's shape, for each problem: (problems,)."""
    return (a * b).sum((0, 2))
