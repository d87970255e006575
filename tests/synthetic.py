"""Made-up runs and features, on the disk as train.py and extract.py write them: quick, and the truth is known."""

import csv

import numpy as np

import cli
import runs
import store


def guesses(labels, classes, right, seed=1, repeats=1):
    """(repeats, titles) predictions that are right with this chance. Titles that are hard are so for every seed."""
    hard, random = np.random.default_rng([0, 1]).random(len(labels)), np.random.default_rng(seed)
    wrong = 0.7 * hard + 0.3 * random.random((repeats, len(labels))) > np.quantile(0.7 * hard + 0.15, right)
    return np.where(wrong, (labels + random.integers(1, classes, wrong.shape)) % classes, labels)


def chances(predictions, classes, sure=0.9):
    """Probabilities (repeats, titles, classes) float32 of which the predicted class has `sure`."""
    predictions = np.atleast_2d(predictions)
    out = np.full((*predictions.shape, classes), (1 - sure) / (classes - 1), np.float32)
    np.put_along_axis(out, predictions[..., None], np.float32(sure), 2)
    return out


def write_run(
    folder, labels, probabilities, /, layers=(1,), poolings=("cls",), depth=2, groups=None, features=None, **more
):
    """Write a run below `folder` and return its own folder.

    probabilities: (repeats, titles, classes), or predictions (repeats, titles) or (titles,); more: options that differ
    from the defaults, names of `classes`, or changes of the parts "encoder", "data" and "results" of the configuration.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    names = more.pop("classes", None) or [f"c{i}" for i in range(int(labels.max()) + 1)]
    if probabilities.ndim < 3:
        probabilities = chances(probabilities, len(names))
    repeats, count = probabilities.shape[:2]
    parts = {part: more.pop(part, {}) for part in ("encoder", "data", "settings", "results")}
    options = {**cli.OPTIONS, "repeats": repeats, **more}
    if options["head"] == "linear":
        options = {key: value for key, value in options.items() if key not in (*cli.MLP_OPTIONS, "standardize")}
    folds = np.stack([(np.arange(count) + repeat) % options["folds"] for repeat in range(repeats)]).astype(np.int32)
    encoder = {"name": "enc", "revision": None, "layers": depth, "hidden": 8, "weights": "w", "tokenizer": "t"}
    manifest = {
        "encoder": encoder,
        "data": {"name": "d.csv", "sha256": "s", "titles": "t", "rows": count},
        "settings": {"dtype": "float32", "max_length": 128, "store": "float32"},
    }
    if features:
        opened = store.open_features(features)
        manifest = {key: opened.manifest[key] for key in manifest}
    config = {
        "format": runs.FORMAT,
        "columns": [[pooling, layer] for pooling in poolings for layer in layers],
        "classes": names,
        "options": options,
        **{key: {**value, **parts[key]} for key, value in manifest.items()},
        "features": store.digest(store.identity(opened.manifest)) if features else "f",
        "files": {},
        "made": {"features": str(features or "nowhere"), "command": "python train.py"},
    }
    config["results"] = {**runs.figures(labels, probabilities, folds, len(names)), **parts["results"]}
    groups = np.arange(count) if groups is None else np.asarray(groups)
    arrays = {"labels": labels.astype(np.int32), "groups": groups.astype(np.int32), "folds": folds}
    runs.write(folder / runs.name_of(config), config, {"probabilities": probabilities, **arrays})
    return folder / runs.name_of(config)


def write_features(folder, titles, names):
    """Write a features folder of these titles and category names that holds no layer."""
    folder.mkdir(parents=True)
    with open(folder / "titles.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\r\n").writerows([("title", "label"), *zip(titles, names, strict=True)])
    manifest = {
        "format": store.FORMAT,
        "encoder": {"name": "enc", "revision": None, "layers": 2, "hidden": 8, "weights": "w", "tokenizer": "t"},
        "data": {"name": "d.csv", "sha256": "s", "titles": store.sha256(folder / "titles.csv"), "rows": len(titles)},
        "settings": {"dtype": "float32", "max_length": 128, "store": "float32"},
        "files": {},
    }
    store.write_json(folder / "manifest.json", manifest)
    return folder


def write_baseline(run, kind, probabilities, size=None):
    """Write a baseline beside a run, on its titles and folds; probabilities as for write_run."""
    config, labels = runs.open_(run), np.load(run / "labels.npy")
    probabilities, folds = np.asarray(probabilities), np.load(run / "folds.npy")
    if probabilities.ndim < 3:
        probabilities = chances(probabilities, len(config["classes"]))
    options = {key: config["options"][key] for key in ("folds", "repeats", "split", "seed")} | {"labels": size}
    content = {key: config[key] for key in ("format", "classes", "data", "made")} | {
        "baseline": kind,
        "options": options,
    }
    content["results"] = runs.figures(labels, probabilities, folds, len(config["classes"]))
    arrays = {"labels": labels, "groups": np.load(run / "groups.npy"), "folds": folds}
    runs.write(run.parent / f"baseline-{kind}-{size}", content, {"probabilities": probabilities, **arrays})
