"""Many logistic regressions on shared features, solved to convergence at once.

They differ in the titles that count, in their penalty and in their standardisation. They are solved
together because nearly all of the cost, the products with the features, is then shared. How
penalties are chosen is the matter of probe.py.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

# a product with fewer rows, one for each class of each problem, is slow; with more, problems that are
# solved wait for the others: so many are solved together
ROWS = 128
# probabilities that are kept for problems that are solved together, at a point and at the next: 200 MB
KEPT = 24_000_000
# groups that are worked on side by side, where there are at most so many titles
SIDE_BY_SIDE = 4
SMALL = 10_000
# numbers of the features that are copied where few titles count: 130 MB
COPY = 1 << 25
# a component of a gradient may be off by so much
NOISE = {torch.float32: 1e-5, torch.float64: 1e-9}
# numbers of the features, or logits, worked on at a time: they stay in the processor's cache
BLOCK = 1 << 19


@dataclass
class Scale:
    """What standardises features: (features - mean) / deviation."""

    mean: torch.Tensor  # (problems, dimensions)
    deviation: torch.Tensor  # (problems, dimensions), 1 where a dimension never varies


def standardization(x, learn, block=1 << 12):
    """The Scale of each problem's titles, in x's type.

    x: (titles, dimensions); learn: (problems, titles) bool. Sums are taken about the overall mean
    and in float64, so that nothing is lost.
    """
    center = sum(part.sum(0, dtype=torch.float64) for part in x.split(block)) / len(x)
    sums = x.new_zeros(len(learn), x.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(sums)
    for part, members in zip(x.split(block), learn.split(block, dim=1), strict=True):
        centered = part.double() - center
        counted = members.double()
        sums += counted @ centered
        squares += counted @ centered.square()
    titles = learn.sum(1, keepdim=True)
    mean = sums / titles
    deviation = (squares / titles - mean.square()).clamp(min=0).sqrt()
    varies = deviation > 1e-7 * (1 + center.abs())
    deviation = torch.where(varies, deviation, 1.0)
    return Scale((center + mean).to(x.dtype), deviation.to(x.dtype))


# --- the loss -------------------------------------------------------------------------------------


@dataclass
class Problems:
    """Logistic regressions that are solved together.

    Their solution, theta, is (classes, problems, dimensions + 1): the weights of the standardised
    features, the bias last. The loss of a problem is the weighted sum of its titles'
    cross-entropies plus penalty / 2 · the squared weights; the bias is not penalised.
    """

    x: torch.Tensor  # (titles, dimensions) float32 or float64, as they are: not standardised
    labels: torch.Tensor  # (titles,) int64
    learn: torch.Tensor  # (problems, titles) bool: the titles that count
    title_weight: torch.Tensor  # (problems,): what each of them counts
    penalty: torch.Tensor  # (problems,)
    scale: Scale  # of each problem
    shares: torch.Tensor  # (classes, problems): of the titles that count, those of each class

    def only(self, some):
        """Some of the problems. some: (problems,) bool, or their numbers."""
        return Problems(
            x=self.x,
            labels=self.labels,
            learn=self.learn[some],
            title_weight=self.title_weight[some],
            penalty=self.penalty[some],
            scale=Scale(self.scale.mean[some], self.scale.deviation[some]),
            shares=self.shares[:, some],
        )


def make_problems(x, labels, learn, penalty, classes):
    """The Problems whose titles, those that `learn` marks, all count the same, 1 in sum."""
    titles = learn.sum(1).clamp(min=1)
    counts = [(learn & (labels == number)).sum(1) for number in range(classes)]
    shares = torch.stack(counts) / titles
    title_weight = 1 / titles.to(x.dtype)
    return Problems(x, labels, learn, title_weight, penalty, standardization(x, learn), shares)


def each_group(problems, work):
    """[work(numbers, Problems)] for all problems, so many at a time, in their order.

    Groups of few titles are worked on side by side: a product of few rows gains little from several
    threads.
    """
    rows = min(ROWS, KEPT // len(problems.x))
    together = max(1, rows // len(problems.shares))
    everyone = torch.arange(len(problems.penalty), device=problems.x.device)
    groups = everyone.split(together)

    def one(numbers):
        return work(numbers, group_of(problems, numbers))

    threads = torch.get_num_threads()
    workers = min(threads, SIDE_BY_SIDE, len(groups))
    if workers == 1 or len(problems.x) > SMALL or problems.x.is_cuda:
        return list(map(one, groups))
    each = {"initializer": torch.set_num_threads, "initargs": (threads // workers,)}
    try:
        with ThreadPoolExecutor(workers, **each) as pool:
            return list(pool.map(one, groups))
    finally:
        # threads that begin later take what was set last
        torch.set_num_threads(threads)


def group_of(problems, numbers):
    """Some of the Problems, without the titles that count for none of them, where a copy of the
    others is small.
    """
    group = problems.only(numbers)
    titles = group.learn.any(0).nonzero().flatten()
    if len(titles) < len(group.x) and len(titles) * group.x.shape[1] <= COPY:
        group.x = group.x[titles]
        group.labels = group.labels[titles]
        group.learn = group.learn[:, titles]
    return group


def log_probabilities(problems, theta, number):
    """Those of one problem's titles by its solution: (titles that count, classes) of x's type."""
    mean = problems.scale.mean[number]
    folded = theta[:, number, :-1] / problems.scale.deviation[number]
    bias = theta[:, number, -1] - folded @ mean
    titles = problems.learn[number].nonzero().flatten()
    # block by block: a copy of the features of all of them would take too much memory
    found = []
    for block in titles.split(max(256, BLOCK // problems.x.shape[1])):
        found.append(torch.addmm(bias, problems.x[block], folded.T).log_softmax(1))
    return torch.cat(found)


@dataclass
class Point:
    """A theta, its loss, and how that changes from there."""

    theta: torch.Tensor  # (classes, problems, dimensions + 1)
    loss: torch.Tensor  # (problems,) float64
    gradient: torch.Tensor  # of theta's shape
    # (classes, problems, titles) each, for some titles: probabilities times what a title counts
    shares: list[torch.Tensor]

    def only(self, some):
        """That of some problems. some: (problems,) bool."""
        return Point(
            theta=self.theta[:, some],
            loss=self.loss[some],
            gradient=self.gradient[:, some],
            shares=[part[:, some] for part in self.shares],
        )


def evaluate(problems, theta):
    """The Point of every problem at theta."""
    folded, bias = fold(problems, theta)
    loss = torch.zeros_like(problems.penalty, dtype=torch.float64)
    slopes = torch.zeros_like(folded)
    bias_slopes = torch.zeros_like(bias)
    shares = []
    step = block_length(problems, theta)
    features = problems.x.split(step)
    labels = problems.labels.split(step)
    learn = problems.learn.split(step, dim=1)
    for part, target, members in zip(features, labels, learn, strict=True):
        # titles last: so the softmax runs along memory, and narrow products are much faster
        values = torch.addmm(bias, folded, part.T).view(*theta.shape[:2], -1).log_softmax(0)
        weight = members * problems.title_weight[:, None]
        own = target.expand(1, *weight.shape)
        loss -= (values.gather(0, own)[0] * weight).sum(1)
        # what is less than NOISE by far may be too small to be multiplied fast
        torch.nn.functional.threshold_(values.exp_(), 1e-15, 0.0)
        shares.append(values.mul_(weight))
        # the loss by each logit: the probability, less 1 for the title's own class
        by_logit = values.scatter_add(0, own, -weight[None]).flatten(0, 1)
        slopes.addmm_(by_logit, part)
        bias_slopes += by_logit.sum(1, keepdim=True)

    loss += problems.penalty / 2 * theta[..., :-1].double().square().sum((0, 2))
    gradient = unfold(problems, theta, slopes, bias_slopes)
    return Point(theta, loss, gradient, shares)


def hessian_product(problems, point, vector):
    """The product of each problem's Hessian at a Point with a vector of theta's shape."""
    folded, bias = fold(problems, vector)
    slopes = torch.zeros_like(folded)
    bias_slopes = torch.zeros_like(bias)
    # as they were cut at that Point, since when problems may have been solved and left out
    features = problems.x.split([shares.shape[-1] for shares in point.shares])
    for part, shares in zip(features, point.shares, strict=True):
        change = torch.addmm(bias, folded, part.T).view(*vector.shape[:2], -1)
        mean = (shares * change).sum(0) / problems.title_weight[:, None]
        by_logit = change.sub_(mean).mul_(shares).flatten(0, 1)
        slopes.addmm_(by_logit, part)
        bias_slopes += by_logit.sum(1, keepdim=True)
    return unfold(problems, vector, slopes, bias_slopes)


def block_length(problems, theta):
    """How many titles are worked on at a time."""
    return max(256, BLOCK // max(problems.x.shape[1], theta[..., 0].numel()))


def fold(problems, theta):
    """Weights and bias for features as they are: (classes · problems, dimensions), (…, 1)."""
    # each problem's standardisation is folded into its weights
    folded = theta[..., :-1] / problems.scale.deviation
    bias = theta[..., -1] - (problems.scale.mean * folded).sum(-1)
    return folded.flatten(0, 1), bias.view(-1, 1)


def unfold(problems, theta, slopes, bias_slopes):
    """The slopes by what fold returns as slopes by theta, of its shape, with the penalty's."""
    unfolded = torch.empty_like(theta)
    bias_slopes = bias_slopes.view(*theta.shape[:2], 1)
    slopes = slopes.view(*theta.shape[:2], -1) - problems.scale.mean * bias_slopes
    unfolded[..., :-1] = slopes / problems.scale.deviation
    unfolded[..., :-1] += problems.penalty[:, None] * theta[..., :-1]
    unfolded[..., -1:] = bias_slopes
    return unfolded


