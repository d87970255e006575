"""Many titles, for `python -m bench`: how cost grows with them, titles that change, a killed prediction."""

import csv
import itertools
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import data
from bench.measuring import Took, make_encoder, print_table, read_titles, run
from whichlayer.apply import bulk
from whichlayer.common import cli, disk
from whichlayer.encoder import store

WORDS = "how to make the best street food in rome cheap flights hidden beach paint sunset guitar lesson of war"
MILLION = 1_000_000
# real titles: what the larger size takes more than the smaller one, both of more than a window, is
# what each title takes
SIZES = (5_000, 20_000)
# what is changed in them
LABELS = 12
ROWS = 100
# features of a title may differ by so much of the largest value, as in encoder.pack_linears
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
# titles that the run has learned from that is killed while it predicts
LEARNED = 1_000
WINDOW = 1024
# seconds between two looks at what a process has recorded
LOOK = 0.02
ENCODERS = ("minilm", "random")
REAL_STEPS = ("extract.py", "train.py --head linear", "predict.py --csv")


# --- titles and encoders --------------------------------------------------------------------------


def write_corpus(path, size):
    """Write so many made-up titles of four categories, which differ by their words."""
    words = WORDS.split()
    generator = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        print("title,category", file=file)
        for row in range(size):
            title = generator.choices(words[row % 4 * 5 :], k=generator.randint(3, 12))
            print(f"{' '.join(title)} {row},category {row % 4}", file=file)


@dataclass
class Titles:
    """Distinct titles, in a drawn order."""

    rows: list[list[str]]  # each with its category
    kind: str  # what they are, in words


def real_titles(name, size):
    """The Titles of --data, so many of them.

    Where there are too few, others are made of their halves: the first half of one and the second
    half of another.
    """
    titles, categories = read_titles(name)
    found = dict(zip(titles, categories, strict=True))
    real = min(len(found), size)
    what = f"{size:,} distinct real titles"
    if real < size:
        what = f"{real:,} distinct real titles and {size - real:,} made of halves of them"
    generator = random.Random(0)
    while len(found) < size:
        first = generator.randrange(len(titles))
        begin = titles[first].split()
        end = generator.choice(titles).split()
        words = begin[: len(begin) // 2] + end[len(end) // 2 :]
        found.setdefault(" ".join(words), categories[first])
    return Titles(list(map(list, itertools.islice(found.items(), size))), what)


def write_rows(path, rows):
    """Write a file of titles, [[title, category]]."""
    with disk.atomic(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("title", "category"), *rows])


def encoders_of(args, temporary):
    """Yield (what --model takes, how it is called, a new folder) for each encoder."""
    for number, name in enumerate(args.model or ENCODERS):
        folder = temporary / str(number)
        folder.mkdir()
        if name == "random":
            yield make_encoder(folder / "base"), "bert-base's shape", folder
        else:
            yield name, "MiniLM" if name == "minilm" else Path(name).name, folder


# --- every step, of more and more titles ----------------------------------------------------------


def steps(folder, encoder):
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


def run_steps(folder, encoder, only=None):
    """{step: Took} of the steps with the titles in a folder, or of `only` some of them."""
    measured = {}
    for step, command in steps(folder, encoder).items():
        if only is None or step in only:
            took = run(*command)
            measured[step] = took
            cli.say(f"{folder.name} {step} {took.seconds:.1f} s, {took.peak:,.0f} MB")
    return measured


