"""What needs no encoder, on the folds of the runs: the majority class, and TF-IDF of words and
characters (words.py).
"""

import shutil
import time

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.heads import runs, splits, words
from whichlayer.heads.options import Options
from whichlayer.scores import decision


def add(table, results, features):
    """Compute the baselines that a table lacks, for all titles and for each size of --labels; kept
    as runs.

    results: their folder; features: a folder with the titles, or None for the one that the runs
    were trained on. TF-IDF decides as the table's rows do. With all titles, it is fitted to all of
    them once more, and kept for predict.py.
    """
    there = {(row.run.baseline, row.run.labels_per_category) for row in table.baselines}
    sizes = sorted({row.run.labels_per_category for row in table.learning_curve})
    wanted = [("majority", None), ("tfidf", None), *(("tfidf", size) for size in sizes)]
    opened = titles = None
    for kind, size in wanted:
        options = options_of(table, kind, size)
        folder = results / folder_name(table, kind, options)
        if (kind, size) in there or folder.exists():
            continue
        started = time.time()
        # titles are read where the first baseline is missing
        if titles is None:
            opened = runs.features_of(table.everything[0].run, features)
            titles = opened.titles()[0]
        # as a run of its own, so that it is there next time
        probabilities, offsets = out_of_fold(kind, titles, table, options)
        # new titles are predicted by one fit, not by a pool of many
        measured = table.measure(probabilities, offsets, heads=1)
        kept = None
        if kind == "tfidf" and not size:
            kept = words.files(words.fit(titles, table.labels, len(table.classes)))
        config = runs.Config(
            format=runs.FORMAT,
            classes=table.classes,
            options=options,
            data=table.data,
            baseline=kind,
            features=words.IDENTITY if kind == "tfidf" else None,
            results=measured,
            **disk.provenance(started, features=str(opened.folder.resolve())),
        )
        arrays = table.arrays | {"probabilities": probabilities, "offsets": offsets}
        # what is replaced goes when all else is done
        shutil.rmtree(folder, ignore_errors=True)
        runs.write(folder, config, arrays, files=kept)
        name = words.NAME if kind == "tfidf" else runs.BASELINES[kind]
        which = f", {size} labels a category" if size else ""
        cli.say(f"{name}{which}: macro-F1 {measured.macro_f1:.4f}")


def options_of(table, kind, size):
    """The Options of a baseline: a table's protocol and decision, and the size of --labels."""
    folds, repeats, split, seed = table.options.protocol
    decide = table.decide if kind == "tfidf" else "likeliest"
    return Options(folds=folds, repeats=repeats, split=split, seed=seed, labels=size, decide=decide)


def folder_name(table, kind, options):
    """The name of a baseline's folder: titles and folds, whatever the encoder, since other tables
    may share it.
    """
    parts = [disk.slug(table.data.name), table.data.titles[:8], "baseline", kind, *options.protocol]
    if options.decide != "likeliest":
        parts.append(options.decide)
    if options.labels:
        parts.append(f"labels-{options.labels}")
    return "-".join(map(str, parts))


def out_of_fold(kind, titles, table, options):
    """(probabilities, offsets) of a baseline on a table's folds.

    kind: "majority" or "tfidf"; titles: list of str; options: its Options. probabilities: (repeats,
    titles, classes) float32, out of fold; offsets: (repeats, folds, classes) float32, or None where
    the likeliest category is named.
    """
    labels = table.labels
    folds = table.folds
    classes = len(table.classes)
    fit = learner(kind, titles, labels, classes)
    probabilities = np.zeros((*folds.shape, classes), dtype=np.float32)
    offsets = np.zeros((len(folds), options.folds, classes), dtype=np.float32)
    draws = splits.draw_titles(labels, table.groups, folds, options.seed, options.labels)
    for (repeat, fold), draw in zip(np.ndindex(*offsets.shape[:2]), draws, strict=True):
        test = np.flatnonzero(folds[repeat] == fold)
        probabilities[repeat, test] = fit(draw.rows, test)
        if options.decide == "macro-f1":
            offsets[repeat, fold] = choose_offsets(fit, labels, draw, classes)
    return probabilities, offsets if options.decide == "macro-f1" else None


def choose_offsets(fit, labels, draw, classes):
    """The offsets of a head's decision, (classes,), chosen on the last part of the titles it learns
    from.
    """
    held = draw.parts == draw.parts.max()
    learn = draw.rows[~held]
    # of a category that is in no other part, nothing could be learned
    test = draw.rows[held & np.isin(labels[draw.rows], labels[learn])]
    tau = 0.0
    if len(test):
        tau = decision.choose_tau(labels[test], fit(learn, test), labels[draw.rows], classes)
    return decision.offsets_of(tau, labels[draw.rows], classes)


def learner(kind, titles, labels, classes):
    """What learns from some titles and predicts others: a function of their rows, (learn, test).

    It returns (test, classes) float64 probabilities.
    """

    def majority(learn, test):
        shares = np.bincount(labels[learn], minlength=classes) / len(learn)
        return np.tile(shares, (len(test), 1))

    if kind == "majority":
        return majority
    # once for all folds
    counts = words.count(titles)

    def tfidf(learn, test):
        fitted = words.fit_rows(counts, learn, labels[learn], classes)
        return words.row_probabilities(fitted, counts, test)

    return tfidf
