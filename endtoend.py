"""Whole scripts from titles to the answer, for bench.py: many titles, one title, the comparison."""

import csv
import random
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

import cli
import data
import disk
import plan
import predict
import probe
import splits
import store
import usual
from loading import find_model
from measuring import make_encoder, print_table, read_titles, run, take_turns

WORDS = "how to make the best street food in rome cheap flights hidden beach paint sunset guitar lesson of war"
# of a table that says what follows for a million
REAL_SIZES = (1_000, 20_000)
MILLION = 1_000_000
# titles that are predicted one by one
SINGLES = 50
USUAL = "sentence-transformers and scikit-learn"


# --- many titles ----------------------------------------------------------------------------------


def write_corpus(path, size):
    """Write so many made-up titles of four categories, which differ by their words."""
    words = WORDS.split()
    generator = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        print("title,category", file=file)
        for row in range(size):
            title = generator.choices(words[row % 4 * 5 :], k=generator.randint(3, 12))
            print(f"{' '.join(title)} {row},category {row % 4}", file=file)


def write_real(path, size, name):
    """Write so many titles with the words and lengths of real ones, none of them twice.

    The first half of one real title and the second half of another; name: as --data.
    """
    titles, categories = read_titles(name)
    generator = random.Random(0)
    # in the order in which they were drawn
    made = {}
    while len(made) < size:
        first = generator.randrange(len(titles))
        begin = titles[first].split()
        end = generator.choice(titles).split()
        words = begin[: len(begin) // 2] + end[len(end) // 2 :]
        made[" ".join(words)] = categories[first]
    with disk.atomic(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("title", "category"), *made.items()])


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
    sizes = [size for size in (1_000, 10_000, 100_000, MILLION) if size < args.max_titles]
    sizes.append(args.max_titles)
    shape = {"hidden_size": 384, "intermediate_size": 768, "num_attention_heads": 2}
    encoder = make_encoder(temporary / "tiny", num_hidden_layers=2, **shape)
    measured = run_steps(sizes, encoder, temporary / "tiny-titles", write_corpus)

    # what each title costs that is more than in the size before
    rows = []
    for step, each in measured.items():
        above = np.diff([took.seconds for took in each], prepend=0) / np.diff(sizes, prepend=0)
        for size, took, more in zip(sizes, each, 1e6 * above, strict=True):
            numbers = (f"{took.seconds:.1f}", f"{more:,.1f}", f"{took.peak:,.0f}")
            rows.append((f"{size:,}", step, *numbers))
    tiny = "2 layers of 384 with random weights"
    what = f":one repeat; tiny encoder ({tiny}), titles made of {len(WORDS.split())} words"
    more = "µs for each title more than above"
    print_table((":titles", what, "seconds", more, "peak memory, MB"), rows)
    for name in ("minilm", "random"):
        scale_real(args, temporary, name)


def run_steps(sizes, encoder, folder, write, only=None):
    """{step: [Took for each size]} of scale_steps, each size from end to end; write: makes titles.

    only: the steps to be run; None: all.
    """
    measured = {}
    for size in sizes:
        place = folder / str(size)
        place.mkdir(parents=True)
        write(place / "titles.csv", size)
        for step, command in scale_steps(place, encoder).items():
            if only is None or step in only:
                took = run(*command)
                measured.setdefault(step, []).append(took)
                cli.say(f"{size:,} {step} {took.seconds:.1f} s, {took.peak:,.0f} MB")
    return measured