def bench_scale(args, temporary):
    sizes = [size for size in (1_000, 10_000, 100_000, MILLION) if size < args.max_titles]
    sizes.append(args.max_titles)
    shape = {"hidden_size": 384, "intermediate_size": 768, "num_attention_heads": 2}
    encoder = make_encoder(temporary / "tiny", num_hidden_layers=2, **shape)
    measured = {}
    for size in sizes:
        folder = temporary / f"{size:,}"
        folder.mkdir()
        write_corpus(folder / "titles.csv", size)
        measured[size] = run_steps(folder, encoder)

    # what each title costs that is more than in the size before
    rows = []
    for step in measured[sizes[0]]:
        each = [measured[size][step] for size in sizes]
        above = np.diff([took.seconds for took in each], prepend=0) / np.diff(sizes, prepend=0)
        for size, took, more in zip(sizes, each, 1e6 * above, strict=True):
            numbers = (f"{took.seconds:.1f}", f"{more:,.1f}", f"{took.peak:,.0f}")
            rows.append((f"{size:,}", step, *numbers))
    tiny = "2 layers of 384 with random weights"
    what = f":one repeat; tiny encoder ({tiny}), titles made of {len(WORDS.split())} words"
    more = "µs for each title more than above"
    print_table((":titles", what, "seconds", more, "peak memory, MB"), rows)


