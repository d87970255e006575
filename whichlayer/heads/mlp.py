"""Train the report's head: the heads of all folds and repeats in one loop."""

import numpy as np
import torch
from torch.func import stack_module_state
from torch.nn.functional import cross_entropy

import model
from whichlayer.common import cli
from whichlayer.heads import splits
from whichlayer.heads.logistic import standardization
from whichlayer.scores import metrics


def new_heads(options, layers, hidden, classes):
    """The heads of all repeats and folds with their first weights, in a list.

    These depend on seed, repeat and fold alone.
    """
    heads = []
    with torch.random.fork_rng(devices=[]):
        for repeat, fold in np.ndindex(options.repeats, options.folds):
            torch.manual_seed(splits.seed_of(options.seed, repeat, fold))
            heads.append(model.build(options, layers, hidden, classes))
    return heads


def epoch_batches(draws, options, epoch):
    """The batches of one epoch: row numbers (steps, heads, titles) and counts (steps, heads),
    int32.

    Every head's training titles, in an order of its own, are cut into the same number of batches of
    nearly equal size; of the row numbers of a batch only the first `count` are meant, the others
    fill up.
    """
    sizes = np.array([len(draw.rows) for draw in draws])
    # no batch is empty
    steps = min(-(-sizes.max() // options.batch_size), sizes.min())
    # the first batches have one title more
    larger = np.arange(steps)[:, None] < sizes % steps
    counts = (sizes // steps + larger).astype(np.int32)
    rows = np.zeros((steps, len(draws), counts.max()), np.int32)
    for head, draw in enumerate(draws):
        repeat, fold = divmod(head, options.folds)
        random = np.random.default_rng([options.seed, repeat, fold, epoch])
        meant = np.arange(counts.max()) < counts[:, head, None]
        rows[:, head][meant] = random.permutation(draw.rows)
    return rows, counts


def train_heads(x, labels, folds, options, classes, draws, report=lambda epochs: None):
    """Train the report's heads of all folds and repeats. Returns a model.Trained.

    x: (titles, layers, hidden) float32 tensor on the device; labels: (titles,) int; folds:
    (repeats, titles) int; options: options.Options; classes: how many there are; draws: the titles
    that each head learns from, see splits.draw_titles; report: called after each epoch. The
    history's losses are averaged over an epoch's batches, its macro-F1 is that of the held-out
    fold. A loss that is not finite is a Problem.
    """
    # all heads as one function of stacked tensors, and one optimizer for all of these
    heads = new_heads(options, *x.shape[1:], classes)
    forward = model.stacked(heads[0])
    parameters, leaves = stack(heads, x.device)
    buffers = {}
    if options.standardize:
        buffers = standardization_buffers(x, draws)
    optimizer = torch.optim.Adam(leaves, lr=options.lr, fused=True)
    targets = torch.as_tensor(labels, device=x.device).long()

    history = []
    for epoch in range(1, options.epochs + 1):
        learning = parameters | buffers
        rows, counts = epoch_batches(draws, options, epoch)
        losses = train_epoch(forward, learning, optimizer, x, targets, rows, counts)
        # before the next epoch's are drawn
        del rows, counts

        # how well the heads do on the titles that they have not seen
        state = {name: value.detach() for name, value in learning.items()}
        probabilities = model.held_out_probabilities(heads[0], state, x, folds)
        if not (np.isfinite(losses).all() and np.isfinite(probabilities).all()):
            wrong = f"the loss is no longer a finite number in epoch {epoch}"
            remedy = "" if options.standardize else ", or --standardize"
            raise cli.Problem(f"{wrong}; use a smaller --lr than {options.lr:g}{remedy}")
        scores = metrics.fold_scores(labels, probabilities.argmax(2), folds, classes)
        for head, (repeat, fold) in enumerate(np.ndindex(scores.shape)):
            history.append((repeat, fold, epoch, float(losses[head]), scores[repeat, fold]))
        report(1)
    state = {name: value.cpu().contiguous() for name, value in state.items()}
    return model.Trained(state, probabilities, history)


def stack(heads, device):
    """The heads' parameters, {name: (heads, …) tensor} on the device, and what an optimizer
    updates.

    The first Linear's weights lie transposed in memory, as their gradients come out of the product:
    so nothing is copied.
    """
    parameters, _ = stack_module_state(heads)
    leaves = []
    for name, value in parameters.items():
        stored = value.mT if name == "mlp.0.weight" else value
        leaf = stored.detach().to(device).contiguous().requires_grad_()
        leaves.append(leaf)
        parameters[name] = leaf.mT if name == "mlp.0.weight" else leaf
    return parameters, leaves


def standardization_buffers(x, draws):
    """Mean and deviation of each head's training titles, (heads, layers, hidden), as in model.Head."""
    learn = torch.zeros(len(draws), len(x), dtype=torch.bool)
    for members, draw in zip(learn, draws, strict=True):
        members[draw.rows] = True
    scale = standardization(x.flatten(1), learn.to(x.device))
    return {
        "mean": scale.mean.unflatten(1, x.shape[1:]),
        "deviation": scale.deviation.unflatten(1, x.shape[1:]),
    }


def train_epoch(forward, state, optimizer, x, targets, rows, counts):
    """Train all heads for one epoch, and return their mean losses: (heads,) float32 numpy.

    forward: see model.stacked; state: what it takes; rows, counts: what epoch_batches gave.
    """
    rows = torch.from_numpy(rows).to(x.device)
    counts = torch.from_numpy(counts).to(x.device)
    places = torch.arange(rows.shape[2], device=x.device)
    losses = torch.zeros(rows.shape[1], device=x.device)
    for batch, count in zip(rows, counts[..., None], strict=True):
        # faster than x[batch]
        inputs = x.index_select(0, batch.flatten()).unflatten(0, batch.shape)
        logits = forward(state, inputs)
        each = cross_entropy(logits.flatten(0, 1), targets[batch].flatten(), reduction="none")
        # the mean over each head's batch, without what fills up
        loss = (each.view_as(batch) * (places < count) / count).sum(1)
        optimizer.zero_grad()
        # heads share no weight, so each gets the gradient of its own loss
        loss.sum().backward()
        optimizer.step()
        losses += loss.detach() / len(rows)
    return losses.cpu().numpy()
