"""Many logistic regressions on shared features: their loss, its gradient and its Hessian.

They differ in the titles that count, in their penalty and in their standardisation. They are worked
on together because nearly all of the cost, the products with the features, is then shared. How they
are solved is the matter of newton.py, how penalties are chosen that of probe.py.
"""

from dataclasses import dataclass, replace

import torch
from torch.nn.functional import nll_loss, threshold_

# a product with fewer rows, one for each class of each problem, is slow; with more, problems that are
# solved wait for the others: so many are solved together, by the type of the products
ROWS = {torch.float32: 128, torch.bfloat16: 300}
# probabilities that are kept for problems that are solved together, at a point and at the next: 200 MB
KEPT = 24_000_000
# numbers of the features, or logits, worked on at a time: 16 MB
BLOCK = 1 << 22
# the same, once in all, where large blocks gain nothing: 4 MB, 8 in float64
PART = 1 << 20
# numbers of the features that are copied in another type: 500 MB in bfloat16
ROUGH = 1 << 28
# of the directions in which features vary, so many are told apart; more are drawn, to find those
DIRECTIONS = 128
DRAWN = 160
# titles that tell them
TELLING = 10_000


@dataclass
class Scale:
    """What standardises features: (features - mean) / deviation."""

    mean: torch.Tensor  # (problems, dimensions)
    deviation: torch.Tensor  # (problems, dimensions), 1 where a dimension never varies


