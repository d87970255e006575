"""What needs no encoder, on the folds of the runs: the majority class, and TF-IDF with logistic
regression.
"""

import time
import warnings

import numpy as np

import cli
import decision
import disk
import runs
import splits
from options import Options


def add(table, results, features):
    """Compute the baselines that a table lacks, for all titles and for each size of --labels; kept
    as runs.

    results: their folder; features: a folder with the titles, or None for the one that the runs
    were trained on. TF-IDF decides as the table's rows do.
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
            titles, _ = opened.titles()
        # as a run of its own, so that it is there next time
        probabilities, offsets = out_of_fold(kind, titles, table, options)
        measured = table.measure(probabilities, offsets)
        config = runs.Config(
            format=runs.FORMAT,
            classes=table.classes,
            options=options,
            data=table.data,
            baseline=kind,
            results=measured,
            **disk.provenance(started, features=str(opened.folder.resolve())),
        )
        runs.write(folder, config, table.arrays | {"probabilities": probabilities, "offsets": offsets})
        which = f", {size} labels a category" if size else ""
        cli.say(f"{runs.BASELINES[kind]}{which}: macro-F1 {measured.macro_f1:.4f}")


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
    fit = fit_tfidf if kind == "tfidf" else fit_majority
    titles = np.array(titles, dtype=object)
    labels, folds = table.labels, table.folds
    classes = len(table.classes)
    probabilities = np.zeros((*folds.shape, classes), dtype=np.float32)
    offsets = np.zeros((len(folds), options.folds, classes), dtype=np.float32)
    draws = splits.draw_titles(labels, table.groups, folds, options.seed, options.labels)
    for (repeat, fold), draw in zip(np.ndindex(*offsets.shape[:2]), draws, strict=True):
        test = np.flatnonzero(folds[repeat] == fold)
        probabilities[repeat, test] = fit(titles[draw.rows], labels[draw.rows], titles[test], classes)
        if options.decide == "macro-f1":
            offsets[repeat, fold] = choose_offsets(fit, titles, labels, draw, classes)
    return probabilities, offsets if options.decide == "macro-f1" else None


def choose_offsets(fit, titles, labels, draw, classes):
    """The offsets of a head's decision, (classes,), chosen on the last part of the titles it learns
    from.
    """
    held = draw.parts == draw.parts.max()
    learn = draw.rows[~held]
    # of a category that is in no other part, nothing could be learned
    test = draw.rows[held & np.isin(labels[draw.rows], labels[learn])]
    tau = 0.0
    if len(test):
        values = fit(titles[learn], labels[learn], titles[test], classes)
        tau = decision.choose_tau(labels[test], values, labels[draw.rows], classes)
    return decision.offsets_of(tau, labels[draw.rows], classes)


def fit_majority(titles, labels, new, classes):
    """The categories' shares among the training titles, as the probabilities of every new title.

    Returns (new titles, classes) float64, as fit_tfidf does.
    """
    shares = np.bincount(labels, minlength=classes) / len(labels)
    return np.tile(shares, (len(new), 1))


def fit_tfidf(titles, labels, new, classes):
    """Probabilities of new titles by TF-IDF of words and word pairs with logistic regression
    (scikit-learn).
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise cli.Problem("--baselines: TF-IDF needs scikit-learn: pip install scikit-learn") from None

    has_words = any(character.isalnum() for title in titles for character in title)
    # nothing to learn from, or to tell apart
    if not has_words or len(np.unique(labels)) < 2:
        return fit_majority(titles, labels, new, classes)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    # many categories of few titles are no mistake
    with warnings.catch_warnings(action="ignore"):
        model = LogisticRegression(C=30, max_iter=1000).fit(words.fit_transform(titles), labels)
    out = np.zeros((len(new), classes))
    out[:, model.classes_] = model.predict_proba(words.transform(new))
    return out
