"""Made-up runs and features, on the disk as train.py and extract.py write them: quick, and the truth is known."""

import csv
import dataclasses
import json

import numpy as np
import regex
from scipy import optimize, special
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import FeatureUnion

from whichlayer.common import disk
from whichlayer.encoder import store
from whichlayer.heads import runs
from whichlayer.heads.options import Options
from whichlayer.scores import figures


def scikit_learn(titles, labels, new):
    """scikit-learn's TF-IDF of words and characters: (new titles, classes) probabilities; words are
    found by another library of patterns.
    """
    own = regex.compile(r"\w[\w\p{Mn}\p{Mc}]*").findall
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, tokenizer=own, token_pattern=None)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    both = FeatureUnion([("words", words), ("characters", characters)])
    model = LogisticRegression(C=30, max_iter=1000).fit(both.fit_transform(titles), labels)
    return model.predict_proba(both.transform(new))


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


def drawn(random, titles, classes=4):
    """Labels drawn from probabilities, (titles, classes), which are so perfectly calibrated; both."""
    probabilities = random.dirichlet(np.full(classes, 0.3), titles)
    return (random.random(titles)[:, None] > probabilities.cumsum(1)).sum(1).clip(0, classes - 1), probabilities


def pooled(parts, exponents):
    """The log-linear pool as a textbook has it: the product of powers, made to sum to 1."""
    product = np.prod([part**exponent for part, exponent in zip(parts, exponents, strict=True)], axis=0)
    return product / product.sum(-1, keepdims=True)


def by_scipy(labels, parts):
    """The exponents, 0 to 20, of the least log loss; each title has a random label, too, all of these count as one."""
    logarithms = np.log(np.maximum(parts, 1e-12))

    def loss(exponents):
        said = special.log_softmax(np.tensordot(exponents, logarithms, 1), axis=1)
        return -(said[np.arange(len(labels)), labels].sum() + said.mean()) / len(labels)

    options = {"bounds": [(0, 20)] * len(parts), "options": {"ftol": 1e-15, "gtol": 1e-9}}
    return optimize.minimize(loss, np.full(len(parts), 1 / len(parts)), method="L-BFGS-B", **options).x


def combined(labels, folds, parts):
    """The exponents for new titles, those of each title, (titles, parts), by other folds, and its probabilities."""
    own = np.zeros((len(labels), len(parts)))
    for fold in np.unique(folds):
        others = folds != fold
        own[~others] = by_scipy(labels[others], [part[others] for part in parts])
    each = own.T[..., None]
    equal = np.full(len(parts), 1 / len(parts))
    if log_loss(labels, pooled(parts, each)) < log_loss(labels, pooled(parts, equal)):
        return by_scipy(labels, parts), own, pooled(parts, each)
    return equal, np.tile(equal, (len(labels), 1)), pooled(parts, equal)


ENCODER = {"name": "enc", "revision": None, "layers": 2, "hidden": 8, "weights": "w", "tokenizer": "t"}
SETTINGS = {"dtype": "float32", "max_length": 128, "store": "float32"}


def write_run(
    folder, labels, probabilities, /, layers=(1,), poolings=("cls",), depth=2, flop=None, features=None, **more
):
    """Write a run below `folder` and return its own folder.

    probabilities: (repeats, titles, classes), or predictions (repeats, titles) or (titles,); more: options that differ
    from the defaults, names of `classes`, or changes of the parts "encoder" and "data" of the configuration.
    """
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities)
    names = more.pop("classes", None) or [f"c{i}" for i in range(int(labels.max()) + 1)]
    if probabilities.ndim < 3:
        probabilities = chances(probabilities, len(names))
    repeats, count = probabilities.shape[:2]
    parts = {part: more.pop(part, {}) for part in ("encoder", "data")}
    options = Options(repeats=repeats, **more)
    folds = np.stack([(np.arange(count) + repeat) % options.folds for repeat in range(repeats)]).astype(np.int32)

    # what is not given is made up, or that of the features
    data = store.TitlesInfo(name="d.csv", sha256="s", titles="t", rows=count)
    encoder, settings, identity = store.EncoderInfo(**ENCODER | {"layers": depth}), store.Settings(**SETTINGS), "f"
    if features:
        manifest = store.open_features(features)
        data, encoder, settings = manifest.data, manifest.encoder, manifest.settings
        identity = disk.digest(store.identity(manifest))
    config = runs.Run(
        format=runs.FORMAT,
        classes=names,
        options=options,
        data=dataclasses.replace(data, **parts["data"]),
        columns=[(pooling, layer) for pooling in poolings for layer in layers],
        encoder=dataclasses.replace(encoder, **parts["encoder"]),
        settings=settings,
        features=identity,
        files={},
        results=figures.measure(labels, probabilities, folds, len(names)),
        made=disk.Made("python train.py", features=str(features or "nowhere")),
        flop=flop,
    )
    arrays = {"labels": labels.astype(np.int32), "groups": np.arange(count, dtype=np.int32), "folds": folds}
    place = folder / runs.run_name(config)
    folder.mkdir(parents=True, exist_ok=True)
    runs.write(place, config, {"probabilities": probabilities, **arrays}, {})
    return place


def rewrite(folder, change, *files):
    """Change a run's configuration, and make all checksums fit, as somebody would who wants other figures."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["checksum"]
    change(config)
    config["contents"].update({name: disk.sha256(folder / name) for name in files})
    disk.write_json(folder / "config.json", config)


def write_offsets(run, offsets):
    """Add the offsets of its decision, (repeats, folds, classes) float32, to a run."""
    np.save(run / "offsets.npy", offsets)
    rewrite(run, lambda config: None, "offsets.npy")


def write_features(folder, titles, names, encoder="w"):
    """Write a features folder of these titles and category names that holds no layer; encoder: its weights."""
    folder.mkdir(parents=True)
    with open(folder / "titles.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\r\n").writerows([("title", "label"), *zip(titles, names, strict=True)])
    manifest = store.Features(
        format=store.FORMAT,
        encoder=store.EncoderInfo(**ENCODER | {"weights": encoder}),
        data=store.TitlesInfo("d.csv", "s", disk.sha256(folder / "titles.csv"), len(titles)),
        settings=store.Settings(**SETTINGS),
        files={},
    )
    disk.write_json(folder / "manifest.json", manifest)
    return folder


def write_baseline(run, kind, probabilities, size=None):
    """Write a baseline beside a run, on its titles and folds, and return its folder; probabilities as for write_run."""
    other = runs.open_run(run)
    arrays = {name: np.array(other.array(name)) for name in ("labels", "groups", "folds")}
    probabilities = np.asarray(probabilities)
    if probabilities.ndim < 3:
        probabilities = chances(probabilities, len(other.classes))
    has_probes = any("linear" in path.name for path in run.parent.iterdir())
    decide = "macro-f1" if has_probes and kind == "tfidf" else "likeliest"  # as evaluate.py would
    config = dataclasses.replace(
        other,
        baseline=kind,
        options=dataclasses.replace(other.options, head="mlp", labels=size, decide=decide),
        **dict.fromkeys(("columns", "encoder", "settings", "features", "files", "contents")),
        results=figures.measure(arrays["labels"], probabilities, arrays["folds"], len(other.classes), heads=1),
    )
    place = run.parent / f"baseline-{kind}-{size}"
    runs.write(place, config, {"probabilities": probabilities, **arrays}, {})
    return place
