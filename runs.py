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
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import cli
import metrics
import store

FORMAT = 2  # raised when older runs can no longer be read

# the kinds of what users of a run rely on, by the place in its configuration; the second for trained runs only
FIELDS = (
    (str, "data.name data.sha256 data.titles made.command made.features options.split"),
    (int, "data.rows options.folds options.repeats options.seed"),
    (float, "results.fold_deviation results.fold_mean results.log_loss results.macro_f1 results.temperature"),
    (list, "classes results.collapsed"),
    (dict, "contents"),
)
TRAINED = (
    (str, "encoder.name encoder.tokenizer encoder.weights features options.head settings.dtype settings.store"),
    (int, "encoder.hidden encoder.layers settings.max_length"),
    (list, "columns"),
    (dict, "files"),
)


def write(folder, config, arrays, heads=None, history=()):
    """Write a run's folder whole or not at all: arrays as .npy, and trained heads, a dictionary of arrays, with a card.

    history: a (repeat, fold, epoch, loss, macro-F1) for each head and epoch.
    """
    temporary = folder.with_name(f".unfinished-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        if heads:
            save_file(heads, temporary / "heads.safetensors")
            (temporary / "README.md").write_text(model_card(config, folder.name), encoding="utf-8")
        if history:
            with open(temporary / "history.csv", "w", newline="") as file:
                csv.writer(file).writerows([("repeat", "fold", "epoch", "loss", "macro_f1"), *history])
        # the model card is for people, who may want to edit it
        contents = {path.name: store.sha256(path) for path in sorted(temporary.iterdir()) if path.name != "README.md"}
        store.write_json(temporary / "config.json", {**config, "contents": contents})
        for path in temporary.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_(folder):
    """The configuration of a run, a store.Content; no run, or one that is not what its users rely on, is a Problem."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise cli.Problem(f"{folder}: no run is there; train.py makes runs, python evaluate.py lists them")
    config = store.read_json(path, "a run", FORMAT)
    for kind, places in FIELDS + (() if "baseline" in config else TRAINED):
        for place in places.split():
            value = config
            for key in place.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            if not isinstance(value, kind):
                raise cli.Problem(f"{path}: {place} is missing or of a wrong kind; {store.AGAIN}")
    return config


def find(place):
    """The folder of the run that --run names: a trained run itself, or the only one in a folder of results."""
    folder, found = Path(place or "results"), []
    if place and (folder / "config.json").exists():
        if "baseline" in open_(folder):
            raise cli.Problem(f"--run {folder}: a baseline, kept for the table only; name a run that train.py made")
        return folder
    for path in folder.glob("[!.]*/config.json"):
        with contextlib.suppress(cli.Problem):  # what cannot be used is not offered
            config = open_(path.parent)
            found += [] if "baseline" in config else [(-config["results"]["macro_f1"], path.parent)]
    if place and len(found) < 2:
        return found[0][1] if found else folder  # whoever opens it says that no run is there
    names = ", ".join(shlex.quote(str(path)) for _, path in sorted(found)[:8]) + ", …" * (len(found) > 8)
    known = f"; there are, the best first: {names}" if found else "; train.py makes runs"
    raise cli.Problem(f"--run: name the folder of one run{known}")


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
    place, hint = Path(folder or config["made"]["features"]), "name the run's features with --features"
    if not (place / "manifest.json").exists():
        raise cli.Problem(f"{place}: there are no features; {hint}")
    features = store.open_features(place)
    manifest, baseline = features.manifest, "baseline" in config
    files = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    for what, same in (
        ("titles", config["data"]["titles"] == manifest["data"]["titles"]),
        ("encoder or settings", baseline or config["features"] == store.digest(store.identity(manifest))),
        ("files", baseline or config["files"].items() <= files.items()),
    ):
        if not same:
            raise cli.Problem(f"{place}: not the features that the run was trained on, their {what} differ; {hint}")
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


def layers_of(config):
    """The layers, top first, and the poolings that a run is trained on: two lists."""
    return [list(dict.fromkeys(values)) for values in zip(*(column[::-1] for column in config["columns"]), strict=True)]


def spell(layers):
    """Layers, top first, as text; many that follow one another as 12 to 1."""
    if len(layers) > 4 and layers == [*range(layers[0], layers[-1] - 1, -1)]:
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))


def in_words(config, more=None):
    """The layers of a run in words, with its poolings in brackets, or with what else is to be said there."""
    layers, poolings = layers_of(config)
    return f"layer{'s' * (len(layers) > 1)} {spell(layers)} ({more or ' and '.join(poolings)})"


def name_of(config):
    """The name of a run's folder: encoder, data, layers, and every option that is not the default."""
    layers, poolings = layers_of(config)
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
    result, titles = config["results"], config["data"]
    named = titles["name"], config["encoder"]["name"], config["made"]["command"]
    data, encoder, command = (text.replace("`", "") for text in named)
    classes = "\n".join(f"- {cli.escape_markdown(name)}" for name in config["classes"])
    return f"""---
pipeline_tag: text-classification
---
# {name}

Tells the categories below apart by {in_words(config)} of the frozen encoder `{encoder}`.
Made with `{command}`. Use it with `python predict.py --run FOLDER "a title"`.

F1-macro {result["macro_f1"]:.4f} (folds {result["fold_mean"]:.4f} ± {result["fold_deviation"]:.4f}, log loss
{result["log_loss"]:.4f}), out of fold, on {titles["rows"]:,} titles of `{data}` (sha256 `{titles["sha256"]}`).

{classes}
"""