def losses(problems, theta):
    """The loss of every problem, (problems,) float64."""
    return torch.cat(each_group(problems, lambda some, group: evaluate(group, theta[:, some]).loss))


# --- Newton's method ------------------------------------------------------------------------------


def minimise(problems, theta, tolerance):
    """Solve every problem from theta on; returns the new theta. tolerance: see enough."""
    solved = each_group(problems, lambda some, group: minimise_group(group, theta[:, some], tolerance))
    return torch.cat(solved, 1)


def minimise_group(problems, theta, tolerance, most=200):
    """Solve problems from theta on by Newton's method, in at most so many steps.

    When more than half of them are solved, the others go on without them.
    """
    solution = theta.clone()
    # numbers of the problems in progress
    going = torch.arange(theta.shape[1], device=theta.device)
    stuck = torch.zeros_like(going, dtype=torch.bool)
    point = evaluate(problems, theta)
    for _ in range(most):
        target = enough(problems, point, tolerance)
        done = within(point.gradient, target) | stuck
        if done.sum() * 2 > len(going):
            solution[:, going[done]] = point.theta[:, done]
            if done.all():
                return solution
            going = going[~done]
            problems = problems.only(~done)
            point = point.only(~done)
            target = target[:, ~done]
            done = done[~done]
        direction = newton_direction(problems, point, target, ~done)
        point, stuck = descend(problems, point, direction)
    solution[:, going] = point.theta
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
    search = precondition * residual
    product = dot(residual, search)
    first = product
    for _ in range(most):
        changed = hessian_product(problems, point, search)
        curvature = dot(search, changed)
        going = going & (curvature > 0)
        step = torch.where(going, product / curvature, 0.0)[:, None]
        direction += step * search
        residual -= step * changed

        preconditioned = precondition * residual
        older = product
        product = dot(residual, preconditioned)
        going = going & (product > first / 16) & ~within(residual, target / 2)
        # the last few wait for the next direction, rather than all for them
        if going.sum() * 4 < len(going):
            break
        search = preconditioned + (product / older)[:, None] * search
    return direction


