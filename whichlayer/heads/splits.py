"""Which titles heads learn from, and which are held out: copies, folds, draws of a few labels."""

import functools
import heapq
import unicodedata
from dataclasses import dataclass

import numpy as np

from whichlayer.common import cli


@functools.cache
def essence(character):
    """What of a character tells titles apart: letters, digits, marks such as the vowels of Hindi."""
    folded = unicodedata.normalize("NFKC", character).casefold()
    folded = unicodedata.normalize("NFKC", folded)
    name = unicodedata.name(character, "")
    if folded[0] == " " or "VARIATION SELECTOR" in name or "JOINER" in name:
        return ""  # ´ becomes a space with an accent on it
    return "".join(c for c in folded if c.isalnum() or unicodedata.category(c) in ("Mn", "Mc"))


def group_key(title):
    """The normalised, case-folded letters, marks and digits of a title; copies have the same.

    Digits do not count beside two letters: copies may differ in a number. Without letters and
    digits, the title stands for itself, whatever spaces and invisible characters it has: two emoji
    titles are copies where they show the same emoji.
    """
    kept = unicodedata.normalize("NFKC", "".join(map(essence, title)))
    without = "".join(c for c in kept if not c.isdecimal())
    if sum(map(str.isalpha, without)) >= 2:
        return without
    if kept:
        return kept
    symbols = "".join(c for c in title if unicodedata.category(c)[0] in "PS")
    return symbols or title.strip()


def numbered(values):
    """(n,) int64: equal values get equal numbers, in the order of their first appearance."""
    numbers = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def group_titles(titles, owners=()):
    """The group of each title, (n,) int64: copies have one, and so do titles of one owner, also
    through others.

    owners: what --group-column holds for each title, if there is one; where that is empty, nothing.
    """
    copies = numbered(map(group_key, titles))
    if not owners:
        return copies
    owner = numbered(name or number for number, name in enumerate(owners))
    # the lowest number goes round until all that are connected have it
    groups = copies
    before = None
    while not np.array_equal(before, groups):
        before = groups
        for shared in (owner, copies):
            lowest = np.full(len(titles), len(titles))
            np.minimum.at(lowest, shared, groups)
            groups = lowest[shared]
    return numbered(groups)


def distinct_titles(labels, groups):
    """Titles of each class, copies counted once: (classes,) int64. labels, groups: (n,) int."""
    classes = int(labels.max()) + 1
    pairs = np.unique(groups.astype(np.int64) * classes + labels)
    return np.bincount(pairs % classes, minlength=classes)


def make_folds(labels, groups, k, seed, names=None):
    """Share titles among k folds, stratified by label, with each group in one fold.

    labels, groups: (n,) int of each title. Returns (n,) int64 from 0 to k-1. Every class is spread
    within one title of evenly where groups allow it; one that would be missing from a fold is a
    cli.Problem that names it, so that none is missing in training.
    """
    labels = np.asarray(labels)
    groups = np.asarray(groups)
    classes = int(labels.max()) + 1
    random = np.random.default_rng([seed, k])

    # the labels of each group side by side: `size` of them from `start`
    by_group = np.argsort(groups, kind="stable")
    grouped = labels[by_group]
    _, starts, sizes = np.unique(groups[by_group], return_index=True, return_counts=True)

    # groups with the same labels are of one kind: the same sum of random numbers, one for each class
    kinds = np.add.reduceat(random.integers(1 << 63, size=classes)[grouped], starts)

    # large groups first, those of one size in random order, but those of one kind together
    queue = random.permutation(len(starts))
    queue = queue[np.lexsort((kinds[queue], -sizes[queue]))]
    batches = np.split(queue, np.flatnonzero(np.diff(kinds[queue])) + 1)

    # batch by batch, as what a fold already holds decides what it gets
    # titles of each class in each fold
    counts = np.zeros((k, classes), dtype=np.int64)
    # of each group
    fold_of = np.empty(len(starts), dtype=np.int64)
    for batch in batches:
        start = starts[batch[0]]
        share = np.bincount(grouped[start : start + sizes[batch[0]]], minlength=classes)
        fold_of[batch] = deal(len(batch), share, counts)
        counts += np.bincount(fold_of[batch], minlength=k)[:, None] * share

    missing = np.flatnonzero((counts == 0).any(0))
    if len(missing):
        own = labels == missing[0]
        largest = np.bincount(groups[own]).argmax()
        of_largest = np.flatnonzero(own & (groups == largest))
        name = names[missing[0]] if names else missing[0]
        few = f"category {name!r} has not enough titles of its own for --folds {k}"
        most = f"{len(of_largest)} of its {own.sum()} are in one group, that of row {of_largest[0] + 1:,}"
        raise cli.Problem(f"{few}: {most}; use fewer folds, or merge or drop the category")
    folds = np.empty(len(labels), dtype=np.int64)
    folds[by_group] = np.repeat(fold_of, sizes)
    return folds


