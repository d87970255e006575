"""Measure time and memory, beside what one would use instead in the same run; markdown tables.

    python -m bench extract    # titles a second, beside sentence-transformers and a plain loop
    python -m bench train      # both heads, beside the usual loop and scikit-learn
    python -m bench scale      # every step from end to end, from 1,000 titles to 1,000,000
    python -m bench real       # the same with usual encoders and real titles, and for a million
    python -m bench changed    # features that follow titles and labels that have changed
    python -m bench killed     # predict.py --csv --out, killed and begun again
    python -m bench predict    # one title: to the first answer, and each one more
    python -m bench busy       # beside another busy process, with the threads' settings and without
    python -m bench answer     # from titles to the table, beside transformers and scikit-learn
    python -m bench all > results/bench.md

Contenders take turns, round after round, so that a machine that slows down slows all of them;
figures are medians. What one would use instead is in usual.py.
"""

from whichlayer.common import cli

PARTS = ("extract", "train", "predict", "scale", "real", "changed", "killed", "busy", "answer")


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("what", choices=(*PARTS, "all"), help="what to measure")
    add("--runs", type=cli.number(int, 1), default=3, help="rounds of extract, train, predict and busy")
    add("--data", default="youtube", metavar="youtube|sample|FILE", help="the titles (scale makes its own)")
    add(
        "--model",
        nargs="+",
        metavar="NAME",
        help="encoders; random has bert-base's shape (default: minilm, and but for answer random, too)",
    )
    kinds = ("auto", "float32", "bfloat16")
    add("--dtype", choices=kinds, default="auto", help="arithmetic of extract.py in changed")
    most = cli.number(int, 2000)
    add(
        "--max-titles",
        type=most,
        default=1_000_000,
        help="most titles of scale, and of real, changed and killed, which have 20,000",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import itertools
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers

import data
from bench import endtoend, scaling, usual
from bench.measuring import SHAPE, make_encoder, print_table, product, product_operations, read_titles, run, take_turns
from whichlayer.encoder import store
from whichlayer.encoder.embedding import embed, tokenise
from whichlayer.encoder.encoder import choose_dtype, load_encoder
from whichlayer.heads import mlp, probe, splits
from whichlayer.heads.options import Options
from whichlayer.scores import metrics

# waiting threads, as the libraries have them where nothing is set
SPINNING = {"GOMP_SPINCOUNT": "300000", "OPENBLAS_THREAD_TIMEOUT": "26"}


def extract_all(encoder, titles):
    """[CLS] of all twelve layers, as extract.py computes it."""
    return embed(encoder, tokenise(encoder, titles), range(1, 13), ("cls",))


def operations(encoder, titles):
    """Floating-point operations of all layers for these titles, without any padding."""
    lengths = np.array([len(tokens) for tokens in tokenise(encoder, titles).ids])
    terms = np.stack([lengths**2, lengths, np.ones_like(lengths)])
    return terms.sum(1) @ encoder.operations[:, -1]


def bench_extract(args, temporary):
    # distinct ones, as this project computes copies once
    titles = list(dict.fromkeys(read_titles(args.data)[0]))[:1200]
    folder = make_encoder(temporary / "base")

    # a plain loop, and in each arithmetic this project, sentence-transformers and the products
    plain = partial(usual.extract, *usual.load(folder), titles)
    contenders = {("loop over batches of 32, all layers", torch.float32): plain}
    for dtype in sorted({torch.float32, choose_dtype("auto", torch.device("cpu"))}, key=str):
        kind = str(dtype).removeprefix("torch.")
        encoder = load_encoder(folder, "cpu", kind)
        contenders[f"this project, all layers, {kind}", dtype] = partial(extract_all, encoder, titles)
        other = usual.sentence_encoder(folder, dtype)
        if other is not None:
            theirs = partial(other.encode, titles, show_progress_bar=False)
            contenders[f"sentence-transformers, last layer, {kind}", dtype] = theirs
        contenders["limit", dtype] = product(dtype)

    # how fast, and how fast at best
    found = take_turns(contenders, args.runs)
    limits = {}
    for (name, dtype), took in found.items():
        if name == "limit":
            limits[dtype] = product_operations() / took.seconds
    needed = operations(encoder, titles)
    rows = []
    slowest = max(took.seconds for (name, _), took in found.items() if name != "limit")
    for (name, dtype), took in found.items():
        if name != "limit":
            speed = needed / took.seconds
            figures = (f"{len(titles) / took.seconds:.1f}", f"{slowest / took.seconds:.2f}")
            rows.append((name, *figures, f"{speed / 1e12:.2f}", f"{speed / limits[dtype]:.0%}"))
    columns = ("titles/s", "times as fast", "TFLOP/s", "of the limit")
    print_table((f":bert-base's shape, {len(titles):,} titles", *columns), rows)
    say_limits(limits)


def say_limits(limits):
    """Print the machine's limits, {dtype: floating-point operations a second}."""
    kinds = [f"{limit / 1e12:.2f} TFLOP/s in {str(dtype)[6:]}" for dtype, limit in limits.items()]
    shape = " × ".join(f"{size:,}" for size in SHAPE)
    what = f"products of {shape} with packed weights, measured in turn with the contenders"
    print(f"The limit is {' and '.join(kinds)}: {what}. Padding counts as no work.\n")


def bench_train(args, temporary):
    # the features of minilm's last layer
    folder = temporary / "features"
    source = ("--data", data.find_titles(args.data), "--model", "minilm")
    run("extract.py", *source, "--layers", -1, "--pooling", "mean", "--out", folder)
    features = store.open_features(folder)
    x = torch.from_numpy(features.stack([("mean", 6)]))

    # labels, folds, and what each head learns from: the same for all
    names, labels = np.unique(features.titles()[1], return_inverse=True)
    classes = len(names)
    groups = np.arange(len(labels))
    options = Options()
    folds = splits.repeat_folds(labels, groups, options)
    draws = splits.draw_titles(labels, groups, folds, options.seed)

    # the report's head
    task = (labels, folds)
    heads = {
        "this project": lambda: mlp.train_heads(x, *task, options, classes, draws).probabilities,
        "DataLoader loop": lambda: usual.train_heads(x, *task, options, classes),
    }
    size = f"{len(draws)} heads; {len(labels):,} titles × {x.shape[2]}, {classes} categories"
    compare_training(f":report's head, {options.epochs} epochs, {size}", heads, labels, args.runs)

    # the linear probe, of these categories, and of many that are made of the same titles
    usual.warm_up()
    compare_probes(x, labels, args.runs, options)
    for many, titles in ((77, 40), (150, 10)):
        made = near_each_other(x, many, titles)
        kept = made >= 0
        compare_probes(x[kept], made[kept], 1, Options(repeats=1))


def near_each_other(x, categories, titles):
    """Made-up categories of so many titles each: the nearest ones of titles that are drawn.

    x: (titles, 1, hidden). Returns their numbers, (titles,) int64, -1 for titles without one.
    """
    features = torch.nn.functional.normalize(x.flatten(1))
    labels = np.full(len(x), -1)
    drawn = np.random.default_rng(0).permutation(len(x))[:categories]
    for category, title in enumerate(drawn):
        nearness = (features @ features[title]).numpy()
        nearness[labels >= 0] = -np.inf
        labels[np.argsort(-nearness, kind="stable")[:titles]] = category
    return labels


def compare_probes(x, labels, rounds, options):
    """Print the table of linear probes, whose penalty is chosen on the same titles by all."""
    groups = np.arange(len(labels))
    folds = splits.repeat_folds(labels, groups, options)
    draws = splits.draw_titles(labels, groups, folds, options.seed)
    classes = int(labels.max()) + 1
    rescaled = x.clone()
    scale = probe.rescale(rescaled)
    # decided as scikit-learn does
    task = (rescaled, scale, labels, folds, draws, classes, "likeliest")
    usual_task = (x[:, 0].numpy(), labels, folds, draws, probe.GRID, probe.FEW)
    contenders = {
        "this project": lambda: probe.train(*task).probabilities,
        "scikit-learn": lambda: usual.choose_probes(*usual_task),
    }
    size = f"{len(draws)} heads; {len(labels):,} titles × {x.shape[2]}, {classes} categories"
    what = f":linear probe, C chosen among {len(probe.GRID)}, {size}"
    compare_training(what, contenders, labels, rounds)


def compare_training(what, contenders, labels, rounds):
    """Print how long trainings take and how good; they return out-of-fold probabilities."""
    found = take_turns(contenders, rounds)
    rows = []
    for name, took in found.items():
        scores = [metrics.macro_f1(labels, p.argmax(1), p.shape[1]) for p in took.result]
        losses = [metrics.log_loss(labels, p) for p in took.result]
        times = f"{took.seconds / found['this project'].seconds:.2f}"
        quality = (f"{np.mean(scores):.4f}", f"{np.mean(losses):.4f}")
        rows.append((name, f"{took.seconds:.2f}", times, *quality))
    print_table((what, "seconds", "times as long", "macro-F1", "log loss"), rows)


def run_beside(neighbour, temporary, command, environment):
    """Run a script that writes to a new folder beside a process that runs `neighbour`, Python."""
    with subprocess.Popen([sys.executable, "-c", neighbour]) as other:
        try:
            run(*command, tempfile.mkdtemp(dir=temporary), **environment)
        finally:
            other.kill()


def bench_busy(args, temporary):
    features = temporary / "features"
    source = ("--data", data.find_titles(args.data), "--model", "minilm")
    run("extract.py", *source, "--out", features)
    train = ("train.py", "--features", features, "--layers", "-1", "--results")
    commands = (train, ("extract.py", *source, "--out"))
    kinds = {"as the scripts set them": {}, "as the libraries do": SPINNING}
    contenders = {}
    for command, kind in itertools.product(commands, kinds):
        for name, neighbour in (("alone", ""), ("busy", "while True: pass")):
            work = partial(run_beside, neighbour, temporary, command, kinds[kind])
            contenders[command[0], kind, name] = work
    found = take_turns(contenders, args.runs)

    rows = []
    for command, kind in itertools.product(commands, kinds):
        alone = found[command[0], kind, "alone"].seconds
        busy = found[command[0], kind, "busy"].seconds
        rows.append((command[0], kind, f"{alone:.1f}", f"{busy:.1f}", f"{busy / alone:.2f}"))
    seconds = ("alone, s", "beside a busy process, s", "times as long")
    print_table((":script", ":waiting threads", *seconds), rows)


BENCHES = {
    "extract": bench_extract,
    "train": bench_train,
    "predict": endtoend.bench_predict,
    "scale": scaling.bench_scale,
    "real": scaling.bench_real,
    "changed": scaling.bench_changed,
    "killed": scaling.bench_killed,
    "busy": bench_busy,
    "answer": endtoend.bench_answer,
}


def main(args):
    transformers.logging.disable_progress_bar()
    for name in PARTS if args.what == "all" else [args.what]:
        started = time.time()
        with tempfile.TemporaryDirectory() as temporary:
            BENCHES[name](args, Path(temporary))
        cli.say(f"{name}: {time.time() - started:.0f} s")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)
