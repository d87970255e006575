"""The linear probe's training: many logistic regressions on shared features, solved to convergence at once.

Every problem is a fold of a repeat: the same titles with another choice of those that count. They are solved together
because nearly all of the cost, the products with the features, is then shared.
"""

import numpy as np
import torch

import model

# The inverse strength of the L2 penalty, C in scikit-learn's LogisticRegression, strongest first
GRID = [float(f"{10.0**power:.1e}") for power in np.arange(-5, 2.1, 0.5)]
ALONE = 0.1  # C where there is nothing to choose by
FEW = 2000  # titles; up to here each part of them is held out in turn, and float64 costs next to nothing
MEMORY = 10  # steps that L-BFGS remembers
NOISE = {torch.float32: 1e-5, torch.float64: 1e-9}  # a component of a gradient may be off by so much
STATE = 48_000_000  # numbers that all problems that are solved together may keep, 200 MB in float32
COPY = 1 << 25  # numbers of the features that are copied where few titles are drawn: 130 MB
SEARCH = 50_000  # titles by which penalties are chosen where there are twice as many: C hardly depends on their number
BLOCK = 1 << 19  # numbers of the features, or logits, worked on at a time: they stay in the processor's cache


def standardization(x, learn, block=1 << 12):
    """Mean and deviation of each dimension over the titles of each problem: two (problems, dimensions) of x's type.

    x: (titles, dimensions); learn: (problems, titles) bool. Sums are taken about the overall mean and in float64, so
    that nothing is lost. A dimension that never varies gets deviation 1.
    """
    center, first, second = sum(part.sum(0, dtype=torch.float64) for part in x.split(block)) / len(x), 0, 0
    for part, member in zip(x.split(block), learn.split(block, dim=1), strict=True):
        part, member = part.double() - center, member.double()
        first, second = first + member @ part, second + member @ part.square()
    count = learn.sum(1, keepdim=True)
    deviation = (second / count - (first / count).square()).clamp(min=0).sqrt()
    deviation = torch.where(deviation > 1e-7 * (1 + center.abs()), deviation, 1.0)
    return (center + first / count).to(x.dtype), deviation.to(x.dtype)