def scale_real(args, temporary, name):
    """Print what an encoder of usual size takes for real titles, and what follows for a million.

    name: minilm, or random for random weights in bert-base's shape.
    """
    model = make_encoder(temporary / "base") if name == "random" else name
    folder = temporary / f"titles-{name}"
    write = partial(write_real, name=args.data)
    steps = ("extract.py", "train.py --head linear", "predict.py --csv")
    measured = run_steps(REAL_SIZES, model, folder, write, steps)

    # disk: the features of all layers, and what was predicted
    small, large = REAL_SIZES
    written = {"extract.py": folder / str(large) / "features"}
    written["predict.py --csv"] = folder / str(large) / "out.csv"
    rows = []
    for step, (before, took) in measured.items():
        each = (took.seconds - before.seconds) / (large - small)
        follows = took.seconds + each * (MILLION - large)
        disk_space = "–"
        if step in written:
            disk_space = f"{size_on_disk(written[step]) * MILLION / large / 1e9:,.1f}"
        times = (f"{took.seconds:.1f}", f"{took.peak:,.0f}", f"{follows / 60:,.0f}")
        rows.append((step, *times, disk_space))
    encoder = "MiniLM" if name == "minilm" else "bert-base's shape"
    what = f":{encoder}, all layers, [CLS]; {large:,} titles made of halves of real ones"
    million = ("a million: minutes", "GB on disk")
    print_table((what, "seconds", "peak memory, MB", *million), rows)
    how = f"its time grows as from {small:,} to {large:,} titles"
    memory = "extraction and prediction need no more memory; training needs that of its features"
    print(f"A million titles: {how}; {memory}.\n")


def size_on_disk(path):
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


# --- one title ------------------------------------------------------------------------------------


def bench_predict(args, temporary):
    # the same layer and pooling for both: MiniLM's last one, the mean
    features = temporary / "features"
    results = temporary / "results"
    run(
        "extract.py", "--data", data.find_titles(args.data), "--model", "minilm", "--pooling", "mean", "--out", features
    )
    run("train.py", "--features", features, "--results", results, "--head", "linear", "--layers", -1, "--repeats", 1)
    titles, categories = read_titles(args.data)
    classifier = temporary / "classifier.npz"
    model = find_model("minilm")[0]
    theirs = usual.fit_classifier(model, titles, categories, classifier)

    # from the shell: to the first answer, with the title as an argument or in a pipe
    script = [sys.executable, data.HERE / "predict.py", "--quiet", "--run", results]
    other = [sys.executable, "-c", usual.PREDICT, model, classifier]
    shells = {
        "this project, predict.py TITLE": partial(first_answer, [*script, titles[0]]),
        "this project, predict.py in a pipe": partial(first_answer, script, titles[0]),
    }
    if theirs is not None:
        shells[USUAL] = partial(first_answer, other, titles[0])
    starts = take_turns(shells, args.runs)

    # one after the other: in a pipe, and from Python
    some = titles[:SINGLES]
    single = {"this project, predict.py in a pipe": in_a_pipe(script, some)}
    ours = predict.load(results)
    single["this project, from Python"] = one_by_one(partial(predict_one, ours), some)
    if theirs is not None:
        single[USUAL] = in_a_pipe(other, some)
        single[f"{USUAL}, from Python"] = one_by_one(theirs, some)

    rows = []
    for name in {**starts, **single}:
        start = f"{starts[name].seconds:.2f}" if name in starts else "–"
        each = f"{1000 * single[name]:.1f}" if name in single else "–"
        rows.append((name, start, each))
    each = f"ms for a title more, median of {SINGLES}"
    print_table((":MiniLM, a linear head", "seconds to the first answer", each), rows)


def predict_one(classifier, title):
    """What this project says of one title."""
    return predict.table(classifier, [title])


