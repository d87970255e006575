"""A run's folder in results/: its name, its configuration, what else it holds, and how to read it.

config.json                 options, columns (pooling and layer), classes, figures, checksums of the files below
heads.safetensors           the heads of all repeats and folds, stacked (runs that train.py made)
history.csv                 loss and macro-F1 of every epoch of every head (the report's head)
probabilities.npy           (repeats, titles, classes) float32, out of fold
labels.npy, groups.npy      (titles,) int32; groups are copies of one another
folds.npy                   (repeats, titles) int32
README.md                   a model card
"""

import contextlib
import csv
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import cli
import metrics
import store

FORMAT = 2  # raised when older runs can no longer be read

# what the configuration of a run must hold to be used at all, by the place in it; the second for trained runs only
FIELDS = {
    str: "data name, data sha256, data titles, made features, options split",
    int: "data rows, options folds, options repeats, options seed",
    float: "results fold_deviation, results fold_mean, results macro_f1, results temperature",
    list: "classes, results collapsed",
    dict: "contents",
}
TRAINED = {
    str: "encoder name, encoder tokenizer, encoder weights, features, options head, settings dtype, settings store",
    int: "encoder hidden, encoder layers, settings max_length",
    list: "columns",
    dict: "files",
}


def write(folder, config, arrays, heads=None, history=()):
    """Write a run's folder whole or not at all: arrays as .npy, and trained heads, a dictionary of arrays, with a card.

    history: a (repeat, fold, epoch, loss, macro-F1) for each head and epoch.
    """
    with store.atomic_folder(folder) as temporary:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        if heads:
            save_file(heads, temporary / "heads.safetensors")
            (temporary / "README.md").write_text(model_card(config, Path(folder).name), encoding="utf-8")
        if history:
            with open(temporary / "history.csv", "w", newline="") as file:
                csv.writer(file).writerows([("repeat", "fold", "epoch", "loss", "macro_f1"), *history])
        # the model card is for people, who may want to edit it
        contents = {path.name: store.sha256(path) for path in sorted(temporary.iterdir()) if path.name != "README.md"}
        store.write_json(temporary / "config.json", {**config, "contents": contents})


def open_(folder):
    """The configuration of a run, once it is known to hold what its users rely on; else a cli.Problem."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise cli.Problem(f"{folder}: no run is there; train.py makes runs, python evaluate.py lists them")
    config = store.read_json(path, "a run", FORMAT)
    needed = [*FIELDS.items(), *(() if "baseline" in config else TRAINED.items())]
    for field, kind in ((field, kind) for kind, fields in needed for field in fields.split(", ")):
        value = config
        for key in field.split():
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise cli.Problem(f"{path}: {field!r} is missing or of a wrong kind; train again")
    return config


def find(place):
    """The folder of the run that --run names: a trained run itself, or the only one in a folder of results."""
    folder, found = Path(place or "results"), []
    if place and (folder / "config.json").exists():
        if "baseline" in open_(folder):
            raise cli.Problem(f"{folder}: a baseline, kept for the table only; name a run that train.py made")
        return folder
    for path in folder.glob("[!.]*/config.json"):
        with contextlib.suppress(cli.Problem):  # what cannot be used is not offered
            config = open_(path.parent)
            found += [] if "baseline" in config else [(-config["results"]["macro_f1"], path.parent)]
    if place and len(found) < 2:
        return found[0][1] if found else folder  # whoever opens it says that no run is there
    names = ", ".join(path.name for _, path in sorted(found)[:8]) + ", …" * (len(found) > 8)
    known = f"; in {folder} there are, the best first: {names}" if found else ""
    raise cli.Problem(f"--run: name the folder of the run to apply{known}")


def array(folder, config, name):
    """One of a run's arrays, memory-mapped; one that is not what the configuration says is a cli.Problem."""
    path = Path(folder) / f"{name}.npy"
    check_content(path, config)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def mean_probabilities(run):
    """Out-of-fold probabilities of a run as predict.py would give them, pooled and sharpened: (titles, classes).

    run: a dictionary of its "folder" and "config", and of its "probabilities" where they are in no folder.
    """
    values = run["probabilities"] if "probabilities" in run else array(run["folder"], run["config"], "probabilities")
    return metrics.sharpen(metrics.pool(values), run["config"]["results"]["temperature"])


def check_content(path, config):
    """Raise a Problem unless a run's file is what the run's configuration says it is."""
    if not path.exists() or store.sha256(path) != config["contents"].get(path.name):
        raise cli.Problem(f"{path}: gone or changed since the run was written; delete the run's folder and train again")