def objective(x, labels, learn, share, penalty, scale, theta):
    """The loss of every problem and its gradient: (problems,) float64 and a tensor of theta's shape.

    The loss is the mean cross-entropy over the problem's titles plus penalty / 2 · the squared weights of the
    standardised features; the bias is not penalised. theta: (classes, problems, dimensions + 1), the bias last.
    learn: (problems, titles) bool; share, penalty: (problems,), what each title counts, and the penalty's strength;
    scale: what standardization gave.
    """
    (mean, deviation), (classes, problems, _) = scale, theta.shape
    # the features stay as they are: each problem's standardisation is folded into its weights
    inner = theta[..., :-1] / deviation
    bias = (theta[..., -1] - (mean * inner).sum(-1)).view(-1, 1)
    inner, minus = inner.flatten(0, 1), theta.new_tensor(-1)
    product, total = torch.zeros_like(inner), torch.zeros_like(bias)
    loss = torch.zeros(problems, dtype=torch.float64, device=x.device)
    step = max(256, BLOCK // max(x.shape[1], classes * problems))
    for part, target, member in zip(x.split(step), labels.split(step), learn.split(step, dim=1), strict=True):
        # titles last: so the softmax runs along memory, and narrow products are several times faster
        values = torch.addmm(bias, inner, part.T).view(classes, problems, -1).log_softmax(0)
        own, weight = target.expand(1, problems, -1), member * share[:, None]
        loss -= (values.gather(0, own)[0] * weight).sum(1)
        values = values.exp_().scatter_add_(0, own, minus.expand(own.shape)).mul_(weight).flatten(0, 1)
        product.addmm_(values, part)
        total += values.sum(1, keepdim=True)
    total, gradient = total.view(classes, problems, 1), torch.empty_like(theta)
    gradient[..., :-1] = (product.view(classes, problems, -1) - mean * total) / deviation
    gradient[..., :-1] += penalty[:, None] * theta[..., :-1]
    gradient[..., -1:] = total
    return loss + penalty / 2 * theta[..., :-1].double().square().sum((0, 2)), gradient


def strength(c, titles, classes):
    """The penalty that objective knows for scikit-learn's C, which counts two classes' weights, opposites, once."""
    return ((2 if classes == 2 else 1) / (c * titles)).float()


def minimise(x, labels, learn, share, penalty, scale, theta, tolerance, most=2000):
    """Solve every problem from theta on by L-BFGS (Nocedal & Wright 2006, algorithm 7.4); returns the new theta.

    A problem is solved when no component of its gradient exceeds the tolerance times what the penalty adds to it at
    most. Each has a step length of its own, halved until its loss falls enough, and is left alone once solved; when
    half are, the others go on without them.
    """
    curvature = (len(theta) - 1) / len(theta) ** 2  # of the loss where nothing is learned yet, features of deviation 1

    def dot(one, other):
        return (one * other).sum((0, 2))

    def scaled(gradient):
        """The gradient divided by about the curvature at the start."""
        return torch.cat([gradient[..., :-1] / (curvature + penalty)[:, None], gradient[..., -1:] / curvature], -1)

    out, going = theta.clone(), torch.arange(theta.shape[1], device=x.device)
    loss, gradient = objective(x, labels, learn, share, penalty, scale, theta)
    pairs, gamma, step = [], torch.ones_like(penalty), torch.ones_like(penalty)
    accepted, direction = torch.ones_like(penalty, dtype=torch.bool), torch.zeros_like(theta)
    for _ in range(most):
        # below NOISE, or where only steps help that change nothing, there is no better
        enough = tolerance * penalty * theta[..., :-1].abs().amax((0, 2))
        done = (gradient.abs().amax((0, 2)) <= enough.clamp(min=NOISE[x.dtype])) | (step < 1e-6)
        if done.sum() * 2 > len(going):
            out[:, going[done]], keep = theta[:, done], ~done
            if not keep.any():
                return out
            going, learn, share, penalty = going[keep], learn[keep], share[keep], penalty[keep]
            scale = [part[keep] for part in scale]
            theta, gradient, direction = theta[:, keep], gradient[:, keep], direction[:, keep]
            loss, gamma, step, accepted, done = loss[keep], gamma[keep], step[keep], accepted[keep], done[keep]
            pairs = [(moved[:, keep], turned[:, keep], inverse[keep]) for moved, turned, inverse in pairs]
        descent, shares = gradient.clone(), []
        for moved, turned, inverse in reversed(pairs):
            shares.append(inverse * dot(moved, descent))
            descent -= shares[-1][:, None] * turned
        descent = gamma[:, None] * scaled(descent)
        for (moved, turned, inverse), part in zip(pairs, reversed(shares), strict=True):
            descent += moved * (part - inverse * dot(turned, descent))[:, None]
        direction = torch.where(accepted[:, None], -descent, direction)
        step = torch.where(accepted, 1.0, step)
        trial = theta + torch.where(done, 0.0, step)[:, None] * direction
        trial_loss, trial_gradient = objective(x, labels, learn, share, penalty, scale, trial)
        promised = 1e-4 * step * dot(direction, gradient)
        accepted = (trial_loss <= loss + promised + 2 * torch.finfo(x.dtype).eps * loss.abs()) & ~done
        moved, turned = (torch.where(accepted[:, None], v, 0.0) for v in (trial - theta, trial_gradient - gradient))
        bend = dot(moved, turned)
        pairs = [*pairs[1 - MEMORY :], (moved, turned, torch.where(bend > 1e-14, 1 / bend, 0.0))]
        gamma = torch.where(bend > 1e-14, bend / dot(turned, scaled(turned)), gamma)
        theta, gradient = (torch.where(accepted[:, None], *v) for v in ((trial, theta), (trial_gradient, gradient)))
        loss, step = torch.where(accepted, trial_loss, loss), torch.where(accepted | done, step, step / 2)
    out[:, going] = theta
    return out


def choose_penalty(x, labels, parts, classes, report):
    """A solution to start from and the C with the lowest log loss on held-out titles, for each problem.

    parts: (problems, titles) int8, -1 for titles that a problem may not learn from, else the part with which a title is
    held out. Few titles are held out part by part, of many one part only. The grid is walked from the strongest penalty
    on, each solution starting from where the last two lead; what a problem finds after its log loss was higher
    twice, or once by a twentieth, does not count.
    """
    problems, turns = len(parts), range(int(parts.max()) + 1) if x.dtype == torch.float64 else [int(parts.max())]
    hold = torch.cat([parts == turn for turn in turns])
    learn = torch.cat([(parts >= 0) & (parts != turn) for turn in turns])
    theta = older = x.new_zeros(classes, len(learn), x.shape[1] + 1)
    best, chosen = theta[:, :problems], x.new_full((problems,), ALONE, dtype=torch.float64)
    if not parts.max():  # a title of each category: there is nothing to choose by
        return best, chosen
    count, scale = learn.sum(1).clamp(min=1), standardization(x, learn)
    weight = 1 / hold.view(len(turns), problems, -1).sum((0, 2)).repeat(len(turns))  # all turns together make a mean
    lowest, risen = torch.full_like(chosen, torch.inf), 2 * (parts.amax(1) == 0)
    for value in GRID:
        penalty = strength(value, count, classes)
        report(problems / (len(GRID) + 1))
        older, theta = theta, minimise(x, labels, learn, 1 / count, penalty, scale, 2 * theta - older, 0.1)
        losses = objective(x, labels, hold, weight, torch.zeros_like(penalty), scale, theta)[0]
        losses = losses.view(len(turns), -1).sum(0)
        better = (losses < lowest * 0.99) & (risen < 2)  # a weaker penalty has to earn it
        best = torch.where(better[:, None], theta[:, :problems], best)
        chosen, lowest = torch.where(better, value, chosen), torch.where(better, losses, lowest)
        # twice higher, or once by much, and the minimum is behind
        risen = torch.where(better, 0, risen + (losses > lowest).int() + (losses > 1.05 * lowest).int())
        if (risen >= 2).all():
            break
    return best, chosen


def train(x, scale, labels, folds, config, drawn, report=lambda heads: None):
    """Train the linear probes of all folds and repeats. Returns (state, chosen, probabilities), as train_heads does.

    x: (titles, layers, hidden) float32 tensor, which stands for x · scale[1] + scale[0], see rescale; drawn: what
    splits.draw_titles gave; report: called now and then with how many heads that was worth.
    state: probes for the features as they were; chosen: (repeats, folds) the C of each. It is chosen on titles that the
    head learns from, which is then fitted on all of them.
    """
    flat, target, classes = x.flatten(1), torch.as_tensor(labels, device=x.device).long(), len(config["classes"])
    # where few titles are drawn, those of one repeat's folds are mostly the same ones, those of other repeats are not
    together = config["options"]["folds"] if 2 * len(drawn[0][0]) < len(x) else len(drawn)
    thetas, chosen = [], []
    for first in range(0, len(drawn), together):
        parts = np.full((together, len(x)), -1, np.int8)
        for part, (rows, values) in zip(parts, drawn[first : first + together], strict=True):
            part[rows] = values
        own, wanted, some = flat, target, np.flatnonzero((parts >= 0).any(0))
        if len(some) < len(x) and len(some) * flat.shape[1] < COPY:
            own, wanted, parts = flat[some], target[some], parts[:, some]
        parts = torch.from_numpy(parts).to(x.device)
        few = int((parts >= 0).sum(1).max()) <= FEW
        own, precise, most = (own.double(), 0.001, 4) if few else (own, 0.01, 1)
        taken = slice(None)
        if len(own) > 2 * SEARCH:
            taken = np.sort(np.random.default_rng(0).permutation(len(own))[:SEARCH])
        sample = own[taken], wanted[taken]
        for some in parts.split(max(1, STATE // ((2 * MEMORY + 12) * (own.shape[1] + 1) * classes * most))):
            best, penalty = choose_penalty(*sample, some[:, taken], classes, report)
            learn = some >= 0
            titles, (mean, deviation) = learn.sum(1), standardization(own, learn)
            strengths = strength(penalty, titles, classes)
            theta = minimise(own, wanted, learn, 1 / titles, strengths, (mean, deviation), best, precise)
            theta[..., :-1] /= deviation
            theta[..., -1] -= (theta[..., :-1] * mean).sum(-1)
            thetas.append(theta.float())
            chosen += penalty.tolist()
    theta = torch.cat(thetas, 1).transpose(0, 1)
    state = {"linear.weight": theta[..., :-1], "linear.bias": theta[..., -1]}
    with torch.device("meta"):
        head = model.build(config)
    probabilities = model.held_out_probabilities(head, state, x, folds)
    mean, deviation = (value.flatten().double() for value in scale)
    weight = state["linear.weight"].double() / deviation
    state = {"linear.weight": weight, "linear.bias": state["linear.bias"] - weight @ mean}
    state = {name: value.float().cpu().contiguous() for name, value in state.items()}
    return state, np.reshape(chosen, folds.shape[:1] + (-1,)).tolist(), probabilities


def rescale(x):
    """Bring every layer and dimension of x to mean 0 and deviation 1, in place; returns both: (layers, hidden) each.

    For good digits only: what is learned is standardised by what each head may see, so held-out titles don't matter.
    """
    everyone = torch.ones(1, len(x), dtype=torch.bool, device=x.device)
    mean, deviation = (value.view(x.shape[1:]) for value in standardization(x.flatten(1), everyone))
    for part in x.split(1 << 14):
        part.sub_(mean).div_(deviation)
    return mean, deviation