def first_answer(command, *typed):
    """Start a process, type titles, and wait for its first line, which is returned."""
    given = "".join(f"{title}\n" for title in typed)
    with subprocess.Popen(list(map(str, command)), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(given)
        # without anything typed, it has its title already
        process.stdin.flush()
        answer = process.stdout.readline()
        process.kill()
    if not answer:
        raise cli.Problem("a process gave no answer; its message stands above")
    return answer


def in_a_pipe(command, titles):
    """Median seconds from a title to its answer in a process that is there already."""
    process = subprocess.Popen(list(map(str, command)), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(title):
        process.stdin.write(f"{title}\n")
        process.stdin.flush()
        if not process.stdout.readline():
            raise cli.Problem("a process gave no answer; its message stands above")

    with process:
        median = one_by_one(ask, titles)
        process.stdin.close()
    return median


def one_by_one(ask, titles):
    """Median seconds of ask(title), after a first one."""
    ask("the first one")
    seconds = []
    for title in titles:
        started = time.perf_counter()
        ask(title)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


# --- the comparison -------------------------------------------------------------------------------


def our_stages(path, model, folder):
    """{stage: seconds} of a survey of all layers and both poolings by this project."""
    source = ("--data", path, "--model", model)
    results = folder / "runs"
    survey = ("--features", folder, "--results", results, "--survey", "--repeats", 1)
    commands = {
        "features": ("extract.py", *source, "--pooling", *cli.POOLINGS, "--out", folder),
        "probes": ("train.py", *survey),
        "table with intervals": ("evaluate.py", "--results", results),
    }
    return {stage: run(*command).seconds for stage, command in commands.items()}


def usual_stages(titles, labels, model, sets):
    """(features, {stage: seconds}) of the same by transformers and scikit-learn.

    sets: lists of (pooling, layer) that stand side by side. features: seconds for the features; the
    stages are the ways to go on from there. With C chosen, wide sets would take many minutes.
    """
    groups = np.arange(len(labels))
    folds = splits.make_folds(labels, groups, 5, 0)[None]
    draws = splits.draw_titles(labels, groups, folds, 0)
    started = time.perf_counter()
    features = usual.extract(*usual.load(model), titles)
    extracting = time.perf_counter() - started
    alone = [columns for columns in sets if len(columns) == 1]
    chosen = f"probes of the {len(alone)} single layers alone, C chosen among {len(probe.GRID)}"
    choose = partial(usual.choose_probes, draws=draws, penalties=probe.GRID, few=probe.FEW)
    ways = {"probes with C = 1": (sets, usual.train_probes), chosen: (alone, choose)}
    took = {}
    for way, (some, train) in ways.items():
        started = time.perf_counter()
        for columns in some:
            x = np.hstack([features[column] for column in columns])
            train(x, labels, folds)
        took[way] = time.perf_counter() - started
        cli.say(f"{way}: {took[way]:.1f} s")
    return extracting, took


def bench_answer(args, temporary):
    titles, categories = read_titles(args.data)
    labels = np.unique(categories, return_inverse=True)[1]
    usual.warm_up()
    for name in args.model:
        model = make_encoder(temporary / "base") if name == "random" else find_model(name)[0]
        short = Path(name).name
        ours = our_stages(data.find_titles(args.data), model, temporary / f"features-{short}")
        sets = plan.survey_sets(store.open_features(temporary / f"features-{short}"))
        extracting, theirs = usual_stages(titles, labels, model, sets)

        # each stage, and the sums
        total = sum(ours.values())
        rows = [(stage, f"{seconds:.1f}", "") for stage, seconds in ours.items()]
        rows.append(("**all, this project**", f"{total:.1f}", "1.0"))
        rows.append(("usual: features", f"{extracting:.1f}", ""))
        for stage, seconds in theirs.items():
            both = extracting + seconds
            rows.append((f"usual: {stage}", f"{seconds:.1f}", ""))
            rows.append(("**all, with those**", f"{both:.1f}", f"{both / total:.1f}"))
        size = f"{len(labels):,} titles, survey of {len(sets)} sets of layers"
        print_table((f":{short}, {size}", "seconds", "times as long"), rows)
    usual_way = "transformers in batches of 32, then scikit-learn's cross_val_predict"
    chosen = f"this project chooses C among {len(probe.GRID)} for each fold of every set"
    print(f"Usual: {usual_way}; {chosen}. Its start-up is left out, and it has no intervals.\n")
