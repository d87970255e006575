"""The linear probe's training: how features are scaled, penalties chosen and heads fitted.

Each head is a logistic regression, solved to convergence; logistic.py does that for many at once.
"""

import dataclasses
import math

import numpy as np
import torch

import model
from whichlayer.heads import logistic, newton
from whichlayer.heads.logistic import Scale
from whichlayer.scores import decision

# The inverse strength of the L2 penalty, C in scikit-learn's LogisticRegression, strongest first
GRID = [float(f"{10.0**power:.1e}") for power in np.arange(-5, 2.1, 0.5)]
ALONE = 0.1  # C where there is nothing to choose by
# a log loss so many times its minimum does not fall below it again: in 1,500 heads on seven data sets, no
# second valley lay behind a rise of even 2%; where two features' small difference is all, behind 90% at most
FAR = 2
# titles; up to here each part of them is held out in turn, and float64 costs little
FEW = 2000
# weights of all heads that are fitted together: with what Newton's method keeps of each, and with four
# parts that are held out, 400 MB
STATE = 3_000_000
# titles by which penalties are chosen where there are twice as many: C hardly depends on their number
SEARCH = 50_000
# numbers of the features that are copied where few titles are learned from: 130 MB
COPY = 1 << 25


def rescale(x):
    """Bring every layer and dimension of x to mean 0 and deviation 1, in place.

    x: (titles, layers, hidden) float32. Returns the Scale that it had, (layers · hidden,) float64.
    For good digits only: what is learned is standardised by what each head may see, so held-out
    titles don't matter.
    """
    variance, mean = torch.var_mean(x, 0, correction=0)
    # they become 0: MiniLM has some with numbers such as 1e-36, and products with them are ten times slower
    deviation = logistic.without_constant(mean, variance.sqrt(), torch.inf)
    x.sub_(mean).div_(deviation)
    return Scale(mean.flatten().double(), deviation.flatten().double())


