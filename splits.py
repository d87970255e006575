"""Which titles each head learns from, and which are held out: copies, folds, repeats, draws of a few labels."""

import numpy as np

import cli
import data


def repeat_folds(labels, groups, options, names=None):
    """The folds of every repeat: (repeats, titles) int64. The first repeat's are those of the seed itself."""
    units = groups if options["split"] == "grouped" else np.arange(len(labels))
    seeds = [options["seed"], *(repeat_seed(options["seed"], r) for r in range(1, options["repeats"]))]
    return np.stack([data.make_folds(labels, units, options["folds"], seed, names) for seed in seeds])


def repeat_seed(seed, repeat):
    """A seed for one repeat, far from those of other seeds and repeats."""
    return int(np.random.SeedSequence([seed, repeat]).generate_state(1)[0])


def draw_titles(labels, groups, folds, seed, size=None):
    """The titles that each head learns from: a list of (rows, parts), repeat by repeat and fold by fold.

    labels, groups: (titles,) int; folds: (repeats, titles) int; size: so many titles of each category at most, copies
    within it counted once, or None for all. The titles of a smaller size are among those of a larger one. rows: int32,
    ascending; parts: (rows,) int8 from 0 to 3, quarters of each category with copies together, to be held out while
    something is chosen (halves, where no category has four titles).
    """
    drawn, classes = [], int(labels.max()) + 1
    for repeat, held in enumerate(folds):
        order = np.random.default_rng([seed, repeat, 1]).permutation(len(labels))
        for fold in range(int(held.max()) + 1):
            rows = order[held[order] != fold]
            copies = groups[rows].astype(np.int64) * classes + labels[rows]
            first = rows[np.sort(np.unique(copies, return_index=True)[1])]  # one of each, in this order
            by_class = np.argsort(labels[first], kind="stable")
            sizes = np.bincount(labels[first])
            rank = np.empty(len(first), dtype=np.int64)  # among those of its category
            rank[by_class] = np.arange(len(first)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            if size is not None:
                first, rank = first[rank < size], rank[rank < size]
                rows = first
            part = np.zeros(int(groups.max()) + 1, dtype=np.int8)
            part[groups[first]] = rank % (4 if rank.max() >= 3 else 2)
            rows = np.sort(rows).astype(np.int32)
            drawn.append((rows, part[groups[rows]]))
    return drawn


def label_sizes(wanted, labels, groups, folds, quiet=False):
    """The sizes of --labels that can be told from all titles, ascending, None (all) last; says what is left out."""
    training = len(np.unique(folds)) - 1
    distinct = np.array([len(np.unique(groups[labels == label])) for label in range(int(labels.max()) + 1)])
    there = distinct * training // (training + 1)  # in the training folds, about
    sizes = sorted({size for size in wanted if size is not None})
    if too_large := [size for size in sizes if size > there.max()]:
        more = "that is all titles: use `--labels all`"
        if len(too_large) == len(wanted):
            raise cli.Problem(f"--labels {too_large[0]}: no category has so many distinct titles to train on; {more}")
        cli.say(f"left out: --labels {' '.join(map(str, too_large))}; no category has so many, {more}", quiet)
        sizes = [size for size in sizes if size <= there.max()]
    if sizes and (short := int((there < sizes[-1]).sum())):
        cli.say(
            f"--labels {sizes[-1]}: {short} of {len(there)} categories have fewer titles; all of theirs are used", quiet
        )
    return sizes + [None] * (None in wanted)
