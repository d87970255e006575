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


def probabilities(kind, size, titles, table):
    """Out-of-fold class probabilities of a baseline on a table's folds: (repeats, titles, classes) float32.

    kind: "majority" or "tfidf"; size: labels a category, or None for all; titles: list of str.
    """
    if kind == "tfidf":
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
        except ImportError:
            raise cli.Problem("--baselines: TF-IDF needs scikit-learn: pip install scikit-learn") from None
    labels, folds, classes = table["labels"], table["folds"], len(table["config"]["classes"])
    drawn = iter(splits.draw_titles(labels, table["groups"], folds, table["config"]["options"]["seed"], size))
    titles, out = np.array(titles, dtype=object), np.zeros((*folds.shape, classes), dtype=np.float32)
    for repeat, held in enumerate(folds):
        for fold in range(held.max() + 1):
            test, (train, _) = np.flatnonzero(held == fold), next(drawn)
            if kind == "majority" or not any(c.isalnum() for title in titles[train] for c in title):
                # titles without a single word leave TF-IDF nothing but the categories' shares
                out[repeat, test] = np.bincount(labels[train], minlength=classes) / len(train)
                continue
            words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
            model = LogisticRegression(C=30, max_iter=1000).fit(words.fit_transform(titles[train]), labels[train])
            out[repeat, test[:, None], model.classes_] = model.predict_proba(words.transform(titles[test]))
    return out


def add(table, results, features):
    """Compute the baselines that a table lacks, for all titles and for each size of --labels; kept as runs."""
    config, options = table["config"], {key: table["config"]["options"][key] for key in PROTOCOL}
    there = {(run["config"]["baseline"], run["config"]["options"]["labels"]) for run in table["baselines"]}
    sizes = sorted({run["config"]["options"]["labels"] for run in table["few"]})
    opened = titles = None
    for kind, size in (("majority", None), *(("tfidf", size) for size in (None, *sizes))):
        # the folder's name says titles and folds, whatever the encoder: another table's may be this one's, too
        name = [store.slug(config["data"]["name"]), config["data"]["titles"][:8], "baseline", kind, *options.values()]
        folder = results / "-".join(map(str, name + ([f"labels-{size}"] if size else [])))
        if (kind, size) in there or folder.exists():
            continue
        started = time.time()
        if not titles:
            opened = runs.features_of(config, features)
            titles, _ = opened.titles()
        values = probabilities(kind, size, titles, table)
        content = {
            "format": runs.FORMAT,
            "baseline": kind,
            "classes": config["classes"],
            "options": options | {"labels": size},
            "data": config["data"],
            "results": runs.figures(table["labels"], values, table["folds"], len(config["classes"])),
            **store.provenance(started),
        }
        content["made"]["features"] = str(Path(opened.folder).resolve())
        arrays = {"probabilities": values, **{key: table[key] for key in ("labels", "folds", "groups")}}
        runs.write(folder, content, arrays)
        few = f", {size} labels a category" if size else ""
        cli.say(f"{NAMES[kind]}{few}: macro-F1 {content['results']['macro_f1']:.4f}")
