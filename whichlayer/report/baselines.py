"""Baselines as runs: what needs no encoder (words.py), on the folds of the runs, out of fold."""

import time
from dataclasses import replace

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.heads import runs, splits, words
from whichlayer.report.rows import row_of
from whichlayer.scores import decision, figures


def add(table, results, features):
    """Compute the baselines that a table lacks, for all titles and for each size of --labels.

    results: the folder that they go to; features: folders, one with the titles, or None for the one
    that the runs were trained on.
    """
    there = {(row.run.baseline, row.run.labels_per_category) for row in table.baselines}
    sizes = sorted({row.run.labels_per_category for row in table.learning_curve})
    wanted = []
    for kind, baseline in words.BASELINES.items():
        wanted += [(kind, size) for size in [None, *(sizes if baseline.reads else [])]]
    missing = [each for each in wanted if each not in there]
    if missing:
        opened = runs.features_of(table.trained[0].run, features)
        counts = words.count(opened.titles()[0], table.labels)
        for kind, size in missing:
            make(kind, size, table, counts, results, opened.folder.resolve())


def make(kind, size, table, counts, results, source):
    """Compute a baseline and write it as a run, which decides as the table's rows do, and as a row of it.

    TF-IDF of all titles is fitted to all of them once more, and kept for predict.py.
    """
    started = time.time()
    baseline = words.BASELINES[kind]
    decide = table.decide if baseline.reads else "likeliest"
    options = replace(table.options, labels=size, decide=decide)
    folder = results / folder_name(kind, options, table)
    probabilities, offsets = out_of_fold(kind, counts, table, options)
    config = runs.Run(
        format=runs.FORMAT,
        classes=table.classes,
        options=options,
        data=table.data,
        baseline=kind,
        # new titles are predicted by one fit, not by a pool of many
        results=figures.measure(table.labels, probabilities, table.folds, len(table.classes), offsets, heads=1),
        **disk.provenance(started, features=str(source)),
    )
    kept = {}
    if kind == "tfidf" and not size:
        kept = words.files(words.fit(counts))
    arrays = {name: getattr(table, name) for name in runs.ARRAYS}
    arrays |= {"probabilities": probabilities, "offsets": offsets}
    runs.write(folder, config, arrays, kept)
    table.baselines.append(row_of(runs.open_run(folder), table))
    cli.say(f"{folder.name}: macro-F1 {config.results.macro_f1:.4f}")


def folder_name(kind, options, table):
    """The name of a baseline's folder: one for each table's titles and folds, whatever the encoder."""
    task = table.trained[0].run.task
    parts = [disk.slug(table.data.name), "baseline", kind, options.decide, disk.digest(task)[:8]]
    if options.labels:
        parts.append(f"labels-{options.labels}")
    return "-".join(parts)


def out_of_fold(kind, counts, table, options):
    """(probabilities, offsets) of a baseline on a table's folds.

    kind: a key of words.BASELINES; counts: words.Counts of the titles; options: its Options.
    probabilities: (repeats, titles, classes) float32; offsets: (repeats, folds, classes) float32,
    or None where the likeliest category is named.
    """
    predict = words.BASELINES[kind].predict
    classes = len(table.classes)
    probabilities = np.zeros((*table.folds.shape, classes), np.float32)
    offsets = None
    if options.decide == "macro-f1":
        offsets = np.zeros((len(table.folds), options.folds, classes), np.float32)
    draws = splits.draw_titles(counts.labels, table.groups, table.folds, options.seed, options.labels)
    heads = np.ndindex(len(table.folds), options.folds)
    for (repeat, fold), draw in zip(heads, draws, strict=True):
        test = np.flatnonzero(table.folds[repeat] == fold)
        probabilities[repeat, test] = predict(counts, draw.rows, test)
        if offsets is not None:
            offsets[repeat, fold] = choose_offsets(predict, counts, draw)
    return probabilities, offsets


def choose_offsets(predict, counts, draw):
    """The offsets of a head's decision, (classes,), chosen on the last part of the titles it learns
    from.
    """
    labels = counts.labels
    classes = labels.max() + 1
    learned = labels[draw.rows]
    held = draw.parts == draw.parts.max()
    rows = draw.rows[~held]
    # of a category that is in no other part, nothing could be learned
    test = draw.rows[held & np.isin(learned, labels[rows])]
    # where all categories are as frequent, the same ones are named whatever τ is
    if not len(test) or not np.ptp(np.bincount(learned, minlength=classes)):
        return np.zeros(classes)
    return decision.choose_offsets(labels[test], predict(counts, rows, test), learned, classes)