def deal(number, share, counts):
    """The folds of so many groups with the same labels, a list of ints.

    share: (classes,) int titles of each class in one group; counts: (k, classes) int in each fold.
    Each goes to the fold that lacks most of its classes, then that has fewest titles of its
    commonest class, then fewest titles.
    """
    each = int(share.max())
    size = int(share.sum())
    lacking = (counts[:, share > 0] == 0).sum(1)
    held = counts[:, share.argmax()]
    # the folds with what they hold and how many of these groups they got, the next one to get one first
    columns = (-lacking, held, counts.sum(1), np.zeros_like(held), np.arange(len(counts)))
    turns = np.stack(columns, 1).tolist()
    heapq.heapify(turns)
    folds = []
    for _ in range(number):
        _, held, total, got, fold = turns[0]
        folds.append(fold)
        # a fold that got one lacks none of its classes
        heapq.heapreplace(turns, [0, held + each, total + size, got + 1, fold])
    return folds


def repeat_folds(labels, groups, options, names=None):
    """The folds of every repeat, (repeats, titles) int64; the first are those of the seed itself."""
    units = groups if options.split == "grouped" else np.arange(len(labels))
    seeds = [seed_of(options.seed, repeat) if repeat else options.seed for repeat in range(options.repeats)]
    return np.stack([make_folds(labels, units, options.folds, seed, names) for seed in seeds])


def seed_of(*numbers):
    """One seed for several numbers (seed, repeat, perhaps fold), far from those of others."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@dataclass
class Draw:
    """The titles that one head learns from."""

    rows: np.ndarray  # (rows,) int32, ascending
    parts: np.ndarray  # (rows,) int8 from 0 to 3: what is held out together to choose something


def draw_titles(labels, groups, folds, seed, size=None):
    """The titles that each head learns from: a list of Draw, repeat by repeat and fold by fold.

    labels, groups: (titles,) int; folds: (repeats, titles) int; size: at most so many titles of a
    category, copies counted once, or None for all. A smaller size's are among a larger one's. Parts
    are quarters of each category, copies together (halves, where none has four titles).
    """
    draws = []
    for repeat, held_out in enumerate(folds):
        order = np.random.default_rng([seed, repeat, 1]).permutation(len(labels))
        for fold in range(int(held_out.max()) + 1):
            training = order[held_out[order] != fold]
            draws.append(draw(labels, groups, training, size))
    return draws


def draw(labels, groups, training, size):
    """The Draw of one head from the rows that it may learn from, (rows,) int in random order."""
    # part of a second, which those do not need who only compare titles
    import pandas as pd

    titles = pd.DataFrame({"row": training, "label": labels[training], "group": groups[training]})
    distinct = titles.drop_duplicates(["label", "group"])
    rank = distinct.groupby("label").cumcount()
    rows = training
    # few labels are the first of each category; else copies are learned from, too
    if size is not None:
        distinct = distinct[rank < size]
        rank = rank[rank < size]
        rows = distinct["row"]
    rows = np.sort(rows).astype(np.int32)

    # parts take turns within a category, and copies share theirs
    count = 4 if rank.max() >= 3 else 2
    # of each group
    part_of = np.zeros(int(groups.max()) + 1, dtype=np.int8)
    part_of[distinct["group"]] = rank % count
    return Draw(rows, part_of[groups[rows]])


def label_sizes(wanted, labels, groups, folds):
    """The sizes of --labels to train, ascending, None (all) last; one that is too large is a Problem.

    wanted: sizes and None; labels, groups: (titles,) int; folds: how many there are.
    """
    sizes = sorted(set(wanted) - {None})
    # in training, about
    available = distinct_titles(labels, groups) * (folds - 1) // folds
    if sizes and sizes[-1] > available.max():
        few = f"no category has more than {available.max()} distinct titles to train on"
        raise cli.Problem(f"--labels {sizes[-1]}: {few}; that is `--labels all`")
    for size in sizes:
        fewer = np.count_nonzero(available < size)
        if fewer:
            few = f"{fewer} of {len(available)} categories have fewer distinct titles to train on"
            cli.say(f"--labels {size}: {few}; all of theirs are used")
    return [*sizes, None] if None in wanted else sizes