def train(x, scale, labels, folds, draws, classes, decide, report=lambda heads: None):
    """Train the linear probes of all folds and repeats. Returns a model.Trained.

    x: (titles, layers, hidden) float32 tensor, rescaled; scale: what it had, see rescale; labels:
    (titles,) int; folds: (repeats, titles) int; draws: the titles that each head learns from, see
    splits.draw_titles; classes: how many there are; decide: "macro-f1" to choose offsets, see
    decision.py, or "likeliest"; report: called now and then with how many heads that was worth. The
    heads that are returned are for the features as they were before.
    """
    targets = torch.as_tensor(labels, device=x.device).long()
    together = max(1, STATE // (x[0].numel() * classes))
    if 2 * len(draws[0].rows) < len(x):
        # a repeat's folds have mostly the same few titles, other repeats do not
        together = min(together, len(draws) // len(folds))
    found = []
    for first in range(0, len(draws), together):
        group = draws[first : first + together]
        found += fit_together(x.flatten(1), targets, group, classes, decide, report)
    thetas, penalties, offsets = zip(*found, strict=True)
    theta = torch.stack(thetas)

    # held-out titles are scored on the features as they are here, since those have the better digits
    with torch.device("meta"):
        head = model.Probe(*x.shape[1:], classes)
    probabilities = model.held_out_probabilities(head, probe_state(theta), x, folds)

    unscaled = undo_scale(theta.double(), scale).float().cpu()
    state = {name: value.contiguous() for name, value in probe_state(unscaled).items()}
    trained = model.Trained(state, probabilities)
    trained.penalties = np.reshape(penalties, (len(folds), -1)).tolist()
    if decide == "macro-f1":
        trained.offsets = np.float32(offsets).reshape(len(folds), -1, classes)
    return trained


def probe_state(theta):
    """The state of stacked model.Probe heads. theta: (heads, classes, dimensions + 1)."""
    return {"linear.weight": theta[..., :-1], "linear.bias": theta[..., -1]}


def undo_scale(theta, scale):
    """theta for features that are not scaled: the Scale is folded into weights and bias."""
    weights = theta[..., :-1] / scale.deviation
    bias = theta[..., -1:] - (weights * scale.mean).sum(-1, keepdim=True)
    return torch.cat([weights, bias], -1)


def fit_together(x, labels, draws, classes, decide, report):
    """Choose a penalty for each head on titles that it learns from, then fit it on all of them.

    x: (titles, dimensions); labels: (titles,) int64. Returns for each head theta for x, (classes,
    dimensions + 1) float32, its C, and the offsets of its decision, None where the likeliest
    category is named.
    """
    x, labels, parts = leave_out_unused(x, labels, draws)
    sketch = logistic.make_sketch(x)

    # few titles are worth more care: each part held out in turn, and the heads' last digits
    learn = parts >= 0
    titles = learn.sum(1)
    most_titles = int(titles.max())
    last = int(parts.max())
    turns = range(last, last + 1)
    finishes = {torch.float32: 0.01}  # tolerance of each type, one after the other
    if most_titles <= FEW:
        turns = range(last + 1)
        finishes[torch.float64] = 0.003

    # of many titles, a sample is enough to choose penalties by
    sample = slice(None)
    if len(x) > 2 * SEARCH:
        sample = np.sort(np.random.default_rng(0).permutation(len(x))[:SEARCH])
    parts_of_sample = parts[:, sample]
    training, scoring = split_off(x[sample], sketch.only(sample), labels[sample], parts_of_sample, classes, turns)
    best, c = choose_penalty(training, scoring, len(draws), report)
    offsets = [None] * len(draws)
    if decide == "macro-f1":
        offsets = choose_offsets(scoring, best, labels, learn, classes)

    # from the solutions of the first turn, whose bias of a category that it held out means nothing
    theta = best[:, : len(draws)].clone()
    theta[..., -1].clamp_(min=-math.log(most_titles))
    penalty = l2_penalty(c, titles, classes)
    for kind, tolerance in finishes.items():
        problems = logistic.make_problems(x.to(kind), sketch, labels, learn, penalty, classes)
        theta = newton.minimise(problems, theta.to(kind), tolerance)
    theta = undo_scale(theta, problems.scale).float()
    return zip(theta.unbind(1), c.tolist(), offsets, strict=True)


def leave_out_unused(x, labels, draws):
    """x and labels without the titles that no head learns from, where a copy is small, and parts.

    parts: (heads, titles) int8, -1 for titles that a head may not learn from, else the part with
    which a title is held out.
    """
    parts = np.full((len(draws), len(x)), -1, np.int8)
    for own, draw in zip(parts, draws, strict=True):
        own[draw.rows] = draw.parts
    used = np.flatnonzero((parts >= 0).any(0))
    if len(used) * x.shape[1] > COPY:
        used = slice(None)
    return x[used], labels[used], torch.from_numpy(parts[:, used]).to(x.device)


def choose_penalty(training, scoring, heads, report):
    """The C with the lowest log loss on held-out titles for each of so many heads, and the
    solutions with it.

    training, scoring: see split_off. The grid is walked from the strongest penalty on, each solution
    starting from where the last two lead, also beyond a minimum: the log loss may have several
    valleys. Returns theta of the training problems, (classes, problems, dimensions + 1), and C,
    (heads,) float64.
    """
    theta = start_from_shares(training)
    classes, problems, _ = theta.shape
    # a head with one title of each category has nothing to choose by
    can_choose = scoring.learn.any(1).view(-1, heads).any(0)
    chosen = torch.full((heads,), ALONE, dtype=torch.float64, device=theta.device)
    lowest = torch.full_like(chosen, torch.inf)
    titles = training.learn.sum(1).clamp(min=1)
    older = theta
    best = theta
    for c in GRID if can_choose.any() else []:
        # walk the grid
        training.penalty = l2_penalty(c, titles, classes)
        ahead = 2 * theta - older
        older = theta
        theta = newton.minimise(training, ahead, tolerance=0.1)

        # score, and keep the best; a weaker penalty has to earn it
        losses = logistic.losses(scoring, theta).view(-1, heads).sum(0)
        better = can_choose & (losses < lowest * 0.99)
        best = torch.where(better.repeat(problems // heads)[:, None], theta, best)
        chosen = torch.where(better, c, chosen)
        lowest = torch.where(better, losses, lowest)
        report(heads / len(GRID))
        # the penalties that are left would take most of the time
        if (losses > FAR * lowest)[can_choose].all():
            break
    return best, chosen


def choose_offsets(scoring, theta, labels, learn, classes):
    """The offsets of each head's decision, chosen by what its problems say of held-out titles: a
    list of (classes,).

    scoring: see split_off; theta: its solutions; labels: (titles,) int64; learn: (heads, titles)
    bool, the titles that each head learns from in the end.
    """
    offsets = []
    for head, titles in enumerate(learn):
        held = []
        found = []
        for number in range(head, theta.shape[1], len(learn)):
            held.append(scoring.labels[scoring.learn[number]])
            found.append(logistic.log_probabilities(scoring, theta, number).exp())
        numbers = (torch.cat(held), torch.cat(found), labels[titles])
        offsets.append(decision.choose_offsets(*(each.cpu().numpy() for each in numbers), classes))
    return offsets


def start_from_shares(problems):
    """theta where weights are 0 and each class is as likely as it is frequent."""
    classes, count = problems.shares.shape
    theta = problems.x.new_zeros(classes, count, problems.x.shape[1] + 1)
    theta[..., -1] = problems.shares.clamp(min=1e-6).log()
    return theta


def split_off(x, sketch, labels, parts, classes, turns):
    """Problems to train with some titles held out, and the same ones to score on those titles.

    x: (titles, dimensions), with its sketch; turns: the parts that are held out, one after the
    other; a title whose category is in no other part is not scored, as nothing could be learned of
    it. There is a problem for each of these parts and each head, all heads of a part together. None
    has a penalty yet.
    """
    learn = torch.cat([(parts >= 0) & (parts != turn) for turn in turns])
    no_penalty = x.new_zeros(len(learn))
    training = logistic.make_problems(x, sketch, labels, learn, no_penalty, classes)
    learned = (training.shares > 0)[labels].T
    held_out = torch.cat([parts == turn for turn in turns]) & learned

    # all parts of a head together make a mean
    titles = held_out.view(len(turns), len(parts), -1).sum((0, 2)).clamp(min=1)
    share = (1 / titles).repeat(len(turns))
    return training, dataclasses.replace(training, learn=held_out, title_weight=share)


def l2_penalty(c, titles, classes):
    """logistic's penalty for scikit-learn's C, which counts two classes' weights, opposites, once."""
    counted = 2 if classes == 2 else 1
    return (counted / (c * titles)).float()
