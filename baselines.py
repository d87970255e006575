"""What needs no encoder, on the folds of the runs: the majority class, and TF-IDF with logistic
regression.
"""

import time

import numpy as np

import cli
import disk
import runs
import splits
from options import Options


def add(table, results, features):
    """Compute the baselines that a table lacks, for all titles and for each size of --labels; kept
    as runs.

    results: their folder; features: a folder with the titles, or None for the one that the runs
    were trained on.
    """
    there = {(row.run.baseline, row.run.labels_per_category) for row in table.baselines}
    sizes = sorted({row.run.labels_per_category for row in table.learning_curve})
    wanted = [("majority", None), ("tfidf", None), *(("tfidf", size) for size in sizes)]
    opened = titles = None  # read once, where any baseline is missing
    for kind, size in wanted:
        folder = results / folder_name(table, kind, size)
        if (kind, size) in there or folder.exists():
            continue
        started = time.time()
        if titles is None:
            opened = runs.features_of(table.everything[0].run, features)
            titles, _ = opened.titles()
        probabilities = out_of_fold(kind, size, titles, table)
        config = runs.Config(
            format=runs.FORMAT,
            classes=table.classes,
            options=protocol_of(table, size),
            data=table.data,
            baseline=kind,
            results=runs.figures(table.labels, probabilities, table.folds, len(table.classes)),
            **disk.provenance(started, features=str(opened.folder.resolve())),
        )
        arrays = {"labels": table.labels, "folds": table.folds, "groups": table.groups}
        runs.write(folder, config, {"probabilities": probabilities, **arrays})
        which = f", {size} labels a category" if size else ""
        cli.say(f"{runs.BASELINES[kind]}{which}: macro-F1 {config.results.macro_f1:.4f}")


def protocol_of(table, size):
    """The Options of a baseline: a table's protocol, and the size of --labels."""
    folds, repeats, split, seed = table.options.protocol
    return Options(folds=folds, repeats=repeats, split=split, seed=seed, labels=size)


def folder_name(table, kind, size):
    """The name of a baseline's folder: titles and folds, whatever the encoder, since other tables
    may share it.
    """
    parts = [disk.slug(table.data.name), table.data.titles[:8], "baseline", kind, *table.options.protocol]
    if size:
        parts.append(f"labels-{size}")
    return "-".join(map(str, parts))


def out_of_fold(kind, size, titles, table):
    """Out-of-fold class probabilities of a baseline on a table's folds: (repeats, titles, classes)
    float32.

    kind: "majority" or "tfidf"; size: labels a category, or None for all; titles: list of str.
    """
    fit = fit_tfidf if kind == "tfidf" else fit_majority
    titles = np.array(titles, dtype=object)
    labels, folds = table.labels, table.folds
    out = np.zeros((*folds.shape, len(table.classes)), dtype=np.float32)
    draws = iter(splits.draw_titles(labels, table.groups, folds, table.options.seed, size))
    for repeat, held in enumerate(folds):
        for fold in range(int(held.max()) + 1):
            training = next(draws).rows
            test = np.flatnonzero(held == fold)
            classes, probabilities = fit(titles[training], labels[training], titles[test])
            out[repeat, test[:, None], classes] = probabilities
    return out


def fit_majority(titles, labels, new):
    """The categories' shares among the training titles, as the probabilities of every new title.

    Returns (classes that occur in training, (new titles, these classes) float64), as fit_tfidf
    does.
    """
    classes, counts = np.unique(labels, return_counts=True)
    return classes, np.tile(counts / len(labels), (len(new), 1))


def fit_tfidf(titles, labels, new):
    """Class probabilities of new titles by TF-IDF of words and word pairs with logistic regression
    (scikit-learn).
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise cli.Problem("--baselines: TF-IDF needs scikit-learn: pip install scikit-learn") from None

    if not any(character.isalnum() for title in titles for character in title):
        return fit_majority(titles, labels, new)  # without a single word there is nothing to learn from
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    model = LogisticRegression(C=30, max_iter=1000).fit(words.fit_transform(titles), labels)
    return model.classes_, model.predict_proba(words.transform(new))