def preconditioner(problems, point):
    """What a gradient is multiplied by before conjugate gradients: about the inverse curvatures.

    They are exact where features that have deviation 1 are independent of each other and of the
    probabilities. Of theta's shape.
    """
    curvature = point.theta.new_zeros(problems.shares.shape)
    for shares in point.shares:
        curvature += (shares - shares.square() / problems.title_weight[:, None]).sum(2)
    curvature = curvature.clamp(min=1e-9)[..., None]
    weights = (curvature + problems.penalty[:, None]).expand_as(point.theta[..., :-1])
    return 1 / torch.cat([weights, curvature], -1)


def descend(problems, point, direction):
    """The Point after a step in a direction, halved for each problem until its loss falls by enough
    (Armijo's condition), but for rounding; and which are stuck as no step does: (problems,) bool.
    """
    slope = dot(direction, point.gradient)
    rounding = 2 * torch.finfo(direction.dtype).eps * point.loss.abs()
    step = torch.ones_like(slope)
    while True:
        trial = evaluate(problems, point.theta + step[:, None] * direction)
        accepted = trial.loss <= point.loss + 1e-4 * step * slope + rounding
        if accepted.all():
            return trial, step == 0
        step = torch.where(accepted, step, step / 2)
        step = torch.where(step < 1e-6, 0.0, step)


def dot(a, b):
    """The product of a and b, tensors of theta's shape, for each problem: (problems,)."""
    return (a * b).sum((0, 2))