def standardization(x, learn):
    """The Scale of each problem's titles, in x's type.

    x: (titles, dimensions), rescaled (see probe.rescale), so that float64 loses nothing; learn:
    (problems, titles) bool.
    """
    block = max(256, PART // x.shape[1])
    sums = x.new_zeros(len(learn), x.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(sums)
    for part, members in zip(x.split(block), learn.split(block, dim=1), strict=True):
        values = part.double()
        counted = members.double()
        sums += counted @ values
        squares += counted @ values.square()
    titles = learn.sum(1, keepdim=True)
    mean = sums / titles
    deviation = (squares / titles - mean.square()).clamp(min=0).sqrt()
    return Scale(mean.to(x.dtype), without_constant(mean, deviation).to(x.dtype))


def without_constant(mean, deviation, constant=1.0):
    """Deviations, with `constant` for dimensions that vary by no more than rounding."""
    return torch.where(deviation > 1e-7 * (1 + mean.abs()), deviation, constant)


@dataclass
class Sketch:
    """Features in few digits, and the directions in which they vary most.

    It decides how fast a problem is solved, not what comes out: titles that the problem must not
    learn from may be in it, too.
    """

    rough: torch.Tensor  # (titles, dimensions): the features, in choose_rough's type
    basis: torch.Tensor  # (dimensions, directions) orthonormal
    # (titles, directions + 1) of choose_rough's type: squared coordinates, and the mean square in
    # all other directions
    squares: torch.Tensor

    def only(self, titles):
        """That of some titles: their numbers, or a slice."""
        return Sketch(self.rough[titles], self.basis, self.squares[titles])


def make_sketch(x):
    """The Sketch of features, (titles, dimensions), whose mean is about 0."""
    sample = x[:: max(1, len(x) // TELLING)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = torch.svd_lowrank(sample, min(DRAWN, *sample.shape))
    basis = found[2][:, :DIRECTIONS]

    # where each title lies
    others = max(1, x.shape[1] - basis.shape[1])
    kind = choose_rough(x)
    squares = torch.empty(len(x), basis.shape[1] + 1, dtype=kind, device=x.device)
    block = max(256, PART // x.shape[1])
    for part, own in zip(x.split(block), squares.split(block), strict=True):
        inside = part @ basis
        outside = part - inside @ basis.T
        own[:, :-1] = inside.square()
        own[:, -1] = outside.square().sum(1) / others
    return Sketch(x.to(kind), basis, squares)


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
    sketch: Sketch  # of x

    def only(self, some):
        """Some of the problems. some: (problems,) bool, or their numbers."""
        return replace(
            self,
            learn=self.learn[some],
            title_weight=self.title_weight[some],
            penalty=self.penalty[some],
            scale=Scale(self.scale.mean[some], self.scale.deviation[some]),
            shares=self.shares[:, some],
        )


def make_problems(x, sketch, labels, learn, penalty, classes):
    """The Problems whose titles, those that `learn` marks, all count the same, 1 in sum."""
    titles = learn.sum(1).clamp(min=1)
    counts = [(learn & (labels == number)).sum(1) for number in range(classes)]
    shares = torch.stack(counts) / titles
    title_weight = 1 / titles.to(x.dtype)
    scale = standardization(x, learn)
    return Problems(x, labels, learn, title_weight, penalty, scale, shares, sketch)


def choose_rough(x):
    """The type of products with Hessians: bfloat16 with AMX, which multiplies it four times as fast.

    Three digits are enough for them: they say only in which direction a loss falls fastest.
    """
    if x.device.type == "cpu" and x.numel() <= ROUGH and torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


def groups(problems):
    """The numbers of problems that are solved together: a list of tensors."""
    rows = min(ROWS[problems.sketch.rough.dtype], KEPT // len(problems.x))
    everyone = torch.arange(len(problems.penalty), device=problems.x.device)
    return everyone.split(max(1, rows // len(problems.shares)))


def log_probabilities(problems, theta, number):
    """Those of one problem's titles by its solution: (titles that count, classes) of x's type."""
    folded, bias = fold(problems.only([number]), theta[:, [number]])
    titles = problems.learn[number].nonzero().flatten()
    # block by block: a copy of the features of all of them would take too much memory
    found = []
    for block in titles.split(max(256, BLOCK // problems.x.shape[1])):
        found.append(torch.addmm(bias.T, problems.x[block], folded.T).log_softmax(1))
    return torch.cat(found)


def losses(problems, theta):
    """Every problem's loss without its penalty, (problems,) float64."""
    sums = []
    for number, learn in enumerate(problems.learn):
        values = log_probabilities(problems, theta, number).double()
        sums.append(nll_loss(values, problems.labels[learn], reduction="sum"))
    return torch.stack(sums) * problems.title_weight


@dataclass
class Point:
    """A theta, its loss, and how that changes from there."""

    theta: torch.Tensor  # (classes, problems, dimensions + 1)
    loss: torch.Tensor  # (problems,) float64
    gradient: torch.Tensor  # of theta's shape
    shares: torch.Tensor  # (classes, problems, titles): probabilities times what a title counts

    def only(self, some):
        """That of some problems. some: (problems,) bool."""
        return Point(self.theta[:, some], self.loss[some], self.gradient[:, some], self.shares[:, some])


def evaluate(problems, theta):
    """The Point of every problem at theta."""
    folded, bias = fold(problems, theta)
    loss = torch.zeros_like(problems.penalty, dtype=torch.float64)
    slopes = torch.zeros_like(folded)
    bias_slopes = torch.zeros_like(bias)
    shares = theta.new_empty(*theta.shape[:2], len(problems.x))
    for block in blocks(problems, theta):
        part = problems.x[block]
        target = problems.labels[block]
        members = problems.learn[:, block]
        # titles last: so the softmax runs along memory, and narrow products are much faster
        values = torch.addmm(bias, folded, part.T).view(*theta.shape[:2], -1).log_softmax(0)
        weight = members * problems.title_weight[:, None]
        own = target.expand(1, *weight.shape)
        loss -= (values.gather(0, own)[0] * weight).sum(1)
        # what is less than NOISE by far may be too small to be multiplied fast
        threshold_(values.exp_(), 1e-15, 0.0)
        shares[..., block] = values.mul_(weight)
        # the loss by each logit: the probability, less 1 for the title's own class
        by_logit = values.scatter_add(0, own, -weight[None]).flatten(0, 1)
        slopes.addmm_(by_logit, part)
        bias_slopes += by_logit.sum(1, keepdim=True)

    loss += problems.penalty / 2 * theta[..., :-1].double().square().sum((0, 2))
    gradient = unfold(problems, theta, slopes, bias_slopes)
    return Point(theta, loss, gradient, shares)


def hessian_product(problems, point, vector):
    """About the product of each problem's Hessian at a Point with a vector of theta's shape."""
    folded, bias = fold(problems, vector)
    slopes = torch.zeros_like(folded)
    bias_slopes = torch.zeros_like(bias)
    kind = problems.sketch.rough.dtype
    folded = folded.to(kind)
    for block in blocks(problems, vector):
        part = problems.sketch.rough[block]
        shares = point.shares[..., block]
        change = (folded @ part.T).to(vector.dtype).add_(bias)
        change = change.view(*vector.shape[:2], -1).mul_(shares)
        mean = change.sum(0) / problems.title_weight[:, None]
        by_logit = change.addcmul_(shares, mean, value=-1).flatten(0, 1)
        slopes += (by_logit.to(kind) @ part).to(vector.dtype)
        bias_slopes += by_logit.sum(1, keepdim=True)
    return unfold(problems, vector, slopes, bias_slopes)


def blocks(problems, theta):
    """Which titles are worked on at a time: a list of slices."""
    step = max(256, BLOCK // max(problems.x.shape[1], theta[..., 0].numel()))
    return [slice(first, first + step) for first in range(0, len(problems.x), step)]


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