def features_of(config, folder=None):
    """The features that a run was trained on, opened and compared with what the run says of them."""
    place = Path(folder or config["made"]["features"])
    if not folder and not (place / "manifest.json").exists():
        raise cli.Problem(f"{place}: the run's features are not there any more; name their folder with --features")
    features = store.open_features(place)
    manifest, there = features.manifest, features.manifest["files"]
    for what, old, new in (
        ("encoder weights", config.get("encoder", {}).get("weights"), manifest["encoder"]["weights"]),
        ("titles", config["data"]["titles"], manifest["data"]["titles"]),
        ("settings", config.get("features"), store.digest(store.identity(features.manifest))),
        ("files", config.get("files"), {f: there.get(f, {}).get("sha256") for f in config.get("files", {})}),
    ):
        if old is not None and old != new:
            wrong = f"these are not the features that the run was trained on (their {what} differ)"
            raise cli.Problem(f"{features.folder}: {wrong}; name the right ones with --features")
    return features


def figures(labels, probabilities, folds, classes):
    """The figures of a run: those of metrics.score, its temperature, and what that does to the probabilities.

    labels: (titles,) int; probabilities: (repeats, titles, classes), out of fold; folds: (repeats, titles) int.
    The temperature is fitted on probabilities pooled over repeats, as predict.py pools its heads. Log loss and expected
    calibration error are cross-fitted: each fold's titles are sharpened by a temperature that the others have chosen.
    """
    mean = metrics.pool(probabilities)
    sharpened = np.empty_like(mean)
    for fold in range(int(folds.max()) + 1):
        own = folds[0] == fold
        sharpened[own] = metrics.sharpen(mean[own], metrics.fit_temperature(labels[~own], mean[~own]))
    return {
        **metrics.score(labels, probabilities.argmax(2), folds, classes),
        "temperature": metrics.fit_temperature(labels, mean),
        "log_loss": metrics.log_loss(labels, sharpened),
        "log_loss_before": metrics.log_loss(labels, mean),
        "calibration_error": metrics.expected_calibration_error(labels, sharpened),
        "calibration_error_before": metrics.expected_calibration_error(labels, mean),
    }


def collapse(config):
    """(what to say of a run in which heads predict one class only, the remedy), or None for other runs."""
    options, collapsed = config["options"], len(config["results"]["collapsed"])
    if not collapsed:
        return None
    remedy = "a smaller --lr" if options.get("standardize") else "--standardize"
    remedy = "another layer or --pooling" if options["head"] == "linear" else remedy
    return f"predicts one class only in {collapsed} of {options['folds'] * options['repeats']} heads", remedy


def name_of(config):
    """The name of a run's folder: encoder, data, layers, and every option that is not the default."""
    layers = list(dict.fromkeys(layer for _, layer in config["columns"]))
    poolings = list(dict.fromkeys(pooling for pooling, _ in config["columns"]))
    parts = [store.slug(Path(config["encoder"]["name"]).name), store.slug(config["data"]["name"]), "layers", *layers]
    parts += [] if poolings == ["cls"] else ["and".join(poolings)]
    for option, value in config["options"].items():
        if value != cli.OPTIONS[option] and not (option == "fusion" and len(config["columns"]) == 1):
            plain = value is True or option in ("head", "fusion", "split")
            parts.append((option if value is True else value) if plain else f"{option.replace('_', '-')}-{value}")
    name = "-".join(map(str, parts))
    return name if len(name.encode()) <= 200 else f"{store.slug(name, 180)}-{store.digest(name)[:12]}"


def model_card(config, name):
    """A README for a run's folder: what it is, how good, and how to use it."""
    result, options, titles = config["results"], config["options"], config["data"]
    used = " and ".join(f"layer {layer} ({pooling})" for pooling, layer in config["columns"])
    classes = "\n".join(f"- {cli.escape_markdown(name)}" for name in config["classes"])
    heads = options["folds"] * options["repeats"]
    cells = [
        ", ".join(str(layer) for _, layer in config["columns"]),
        f"{result['macro_f1']:.4f}",
        f"{result['fold_mean']:.4f} ± {result['fold_deviation']:.4f}",
        f"{result['log_loss']:.4f}",
    ]
    return f"""---
library_name: pytorch
pipeline_tag: text-classification
---
# {name}

Classifies titles into {len(config["classes"])} categories from {used} of the frozen encoder
`{config["encoder"]["name"].replace("`", "")}`. The folder holds {heads} heads; their log-probabilities are averaged.

{cli.markdown([":Layers", "F1-macro, last epoch", "Folds", "Log loss"], [cells])}

Scored out of fold on {titles["rows"]:,} titles of `{titles["name"].replace("`", "")}` (sha256 `{titles["sha256"]}`).
Encoder weights `{config["encoder"]["weights"]}`, revision `{config["encoder"]["revision"]}`.
Options: {", ".join(f"{key.replace('_', ' ')} {value}" for key, value in options.items())}.

Categories:

{classes}

Made with `{config["made"]["command"].replace("`", "")}`. Use it with `python predict.py --run FOLDER "a title"`.
"""
