"""Measure time and memory, beside what one would use instead in the same run; markdown tables.

    python bench.py extract    # titles a second, beside sentence-transformers and a plain loop
    python bench.py train      # both heads, beside the usual loop and scikit-learn
    python bench.py scale      # every step from end to end, from 1,000 titles to 1,000,000
    python bench.py busy       # beside another busy process, with the threads' settings and without
    python bench.py answer     # from titles to the table, beside transformers and scikit-learn
    python bench.py all > results/bench.md

Contenders take turns, round after round, so that a machine that slows down slows all of them;
figures are medians. What one would use instead is in usual.py.
"""

import cli

PARTS = ("extract", "train", "scale", "busy", "answer")


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("what", choices=(*PARTS, "all"), help="what to measure")
    add("--runs", type=cli.number(int, 1), default=3, help="rounds over all contenders; scale and answer have one")
    add("--data", default="youtube", metavar="youtube|sample|FILE", help="the titles (scale makes its own)")
    add("--model", nargs="+", default=["minilm", "random"], help="answer: encoders; random has bert-base's shape")
    add("--max-titles", type=cli.number(int, 2000), default=1_000_000, help="scale: the largest corpus")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import importlib.metadata
import itertools
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers

import data
import metrics
import mlp
import probe
import splits
import store
import usual
from embedding import embed, tokenise
from encoder import choose_dtype, load_encoder
from loading import find_model
from options import Options

PACKAGES = ("torch", "transformers", "scikit-learn", "sentence-transformers")
WORDS = "how to make the best street food in rome cheap flights hidden beach paint sunset guitar lesson of war"
# waiting threads, as the libraries have them where nothing is set
SPINNING = {"GOMP_SPINCOUNT": "300000", "OPENBLAS_THREAD_TIMEOUT": "26"}
# runs a command from a process that is itself small: a child starts with the peak of its parent
MEASURE = """import resource, subprocess, sys, time
started = time.time()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(time.time() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)"""


@dataclass
class Took:
    """What a contender or a script took."""

    seconds: float  # of a contender, the median over rounds
    result: object = None  # what a contender returned in the last round
    peak: float = 0.0  # a script's memory, in MB


def take_turns(contenders, rounds):
    """{name: Took} for {name: function without arguments}: all in turn, round after round."""
    seconds = {name: [] for name in contenders}
    results = {}
    for turn in range(1, rounds + 1):
        for name, work in contenders.items():
            started = time.perf_counter()
            results[name] = work()
            seconds[name].append(time.perf_counter() - started)
            cli.say(f"round {turn} of {rounds}: {name}, {seconds[name][-1]:.2f} s")
    return {name: Took(statistics.median(seconds[name]), results[name]) for name in contenders}


def run(script, *options, **environment):
    """What one of the scripts Took, from its start to its end. One that fails is a Problem."""
    command = [sys.executable, data.HERE / script, *options, "--quiet"]
    words = [sys.executable, "-c", MEASURE, *map(str, command)]
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE, env={**os.environ, **environment})
    if done.returncode:
        raise cli.Problem(f"{script} failed; its message stands above")
    seconds, peak = map(float, done.stdout.split())
    # bytes there, kilobytes here
    unit = 1e-6 if sys.platform == "darwin" else 1024e-6
    return Took(seconds, peak=peak * unit)


