"""Many logistic regressions on shared features, solved to convergence at once.

They differ in the titles that count, in their penalty and in their standardisation. They are solved
together because nearly all of the cost, the products with the features, is then shared. How
penalties are chosen is the matter of probe.py.
"""

from dataclasses import dataclass

import torch

MEMORY = 10  # steps that L-BFGS remembers
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
        """Some of the problems. some: (problems,) bool."""
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
    return Problems(x, labels, learn, 1 / titles, penalty, standardization(x, learn), shares)


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


def objective(problems, theta):
    """The loss of every problem, (problems,) float64, and its gradient, of theta's shape."""
    x = problems.x
    mean = problems.scale.mean
    deviation = problems.scale.deviation
    classes, count, _ = theta.shape
    weights = theta[..., :-1]

    # the features stay as they are: each problem's standardisation is folded into its weights
    folded = weights / deviation
    bias = (theta[..., -1] - (mean * folded).sum(-1)).view(-1, 1)
    folded = folded.flatten(0, 1)

    # sums over titles, block by block: the loss, and its slopes by folded weights and bias
    loss = torch.zeros(count, dtype=torch.float64, device=x.device)
    slopes = torch.zeros_like(folded)
    bias_slopes = torch.zeros_like(bias)
    minus = theta.new_tensor(-1)
    step = max(256, BLOCK // max(x.shape[1], classes * count))
    features = x.split(step)
    labels = problems.labels.split(step)
    learn = problems.learn.split(step, dim=1)
    for part, target, members in zip(features, labels, learn, strict=True):
        # titles last: so the softmax runs along memory, and narrow products are much faster
        values = torch.addmm(bias, folded, part.T).view(classes, count, -1).log_softmax(0)
        own = target.expand(1, count, -1)
        weight = members * problems.title_weight[:, None]
        loss -= (values.gather(0, own)[0] * weight).sum(1)
        # by each logit: the probability, less 1 for the title's own class
        values.exp_().scatter_add_(0, own, minus.expand(own.shape)).mul_(weight)
        by_logit = values.flatten(0, 1)
        slopes.addmm_(by_logit, part)
        bias_slopes += by_logit.sum(1, keepdim=True)

    # back to the weights of standardised features, and the penalty
    bias_slopes = bias_slopes.view(classes, count, 1)
    gradient = torch.empty_like(theta)
    gradient[..., :-1] = (slopes.view(classes, count, -1) - mean * bias_slopes) / deviation
    gradient[..., :-1] += problems.penalty[:, None] * weights
    gradient[..., -1:] = bias_slopes
    loss += problems.penalty / 2 * weights.double().square().sum((0, 2))
    return loss, gradient


# --- L-BFGS ---------------------------------------------------------------------------------------


@dataclass
class Pair:
    """What L-BFGS remembers of a step, as Nocedal & Wright (2006) call it.

    0 for problems that did not take the step.
    """

    s: torch.Tensor  # the change of theta, of its shape
    y: torch.Tensor  # the change of the gradient
    rho: torch.Tensor  # (problems,) 1 / (s · y)


@dataclass
class Progress:
    """How far L-BFGS has come with every problem."""

    theta: torch.Tensor  # (classes, problems, dimensions + 1)
    loss: torch.Tensor  # (problems,) at theta
    gradient: torch.Tensor  # of theta's shape
    direction: torch.Tensor  # of theta's shape: where the last step led
    step: torch.Tensor  # (problems,): its length in directions
    accepted: torch.Tensor  # (problems,) bool: whether it was taken
    gamma: torch.Tensor  # (problems,): how much longer steps are than the preconditioner says
    pairs: list[Pair]  # of the last MEMORY steps

    def only(self, some):
        """That of some problems. some: (problems,) bool."""
        return Progress(
            theta=self.theta[:, some],
            loss=self.loss[some],
            gradient=self.gradient[:, some],
            direction=self.direction[:, some],
            step=self.step[some],
            accepted=self.accepted[some],
            gamma=self.gamma[some],
            pairs=[Pair(pair.s[:, some], pair.y[:, some], pair.rho[some]) for pair in self.pairs],
        )


def minimise(problems, theta, tolerance, most=2000):
    """Solve every problem from theta on by L-BFGS, in at most so many steps; returns the new theta.

    Each problem has a step length of its own, halved until its loss falls enough, and is left alone
    once solved; when more than half are, the others go on without them. tolerance: see solved.
    """
    solution = theta.clone()
    # numbers of the problems in progress
    going = torch.arange(theta.shape[1], device=theta.device)
    progress = start(problems, theta)
    for _ in range(most):
        done = solved(problems, progress, tolerance)
        if done.sum() * 2 > len(going):
            solution[:, going[done]] = progress.theta[:, done]
            if done.all():
                return solution
            going = going[~done]
            problems = problems.only(~done)
            progress = progress.only(~done)
            done = done[~done]
        progress = advance(problems, progress, done)
    solution[:, going] = progress.theta
    return solution


def start(problems, theta):
    """The Progress before the first step."""
    loss, gradient = objective(problems, theta)
    ones = torch.ones_like(problems.penalty)
    return Progress(
        theta=theta,
        loss=loss,
        gradient=gradient,
        direction=torch.zeros_like(theta),
        step=ones,
        accepted=ones.bool(),
        gamma=ones,
        pairs=[],
    )


def solved(problems, progress, tolerance):
    """Which problems are solved: (problems,) bool.

    The slope of no weight exceeds the tolerance times what the penalty adds to it at most, and each
    class is predicted as often as it occurs, within the tolerance: a strong penalty says nothing of
    the bias. Below NOISE, or where only steps help that change nothing, there is no better.
    """
    noise = NOISE[problems.x.dtype]
    slopes = progress.gradient.abs()
    largest_weight = progress.theta[..., :-1].abs().amax((0, 2))
    enough = (tolerance * problems.penalty * largest_weight).clamp(min=noise)
    weights_solved = slopes[..., :-1].amax((0, 2)) <= enough
    biases_solved = slopes[..., -1] <= (tolerance * problems.shares).clamp(min=noise)
    return (weights_solved & biases_solved.all(0)) | (progress.step < 1e-6)


def advance(problems, progress, done):
    """The Progress after one more step: a new one, or half of the last where that was too long.

    done: (problems,) bool, those that stay where they are.
    """
    theta = progress.theta
    gradient = progress.gradient

    # a new direction where the last step was taken
    descent = -newton_step(gradient, progress.pairs, progress.gamma, problems.penalty)
    direction = torch.where(progress.accepted[:, None], descent, progress.direction)
    step = torch.where(progress.accepted, 1.0, progress.step)

    # a step is taken where the loss falls by enough (Armijo's condition), but for rounding
    trial = theta + torch.where(done, 0.0, step)[:, None] * direction
    trial_loss, trial_gradient = objective(problems, trial)
    least = 1e-4 * step * dot(direction, gradient)
    rounding = 2 * torch.finfo(theta.dtype).eps * progress.loss.abs()
    accepted = (trial_loss <= progress.loss + least + rounding) & ~done
    moved = accepted[:, None]

    # what is remembered of it
    s = torch.where(moved, trial - theta, 0.0)
    y = torch.where(moved, trial_gradient - gradient, 0.0)
    curvature = dot(s, y)
    curved = curvature > 1e-14
    pair = Pair(s, y, rho=torch.where(curved, 1 / curvature, 0.0))
    preconditioned = precondition(y, problems.penalty)
    gamma = torch.where(curved, curvature / dot(y, preconditioned), progress.gamma)

    return Progress(
        theta=torch.where(moved, trial, theta),
        loss=torch.where(accepted, trial_loss, progress.loss),
        gradient=torch.where(moved, trial_gradient, gradient),
        direction=direction,
        step=torch.where(accepted | done, step, step / 2),
        accepted=accepted,
        gamma=gamma,
        pairs=[*progress.pairs, pair][-MEMORY:],
    )


def newton_step(gradient, pairs, gamma, penalty):
    """The inverse Hessian's product with the gradient, as L-BFGS knows it: the two-loop recursion.

    Nocedal & Wright (2006), algorithm 7.4; its first guess of the inverse is gamma · precondition.
    """
    q = gradient.clone()
    alphas = []
    for pair in reversed(pairs):
        alpha = pair.rho * dot(pair.s, q)
        q -= alpha[:, None] * pair.y
        alphas.append(alpha)
    r = gamma[:, None] * precondition(q, penalty)
    for pair, alpha in zip(pairs, reversed(alphas), strict=True):
        beta = pair.rho * dot(pair.y, r)
        r += pair.s * (alpha - beta)[:, None]
    return r


def precondition(gradient, penalty):
    """The gradient divided by the loss's curvature at theta 0, where features have deviation 1."""
    classes = len(gradient)
    curvature = (classes - 1) / classes**2
    weights = gradient[..., :-1] / (curvature + penalty)[:, None]
    bias = gradient[..., -1:] / curvature
    return torch.cat([weights, bias], -1)


def dot(a, b):
    """The product of a and b, tensors of theta's shape, for each problem: (problems,)."""
    return (a * b).sum((0, 2))
