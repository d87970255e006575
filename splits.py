"""Which titles each head learns from, and which are held out: copies, folds, repeats, draws of a few labels."""

import functools
import unicodedata

import numpy as np

import cli


@functools.cache
def essence(character):
    """What of one character tells titles apart: letters, digits and marks, such as the vowels of Hindi and Thai."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", character).casefold())
    name = unicodedata.name(character, "")
    if folded[0] == " " or "VARIATION SELECTOR" in name or "JOINER" in name:  # ´ is a space with an accent on it
        return ""
    return "".join(c for c in folded if c.isalnum() or unicodedata.category(c) in ("Mn", "Mc"))


def group_key(title):
    """What is left of a title after Unicode normalisation, case folding and removal of all but letters, marks, digits.

    Titles with one key are taken for copies of one another. A title without letters and digits stands for itself,
    whatever spaces and invisible characters it has: two emoji titles are copies where they show the same emoji.
    """
    kept = unicodedata.normalize("NFKC", "".join(map(essence, title)))
    return kept or "".join(c for c in title if unicodedata.category(c)[0] in "PS") or title.strip()


def numbered(values):
    """(n,) int64: equal values get equal numbers, in the order of their first appearance."""
    numbers = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def distinct_titles(labels, groups):
    """How many distinct titles each class has, copies counted once: (classes,) int64. labels, groups: (n,) int."""
    classes = int(labels.max()) + 1
    return np.bincount(np.unique(groups.astype(np.int64) * classes + labels) % classes, minlength=classes)


def make_folds(labels, groups, k, seed, names=None):
    """Share titles among k folds, stratified by label, with each group in one fold.

    labels: (n,) int class of each title; groups: (n,) int group of each title. Returns (n,) int64 folds from 0 to k-1.
    Large groups are placed first, each into a fold that lacks most of its classes, then that has fewest titles of its
    commonest class, then fewest titles; so every class is spread within one title of evenly where groups allow it.
    A class that would be missing from a fold is a cli.Problem that names it: no class is missing in training then.
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    classes, random = int(labels.max()) + 1, np.random.default_rng([seed, k])
    order = np.argsort(groups, kind="stable")
    label = labels[order]
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    # groups with the same labels are dealt together: they have the same sum of random numbers, one for each class
    kinds = np.add.reduceat(random.integers(1 << 63, size=classes)[label], starts)
    shuffled = random.permutation(len(starts))
    shuffled = shuffled[np.lexsort((kinds[shuffled], -sizes[shuffled]))]
    counts, fold_of = np.zeros((k, classes), dtype=np.int64), np.empty(len(starts), dtype=np.int64)
    for batch in np.split(shuffled, np.flatnonzero(np.diff(kinds[shuffled])) + 1):
        share = np.bincount(label[starts[batch[0]] :][: sizes[batch[0]]], minlength=classes)
        own, each, size = counts[:, share.argmax()], share.max(), share.sum()
        # One group after the other goes to the fold with fewest titles of its commonest class. The fold that gets its
        # i-th group of this batch held own + i * each of them before: all groups are dealt by sorting these numbers.
        rounds = np.arange(min(len(batch), len(batch) // k + 2 + np.ptp(own) // each))[:, None]
        held = own + each * rounds
        lacks = (counts[:, share > 0] == 0).sum(1) * (rounds == 0)
        total = np.broadcast_to(counts.sum(1) * each - own * size, held.shape)  # where folds hold the same: how full
        fold_of[batch] = np.lexsort((total.ravel(), held.ravel(), -lacks.ravel()))[: len(batch)] % k
        counts += np.bincount(fold_of[batch], minlength=k)[:, None] * share
    if not counts.all():
        distinct = distinct_titles(labels, groups)
        missing = int(np.where(counts.all(0), len(label), distinct).argmin())
        why = "too few" if distinct[missing] < k else "which stand in other categories too, not enough"
        there = cli.count(int(distinct[missing]), "distinct title")
        there = f"category {names[missing] if names else missing!r} has {there}, {why}"
        raise cli.Problem(f"{there} for --folds {k}; use fewer folds, or merge or drop the category")
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.repeat(fold_of, sizes)
    return folds


def repeat_folds(labels, groups, options, names=None):
    """The folds of every repeat: (repeats, titles) int64. The first repeat's are those of the seed itself."""
    units = groups if options["split"] == "grouped" else np.arange(len(labels))
    seeds = [options["seed"], *(seed_of(options["seed"], r) for r in range(1, options["repeats"]))]
    return np.stack([make_folds(labels, units, options["folds"], seed, names) for seed in seeds])


def seed_of(*numbers):
    """A seed for a repeat, or a fold of it, far from those of others: one whole number for the numbers given."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


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
            own = labels[first[by_class]]
            rank = np.empty(len(first), dtype=np.int64)  # among those of its category
            rank[by_class] = np.arange(len(first)) - np.searchsorted(own, own)
            if size is not None:
                rows, rank = first[rank < size], rank[rank < size]
                first = rows
            part = np.zeros(int(groups.max()) + 1, dtype=np.int8)
            part[groups[first]] = rank % (4 if rank.max() >= 3 else 2)
            rows = np.sort(rows).astype(np.int32)
            drawn.append((rows, part[groups[rows]]))
    return drawn


def label_sizes(wanted, labels, groups, folds):
    """The sizes of --labels that can be told from all titles, ascending, None (all) last; says what is left out."""
    training = len(np.unique(folds)) - 1
    there = distinct_titles(labels, groups) * training // (training + 1)  # in the training folds, about
    sizes = sorted({size for size in wanted if size is not None})
    kept = [size for size in sizes if size <= there.max()]
    if kept != sizes:
        large = f"--labels {' '.join(map(str, sizes[len(kept) :]))}"
        why = "no category has so many distinct titles to train on; that is all titles: use `--labels all`"
        if not kept and None not in wanted:
            raise cli.Problem(f"{large}: {why}")
        cli.say(f"left out: {large}; {why}")
    if kept and (short := int((there < kept[-1]).sum())):
        fewer = f"{short} of {len(there)} categories have fewer titles; all of theirs are used"
        cli.say(f"--labels {kept[-1]}: {fewer}")
    return kept + [None] * (None in wanted)