def bench_real(args, temporary):
    large = min(SIZES[1], args.max_titles)
    small = min(SIZES[0], large // 2)
    titles = real_titles(args.data, large)
    for model, called, folder in encoders_of(args, temporary):
        measured = []
        for size in (small, large):
            place = folder / f"{size:,}"
            place.mkdir()
            write_rows(place / "titles.csv", titles.rows[:size])
            measured.append(run_steps(place, model, REAL_STEPS))

        # disk: the features of all layers, and what was predicted
        written = {"extract.py": place / "features", "predict.py --csv": place / "out.csv"}
        rows = []
        for step, took in measured[1].items():
            before = measured[0][step]
            seconds = for_a_million(before.seconds, took.seconds, small, large)
            # what is written window by window is never in memory as a whole
            peak = took.peak
            space = "–"
            if step in written:
                space = f"{size_on_disk(written[step]) * MILLION / large / 1e9:,.1f}"
            else:
                peak = for_a_million(before.peak, took.peak, small, large)
            measured_here = (f"{took.seconds:.1f}", f"{took.peak:,.0f}")
            rows.append((step, *measured_here, f"{seconds / 60:,.0f}", f"{peak / 1e3:,.1f}", space))
        what = f":{called}, all layers, [CLS]; {titles.kind}"
        million = ("a million: minutes", "GB of memory", "GB on disk")
        print_table((what, "seconds", "peak memory, MB", *million), rows)
        how = f"each title more takes what it takes from {small:,} to {large:,}"
        memory = "but extraction and prediction, which go window by window, no more memory"
        print(f"For a million it is computed, not measured: {how}, {memory}.\n", flush=True)


def for_a_million(small_took, large_took, small, large):
    """What a million titles take, where what two numbers of titles take lies on a line."""
    each = max(0.0, (large_took - small_took) / (large - small))
    return large_took + each * (MILLION - large)


def size_on_disk(path):
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


# --- titles that have changed ---------------------------------------------------------------------


def change(rows):
    """The same [[title, category]], but that LABELS of them have another category."""
    later = [list(row) for row in rows]
    categories = sorted({category for _, category in rows})
    for row in np.linspace(0, len(later) - 1, LABELS, dtype=int):
        place = categories.index(later[row][1])
        later[row][1] = categories[(place + 1) % len(categories)]
    return later


def bench_changed(args, temporary):
    size = min(SIZES[1], args.max_titles)
    titles = real_titles(args.data, size + ROWS)
    for model, called, folder in encoders_of(args, temporary):
        path = folder / "titles.csv"
        extract = ("extract.py", "--data", path, "--model", model, "--dtype", args.dtype, "--out")
        write_rows(path, titles.rows[:size])
        took = {f"{size:,} titles": run(*extract, folder / "followed")}
        write_rows(path, change(titles.rows[:size]) + titles.rows[size:])
        took["the same folder, which follows"] = run(*extract, folder / "followed")
        took["another folder, the whole"] = run(*extract, folder / "whole")

        whole = took["another folder, the whole"]
        rows = []
        for name, each in took.items():
            seconds = (f"{each.seconds:.1f}", f"{each.seconds / whole.seconds:.3f}")
            processor = (f"{each.processor:.1f}", f"{each.processor / whole.processor:.3f}")
            rows.append((name, *seconds, *processor))
        what = f":extract.py, {called}, all layers, [CLS]; {LABELS} labels changed, {ROWS} rows new"
        print_table((what, "seconds", "of the whole", "processor seconds", "of the whole"), rows)
        print(f"{titles.kind}. {compared(folder / 'followed', folder / 'whole')}\n", flush=True)


def compared(followed, whole):
    """A sentence that says how features that followed titles differ from the whole extraction's.

    Files of other titles, and differences beyond TOLERANCE, are a cli.Problem.
    """
    first = store.open_features(followed)
    second = store.open_features(whole)
    settings = first.manifest.settings
    same = 0
    largest = 0.0
    names = list(second.manifest.files)
    for name in names:
        ours = first.read(*store.column_of(name))
        theirs = second.read(*store.column_of(name))
        difference = np.abs(ours - theirs).max(1)
        same += int((difference == 0).sum())
        largest = max(largest, float(difference.max() / np.abs(theirs).max()))
    wrong = first.titles() != second.titles() or list(first.manifest.files) != names
    if wrong or largest > TOLERANCE[settings.dtype]:
        off = f"off by {largest:.2g} of the largest value"
        raise cli.Problem(f"{followed}: not the features of the whole extraction, {off}")
    rows = len(names) * second.shape[0]
    if same == rows:
        return "All features equal those of the whole extraction."
    others = f"the others, of other batches, are within {largest:.2g} of the largest value"
    return f"{same / rows:.2%} of the features equal those of the whole extraction; {others}."


# --- a prediction that is killed ------------------------------------------------------------------


def bench_killed(args, temporary):
    size = min(SIZES[1], args.max_titles)
    titles = real_titles(args.data, size)
    for model, called, folder in encoders_of(args, temporary):
        # a run that has learned from some of the titles, of the two most frequent categories
        few = folder / "few"
        few.mkdir()
        frequent = Counter(category for _, category in titles.rows).most_common(2)
        rows = [row for row in titles.rows if row[1] in dict(frequent)]
        write_rows(few / "titles.csv", rows[:LEARNED])
        run_steps(few, model, ("extract.py", "train.py --head linear"))

        path = folder / "titles.csv"
        write_rows(path, titles.rows)
        # small windows, so that about half of the titles are recorded when it is killed
        learned = ("--run", few / "results", "--window", WINDOW)
        command = ("predict.py", "--csv", path, *learned, "--out")
        whole = run(*command, folder / "whole.csv").seconds
        killed = run_until_half(command, folder / "killed.csv", size)
        after = run(*command, folder / "killed.csv").seconds
        if disk.sha256(folder / "whole.csv") != disk.sha256(folder / "killed.csv"):
            wrong = "not the bytes of a prediction that was never killed"
            raise cli.Problem(f"{folder / 'killed.csv'}: {wrong}")

        seconds = {
            "never killed": whole,
            f"until it was killed, {killed.result:,} titles recorded": killed.seconds,
            "the same command again": after,
            "**both**": killed.seconds + after,
        }
        rows = [(name, f"{each:.1f}", f"{each / whole:.2f}") for name, each in seconds.items()]
        what = f":predict.py --csv --out --window {WINDOW}, {called}, last layer; {size:,} titles"
        print_table((what, "seconds", "of the whole"), rows)
        print(f"{titles.kind}. Both files have the same bytes.\n", flush=True)


def run_until_half(command, out, size):
    """What predict.py Took until it was killed, and how many titles it had recorded by then.

    It is killed as soon as half of them are.
    """
    words = [sys.executable, data.HERE / command[0], *command[1:], out, "--quiet"]
    started = time.perf_counter()
    with subprocess.Popen(list(map(str, words))) as process:
        done = 0
        while done < size / 2 and process.poll() is None:
            time.sleep(LOOK)
            done = bulk.total(bulk.workplace(out)).titles
        process.kill()
    if process.returncode != -signal.SIGKILL:
        raise cli.Problem(f"{command[0]} ended before it was killed; its message stands above")
    return Took(time.perf_counter() - started, result=done)
