"""Heads of the report's kind, one for each fold of each repeat, as one function of stacked tensors;
and the batches that each of them learns from.
"""

import numpy as np
import torch
from torch.func import stack_module_state

import model
from whichlayer.heads import splits
from whichlayer.heads.logistic import standardization


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


def stack(heads, x, draws):
    """(state: the heads' tensors, {name: (heads, …)} on the device of x, and the list of those that
    an optimizer updates).

    Standardisation is measured here, on the titles that each head learns from. The first Linear's
    weights lie transposed in memory, as their gradients come out of the product: so nothing is
    copied.
    """
    state, _ = stack_module_state(heads)
    leaves = []
    for name, value in state.items():
        is_first = name == "mlp.0.weight"
        stored = value.mT if is_first else value
        leaf = stored.detach().to(x.device).contiguous().requires_grad_()
        leaves.append(leaf)
        state[name] = leaf.mT if is_first else leaf
    if heads[0].standardize:
        learn = torch.zeros(len(draws), len(x), dtype=torch.bool)
        for members, draw in zip(learn, draws, strict=True):
            members[draw.rows] = True
        scale = standardization(x.flatten(1), learn.to(x.device))
        state |= {name: value.unflatten(1, x.shape[1:]) for name, value in vars(scale).items()}
    return state, leaves


def epoch_batches(draws, options, epoch):
    """The batches of one epoch: row numbers (steps, heads, titles) and counts (steps, heads, 1),
    int32 tensors.

    Every head's training titles, in an order of its own, are cut into the same number of batches of
    nearly equal size; of the row numbers of a batch only the first `count` are meant, the others
    fill up.
    """
    sizes = np.array([len(draw.rows) for draw in draws])
    # no batch is empty
    steps = min(-(-sizes.max() // options.batch_size), sizes.min())
    # the first batches have one title more
    larger = np.arange(steps)[:, None] < sizes % steps
    counts = (sizes // steps + larger).astype(np.int32)[..., None]
    is_meant = np.arange(counts.max()) < counts
    rows = np.zeros(is_meant.shape, np.int32)
    for head, draw in enumerate(draws):
        # by repeat and fold
        random = np.random.default_rng([options.seed, *divmod(head, options.folds), epoch])
        rows[:, head][is_meant[:, head]] = random.permutation(draw.rows)
    return torch.from_numpy(rows), torch.from_numpy(counts)