def print_table(columns, rows):
    """Print the line that says where, with what and how, and a markdown table."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", info.read_text() if info.exists() else "")
    processor = named[1] if named else platform.machine()
    installed = {each.name: each.version for each in importlib.metadata.distributions()}
    versions = ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed)
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    print(f"{processor}, {torch.get_num_threads()} threads; {versions}", end="; ")
    print(f"{time.strftime('%Y-%m-%d')}; `python {command}`\n")
    print(cli.markdown(columns, rows), end="\n\n", flush=True)


def make_encoder(folder, **config):
    """Save a BERT with random weights, bert-base's shape if nothing is said; returns the folder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(find_model("minilm")[0])
    torch.manual_seed(0)
    shape = transformers.BertConfig(vocab_size=len(tokenizer), **config)
    transformers.BertModel(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def read_titles(name):
    """The titles and the categories of --data in an order of their own, as two lists."""
    rows = data.read_table(data.find_titles(name), ["title", "category"])
    places = list(map(next(rows).index, ("title", "category")))
    pairs = [[cells[place] for place in places] for _, cells in rows]
    random.Random(0).shuffle(pairs)
    return [list(column) for column in zip(*pairs, strict=True)]


def extract_all(encoder, titles):
    """[CLS] of all twelve layers, as extract.py computes it."""
    return embed(encoder, tokenise(encoder, titles), range(1, 13), ("cls",))


def bench_extract(args, temporary):
    titles = read_titles(args.data)[0][:1200]
    folder = make_encoder(temporary / "base")

    # a plain loop, and in each arithmetic this project and sentence-transformers
    plain = partial(usual.extract, *usual.load(folder), titles)
    contenders = {"loop over batches of 32, all layers": plain}
    dtypes = {torch.float32, choose_dtype("auto", torch.device("cpu"))}
    for dtype in sorted(dtypes, key=str):
        kind = str(dtype).removeprefix("torch.")
        ours = partial(extract_all, load_encoder(folder, "cpu", kind), titles)
        contenders[f"this project, all layers, {kind}"] = ours
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


def bench_train(args, temporary):
    # the features of minilm's last layer
    folder = temporary / "features"
    source = ("--data", data.find_titles(args.data), "--model", "minilm")
    run("extract.py", *source, "--layers", -1, "--pooling", "mean", "--out", folder)
    features = store.open_features(folder)
    x = torch.from_numpy(features.stack([("mean", 6)]))
    rescaled = x.clone()
    scale = probe.rescale(rescaled)

    # labels, folds, and what each head learns from: the same for all
    names, labels = np.unique(features.titles()[1], return_inverse=True)
    classes = len(names)
    groups = np.arange(len(labels))
    options = Options()
    folds = splits.repeat_folds(labels, groups, options)
    draws = splits.draw_titles(labels, groups, folds, options.seed)

    # the report's head, and the linear probe, which decides as scikit-learn does
    task = (labels, folds)
    probe_task = (rescaled, scale, *task, draws, classes, "likeliest")
    heads = {
        "this project": lambda: mlp.train_heads(x, *task, options, classes, draws).probabilities,
        "DataLoader loop": lambda: usual.train_heads(x, *task, options, classes),
    }
    probes = {
        "this project": lambda: probe.train(*probe_task).probabilities,
        "scikit-learn": lambda: usual.train_probes(x[:, 0].numpy(), *task, probe.GRID),
    }
    usual.warm_up()
    size = f"{len(draws)} heads; {len(labels):,} titles × {x.shape[2]}, {classes} categories"
    compare_training(f":report's head, {options.epochs} epochs, {size}", heads, labels, args.runs)
    compare_training(f":linear probe, C chosen among {len(probe.GRID)}, {size}", probes, labels, args.runs)


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


def write_corpus(path, size):
    """Write so many made-up titles of four categories, which differ by their words."""
    words = WORDS.split()
    generator = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        print("title,category", file=file)
        for row in range(size):
            title = generator.choices(words[row % 4 * 5 :], k=generator.randint(3, 12))
            print(f"{' '.join(title)} {row},category {row % 4}", file=file)


def scale_steps(folder, encoder):
    """{name: script and options} of every step, from the titles in a folder to the table."""
    titles = folder / "titles.csv"
    features = folder / "features"
    results = ("--results", folder / "results")
    fit = ("train.py", "--features", features, *results, "--layers", "-1", "--repeats", 1)
    new = ("--csv", titles, "--out", folder / "out.csv")
    return {
        "extract.py": ("extract.py", "--data", titles, "--model", encoder, "--out", features),
        "train.py --head linear": (*fit, "--head", "linear"),
        "predict.py --csv": ("predict.py", *new, "--run", folder / "results"),
        "train.py --head mlp, 2 epochs": (*fit, "--epochs", 2),
        "evaluate.py": ("evaluate.py", *results),
    }


def bench_scale(args, temporary):
    sizes = [size for size in (1_000, 10_000, 100_000, 1_000_000) if size < args.max_titles]
    sizes.append(args.max_titles)
    shape = {"hidden_size": 384, "intermediate_size": 768, "num_attention_heads": 2}
    encoder = make_encoder(temporary / "tiny", num_hidden_layers=2, **shape)

    # each size from end to end, one after the other
    measured = {}  # by step, for each size
    for size in sizes:
        folder = temporary / str(size)
        folder.mkdir()
        write_corpus(folder / "titles.csv", size)
        for step, command in scale_steps(folder, encoder).items():
            took = run(*command)
            measured.setdefault(step, []).append(took)
            cli.say(f"{size:,} {step} {took.seconds:.1f} s, {took.peak:,.0f} MB")

    # what each title costs that is more than in the size before
    rows = []
    for step, each in measured.items():
        above = np.diff([took.seconds for took in each], prepend=0) / np.diff(sizes, prepend=0)
        for size, took, more in zip(sizes, each, 1e6 * above, strict=True):
            numbers = (f"{took.seconds:.1f}", f"{more:,.1f}", f"{took.peak:,.0f}")
            rows.append((f"{size:,}", step, *numbers))
    more = "µs for each title more than above"
    print_table((":titles", ":step", "seconds", more, "peak memory, MB"), rows)
    print("Encoder: 2 layers of 384 dimensions, random weights; 1 repeat of 5 folds.\n")


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


def our_stages(path, model, folder):
    """{stage: seconds} of the comparison of all layers and both poolings by this project."""
    source = ("--data", path, "--model", model)
    results = folder / "runs"
    fit = ("train.py", "--features", folder, "--results", results, "--each", "--head", "linear")
    features = run("extract.py", *source, "--pooling", *cli.POOLINGS, "--out", folder).seconds
    probes = sum(run(*fit, "--repeats", 1, "--pooling", each).seconds for each in cli.POOLINGS)
    table = run("evaluate.py", "--results", results).seconds
    return {"features": features, "probes": probes, "table with intervals": table}


def usual_stages(titles, labels, model):
    """{stage: seconds} of the same by transformers and scikit-learn, with C = 1 or a choice."""
    folds = splits.make_folds(labels, np.arange(len(labels)), 5, 0)[None]
    started = time.perf_counter()
    features = usual.extract(*usual.load(model), titles)
    took = {"features, usual": time.perf_counter() - started}
    penalties = {"probes, usual": None, "probes, usual with as many penalties": probe.GRID}
    for stage, grid in penalties.items():
        started = time.perf_counter()
        for x in features.values():
            usual.train_probes(x, labels, folds, grid)
        took[stage] = time.perf_counter() - started
    return took


def bench_answer(args, temporary):
    titles, categories = read_titles(args.data)
    labels = np.unique(categories, return_inverse=True)[1]
    usual.warm_up()
    for name in args.model:
        model = make_encoder(temporary / "base") if name == "random" else find_model(name)[0]
        short = Path(name).name
        ours = our_stages(data.find_titles(args.data), model, temporary / f"features-{short}")
        theirs = usual_stages(titles, labels, model)

        # each stage, and the sums
        rows = [(stage, f"{seconds:.1f}", "") for stage, seconds in {**ours, **theirs}.items()]
        total = sum(ours.values())
        rows.append(("**all, this project**", f"{total:.1f}", "1.0"))
        features = theirs.pop("features, usual")
        for stage, seconds in theirs.items():
            both = features + seconds
            rows.append((f"**all, features and {stage}**", f"{both:.1f}", f"{both / total:.1f}"))
        print_table((f":{short}, {len(labels):,} titles", "seconds", "times as long"), rows)
    what = "transformers in batches of 32, then scikit-learn's cross_val_predict"
    penalty = f"with C = 1 or with a C chosen among {len(probe.GRID)} as here"
    print(f"Usual: {what}, {penalty}; its start-up is left out, and it has no intervals.\n")


BENCHES = dict(zip(PARTS, (bench_extract, bench_train, bench_scale, bench_busy, bench_answer), strict=True))


def main(args):
    transformers.logging.disable_progress_bar()
    for name in PARTS if args.what == "all" else [args.what]:
        started = time.time()
        with tempfile.TemporaryDirectory() as temporary:
            BENCHES[name](args, Path(temporary))
        cli.say(f"{name}: {time.time() - started:.0f} s")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)
