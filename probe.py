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
FEW = 2000  # titles; up to here each part of them is held out in turn
MEMORY = 10  # steps that L-BFGS remembers
STATE = 48_000_000  # numbers that all problems that are solved together may keep: 200 MB
BLOCK = 1 << 22  # logits computed at a time: 16 MB


def standardise(x, members):
    """Mean and deviation of each dimension over the titles of each problem: two (dimensions, problems) float32.

    x: (titles, dimensions) float32, roughly of mean 0 and deviation 1; members: (titles, problems) float32 of 0 and 1.
    A dimension that never varies gets deviation 1.
    """
    count = members.sum(0, dtype=torch.float64)
    first = torch.zeros(x.shape[1], members.shape[1], dtype=torch.float64, device=x.device)
    second = torch.zeros_like(first)
    for part, member in zip(x.split(1 << 14), members.split(1 << 14), strict=True):
        first += part.T @ member
        second += part.square().T @ member
    mean = first / count
    deviation = (second / count - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(deviation > 1e-5, deviation, 1.0).float()


def objective(x, labels, weights, penalty, scale, theta):
    """The loss of every problem and its gradient: (problems,) float64 and a tensor of theta's shape.

    The loss is the mean cross-entropy over the problem's titles plus penalty / 2 · the squared weights of the
    standardised features; the bias is not penalised. theta: (dimensions + 1, classes, problems), the bias last.
    weights: (titles, problems), 1 / titles of the problem or 0; scale: what standardise gave.
    """
    (mean, deviation), (_, classes, problems) = scale, theta.shape
    # the features stay as they are: each problem's standardisation is folded into its weights
    inner = theta[:-1] / deviation[:, None]
    bias = (theta[-1] - (mean[:, None] * inner).sum(0)).flatten()
    inner, gradient = inner.flatten(1), torch.zeros_like(theta)
    loss, total = torch.zeros(problems, dtype=torch.float64, device=x.device), torch.zeros_like(bias)
    product = torch.zeros_like(inner)
    step = max(64, BLOCK // (classes * problems))
    for part, target, weight in zip(x.split(step), labels.split(step), weights.split(step), strict=True):
        values = torch.addmm(bias, part, inner).view(-1, classes, problems).log_softmax(1)
        own = target[:, None, None].expand(-1, 1, problems)
        loss -= (values.gather(1, own).squeeze(1) * weight).sum(0)
        values.exp_().scatter_add_(1, own, values.new_full((1, 1, 1), -1).expand(own.shape))
        values = values.mul_(weight[:, None]).flatten(1)
        product.addmm_(part.T, values)
        total += values.sum(0)
    total = total.view(classes, problems)
    gradient[:-1] = (product.view(-1, classes, problems) - mean[:, None] * total) / deviation[:, None]
    gradient[:-1] += penalty * theta[:-1]
    gradient[-1] = total
    return loss + penalty / 2 * theta[:-1].double().square().sum((0, 1)), gradient


def minimise(x, labels, weights, penalty, scale, theta, tolerance=1e-5, most=2000):
    """Solve every problem from theta on by L-BFGS (Nocedal & Wright 2006, algorithm 7.4); returns the new theta.

    A problem is solved when no component of its gradient exceeds the tolerance. Each has a step length of its own,
    halved until its loss falls enough, and is left alone once solved; when half are, the others go on without them.
    """

    def dot(one, other):
        return (one * other).sum((0, 1))

    classes, out, rest = theta.shape[1], theta.clone(), torch.arange(theta.shape[2], device=x.device)
    loss, gradient = objective(x, labels, weights, penalty, scale, theta)
    # about the curvature at the start, which scales all steps: the penalty's share can be huge or next to nothing
    diagonal = 1 / classes * (1 - 1 / classes) + penalty.repeat(*theta.shape[:2], 1)
    diagonal[-1] -= penalty
    pairs, gamma, step = [], torch.ones_like(penalty), torch.ones_like(penalty)
    accepted, direction = torch.ones_like(penalty, dtype=torch.bool), torch.zeros_like(theta)
    for _ in range(most):
        # a step too small to change anything means that float32 can do no better
        done = (gradient.abs().amax((0, 1)) <= tolerance) | (step < 1e-6)
        out[:, :, rest[done]] = theta[:, :, done]
        if done.all():
            break
        if done.sum() * 2 > len(rest):
            keep = ~done
            rest, weights, penalty, scale = rest[keep], weights[:, keep], penalty[keep], [s[:, keep] for s in scale]
            theta, gradient, direction = theta[..., keep], gradient[..., keep], direction[..., keep]
            diagonal = diagonal[..., keep]
            loss, gamma, step, accepted, done = loss[keep], gamma[keep], step[keep], accepted[keep], done[keep]
            pairs = [(s[..., keep], y[..., keep], r[keep]) for s, y, r in pairs]
        descent, shares = gradient.clone(), []
        for moved, turned, inverse in reversed(pairs):
            shares.append(inverse * dot(moved, descent))
            descent -= shares[-1] * turned
        descent *= gamma / diagonal
        for (moved, turned, inverse), share in zip(pairs, reversed(shares), strict=True):
            descent += moved * (share - inverse * dot(turned, descent))
        direction = torch.where(accepted, -descent, direction)
        step = torch.where(accepted, 1.0, step)
        slope = dot(direction, gradient)
        trial = theta + torch.where(done, 0.0, step) * direction
        trial_loss, trial_gradient = objective(x, labels, weights, penalty, scale, trial)
        accepted = (trial_loss <= loss + 1e-4 * step * slope + 1e-7 * loss.abs()) & ~done
        moved = torch.where(accepted, trial - theta, 0.0)
        turned = torch.where(accepted, trial_gradient - gradient, 0.0)
        curvature = dot(moved, turned)
        usable = curvature > 1e-14
        pairs = [*pairs[-(MEMORY - 1) :], (moved, turned, torch.where(usable, 1 / curvature, 0.0))]
        gamma = torch.where(usable, curvature / dot(turned, turned / diagonal), gamma)
        theta, gradient = torch.where(accepted, trial, theta), torch.where(accepted, trial_gradient, gradient)
        loss, step = torch.where(accepted, trial_loss, loss), torch.where(accepted | done, step, step / 2)
    out[:, :, rest] = theta
    return out


def train_probes(x, labels, parts, classes, report=None):
    """Choose the penalty of each problem on titles of its own, then fit it on all of them.

    x: (titles, dimensions) float32 tensor, roughly of mean 0 and deviation 1; labels: (titles,) int64 tensor;
    parts: (titles, problems) int8, -1 for titles that a problem may not learn from, else the part of its titles that a
    title is held out with while the penalty is chosen; report: called after every penalty. Returns (theta: (dimensions
    + 1, classes, problems) weights and bias for features as they are in x, chosen: (problems,) float, the C of each).
    """
    few = int((parts >= 0).sum(0).max()) <= FEW
    turns = range(int(parts.max()) + 1) if few else [int(parts.max())]
    each = max(1, STATE // ((2 * MEMORY + 8) * (x.shape[1] + 1) * classes * len(turns)))
    thetas, chosen = [], []
    for part in parts.split(each, dim=1):
        part = part.to(x.device)
        best, penalty = choose_penalty(x, labels, part, turns, classes, report)
        learn = (part >= 0).float()
        scale, count = standardise(x, learn), learn.sum(0)
        theta = minimise(x, labels, learn.div_(count), 1 / (penalty * count), scale, best)
        theta[:-1] /= scale[1][:, None]
        theta[-1] -= (theta[:-1] * scale[0][:, None]).sum(0)
        thetas.append(theta)
        chosen += penalty.tolist()
    return torch.cat(thetas, 2), chosen


def choose_penalty(x, labels, parts, turns, classes, report=None):
    """A solution to start from and the C with the lowest log loss on held-out titles, for each problem.

    One part of a problem's titles is held out, or, where they are few, each part in turn. The grid is walked from the
    strongest penalty on, each solution starting from the one before, until the log loss has risen twice.
    """
    problems = parts.shape[1]
    theta = torch.zeros(x.shape[1] + 1, classes, problems * len(turns), device=x.device)
    if parts.max() == 0:  # a title of each category: there is nothing to choose by
        return theta[..., :problems], torch.full((problems,), ALONE, device=x.device)
    hold = torch.cat([(parts == turn).float() for turn in turns], 1)
    learn = torch.cat([((parts >= 0) & (parts != turn)).float() for turn in turns], 1)
    count, scale = learn.sum(0), standardise(x, learn)
    learn /= count
    hold /= hold.view(-1, len(turns), problems).sum((0, 1)).repeat(len(turns))  # all turns together make a mean
    lowest = torch.full((problems,), torch.inf, dtype=torch.float64, device=x.device)
    best, chosen, risen = theta[..., :problems].clone(), torch.zeros(problems, device=x.device), torch.zeros(problems)
    for value in GRID:
        going = torch.nonzero(risen < 2).flatten()
        if not len(going):
            break
        every = torch.cat([going + turn * problems for turn in range(len(turns))]).to(x.device)
        own = [s[:, every] for s in scale]
        found = minimise(x, labels, learn[:, every], 1 / (value * count[every]), own, theta[..., every], 1e-4)
        theta[..., every] = found
        losses = objective(x, labels, hold[:, every], torch.zeros_like(every, dtype=x.dtype), own, found)[0]
        losses = losses.view(len(turns), -1).sum(0)
        better = losses < lowest[going] * 0.99  # a weaker penalty has to earn it
        won = going[better.cpu()]
        best[..., won], chosen[won], lowest[won] = theta[..., won], value, losses[better]
        risen[going] = torch.where(better.cpu(), 0, risen[going] + 1)
        if report:
            report()
    return best, chosen


def train(x, scale, labels, folds, config, drawn, bar=None):
    """Train the linear probes of all folds and repeats. Returns (state, chosen, probabilities), as train_heads does.

    x: (titles, layers, hidden) float32 tensor, which stands for x · scale[1] + scale[0]; scale: (mean, deviation) of
    each layer and dimension; drawn: what splits.draw_titles gave. state: probes for the features as they are; chosen:
    (repeats, folds) the C of each.
    """
    used = np.unique(np.concatenate([rows for rows, _ in drawn]))
    place = np.empty(len(x), dtype=np.int64)
    place[used] = np.arange(len(used))
    parts = torch.full((len(used), len(drawn)), -1, dtype=torch.int8)
    for head, (rows, part) in enumerate(drawn):
        parts[torch.from_numpy(place[rows]), head] = torch.from_numpy(part)
    flat, target = x.flatten(1), torch.as_tensor(labels, device=x.device)
    if len(used) < len(x):
        chosen = torch.as_tensor(used, device=x.device)
        flat, target = flat[chosen], target[chosen]
    report = bar.update if bar is not None else None
    theta, chosen = train_probes(flat, target, parts, len(config["classes"]), report)
    state = {"linear.weight": theta[:-1].permute(2, 1, 0).contiguous(), "linear.bias": theta[-1].mT.contiguous()}
    with torch.device("meta"):
        head = model.build(config)
    probabilities = model.held_out_probabilities(head, state, x, folds)
    mean, deviation = (value.flatten().double() for value in scale)
    weight = state["linear.weight"].double() / deviation
    state = {"linear.weight": weight.float(), "linear.bias": (state["linear.bias"] - weight @ mean).float()}
    chosen = np.reshape(chosen, (config["options"]["repeats"], -1)).tolist()
    return {name: value.cpu().contiguous() for name, value in state.items()}, chosen, probabilities


def rescale(x, block=1 << 14):
    """Bring every layer and dimension of x to mean 0 and deviation 1, in place; returns both: (layers, hidden) each."""
    mean = (sum(part.sum(0, dtype=torch.float64) for part in x.split(block)) / len(x)).float()
    for part in x.split(block):
        part -= mean
    deviation = (sum(part.square().sum(0, dtype=torch.float64) for part in x.split(block)) / len(x)).sqrt().float()
    deviation = torch.where(deviation > 1e-7 * (1 + mean.abs()), deviation, 1.0)
    for part in x.split(block):
        part /= deviation
    return mean, deviation
