"""The two slow steps, for `python -m bench`: extraction and training, beside what one would use instead."""

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

import data
from bench import usual
from bench.measuring import (
    Took,
    make_encoder,
    print_table,
    read_titles,
    run,
    take_turns,
    write_titles,
)
from whichlayer.encoder.embedding import embed, tokenise
from whichlayer.encoder.encoder import choose_dtype, load_encoder

TITLES = 1200  # that are extracted
# categories that are made up, and the titles of each
MADE_UP = ((77, 40), (150, 10))

# --- extraction -----------------------------------------------------------------------------------


def extract_all(encoder, titles):
    """[CLS] of all twelve layers, as extract.py computes it."""
    return embed(encoder, tokenise(encoder, titles), range(1, 13), ("cls",))


def bench_extract(args, temporary):
    # distinct ones, as this project computes copies once
    titles = list(dict.fromkeys(read_titles(args.data)[0]))[:TITLES]
    folder = make_encoder(temporary / "base")

    # a plain loop, and in each arithmetic this project and sentence-transformers
    plain = partial(usual.extract, *usual.load(folder), titles)
    contenders = {"loop over batches of 32, all layers": plain}
    for dtype in sorted({torch.float32, choose_dtype("auto", torch.device("cpu"))}, key=str):
        kind = str(dtype).removeprefix("torch.")
        encoder = load_encoder(folder, "cpu", kind)
        contenders[f"this project, all layers, {kind}"] = partial(extract_all, encoder, titles)
        other = usual.sentence_encoder(folder, dtype)
        if other is not None:
            theirs = partial(other.encode, titles, show_progress_bar=False)
            contenders[f"sentence-transformers, last layer, {kind}"] = theirs

    found = take_turns(contenders, args.runs)
    slowest = max(took.seconds for took in found.values())
    rows = []
    for name, took in found.items():
        rows.append((name, f"{len(titles) / took.seconds:.1f}", f"{slowest / took.seconds:.2f}"))
    print_table((f":bert-base's shape, {len(titles):,} titles", "titles/s", "times as fast"), rows)


# --- training -------------------------------------------------------------------------------------


def bench_train(args, temporary):
    usual.warm_up()
    path = data.find_titles(args.data)
    folder = extracted(path, temporary)
    compare(":report's head, 30 epochs", folder, (), ("DataLoader loop", usual.train_heads), args.runs)
    chosen = ("scikit-learn", partial(usual.train_probes, is_chosen=True))
    probe = f":linear probe, C chosen among {len(usual.GRID)}"
    compare(probe, folder, ("--head", "linear"), chosen, args.runs)

    # many categories, made up of titles near each other
    titles = read_titles(args.data)[0]
    write_titles(temporary / "shuffled.csv", titles, [str(row % 2) for row in range(len(titles))])
    x = features_in(extracted(temporary / "shuffled.csv", temporary))
    for categories, each in MADE_UP:
        labels = near_each_other(x, categories, each)
        kept = np.flatnonzero(labels >= 0)
        path = temporary / f"{categories}.csv"
        write_titles(path, [titles[row] for row in kept], [f"category {labels[row]}" for row in kept])
        options = ("--head", "linear", "--repeats", 1)
        compare(probe, extracted(path, temporary), options, chosen, 1)


def extracted(path, temporary):
    """A new folder with the features of titles: MiniLM's last layer, mean pooling."""
    folder = Path(tempfile.mkdtemp(dir=temporary)) / "features"
    run("extract.py", "--data", path, "--model", "minilm", "--layers", -1, "--pooling", "mean", "--out", folder)
    return folder


def features_in(folder):
    """The features of the only layer in a folder, (titles, hidden) float32."""
    (path,) = folder.glob("mean-*.npy")
    return np.load(path).astype(np.float32)


def near_each_other(x, categories, titles):
    """Made-up categories of so many titles each: the nearest ones of titles that are drawn.

    x: (titles, hidden). Returns their numbers, (titles,) int64, -1 for titles without one.
    """
    features = x / np.linalg.norm(x, axis=1, keepdims=True)
    labels = np.full(len(x), -1)
    drawn = np.random.default_rng(0).permutation(len(x))[:categories]
    for category, title in enumerate(drawn):
        nearness = features @ features[title]
        nearness[labels >= 0] = -np.inf
        labels[np.argsort(-nearness, kind="stable")[:titles]] = category
    return labels


def train(folder, options):
    """What train.py Took for a run on features, without its start, and the run's folder."""
    results = Path(tempfile.mkdtemp(dir=folder.parent))
    run("train.py", "--features", folder, "--results", results, "--layers", -1, "--pooling", "mean", *options)
    (config,) = results.glob("*/config.json")
    made = json.loads(config.read_text(encoding="utf-8"))["made"]
    return Took(made["seconds"], config.parent)


def compare(what, folder, options, theirs, rounds):
    """Print how long train.py and another training on the same folds take, and how good they are.

    theirs: its name, and a function of features, labels and folds that returns out-of-fold probabilities.
    """
    from sklearn.metrics import f1_score, log_loss

    usual_name, work = theirs
    x = features_in(folder)
    first = train(folder, options)
    labels = np.load(first.result / "labels.npy")
    folds = np.load(first.result / "folds.npy")
    contenders = {"this project": partial(train, folder, options), usual_name: partial(work, x, labels, folds)}
    found = take_turns(contenders, rounds)
    probabilities = {usual_name: found[usual_name].result}
    probabilities["this project"] = np.load(found["this project"].result / "probabilities.npy")

    rows = []
    for name, took in found.items():
        scores = [f1_score(labels, values.argmax(1), average="macro") for values in probabilities[name]]
        losses = [log_loss(labels, values) for values in probabilities[name]]
        times = f"{took.seconds / found['this project'].seconds:.2f}"
        rows.append((name, f"{took.seconds:.2f}", times, f"{np.mean(scores):.4f}", f"{np.mean(losses):.4f}"))
    heads = len(folds) * (int(folds.max()) + 1)
    size = f"{heads} heads; {len(x):,} titles × {x.shape[1]}, {labels.max() + 1} categories"
    print_table((f"{what}, {size}", "seconds", "times as long", "macro-F1", "log loss"), rows)
