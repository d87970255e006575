"""What needs no encoder, on the folds of the runs: the majority class, and TF-IDF with logistic regression."""

import time
from pathlib import Path

import numpy as np

import cli
import runs
import splits
import store

PROTOCOL = ("folds", "repeats", "split", "seed")  # the options that decide which titles a head is scored on
NAMES = {
    "majority": "majority class",
    "tfidf": "TF-IDF of words and word pairs, logistic regression",
    "average": "average of TF-IDF's and the best row's probabilities",
}


def probabilities(kind, titles, labels, folds, drawn, classes):
    """Out-of-fold class probabilities of a baseline: (repeats, titles, classes) float32.

    titles: list of str; labels: (titles,) int; folds: (repeats, titles) int; drawn: what splits.draw_titles gave.
    """
    if kind == "tfidf":
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
        except ImportError:
            raise cli.Problem("--baselines: TF-IDF needs scikit-learn: pip install scikit-learn") from None
    out = np.zeros((*folds.shape, classes), dtype=np.float32)
    heads = [
        (repeat, np.flatnonzero(held == fold)) for repeat, held in enumerate(folds) for fold in range(held.max() + 1)
    ]
    for (repeat, test), (train, _) in zip(heads, drawn, strict=True):
        share = np.bincount(labels[train], minlength=classes) / len(train)
        out[repeat, test] = share
        words = [titles[i] for i in train]
        if kind == "majority" or not any(c.isalnum() for title in words for c in title):
            continue  # titles without a single word leave TF-IDF nothing but the categories' shares
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        model = LogisticRegression(C=30, max_iter=1000).fit(vectorizer.fit_transform(words), labels[train])
        found = model.predict_proba(vectorizer.transform([titles[i] for i in test]))
        out[repeat, test] = 0
        out[repeat, test[:, None], model.classes_] = found
    return out


def name_of(config, kind, size):
    """The name of a baseline's folder: it belongs to titles and folds, whatever the encoder."""
    options = {key: config["options"][key] for key in PROTOCOL}
    parts = [store.slug(config["data"]["name"]), config["data"]["titles"][:8], "baseline", kind, *options.values()]
    return "-".join(map(str, parts + ([f"labels-{size}"] if size else [])))


def add(table, results, features):
    """Compute the baselines that a table lacks, for all titles and for each size of --labels; kept as runs."""
    config, labels, folds, groups = table["config"], table["labels"], table["folds"], table["groups"]
    there = {(run["config"]["baseline"], run["config"]["options"]["labels"]) for run in table["baselines"]}
    sizes = sorted({run["config"]["options"]["labels"] for run in table["few"]})
    missing = [key for key in (("majority", None), *(("tfidf", size) for size in (None, *sizes))) if key not in there]
    if not missing:
        return
    features = runs.features_of(config, features)
    titles, classes = features.titles()[0], len(config["classes"])
    for kind, size in missing:
        started = time.time()
        drawn = splits.draw_titles(labels, groups, folds, config["options"]["seed"], size)
        values = probabilities(kind, titles, labels, folds, drawn, classes)
        content = {
            "format": runs.FORMAT,
            "baseline": kind,
            "classes": config["classes"],
            "options": {key: config["options"][key] for key in PROTOCOL} | {"labels": size},
            "data": config["data"],
            "results": runs.figures(labels, values, folds, classes),
            **store.provenance(started),
        }
        content["made"]["features"] = str(Path(features.folder).resolve())
        arrays = {"probabilities": values, "labels": labels, "folds": folds, "groups": groups}
        runs.write(results / name_of(config, kind, size), content, arrays)
        few = f", {size} labels a category" if size else ""
        cli.say(f"{NAMES[kind]}{few}: macro-F1 {content['results']['macro_f1']:.4f}")
